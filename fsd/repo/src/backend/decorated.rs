//! Concerns that all stores share, each around one call: [`retry`], [`limit`], [`timeout`], [`metered`], [`bandwidth`].
//!
//! A decorator says only what happens around a call ([`Around`]); that it does so for every method of [`Backend`] is
//! written once, here. The order, outside in: bandwidth, retry (with the total deadline), limit, timeout, metered. So a
//! retry's wait holds no permit, waiting for a permit counts against the deadline but not against an attempt, and every
//! attempt is counted.

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::error::target;
use super::{Backend, BackendError, BackendErrorKind, BackendResult, FileKind, ListEntry, Retry};
use crate::id::Id;

pub(super) mod bandwidth;
pub(super) mod limit;
pub(super) mod metered;
pub(super) mod retry;
pub(super) mod timeout;

/// What a call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// [`Backend::list`]
    List,
    /// [`Backend::read_full`] or [`Backend::read_range`] or [`Backend::read_local`]
    Read,
    /// [`Backend::write`]
    Write,
    /// [`Backend::remove`]
    Remove,
    /// [`Backend::create`]
    Create,
}

impl Operation {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Read => "read",
            Self::Write => "write",
            Self::Remove => "remove",
            Self::Create => "create",
        }
    }
}

/// A call, in what decorators decide by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) operation: Operation,
    pub(super) kind: Option<FileKind>,
    pub(super) id: Option<&'a Id>,
    /// How many bytes it will move, where that is known before.
    pub(super) len_bytes: Option<u64>,
    location: &'a str,
}

impl Call<'_> {
    /// Makes the error of a call that a decorator ended.
    pub(super) fn unavailable(&self, message: String) -> BackendError {
        let target = match (self.kind, self.id) {
            (Some(kind), Some(id)) => target(kind, id),
            (Some(kind), None) => kind.dirname().to_owned(),
            (None, _) => "repository".to_owned(),
        };
        BackendError {
            kind: BackendErrorKind::Unavailable,
            retry: Retry::Temporary,
            operation: self.operation.name(),
            target,
            location: self.location.to_owned(),
            message,
        }
    }
}

/// What a call brings back, and how many bytes of it came over the wire.
pub(super) trait Payload: Send {
    fn len_bytes(&self) -> u64 {
        0
    }
}

impl Payload for () {}
impl Payload for Vec<ListEntry> {}
impl Payload for Bytes {
    fn len_bytes(&self) -> u64 {
        self.len() as u64
    }
}

/// A call on its way.
pub(super) type Attempt<'a, T> = Pin<Box<dyn Future<Output = BackendResult<T>> + Send + 'a>>;

/// What happens around each call.
pub(super) trait Around: std::fmt::Debug + Send + Sync + 'static {
    /// Makes the call by `attempt`, once or several times.
    fn around<'a, T: Payload + 'a>(
        &'a self,
        call: Call<'a>,
        attempt: impl Fn() -> Attempt<'a, T> + Send + Sync + 'a,
    ) -> impl Future<Output = BackendResult<T>> + Send + 'a;

    /// Makes a call that does not wait on anything but a local disk; `None` from a store that is none.
    fn local(
        &self,
        len_bytes: usize,
        attempt: impl FnOnce() -> Option<BackendResult<()>>,
    ) -> Option<BackendResult<()>> {
        let _ = len_bytes;
        attempt()
    }
}

/// A backend with one concern around it.
#[derive(Debug)]
pub(super) struct Decorated<A> {
    inner: Arc<dyn Backend>,
    around: A,
}

impl<A: Around> Decorated<A> {
    pub(super) fn wrap(inner: Arc<dyn Backend>, around: A) -> Arc<dyn Backend> {
        Arc::new(Self { inner, around })
    }

    fn call<'a>(&'a self, operation: Operation, kind: impl Into<Option<FileKind>>, id: Option<&'a Id>) -> Call<'a> {
        Call { operation, kind: kind.into(), id, len_bytes: None, location: self.inner.location() }
    }
}

#[async_trait]
impl<A: Around> Backend for Decorated<A> {
    fn location(&self) -> &str {
        self.inner.location()
    }

    fn concurrency(&self) -> usize {
        self.inner.concurrency()
    }

    fn is_remote(&self) -> bool {
        self.inner.is_remote()
    }

    async fn list(&self, kind: FileKind) -> BackendResult<Vec<ListEntry>> {
        self.around.around(self.call(Operation::List, kind, None), || self.inner.list(kind)).await
    }

    async fn read_full(&self, kind: FileKind, id: &Id, limit_bytes: u64) -> BackendResult<Bytes> {
        let call = self.call(Operation::Read, kind, Some(id));
        self.around.around(call, || self.inner.read_full(kind, id, limit_bytes)).await
    }

    async fn read_range(&self, kind: FileKind, id: &Id, range: Range<u64>) -> BackendResult<Bytes> {
        let mut call = self.call(Operation::Read, kind, Some(id));
        call.len_bytes = range.end.checked_sub(range.start);
        self.around.around(call, || self.inner.read_range(kind, id, range.clone())).await
    }

    fn read_local(&self, kind: FileKind, id: &Id, offset: u64, buf: &mut [u8]) -> Option<BackendResult<()>> {
        self.around.local(buf.len(), || self.inner.read_local(kind, id, offset, buf))
    }

    fn read_cached(&self, kind: FileKind, id: &Id, offset: u64, buf: &mut [u8]) -> bool {
        let read = self.around.local(buf.len(), || self.inner.read_cached(kind, id, offset, buf).then_some(Ok(())));
        matches!(read, Some(Ok(())))
    }

    async fn write(&self, kind: FileKind, id: &Id, content: Bytes) -> BackendResult<()> {
        let mut call = self.call(Operation::Write, kind, Some(id));
        call.len_bytes = Some(content.len() as u64);
        self.around.around(call, || self.inner.write(kind, id, content.clone())).await
    }

    async fn write_new(&self, kind: FileKind, id: &Id, content: Bytes) -> BackendResult<()> {
        let mut call = self.call(Operation::Write, kind, Some(id));
        call.len_bytes = Some(content.len() as u64);
        self.around.around(call, || self.inner.write_new(kind, id, content.clone())).await
    }

    async fn remove(&self, kind: FileKind, id: &Id) -> BackendResult<()> {
        self.around.around(self.call(Operation::Remove, kind, Some(id)), || self.inner.remove(kind, id)).await
    }

    async fn create(&self) -> BackendResult<()> {
        self.around.around(self.call(Operation::Create, None, None), || self.inner.create()).await
    }
}

#[cfg(test)]
mod tests;

//! Injects failures by rule, for tests; the rules can be changed while others read.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use super::error::{Failure, target};
use super::{Backend, BackendErrorKind, BackendResult, FileKind, ListEntry, Operation, Retry};
use crate::id::Id;

/// What a call meets instead of its store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// 403
    Denied,
    /// 404
    NotFound,
    /// 500
    ServerError,
    /// No answer, ever; the caller's timeout has to end it. A local read, which cannot wait, fails as after a timeout.
    Stall,
    /// The connection is reset.
    Reset,
    /// Fewer bytes than asked for.
    Short,
    /// As many bytes as asked for, one of them wrong; calls that bring no bytes are let through.
    Wrong,
    /// The disk is full.
    Full,
}

/// Which calls meet a fault.
#[derive(Debug, Clone)]
pub struct Rule {
    /// What happens.
    pub fault: Fault,
    /// Only calls that do this.
    pub operation: Option<Operation>,
    /// Only on files of this kind.
    pub kind: Option<FileKind>,
    /// Only on this file.
    pub id: Option<Id>,
    /// So often, then no more.
    pub times: Option<u32>,
}

impl Rule {
    /// A fault for every call.
    #[must_use]
    pub const fn every(fault: Fault) -> Self {
        Self { fault, operation: None, kind: None, id: None, times: None }
    }

    /// Only calls that do this.
    #[must_use]
    pub const fn on(mut self, operation: Operation) -> Self {
        self.operation = Some(operation);
        self
    }

    /// Only on files of this kind.
    #[must_use]
    pub const fn of_kind(mut self, kind: FileKind) -> Self {
        self.kind = Some(kind);
        self
    }

    /// Only on this file.
    #[must_use]
    pub const fn of_file(mut self, kind: FileKind, id: Id) -> Self {
        self.kind = Some(kind);
        self.id = Some(id);
        self
    }

    /// So often, then no more.
    #[must_use]
    pub const fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }

    fn fits(&self, operation: Operation, kind: Option<FileKind>, id: Option<&Id>) -> bool {
        self.operation.is_none_or(|wanted| wanted == operation)
            && self.kind.is_none_or(|wanted| Some(wanted) == kind)
            && self.id.is_none_or(|wanted| Some(&wanted) == id)
            && self.times != Some(0)
    }
}

/// A store with faults.
#[derive(Debug)]
pub struct FaultyBackend {
    inner: Arc<dyn Backend>,
    rules: Mutex<Vec<Rule>>,
}

impl FaultyBackend {
    /// Wraps a store; without rules it changes nothing.
    #[must_use]
    pub fn new(inner: Arc<dyn Backend>) -> Arc<Self> {
        Arc::new(Self { inner, rules: Mutex::default() })
    }

    /// Replaces the rules; the first that fits a call is used.
    pub fn set(&self, rules: impl IntoIterator<Item = Rule>) {
        *self.rules.lock() = rules.into_iter().collect();
    }

    /// Lets every call through again.
    pub fn clear(&self) {
        self.rules.lock().clear();
    }

    fn fault(&self, operation: Operation, kind: Option<FileKind>, id: Option<&Id>) -> Option<Fault> {
        let mut rules = self.rules.lock();
        let rule = rules.iter_mut().find(|rule| rule.fits(operation, kind, id))?;
        rule.times = rule.times.map(|times| times.saturating_sub(1));
        Some(rule.fault)
    }

    /// Meets the fault of a call; returns whether its bytes are to be wrong.
    async fn meet(&self, operation: Operation, kind: Option<FileKind>, id: Option<&Id>) -> BackendResult<bool> {
        match self.fault(operation, kind, id) {
            None => Ok(false),
            Some(Fault::Wrong) => Ok(true),
            Some(Fault::Stall) => std::future::pending().await,
            Some(fault) => Err(self.error(fault, operation, kind, id)),
        }
    }

    fn error(
        &self,
        fault: Fault,
        operation: Operation,
        kind: Option<FileKind>,
        id: Option<&Id>,
    ) -> super::BackendError {
        use BackendErrorKind as Kind;
        let failure = match fault {
            Fault::Denied => Failure::new(Kind::Denied, Retry::Permanent, "injected: 403"),
            Fault::NotFound => Failure::new(Kind::NotFound, Retry::Permanent, "injected: 404"),
            Fault::ServerError => Failure::unavailable("injected: 500"),
            Fault::Stall => Failure::unavailable("injected: no answer"),
            Fault::Reset => Failure::unavailable("injected: connection reset"),
            Fault::Short | Fault::Wrong => Failure::short("injected: fewer bytes than asked for"),
            Fault::Full => Failure::new(Kind::Full, Retry::Permanent, "injected: disk full"),
        };
        let target = match (kind, id) {
            (Some(kind), Some(id)) => target(kind, id),
            (Some(kind), None) => kind.dirname().to_owned(),
            (None, _) => "repository".to_owned(),
        };
        failure.at(operation.name(), target, self.inner.location())
    }
}

fn spoil(bytes: &mut [u8]) {
    let middle = bytes.len() / 2;
    if let Some(byte) = bytes.get_mut(middle) {
        *byte ^= 0x10;
    }
}

fn spoiled(bytes: Bytes, wrong: bool) -> Bytes {
    if !wrong {
        return bytes;
    }
    let mut bytes = bytes.to_vec();
    spoil(&mut bytes);
    bytes.into()
}

#[async_trait]
impl Backend for FaultyBackend {
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
        self.meet(Operation::List, Some(kind), None).await?;
        self.inner.list(kind).await
    }

    async fn read_full(&self, kind: FileKind, id: &Id, limit_bytes: u64) -> BackendResult<Bytes> {
        let wrong = self.meet(Operation::Read, Some(kind), Some(id)).await?;
        Ok(spoiled(self.inner.read_full(kind, id, limit_bytes).await?, wrong))
    }

    async fn read_range(&self, kind: FileKind, id: &Id, range: Range<u64>) -> BackendResult<Bytes> {
        let wrong = self.meet(Operation::Read, Some(kind), Some(id)).await?;
        Ok(spoiled(self.inner.read_range(kind, id, range).await?, wrong))
    }

    fn read_local(&self, kind: FileKind, id: &Id, offset: u64, buf: &mut [u8]) -> Option<BackendResult<()>> {
        let read = self.inner.read_local(kind, id, offset, buf)?;
        match self.fault(Operation::Read, Some(kind), Some(id)) {
            None => Some(read),
            Some(Fault::Wrong) => {
                spoil(buf);
                Some(read)
            }
            Some(fault) => Some(Err(self.error(fault, Operation::Read, Some(kind), Some(id)))),
        }
    }

    async fn write(&self, kind: FileKind, id: &Id, content: Bytes) -> BackendResult<()> {
        self.meet(Operation::Write, Some(kind), Some(id)).await?;
        self.inner.write(kind, id, content).await
    }

    async fn write_new(&self, kind: FileKind, id: &Id, content: Bytes) -> BackendResult<()> {
        self.meet(Operation::Write, Some(kind), Some(id)).await?;
        self.inner.write_new(kind, id, content).await
    }

    async fn remove(&self, kind: FileKind, id: &Id) -> BackendResult<()> {
        self.meet(Operation::Remove, Some(kind), Some(id)).await?;
        self.inner.remove(kind, id).await
    }

    async fn create(&self) -> BackendResult<()> {
        self.meet(Operation::Create, None, None).await?;
        self.inner.create().await
    }
}

//! From a store that says what failed to a [`Backend`] that says for which operation, file and place.

use std::fmt;
use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;

use super::error::{Failure, range_len, target};
use super::{Backend, BackendErrorKind, BackendResult, FileKind, ListEntry};
use crate::id::Id;

/// A store behind a network: [`Backend`], as far as stores differ.
#[async_trait]
pub(super) trait Store: fmt::Debug + Send + Sync + 'static {
    fn concurrency(&self) -> usize;

    async fn list(&self, kind: FileKind) -> Result<Vec<ListEntry>, Failure>;

    async fn read_full(&self, kind: FileKind, id: &Id, limit_bytes: u64) -> Result<Bytes, Failure>;

    /// Reads `len_bytes` from `offset`; they are some, and no more than a buffer may have.
    async fn read_range(&self, kind: FileKind, id: &Id, offset: u64, len_bytes: u64) -> Result<Bytes, Failure>;

    async fn write(&self, kind: FileKind, id: &Id, content: Bytes) -> Result<(), Failure>;

    /// Writes a file unless there is one of its name, where the store does that.
    async fn write_new(&self, kind: FileKind, id: &Id, content: Bytes) -> Result<(), Failure> {
        self.write(kind, id, content).await
    }

    /// Removes a file; it may say that there is none.
    async fn remove(&self, kind: FileKind, id: &Id) -> Result<(), Failure>;

    async fn create(&self) -> Result<(), Failure>;
}

/// A store and its address.
#[derive(Debug)]
pub(super) struct Located<S> {
    store: S,
    location: String,
}

impl<S> Located<S> {
    pub(super) fn new(store: S, location: &str) -> Self {
        Self { store, location: location.to_owned() }
    }
}

#[async_trait]
impl<S: Store> Backend for Located<S> {
    fn location(&self) -> &str {
        &self.location
    }

    fn concurrency(&self) -> usize {
        self.store.concurrency()
    }

    fn is_remote(&self) -> bool {
        true
    }

    async fn list(&self, kind: FileKind) -> BackendResult<Vec<ListEntry>> {
        let list = self.store.list(kind).await;
        list.map_err(|failure| failure.at("list", kind.dirname(), &self.location))
    }

    async fn read_full(&self, kind: FileKind, id: &Id, limit_bytes: u64) -> BackendResult<Bytes> {
        let read = self.store.read_full(kind, id, limit_bytes).await;
        read.map_err(|failure| failure.at("read", target(kind, id), &self.location))
    }

    async fn read_range(&self, kind: FileKind, id: &Id, range: Range<u64>) -> BackendResult<Bytes> {
        let read = match range_len(&range) {
            Ok(0) => Ok(Bytes::new()),
            Ok(len_bytes) => self.store.read_range(kind, id, range.start, len_bytes).await,
            Err(failure) => Err(failure),
        };
        read.map_err(|failure| failure.at("read", target(kind, id), &self.location))
    }

    async fn write(&self, kind: FileKind, id: &Id, content: Bytes) -> BackendResult<()> {
        let write = self.store.write(kind, id, content).await;
        write.map_err(|failure| failure.at("write", target(kind, id), &self.location))
    }

    async fn write_new(&self, kind: FileKind, id: &Id, content: Bytes) -> BackendResult<()> {
        let write = self.store.write_new(kind, id, content).await;
        write.map_err(|failure| failure.at("write", target(kind, id), &self.location))
    }

    async fn remove(&self, kind: FileKind, id: &Id) -> BackendResult<()> {
        match self.store.remove(kind, id).await {
            Err(failure) if failure.is(BackendErrorKind::NotFound) => Ok(()),
            result => result.map_err(|failure| failure.at("remove", target(kind, id), &self.location)),
        }
    }

    async fn create(&self) -> BackendResult<()> {
        self.store.create().await.map_err(|failure| failure.at("create", "repository", &self.location))
    }
}

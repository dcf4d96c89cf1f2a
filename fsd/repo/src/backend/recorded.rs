//! Remembers the calls to a store, for tests that count them.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use super::{Backend, BackendResult, FileKind, ListEntry, Operation};
use crate::id::Id;

/// A call that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedCall {
    /// What it does.
    pub operation: Operation,
    /// On which kind of file.
    pub kind: Option<FileKind>,
    /// On which file.
    pub id: Option<Id>,
    /// Which part of it, where not all is read.
    pub range: Option<Range<u64>>,
}

/// A store whose calls are remembered, also those that fail.
#[derive(Debug)]
pub struct RecordedBackend {
    inner: Arc<dyn Backend>,
    calls: Mutex<Vec<RecordedCall>>,
}

impl RecordedBackend {
    /// Wraps a store.
    #[must_use]
    pub fn new(inner: Arc<dyn Backend>) -> Arc<Self> {
        Arc::new(Self { inner, calls: Mutex::default() })
    }

    /// Takes the calls since this was called last, in their order.
    pub fn take(&self) -> Vec<RecordedCall> {
        std::mem::take(&mut *self.calls.lock())
    }

    fn record(&self, operation: Operation, kind: Option<FileKind>, id: Option<&Id>, range: Option<Range<u64>>) {
        self.calls.lock().push(RecordedCall { operation, kind, id: id.copied(), range });
    }
}

#[async_trait]
impl Backend for RecordedBackend {
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
        self.record(Operation::List, Some(kind), None, None);
        self.inner.list(kind).await
    }

    async fn read_full(&self, kind: FileKind, id: &Id, limit_bytes: u64) -> BackendResult<Bytes> {
        self.record(Operation::Read, Some(kind), Some(id), None);
        self.inner.read_full(kind, id, limit_bytes).await
    }

    async fn read_range(&self, kind: FileKind, id: &Id, range: Range<u64>) -> BackendResult<Bytes> {
        self.record(Operation::Read, Some(kind), Some(id), Some(range.clone()));
        self.inner.read_range(kind, id, range).await
    }

    fn read_local(&self, kind: FileKind, id: &Id, offset: u64, buf: &mut [u8]) -> Option<BackendResult<()>> {
        let read = self.inner.read_local(kind, id, offset, buf);
        if read.is_some() {
            let range = offset..offset.saturating_add(buf.len() as u64);
            self.record(Operation::Read, Some(kind), Some(id), Some(range));
        }
        read
    }

    async fn write(&self, kind: FileKind, id: &Id, content: Bytes) -> BackendResult<()> {
        self.record(Operation::Write, Some(kind), Some(id), None);
        self.inner.write(kind, id, content).await
    }

    async fn remove(&self, kind: FileKind, id: &Id) -> BackendResult<()> {
        self.record(Operation::Remove, Some(kind), Some(id), None);
        self.inner.remove(kind, id).await
    }

    async fn create(&self) -> BackendResult<()> {
        self.record(Operation::Create, None, None, None);
        self.inner.create().await
    }
}

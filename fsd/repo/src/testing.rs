//! A store in memory for unit tests. Stricter than real ones: it counts, and refuses what the contract does not allow.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::backend::{Backend, BackendError, BackendErrorKind, BackendResult, FileKind, ListEntry, Retry};
use crate::id::Id;

/// Files in memory, and the failures that a test asked for.
#[derive(Debug, Default)]
pub(crate) struct MemoryBackend {
    files: Mutex<BTreeMap<(FileKind, Id), Bytes>>,
    failing: Mutex<BTreeMap<(FileKind, Id), BackendErrorKind>>,
    failing_lists: Mutex<Option<BackendErrorKind>>,
    /// Full and ranged reads so far.
    pub(crate) reads: AtomicUsize,
    /// Lists so far.
    pub(crate) lists: AtomicUsize,
}

impl MemoryBackend {
    /// Makes an empty store.
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Puts a file under any id.
    pub(crate) fn put(&self, kind: FileKind, id: Id, content: impl Into<Bytes>) {
        self.files.lock().insert((kind, id), content.into());
    }

    /// Puts a file under its hash.
    pub(crate) fn put_hashed(&self, kind: FileKind, content: impl Into<Bytes>) -> Id {
        let content = content.into();
        let id = Id::hash(&content);
        self.put(kind, id, content);
        id
    }

    /// Lets every read of a file fail, or no more.
    pub(crate) fn fail(&self, kind: FileKind, id: Id, error: Option<BackendErrorKind>) {
        match error {
            Some(error) => self.failing.lock().insert((kind, id), error),
            None => self.failing.lock().remove(&(kind, id)),
        };
    }

    /// Lets every list fail, or no more.
    pub(crate) fn fail_lists(&self, error: Option<BackendErrorKind>) {
        *self.failing_lists.lock() = error;
    }

    /// Copies a repository's directory, as restic lays it out.
    pub(crate) fn load(&self, root: &std::path::Path) {
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let inside = path.strip_prefix(root).unwrap();
                let top = inside.iter().next().unwrap().to_str().unwrap();
                let kind = FileKind::LISTED.into_iter().find(|kind| kind.dirname() == top).unwrap_or(FileKind::Config);
                let id = path.file_name().unwrap().to_str().unwrap().parse().unwrap_or_default();
                self.put(kind, id, std::fs::read(&path).unwrap());
            }
        }
    }

    fn error(operation: &'static str, kind: BackendErrorKind, target: String) -> BackendError {
        BackendError {
            kind,
            retry: Retry::Permanent,
            operation,
            target,
            location: "memory".to_owned(),
            message: format!("{kind:?}"),
        }
    }

    fn read(&self, kind: FileKind, id: &Id) -> BackendResult<Bytes> {
        self.reads.fetch_add(1, Relaxed);
        if let Some(error) = self.failing.lock().get(&(kind, *id)) {
            return Err(Self::error("read", *error, kind.path(id)));
        }
        let found = self.files.lock().get(&(kind, *id)).cloned();
        found.ok_or_else(|| Self::error("read", BackendErrorKind::NotFound, kind.path(id)))
    }
}

#[async_trait]
impl Backend for MemoryBackend {
    fn location(&self) -> &str {
        "memory"
    }

    fn concurrency(&self) -> usize {
        4
    }

    fn is_remote(&self) -> bool {
        false
    }

    async fn list(&self, kind: FileKind) -> BackendResult<Vec<ListEntry>> {
        self.lists.fetch_add(1, Relaxed);
        if let Some(error) = *self.failing_lists.lock() {
            return Err(Self::error("list", error, kind.dirname().to_owned()));
        }
        let files = self.files.lock();
        let of_kind = files.iter().filter(|((of, _), _)| *of == kind);
        Ok(of_kind.map(|((_, id), content)| ListEntry { id: *id, len_bytes: content.len() as u64 }).collect())
    }

    async fn read_full(&self, kind: FileKind, id: &Id, limit_bytes: u64) -> BackendResult<Bytes> {
        let content = self.read(kind, id)?;
        if content.len() as u64 > limit_bytes {
            return Err(Self::error("read", BackendErrorKind::Corrupt, kind.path(id)));
        }
        Ok(content)
    }

    async fn read_range(&self, kind: FileKind, id: &Id, range: Range<u64>) -> BackendResult<Bytes> {
        let content = self.read(kind, id)?;
        let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        if range.end > content.len() {
            return Err(Self::error("read", BackendErrorKind::Corrupt, kind.path(id)));
        }
        Ok(content.slice(range))
    }

    async fn write(&self, kind: FileKind, id: &Id, content: Bytes) -> BackendResult<()> {
        self.put(kind, *id, content);
        Ok(())
    }

    async fn remove(&self, kind: FileKind, id: &Id) -> BackendResult<()> {
        self.files.lock().remove(&(kind, *id));
        Ok(())
    }

    async fn create(&self) -> BackendResult<()> {
        Ok(())
    }
}

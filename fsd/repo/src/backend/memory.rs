//! A repository in memory, for tests. Stricter than real stores: a name is written once.

use std::collections::BTreeMap;
use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use super::error::{Failure, range_len, target};
use super::{Backend, BackendErrorKind, BackendResult, FileKind, ListEntry, Retry};
use crate::id::Id;

/// Files by kind and id.
#[derive(Debug, Default)]
pub struct MemoryBackend {
    files: Mutex<BTreeMap<(FileKind, Id), Bytes>>,
}

const LOCATION: &str = "memory";

impl MemoryBackend {
    /// Changes a file's bytes in place, as damage does; returns whether it is there.
    pub fn damage(&self, kind: FileKind, id: &Id, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut files = self.files.lock();
        let Some(file) = files.get_mut(&(kind, *id)) else { return false };
        let mut bytes = file.to_vec();
        change(&mut bytes);
        *file = bytes.into();
        true
    }

    fn get(&self, kind: FileKind, id: &Id) -> Result<Bytes, Failure> {
        let found = self.files.lock().get(&(kind, *id)).cloned();
        found.ok_or_else(|| Failure::new(BackendErrorKind::NotFound, Retry::Permanent, "not found"))
    }

    fn slice(&self, kind: FileKind, id: &Id, range: &Range<u64>) -> Result<Bytes, Failure> {
        range_len(range)?;
        let file = self.get(kind, id)?;
        let bounds = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
        match bounds.filter(|(_, end)| *end <= file.len()) {
            Some((start, end)) => Ok(file.slice(start..end)),
            None => Err(Failure::ends_before(range.end)),
        }
    }
}

#[async_trait]
impl Backend for MemoryBackend {
    fn location(&self) -> &str {
        LOCATION
    }

    fn concurrency(&self) -> usize {
        4
    }

    fn is_remote(&self) -> bool {
        true
    }

    async fn list(&self, kind: FileKind) -> BackendResult<Vec<ListEntry>> {
        let files = self.files.lock();
        let of_kind = files.iter().filter(|((listed, _), _)| *listed == kind);
        Ok(of_kind.map(|((_, id), file)| ListEntry { id: *id, len_bytes: file.len() as u64 }).collect())
    }

    async fn read_full(&self, kind: FileKind, id: &Id, limit_bytes: u64) -> BackendResult<Bytes> {
        let file = self.get(kind, id).and_then(|file| {
            if file.len() as u64 > limit_bytes { Err(Failure::too_long(limit_bytes)) } else { Ok(file) }
        });
        file.map_err(|failure| failure.at("read", target(kind, id), LOCATION))
    }

    async fn read_range(&self, kind: FileKind, id: &Id, range: Range<u64>) -> BackendResult<Bytes> {
        self.slice(kind, id, &range).map_err(|failure| failure.at("read", target(kind, id), LOCATION))
    }

    async fn write(&self, kind: FileKind, id: &Id, content: Bytes) -> BackendResult<()> {
        let mut files = self.files.lock();
        match files.get(&(kind, *id)) {
            Some(present) if *present != content => {
                let failure =
                    Failure::new(BackendErrorKind::Conflict, Retry::Permanent, "there is other content already");
                Err(failure.at("write", target(kind, id), LOCATION))
            }
            _ => {
                files.insert((kind, *id), content);
                Ok(())
            }
        }
    }

    async fn remove(&self, kind: FileKind, id: &Id) -> BackendResult<()> {
        self.files.lock().remove(&(kind, *id));
        Ok(())
    }

    async fn create(&self) -> BackendResult<()> {
        if self.files.lock().contains_key(&(FileKind::Config, Id::default())) {
            return Err(Failure::taken().at("create", "repository", LOCATION));
        }
        Ok(())
    }
}

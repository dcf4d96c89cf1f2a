//! Open files and their reads.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use stash_repo::RepoError;

use super::state::{Context, Stop};
use super::{Inner, Vfs};
use crate::attr::FileType;
use crate::error::{VfsError, VfsResult};
use crate::inode::Ino;
use crate::read::{FileState, ReadData};
use crate::source::Source;

/// The most memory that tables of files take that nobody has open: enough for one of a million blobs.
const RECENT_BYTES: u64 = 8 << 20;

/// Files that are being read.
#[derive(Debug)]
pub(super) struct Files {
    open: Mutex<HashMap<Ino, OpenFile>>,
    /// Files that nobody has open: read without an open (after a take-over), or closed and perhaps soon opened again.
    recent: moka::sync::Cache<Ino, Arc<FileState>>,
}

#[derive(Debug, Default)]
struct OpenFile {
    opens: u64,
    /// Made by the first read.
    state: Option<Arc<FileState>>,
}

/// A closed file is worth remembering if its table took look-ups.
const REMEMBERED_BLOBS: usize = 16;

impl Files {
    pub(super) fn new() -> Self {
        let weight = |_: &Ino, file: &Arc<FileState>| u32::try_from(file.weight_bytes()).unwrap_or(u32::MAX);
        let recent = moka::sync::Cache::builder().max_capacity(RECENT_BYTES).weigher(weight).build();
        Self { open: Mutex::default(), recent }
    }

    fn get(&self, ino: Ino) -> Option<Arc<FileState>> {
        let open = self.open.lock();
        match open.get(&ino) {
            Some(OpenFile { state: Some(state), .. }) => Some(Arc::clone(state)),
            _ => {
                drop(open);
                self.recent.get(&ino)
            }
        }
    }

    /// Keeps a new state, unless another reader was first; returns the one that is kept.
    fn keep(&self, ino: Ino, state: Arc<FileState>) -> Arc<FileState> {
        match self.open.lock().get_mut(&ino) {
            Some(file) => Arc::clone(file.state.get_or_insert(state)),
            None => self.recent.get_with(ino, || state),
        }
    }

    /// Forgets a state that proved wrong, so that the next read makes another.
    fn drop_state(&self, ino: Ino) {
        if let Some(file) = self.open.lock().get_mut(&ino) {
            file.state = None;
        }
        self.recent.invalidate(&ino);
    }
}

impl Vfs {
    /// A file was opened: its prefetch state lives until as many `release`s.
    ///
    /// # Errors
    /// `IsADirectory`, `Stale`.
    pub fn open(&self, ino: Ino) -> VfsResult<()> {
        match self.now(|context| self.inner.file_state(context, ino)) {
            Some(Err(error)) => return Err(error),
            Some(Ok(state)) => {
                let mut open = self.inner.files.open.lock();
                let file = open.entry(ino).or_default();
                file.opens += 1;
                file.state.get_or_insert(state);
            }
            // What it is shows the first read.
            None => self.inner.files.open.lock().entry(ino).or_default().opens += 1,
        }
        Ok(())
    }

    /// A file was closed.
    pub fn release(&self, ino: Ino) {
        let mut open = self.inner.files.open.lock();
        let Some(file) = open.get_mut(&ino) else { return };
        file.opens = file.opens.saturating_sub(1);
        if file.opens > 0 {
            return;
        }
        let state = open.remove(&ino).and_then(|file| file.state);
        drop(open);
        // Lost blobs are looked for again by the next reader.
        if let Some(state) = state.filter(|state| state.content().len() > REMEMBERED_BLOBS && !state.has_lost()) {
            self.inner.files.recent.insert(ino, state);
        }
    }

    /// Reads from memory; `None` where that needs I/O. Shorter than asked for only at the end of the file, which is where
    /// its blobs end, as in restic; [`crate::Attr::size`] is what the node says.
    #[must_use]
    pub fn try_read(&self, ino: Ino, offset: u64, len_bytes: u32) -> Option<VfsResult<ReadData>> {
        let state = match self.now(|context| self.inner.file_state(context, ino))? {
            Ok(state) => state,
            Err(error) => return Some(Err(error)),
        };
        let source = match self.inner.source(state.repo) {
            Ok(source) => source,
            Err(error) => return Some(Err(error)),
        };
        let read = state.try_read(&*source, offset, len_bytes as usize)?;
        Some(read.map_err(|source| self.inner.failed(ino, source)))
    }

    /// Reads.
    ///
    /// # Errors
    /// `IsADirectory`, `Stale`, `Repo` for this range alone.
    pub async fn read(&self, ino: Ino, offset: u64, len_bytes: u32) -> VfsResult<ReadData> {
        let (state, source) = self.file(ino).await?;
        let error = match state.read(&*source, offset, len_bytes as usize).await {
            Ok(data) => return Ok(data),
            Err(error) => error,
        };
        if !matches!(error, RepoError::BlobMissing { .. }) || !self.refresh_index(state.repo).await {
            return Err(self.inner.failed(ino, error));
        }
        // The index has changed: a prune moved the blob, or a backup brought it again.
        self.inner.files.drop_state(ino);
        let (state, source) = self.file(ino).await?;
        state.read(&*source, offset, len_bytes as usize).await.map_err(|source| self.inner.failed(ino, source))
    }

    pub(super) async fn file(&self, ino: Ino) -> VfsResult<(Arc<FileState>, Arc<dyn Source>)> {
        let state = self.with_io(ino, |context| self.inner.file_state(context, ino)).await?;
        let source = self.inner.source(state.repo)?;
        Ok((state, source))
    }
}

impl Inner {
    fn file_state(&self, context: &Context, ino: Ino) -> Result<Arc<FileState>, Stop> {
        if let Some(state) = self.files.get(ino) {
            return Ok(state);
        }
        if let Some(node) = self.state.lock().layout_node(ino) {
            return Err(match node.file_type() {
                FileType::Dir => VfsError::IsADirectory.into(),
                _ => VfsError::Invalid.into(),
            });
        }
        let node = self.node(context, ino)?;
        node.get(|found| match found.kind() {
            FileType::File => Ok(()),
            FileType::Dir => Err(VfsError::IsADirectory.into()),
            _ => Err(VfsError::Invalid.into()),
        })?;
        self.ahead.on_file(&self.state, node.repo, node.dir, &node.tree, node.position);
        Ok(self.files.keep(ino, Arc::new(FileState::new(node.repo, node.tree, node.position, self.ahead.is_on()))))
    }

    /// Names what failed.
    pub(super) fn failed(&self, ino: Ino, source: RepoError) -> VfsError {
        let path = self.state.lock().path(ino, |dir| self.sources.get(dir.repo)?.try_tree(&dir.tree));
        VfsError::Repo { path, source }
    }
}

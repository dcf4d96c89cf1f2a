//! Brings an index up to date with the repository's list of index files.
//!
//! Files are fetched side by side on tokio; one blocking thread decrypts, parses, sorts, merges and writes. What is
//! fetched and not parsed yet is bounded by bytes.

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::build::{Build, BuildError};
use super::plan::{Fate, Plan, SegmentView, plan};
use super::segment::Segment;
use super::{Index, Segments, Shared};
use crate::backend::{BackendErrorKind, ListEntry};
use crate::error::{RepoError, RepoResult};
use crate::format::index_file::IndexedBlob;
use crate::id::IndexId;

/// How many bytes of index files may wait to be parsed.
const FETCHED_BYTES: u32 = 16 << 20;
/// How often a refresh plans anew because a segment that it merges turned out to be damaged, or its file was gone.
const ATTEMPTS: usize = 4;

/// Where index files come from.
#[async_trait]
pub trait IndexSource: Send + Sync + 'static {
    /// Returns how many files are fetched side by side.
    fn concurrency(&self) -> usize;

    /// Reads an index file as it is stored.
    ///
    /// # Errors
    /// The store failed. A file that is gone (`NotFound`) is left out.
    async fn fetch(&self, id: IndexId) -> RepoResult<Bytes>;

    /// Checks, decrypts and parses an index file, and gives its blobs pack by pack. Runs on a thread that may block.
    ///
    /// # Errors
    /// It is damaged or not an index file: it is left out, with a warning.
    fn parse(&self, id: IndexId, stored: Bytes, each: &mut dyn FnMut(IndexedBlob)) -> RepoResult<()>;
}

/// A fetched file on its way to the thread that parses it.
enum Message {
    File {
        id: IndexId,
        stored: Bytes,
        _permit: OwnedSemaphorePermit,
    },
    /// There are no more. A channel that closes without it was given up.
    End,
}

/// What fetching led to.
#[derive(Default)]
struct Fetched {
    /// The store's first error.
    failed: Option<RepoError>,
    /// Files that the store has and that are not what it says.
    unreadable: Vec<IndexId>,
}

/// What a build led to.
struct Built {
    segment: Option<Segment>,
    unreadable: Vec<IndexId>,
}

impl Index {
    /// Takes in the index files that are `listed` and not known yet, drops those that are not listed any more, and
    /// returns whether anything changed. Readers go on with what was there until the new state replaces it at once.
    ///
    /// An index file that cannot be decoded is left out with a warning ([`Index::unreadable`]). If the store fails, what
    /// was fetched until then is kept. An empty list changes nothing: no repository with anything to read has one, but a
    /// store whose disk is not mounted has.
    ///
    /// Dropping the future gives up; nothing is half done then.
    ///
    /// # Errors
    /// The store failed, or neither disk nor memory took the result.
    pub async fn refresh(&self, listed: &[ListEntry], source: Arc<dyn IndexSource>) -> RepoResult<bool> {
        let _one_at_a_time = self.shared.refreshing.lock().await;
        if listed.is_empty() && !self.shared.segments().is_empty() {
            tracing::warn!("the store lists no index files any more: the index stays as it is");
            return Ok(false);
        }
        self.forget_unlisted(listed);
        let mut changed = false;
        for _ in 0..ATTEMPTS {
            let skip = self.shared.unreadable.lock().clone();
            let mut segments = self.shared.segments();
            let mut next = plan(&views(&segments), listed, &skip);
            if !next.load.is_empty() {
                // Another process may have built what is missing.
                let shared = self.shared.clone();
                let found = run_blocking(move || shared.open_new()).await?;
                if found {
                    segments = self.shared.segments();
                    next = plan(&views(&segments), listed, &skip);
                    changed = true;
                }
            }
            if next.is_empty() {
                return Ok(changed);
            }
            changed = true;
            match self.apply(segments, next, source.clone()).await {
                Ok(Some(error)) => return Err(error),
                Ok(None) => return Ok(changed),
                Err(BuildError::Damaged(segment)) => self.shared.note_damage(&segment, "a page is damaged"),
                Err(error) => return Err(error.into()),
            }
        }
        Err(RepoError::Local {
            what: "index segments".to_owned(),
            reason: "damaged again and again while they were rebuilt; check the disk of the cache".to_owned(),
        })
    }

    /// Forgets unreadable files that are gone.
    fn forget_unlisted(&self, listed: &[ListEntry]) {
        let mut unreadable = self.shared.unreadable.lock();
        if !unreadable.is_empty() {
            let listed: HashSet<_> = listed.iter().map(|entry| IndexId(entry.id)).collect();
            unreadable.retain(|id| listed.contains(id));
        }
    }

    /// Carries out a plan. Returns the store's error if not all files could be fetched; the others are taken in.
    async fn apply(
        &self,
        segments: Segments,
        next: Plan,
        source: Arc<dyn IndexSource>,
    ) -> Result<Option<RepoError>, BuildError> {
        let (sender, receiver) = mpsc::channel(1);
        let shared = self.shared.clone();
        let parser = source.clone();
        let merged = segments.clone();
        let fates = next.fates.clone();
        let builder = run_blocking(move || build(&shared, &merged, &fates, receiver, parser.as_ref()));
        let fetcher = fetch(next.load, source, sender);
        let (built, Fetched { failed, unreadable }) = futures::join!(builder, fetcher);
        self.shared.unreadable.lock().extend(unreadable);
        let Built { segment, unreadable } = match built {
            Ok(built) => built?,
            Err(error) => return Ok(Some(error)),
        };
        self.shared.unreadable.lock().extend(unreadable);

        let mut kept = Vec::with_capacity(segments.len() + 1);
        let mut superseded = Vec::new();
        for (segment, fate) in segments.iter().zip(&next.fates) {
            if *fate == Fate::Keep {
                kept.push(segment.clone());
            } else {
                superseded.extend(segment.path.clone());
            }
        }
        kept.extend(segment.map(Arc::new));
        self.shared.replace(kept);
        if let Some(dir) = self.shared.dir.clone() {
            run_blocking(move || dir.remove(&superseded)).await.ok();
        }
        Ok(failed)
    }
}

fn views(segments: &Segments) -> Vec<SegmentView<'_>> {
    segments
        .iter()
        .map(|segment| SegmentView {
            id: segment.header.id,
            files: &segment.files,
            blobs: segment.blobs(),
            damaged: segment.is_damaged(),
        })
        .collect()
}

/// Fetches files and sends them on. After the store's first error no more are begun.
async fn fetch(load: Vec<ListEntry>, source: Arc<dyn IndexSource>, sender: mpsc::Sender<Message>) -> Fetched {
    let room = Arc::new(Semaphore::new(FETCHED_BYTES as usize));
    let concurrency = source.concurrency().max(1);
    let fetches = load.into_iter().map(|entry| {
        let (room, source) = (room.clone(), source.clone());
        async move {
            let id = IndexId(entry.id);
            let bytes = u32::try_from(entry.len_bytes).unwrap_or(u32::MAX).clamp(1, FETCHED_BYTES);
            let Ok(permit) = room.acquire_many_owned(bytes).await else { return (id, Err(RepoError::Cancelled)) };
            (id, source.fetch(id).await.map(|stored| Message::File { id, stored, _permit: permit }))
        }
    });
    let mut fetches = futures::stream::iter(fetches).buffer_unordered(concurrency);
    let mut outcome = Fetched::default();
    while outcome.failed.is_none()
        && let Some((id, fetched)) = fetches.next().await
    {
        match fetched {
            Ok(message) => {
                if sender.send(message).await.is_err() {
                    outcome.failed = Some(RepoError::Cancelled);
                }
            }
            // A prune removed it after the list was made.
            Err(RepoError::Backend(error)) if error.kind == BackendErrorKind::NotFound => {}
            Err(RepoError::Backend(error)) if error.kind == BackendErrorKind::Corrupt => {
                tracing::warn!(%error, "an index file is left out; run a check of the repository");
                outcome.unreadable.push(id);
            }
            Err(error) => outcome.failed = Some(error),
        }
    }
    if sender.send(Message::End).await.is_err() {
        // The build ended before and says why.
        outcome.failed.get_or_insert(RepoError::Cancelled);
    }
    outcome
}

/// Builds the new segment of a plan from the merged ones and from the files that arrive.
fn build(
    shared: &Shared,
    segments: &Segments,
    fates: &[Fate],
    mut receiver: mpsc::Receiver<Message>,
    source: &dyn IndexSource,
) -> Result<Built, BuildError> {
    let mut build = Build::new(shared.dir.clone(), &shared.key);
    for (segment, fate) in segments.iter().zip(fates) {
        if let Fate::Merge(live) = fate {
            build.merge(segment.clone(), live)?;
        }
    }
    let mut unreadable = Vec::new();
    loop {
        match receiver.blocking_recv() {
            Some(Message::File { id, stored, _permit }) => {
                let parsed = build.add_file(id, |each| source.parse(id, stored, each))?;
                if let Err(error) = parsed {
                    tracing::warn!(%error, "an index file is left out; run a check of the repository");
                    unreadable.push(id);
                }
            }
            Some(Message::End) => break,
            None => return Err(BuildError::Io(std::io::ErrorKind::Interrupted.into())),
        }
    }
    let segment = build.finish()?;
    Ok(Built { segment, unreadable })
}

/// Runs blocking work on tokio's threads for it.
async fn run_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> RepoResult<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| RepoError::Cancelled)
}

/// Returns the files that no segment covers (for tests and reports).
pub(super) fn covered(segments: &Segments) -> HashSet<IndexId> {
    segments.iter().flat_map(|segment| segment.files.iter().copied()).collect()
}

//! From (file, offset, length) to bytes.

use std::ops::{Deref, Range};
use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use parking_lot::Mutex;
use stash_repo::{BlobData, BlobId, NodeRef, RepoError, RepoResult, Tree};

use crate::content::{Content, Piece};
use crate::error::{VfsError, VfsResult};
use crate::prefetch::sequential::Sequential;
use crate::source::Source;
use crate::sparse;

/// A piece of what was read, shared with the cache.
#[derive(Debug, Clone)]
pub enum ReadPiece {
    /// A range of a blob.
    Blob(BlobData, Range<usize>),
    /// Bytes of a hole.
    Bytes(Bytes),
}

impl Deref for ReadPiece {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Self::Blob(blob, range) => blob.get(range.clone()).unwrap_or_default(),
            Self::Bytes(bytes) => bytes,
        }
    }
}

/// The bytes of a read: pieces of blobs, one after another. Nothing is copied before it is asked for.
#[derive(Debug, Clone, Default)]
pub struct ReadData {
    pieces: Vec<ReadPiece>,
}

impl From<Bytes> for ReadData {
    fn from(bytes: Bytes) -> Self {
        Self { pieces: vec![ReadPiece::Bytes(bytes)] }
    }
}

impl ReadData {
    /// Returns how many bytes were read.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pieces.iter().map(|piece| piece.len()).sum()
    }

    /// Returns whether nothing was read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the pieces.
    #[must_use]
    pub fn pieces(&self) -> &[ReadPiece] {
        &self.pieces
    }

    /// Returns all bytes as one slice, put together in `buffer` if they lie in more than one piece.
    pub fn as_slice<'a>(&'a self, buffer: &'a mut Vec<u8>) -> &'a [u8] {
        if let [piece] = self.pieces.as_slice() {
            return piece;
        }
        buffer.clear();
        for piece in &self.pieces {
            buffer.extend_from_slice(piece);
        }
        buffer
    }

    /// Returns a copy of all bytes.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len());
        for piece in &self.pieces {
            bytes.extend_from_slice(piece);
        }
        bytes
    }
}

/// A file that is being read: its node, where its blobs begin, and who reads where.
#[derive(Debug)]
pub(crate) struct FileState {
    pub(crate) repo: usize,
    tree: Arc<Tree>,
    position: usize,
    /// Blobs are fetched ahead of a sequential reader.
    ahead: bool,
    reading: Mutex<Reading>,
}

/// What changes while a file is read. The lock is held for look-ups of lengths (one page of the index each), never over
/// a wait.
#[derive(Debug, Default)]
struct Reading {
    content: Content,
    sequential: Sequential,
}

/// What one read needs.
#[derive(Debug)]
struct Plan {
    pieces: Vec<Wanted>,
    /// Blobs are wanted whole: the reader goes on to what follows.
    whole: bool,
}

#[derive(Debug)]
enum Wanted {
    Blob(BlobId, Range<usize>),
    Zeros(usize),
    Lost(BlobId),
}

/// Look-ups that a read may do where it must not wait: it rarely crosses more than one end of a blob, and the index page
/// of its next blob is mostly in the page cache.
const TRY_LOOKUPS: usize = 2;

/// Look-ups between two chances for others to run.
const LOOKUPS_A_TURN: usize = 512;

/// A blob up to this length is always decoded whole: decoding a part of it would save microseconds and cost the next read.
const SMALL_BLOB_BYTES: u64 = 128 << 10;

impl FileState {
    pub(crate) fn new(repo: usize, tree: Arc<Tree>, position: usize, ahead: bool) -> Self {
        Self { repo, tree, position, ahead, reading: Mutex::default() }
    }

    /// The node; the position was valid when the state was made.
    fn node(&self) -> Option<NodeRef<'_>> {
        self.tree.get(self.position)
    }

    pub(crate) fn content(&self) -> &[BlobId] {
        self.node().map_or(&[], NodeRef::content)
    }

    pub(crate) fn size(&self) -> u64 {
        self.node().map_or(0, NodeRef::size)
    }

    /// Returns roughly how much memory the state takes when all of the file was read.
    pub(crate) fn weight_bytes(&self) -> usize {
        size_of::<Self>() + self.content().len() * 8 + self.tree.weight_bytes()
    }

    /// Returns the average length of the file's blobs.
    pub(crate) fn average_blob_bytes(&self) -> u64 {
        (self.size() / (self.content().len() as u64).max(1)).max(1)
    }

    /// Plans a read with at most `lookups` look-ups; `None` if these do not suffice.
    fn plan(&self, source: &dyn Source, offset: u64, len: usize, lookups: usize) -> RepoResult<Option<Plan>> {
        let ids = self.content();
        let mut reading = self.reading.lock();
        let Some(last) = offset.checked_add(len as u64).and_then(|end| end.checked_sub(1)) else {
            return Ok(Some(Plan { pieces: Vec::new(), whole: false }));
        };
        if !reading.content.extend(ids, self.size(), last, lookups, |id| source.plain_bytes(id))? {
            return Ok(None);
        }
        let mut pieces = Vec::with_capacity(1);
        let (mut at, mut left) = (offset, len);
        let mut blobs: Option<Range<usize>> = None;
        while let Some(piece) = reading.content.piece(at, left) {
            let (index, taken, wanted) = match piece {
                Piece::Blob { index, range } => {
                    let Some(id) = ids.get(index).copied() else { break };
                    let taken = range.len();
                    let zeros = sparse::is_zeros(&id) && range.end <= sparse::ZERO_BYTES as usize;
                    (index, taken, if zeros { Wanted::Zeros(taken) } else { Wanted::Blob(id, range) })
                }
                Piece::Lost { index } => {
                    let Some(id) = ids.get(index).copied() else { break };
                    (index, left, Wanted::Lost(id))
                }
            };
            blobs = Some(blobs.map_or(index, |blobs| blobs.start)..index + 1);
            pieces.push(wanted);
            left -= taken.min(left);
            at += taken as u64;
        }
        let Some(blobs) = blobs else { return Ok(Some(Plan { pieces, whole: false })) };
        let limits = crate::prefetch::limits(source.is_remote());
        let average = self.average_blob_bytes();
        let advice = reading.sequential.on_read(offset, len as u64, blobs, ids.len(), average, &limits);
        if self.ahead {
            let follow = |range: &Range<usize>, begin: fn(&dyn Source, &[BlobId]) -> usize| {
                let wanted = ids.get(range.clone()).filter(|wanted| !wanted.is_empty());
                range.start + wanted.map_or(0, |wanted| begin(source, wanted).min(wanted.len()))
            };
            let fetched = follow(&advice.ahead, |source, ids| source.prefetch_blobs(ids));
            let staged = follow(&advice.staged, |source, ids| source.stage_blobs(ids));
            reading.sequential.taken(advice.stream, fetched, staged);
        }
        if advice.behind > 0 {
            let passed = reading.content.ended_by(advice.behind);
            let passed = reading.sequential.pass(advice.stream, passed);
            source.let_go(ids.get(passed).unwrap_or_default());
        }
        Ok(Some(Plan { pieces, whole: advice.whole || average <= SMALL_BLOB_BYTES }))
    }

    /// Takes a range of a blob. The only blob of a file ends where it ends; of several, each must be as long as the index
    /// says, or what follows would be shown in a wrong place.
    fn take(&self, id: &BlobId, blob: BlobData, range: &Range<usize>) -> RepoResult<ReadPiece> {
        if range.end <= blob.len() {
            return Ok(ReadPiece::Blob(blob, range.clone()));
        }
        if self.content().len() > 1 {
            let reason = format!("it has {} bytes, and the index says at least {}", blob.len(), range.end);
            return Err(RepoError::Format { what: "blob", id: id.0, reason });
        }
        let end = blob.len();
        Ok(ReadPiece::Blob(blob, range.start.min(end)..end))
    }

    /// Reads from memory.
    pub(crate) fn try_read(&self, source: &dyn Source, offset: u64, len: usize) -> Option<RepoResult<ReadData>> {
        let plan = match self.plan(source, offset, len, TRY_LOOKUPS) {
            Ok(plan) => plan?,
            Err(error) => return Some(Err(error)),
        };
        let small = self.average_blob_bytes() <= SMALL_BLOB_BYTES;
        // Who takes a whole file of one blob at once has it in the page cache, and memory need not keep it.
        let all = self.content().len() == 1 && offset == 0 && len as u64 >= self.size();
        let here = |id: &BlobId| small.then(|| source.blob_here(id, !all)).flatten();
        let mut pieces = Vec::with_capacity(plan.pieces.len());
        for piece in &plan.pieces {
            pieces.push(match piece {
                Wanted::Blob(id, range) => {
                    match self.take(id, source.try_blob(id, plan.upto(range)).or_else(|| here(id))?, range) {
                        Ok(data) => data,
                        Err(error) => return Some(Err(error)),
                    }
                }
                Wanted::Zeros(len) => ReadPiece::Bytes(sparse::zeros(*len)),
                // The async twin looks once more in a fresh index.
                Wanted::Lost(_) => return None,
            });
        }
        Some(Ok(ReadData { pieces }))
    }

    /// Reads.
    pub(crate) async fn read(&self, source: &dyn Source, offset: u64, len: usize) -> RepoResult<ReadData> {
        let plan = loop {
            if let Some(plan) = self.plan(source, offset, len, LOOKUPS_A_TURN)? {
                break plan;
            }
            tokio::task::yield_now().await;
        };
        let pieces = join_all(plan.pieces.iter().map(|piece| async {
            match piece {
                Wanted::Blob(id, range) => {
                    source.blob(*id, plan.upto(range)).await.and_then(|blob| self.take(id, blob, range))
                }
                Wanted::Zeros(len) => Ok(ReadPiece::Bytes(sparse::zeros(*len))),
                Wanted::Lost(id) => Err(RepoError::BlobMissing { id: *id }),
            }
        }))
        .await;
        // A short read would be taken for the end of the file, so one bad piece fails the read; the kernel asks again for
        // the pages that a reader really wants.
        Ok(ReadData { pieces: pieces.into_iter().collect::<RepoResult<_>>()? })
    }

    /// Finds data or a hole at or after `offset`.
    pub(crate) async fn seek(&self, source: &dyn Source, offset: u64, hole: bool) -> VfsResult<Result<u64, RepoError>> {
        let size = self.size();
        if offset >= size {
            return Err(VfsError::BeyondEnd);
        }
        let ids = self.content();
        if !ids.iter().any(sparse::is_zeros) {
            // One piece of data, and the hole that every file ends in.
            return Ok(Ok(if hole { size } else { offset }));
        }
        let mut at = offset;
        while at < size {
            let covered = {
                let mut reading = self.reading.lock();
                match reading.content.extend(ids, size, at, LOOKUPS_A_TURN, |id| source.plain_bytes(id)) {
                    Err(error) => return Ok(Err(error)),
                    Ok(false) => None,
                    Ok(true) => Some(match reading.content.piece(at, usize::MAX) {
                        Some(Piece::Blob { index, range }) => {
                            let zeros = ids.get(index).is_some_and(sparse::is_zeros);
                            let end = at.saturating_add(range.len() as u64).min(size);
                            (zeros, if ids.len() == 1 && zeros { u64::from(sparse::ZERO_BYTES).min(size) } else { end })
                        }
                        // What is lost is not known to be a hole.
                        Some(Piece::Lost { index }) => {
                            (false, reading.content.range(index).map_or(size, |range| range.end))
                        }
                        None => (false, size),
                    }),
                }
            };
            match covered {
                None => tokio::task::yield_now().await,
                Some((zeros, _)) if zeros == hole => return Ok(Ok(at)),
                Some((_, end)) => at = end.max(at + 1),
            }
        }
        if hole { Ok(Ok(size)) } else { Err(VfsError::BeyondEnd) }
    }
}

impl Plan {
    /// How much of a blob is to be decoded.
    const fn upto(&self, range: &Range<usize>) -> usize {
        if self.whole { usize::MAX } else { range.end }
    }
}

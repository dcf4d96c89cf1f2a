//! The work of a batch: pieces of files by the place of their blobs, and what follows when all are done.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use stash_repo::{BlobId, PackId, Timestamp};

use super::Action;
use super::entry::{Entry, Keep};
use super::meta::Meta;

/// Files in a batch: enough that neighbours in a pack meet.
pub(super) const MAX_FILES: usize = 512;
/// Pieces in a batch; a piece takes about 100 bytes.
pub(super) const MAX_PIECES: usize = 16 << 10;
/// Plain bytes that are fetched and written together.
pub(super) const GROUP_BYTES: u64 = 4 << 20;
/// Pieces that are fetched and written together.
const GROUP_PIECES: usize = 1024;

/// What is known of a file's content before it is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    /// Nothing: all is fetched. There may be a part of an earlier run.
    Part,
    /// A file with the right size stands there: it may be the same, or hold some of the content.
    Existing,
}

/// A regular file on its way.
#[derive(Debug)]
pub(super) struct FileJob {
    /// Where it goes, below the target.
    pub(super) path: Vec<u8>,
    /// The part's name beside it.
    pub(super) part: std::ffi::CString,
    /// Where it comes from; knows its content and metadata.
    pub(super) source: Entry,
    /// How long its content is.
    pub(super) size: u64,
    pub(super) check: Check,
    /// What is told when it is done.
    pub(super) action: Action,
    /// Pieces that are neither written nor given up; the last one finishes the file.
    remaining: AtomicUsize,
    /// A leaf lock, held while the part is opened.
    pub(super) state: Mutex<State>,
}

/// What changes while a file is written.
#[derive(Debug, Default)]
pub(super) struct State {
    /// The part, once it is open.
    pub(super) fd: Option<Arc<OwnedFd>>,
    /// The part held nothing when it was opened: what is not written reads as zeros.
    pub(super) fresh: bool,
    /// The first failure.
    pub(super) failed: Option<String>,
    /// All of the existing file was found to be right.
    pub(super) same: bool,
    /// Something of the existing file was found to be different.
    pub(super) different: bool,
}

impl FileJob {
    pub(super) fn new(
        part: std::ffi::CString,
        source: Entry,
        size: u64,
        pieces: usize,
        check: Check,
        action: Action,
    ) -> Self {
        let (path, remaining) = (source.path().to_vec(), AtomicUsize::new(pieces));
        Self { path, part, source, size, check, action, remaining, state: Mutex::default() }
    }

    /// Begins anew with all pieces.
    pub(super) fn restart(&self, pieces: usize) {
        self.remaining.store(pieces, Ordering::Release);
    }

    /// Counts pieces as dealt with; returns whether the file is complete now.
    pub(super) fn complete(&self, pieces: usize) -> bool {
        self.remaining.fetch_sub(pieces, Ordering::AcqRel) == pieces
    }

    /// Gives the file up; the first reason stays.
    pub(super) fn fail(&self, error: impl std::fmt::Display) {
        self.state.lock().failed.get_or_insert_with(|| error.to_string());
    }

    pub(super) fn is_failed(&self) -> bool {
        self.state.lock().failed.is_some()
    }
}

/// A blob at its place in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) blob: BlobId,
    /// Which file of the batch.
    pub(super) file: usize,
    /// Where in the file.
    pub(super) offset: u64,
    /// How long.
    pub(super) len_bytes: u32,
    /// Where the blob lies.
    pub(super) pack: PackId,
    pub(super) pack_offset: u32,
}

/// What follows when the files of a batch are done.
#[derive(Debug)]
pub(super) enum After {
    /// One more name of a file.
    Link { path: Vec<u8>, to: Vec<u8>, mtime: Timestamp },
    /// All in a directory is done.
    Leave {
        path: Vec<u8>,
        /// Its metadata, where it gets any.
        meta: Option<Meta>,
        /// What is in it, where everything else is removed.
        keep: Option<Keep>,
        /// It was there before: parts of earlier runs may lie in it.
        existed: bool,
    },
}

/// Work that ends together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) files: Vec<Arc<FileJob>>,
    pub(super) pieces: Vec<Piece>,
    pub(super) after: Vec<After>,
}

impl Batch {
    pub(super) fn is_full(&self) -> bool {
        self.files.len() >= MAX_FILES || self.pieces.len() >= MAX_PIECES || self.after.len() >= MAX_PIECES
    }

    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty() && self.after.is_empty()
    }
}

/// Orders pieces by where their blobs lie, and cuts them into groups that are fetched together. All places of a blob are
/// in one group.
pub(super) fn groups(mut pieces: Vec<Piece>) -> Vec<Vec<Piece>> {
    pieces.sort_by_key(|piece| (piece.pack, piece.pack_offset, piece.blob, piece.file, piece.offset));
    let mut groups: Vec<Vec<Piece>> = Vec::new();
    let mut bytes = 0;
    for piece in pieces {
        let again = groups.last().and_then(|group| group.last()).is_some_and(|last| last.blob == piece.blob);
        let added = if again { 0 } else { u64::from(piece.len_bytes) };
        match groups.last_mut() {
            Some(group) if again || (bytes + added <= GROUP_BYTES && group.len() < GROUP_PIECES) => {
                group.push(piece);
                bytes += added;
            }
            _ => {
                groups.push(vec![piece]);
                bytes = added;
            }
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use stash_repo::Id;

    use super::*;

    fn piece(blob: u8, file: usize, len_bytes: u32) -> Piece {
        // A blob has one place, so place and length follow from its id here.
        Piece {
            blob: BlobId(Id::new([blob; 32])),
            file,
            offset: 0,
            len_bytes,
            pack: PackId(Id::new([blob / 16; 32])),
            pack_offset: u32::from(blob) * 1000,
        }
    }

    #[test]
    fn test_neighbours_in_a_pack_are_fetched_together() {
        let cut = groups(vec![piece(1, 0, 100), piece(200, 1, 100), piece(2, 2, 100), piece(1, 3, 100)]);
        assert_eq!(cut.len(), 1);
        let order: Vec<usize> = cut[0].iter().map(|piece| piece.file).collect();
        assert_eq!(order, [0, 3, 2, 1]);
    }

    proptest! {
        #[test]
        fn prop_groups_hold_every_piece_once_and_are_bounded(
            pieces in proptest::collection::vec((any::<u8>(), 0_usize..9), 0..300)
        ) {
            let pieces: Vec<Piece> =
                pieces.into_iter().map(|(blob, file)| piece(blob, file, u32::from(blob) * 20_000)).collect();
            let cut = groups(pieces.clone());
            let mut all: Vec<Piece> = cut.concat();
            prop_assert_eq!(all.len(), pieces.len());
            let key = |piece: &Piece| (piece.blob, piece.file);
            let mut want = pieces;
            all.sort_by_key(key);
            want.sort_by_key(key);
            prop_assert_eq!(all, want);
            let mut seen = std::collections::HashSet::new();
            for group in &cut {
                let blobs: std::collections::HashMap<_, _> = group.iter().map(|p| (p.blob, u64::from(p.len_bytes))).collect();
                prop_assert!(blobs.len() == 1 || blobs.values().sum::<u64>() <= GROUP_BYTES);
                for blob in blobs.keys() {
                    prop_assert!(seen.insert(*blob), "a blob is fetched twice");
                }
            }
        }
    }
}

//! Where each blob of a file begins.
//!
//! A tree names a file's blobs, the index says how long each is. The table of beginnings is filled from the front, only as
//! far as a reader goes, so that opening a file of a million blobs costs nothing and its first read at the far end a
//! million look-ups once. A file of one blob needs no table at all.
//!
//! The content ends where its blobs end, as in restic: a file that grew or shrank while it was backed up has another size
//! in its node than its blobs have together, and its blobs are what was read.
//!
//! Blobs that no index names have no length. Their bytes are lost, and nothing else is: blobs before the first lost one are
//! placed from the front, those after the last from the node's size backwards, and only what is between is an error. Where
//! sizes contradict each other, everything from the first lost blob on is.

use std::ops::Range;

use stash_repo::{BlobId, RepoResult};

/// The table of one file, as far as it is known.
#[derive(Debug, Default)]
pub(crate) struct Content {
    /// `starts[i]` is where blob `i` begins; one more than the number of blobs placed.
    starts: Vec<u64>,
    /// Blobs whose bytes cannot be placed or had.
    lost: Option<Range<usize>>,
    /// What is known of the blobs after the first lost one, while they are being looked up.
    scan: Option<Scan>,
    complete: bool,
}

#[derive(Debug)]
struct Scan {
    first_lost: usize,
    last_lost: usize,
    next: usize,
    /// The lengths of the blobs after `last_lost`.
    tail: Vec<u32>,
}

/// A part of a read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    /// A range of blob number `index`. The last blob's range may go beyond its end: the file ends there.
    Blob { index: usize, range: Range<usize> },
    /// Bytes that cannot be had: the first lost blob.
    Lost { index: usize },
}

impl Content {
    /// Fills the table until it covers `offset` or ends, with at most `lookups` look-ups. Returns whether it does.
    ///
    /// # Errors
    /// A look-up failed; the table keeps what it has.
    pub(crate) fn extend(
        &mut self,
        content: &[BlobId],
        size: u64,
        offset: u64,
        mut lookups: usize,
        length: impl Fn(&BlobId) -> RepoResult<Option<u32>>,
    ) -> RepoResult<bool> {
        if self.starts.is_empty() {
            self.starts.push(0);
        }
        if content.len() <= 1 {
            // The only blob is as long as it is; the reader will see.
            self.starts.truncate(1);
            self.starts.extend(content.iter().map(|_| u64::MAX));
            self.complete = true;
        }
        while !self.complete {
            if self.scan.is_none() && self.known_end() > offset {
                return Ok(true);
            }
            if lookups == 0 {
                return Ok(false);
            }
            lookups -= 1;
            if let Some(scan) = &mut self.scan {
                if let Some(id) = content.get(scan.next) {
                    if let Some(len) = length(id)? {
                        scan.tail.push(len);
                    } else {
                        scan.last_lost = scan.next;
                        scan.tail.clear();
                    }
                    scan.next += 1;
                    continue;
                }
                self.place_lost(size, content.len());
            } else if let Some(id) = content.get(self.starts.len() - 1) {
                if let Some(len) = length(id)? {
                    self.starts.push(self.known_end().saturating_add(len.into()));
                } else {
                    let lost = self.starts.len() - 1;
                    self.scan = Some(Scan { first_lost: lost, last_lost: lost, next: lost + 1, tail: Vec::new() });
                }
            } else {
                self.complete = true;
            }
        }
        Ok(true)
    }

    /// Places what comes after lost blobs.
    fn place_lost(&mut self, size: u64, blobs: usize) {
        let Some(scan) = self.scan.take() else { return };
        self.complete = true;
        let begin = self.known_end();
        let tail: u64 = scan.tail.iter().map(|len| u64::from(*len)).sum();
        let tail_begin = size.checked_sub(tail).filter(|tail_begin| *tail_begin >= begin);
        let Some(tail_begin) = tail_begin else {
            self.starts.resize(blobs + 1, size.max(begin));
            self.lost = Some(scan.first_lost..blobs);
            return;
        };
        self.starts.resize(scan.last_lost + 2, tail_begin);
        for len in &scan.tail {
            self.starts.push(self.known_end() + u64::from(*len));
        }
        self.lost = Some(scan.first_lost..scan.last_lost + 1);
    }

    fn known_end(&self) -> u64 {
        self.starts.last().copied().unwrap_or_default()
    }

    /// Returns the piece that `offset` lies in, of at most `len` bytes; `None` at the end. The table must cover `offset`.
    pub(crate) fn piece(&self, offset: u64, len: usize) -> Option<Piece> {
        if offset >= self.known_end() || len == 0 {
            return None;
        }
        let index = self.starts.partition_point(|start| *start <= offset) - 1;
        if self.lost.as_ref().is_some_and(|lost| lost.contains(&index)) {
            return Some(Piece::Lost { index });
        }
        let start = usize::try_from(offset - self.starts[index]).unwrap_or(usize::MAX);
        let end = usize::try_from(self.starts[index + 1] - self.starts[index]).unwrap_or(usize::MAX);
        Some(Piece::Blob { index, range: start..end.min(start.saturating_add(len)) })
    }

    /// Returns how many blobs end at or before `offset`, as far as the table goes.
    pub(crate) fn ended_by(&self, offset: u64) -> usize {
        self.starts.partition_point(|start| *start <= offset).saturating_sub(1)
    }

    /// Returns where a blob lies, if it is placed.
    pub(crate) fn range(&self, index: usize) -> Option<Range<u64>> {
        Some(*self.starts.get(index)?..*self.starts.get(index + 1)?)
    }
}

#[cfg(test)]
mod tests;

//! Decides what a refresh does: which index files are loaded, which segments are merged, dropped or left alone. Pure.

use std::collections::HashSet;

use crate::backend::ListEntry;
use crate::format::index_segment::SegmentId;
use crate::id::IndexId;

/// A segment is merged with what is new if it is at most this many times as big. So each record is written about once
/// per factor of five that the repository grows by, and ten million blobs lie in fewer than ten segments.
const MERGE_FACTOR: u64 = 4;
/// The bytes of an index file per blob: 32 random bytes of id and little else where it is compressed (format 2), four
/// times as many where it is not. It only decides merges, so the lower figure errs on the side of fewer segments.
const FILE_BYTES_PER_BLOB: u64 = 45;

/// What a plan needs to know of a segment.
#[derive(Debug, Clone, Copy)]
pub(super) struct SegmentView<'a> {
    pub(super) id: SegmentId,
    pub(super) files: &'a [IndexId],
    pub(super) blobs: u64,
    pub(super) damaged: bool,
}

/// What becomes of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    /// It stays as it is.
    Keep,
    /// Its blobs go into the new segment, but only those of the index files for which this is true.
    Merge(Vec<bool>),
    /// Nothing in it is needed, or it is damaged.
    Drop,
}

/// What a refresh does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// By segment.
    pub(super) fates: Vec<Fate>,
    /// The index files that no segment covers.
    pub(super) load: Vec<ListEntry>,
}

impl Plan {
    /// Returns whether there is nothing to do.
    pub(super) fn is_empty(&self) -> bool {
        self.load.is_empty() && self.fates.iter().all(|fate| *fate == Fate::Keep)
    }
}

/// Plans the way from these segments to the repository's present index files. `skip` are files that cannot be read.
pub(super) fn plan(segments: &[SegmentView<'_>], listed: &[ListEntry], skip: &HashSet<IndexId>) -> Plan {
    let wanted: HashSet<_> = listed.iter().map(|entry| IndexId(entry.id)).collect();
    let mut covered = HashSet::new();
    // Big ones first, so that of two that cover the same files the same one is superseded in every process.
    let mut order: Vec<_> = (0..segments.len()).collect();
    order.sort_by_key(|i| (std::cmp::Reverse(segments[*i].files.len()), segments[*i].id));
    let mut fates = vec![Fate::Drop; segments.len()];
    let mut merged_blobs = 0_u64;
    let mut rewritten = HashSet::new();
    for i in order {
        let segment = &segments[i];
        if segment.damaged {
            continue;
        }
        let live: Vec<_> = segment.files.iter().map(|file| wanted.contains(file) && !covered.contains(file)).collect();
        if !live.contains(&true) {
            continue;
        }
        covered.extend(segment.files.iter().zip(&live).filter(|(_, live)| **live).map(|(file, _)| *file));
        // Blobs of removed index files may lie in removed packs: they must go. Those that another segment has as well
        // harm nobody, and go when the segment is merged.
        if segment.files.iter().any(|file| !wanted.contains(file)) {
            rewritten.insert(i);
            merged_blobs = merged_blobs.saturating_add(segment.blobs);
        }
        fates[i] = Fate::Merge(live);
    }

    let mut load = Vec::new();
    for entry in listed {
        let id = IndexId(entry.id);
        if !skip.contains(&id) && covered.insert(id) {
            load.push(*entry);
            merged_blobs = merged_blobs.saturating_add(entry.len_bytes / FILE_BYTES_PER_BLOB);
        }
    }

    let mut by_size: Vec<_> =
        (0..segments.len()).filter(|i| fates[*i] != Fate::Drop && !rewritten.contains(i)).collect();
    by_size.sort_by_key(|i| segments[*i].blobs);
    let mut merging = !load.is_empty() || !rewritten.is_empty();
    for i in by_size {
        merging &= segments[i].blobs <= merged_blobs.saturating_mul(MERGE_FACTOR);
        if merging {
            merged_blobs = merged_blobs.saturating_add(segments[i].blobs);
        } else {
            fates[i] = Fate::Keep;
        }
    }
    Plan { fates, load }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Id;

    fn file(n: u8) -> IndexId {
        IndexId(Id::new([n; 32]))
    }

    fn listed(files: &[u8]) -> Vec<ListEntry> {
        files.iter().map(|n| ListEntry { id: file(*n).0, len_bytes: 45_000 }).collect()
    }

    /// Segments as (files, blobs, damaged).
    fn planned(segments: &[(&[u8], u64, bool)], files: &[u8], skip: &[u8]) -> (Vec<Fate>, Vec<u8>) {
        let ids: Vec<Vec<_>> = segments.iter().map(|(files, ..)| files.iter().map(|n| file(*n)).collect()).collect();
        let views: Vec<_> = segments
            .iter()
            .zip(&ids)
            .zip(0..)
            .map(|(((_, blobs, damaged), files), n)| SegmentView {
                id: [n; 12],
                files,
                blobs: *blobs,
                damaged: *damaged,
            })
            .collect();
        let plan = plan(&views, &listed(files), &skip.iter().map(|n| file(*n)).collect());
        (plan.fates, plan.load.iter().map(|entry| entry.id.as_bytes()[0]).collect())
    }

    #[test]
    fn test_plan_table() {
        use Fate::{Drop, Keep, Merge};
        type Segments = &'static [(&'static [u8], u64, bool)];
        /// What it is about, the segments, the listed files, the unreadable ones, the fates, the files to load.
        type Row = (&'static str, Segments, &'static [u8], &'static [u8], Vec<Fate>, &'static [u8]);
        let table: &[Row] = &[
            ("nothing", &[], &[], &[], vec![], &[]),
            ("first build", &[], &[1, 2], &[], vec![], &[1, 2]),
            ("up to date", &[(&[1, 2], 9, false)], &[1, 2], &[], vec![Keep], &[]),
            ("a new file beside a big segment", &[(&[1], 9_000, false)], &[1, 2], &[], vec![Keep], &[2]),
            ("a new file beside a small one", &[(&[1], 4_000, false)], &[1, 2], &[], vec![Merge(vec![true])], &[2]),
            (
                "sizes add up",
                &[(&[1], 4_000, false), (&[2], 20_000, false), (&[3], 101_000, false)],
                &[1, 2, 3, 4],
                &[],
                vec![Merge(vec![true]), Merge(vec![true]), Keep],
                &[4],
            ),
            ("a removed file", &[(&[1, 2], 9, false)], &[2], &[], vec![Merge(vec![false, true])], &[]),
            ("all removed", &[(&[1], 9, false)], &[], &[], vec![Drop], &[]),
            ("damaged", &[(&[1], 9, true), (&[2], 9_000, false)], &[1, 2], &[], vec![Drop, Keep], &[1]),
            ("superseded", &[(&[1], 9, false), (&[1, 2], 18, false)], &[1, 2], &[], vec![Drop, Keep], &[]),
            ("twins", &[(&[1], 9, false), (&[1], 9, false)], &[1], &[], vec![Keep, Drop], &[]),
            ("overlap", &[(&[1, 2], 9, false), (&[2, 3], 9, false)], &[1, 2, 3], &[], vec![Keep, Keep], &[]),
            (
                "overlap with a removal",
                &[(&[1, 2], 9, false), (&[2, 3], 9, false)],
                &[2, 3],
                &[],
                vec![Merge(vec![false, true]), Merge(vec![false, true])],
                &[],
            ),
            ("unreadable", &[(&[1], 9, false)], &[1, 2], &[2], vec![Keep], &[]),
        ];
        for (name, segments, files, skip, fates, load) in table {
            let (got_fates, got_load) = planned(segments, files, skip);
            assert_eq!((&got_fates, got_load.as_slice()), (fates, *load), "{name}");
        }
    }
}

//! Which blobs are read with one request: a pure function.

use std::ops::Range;

use crate::id::PackId;
use crate::index::BlobLocation;

/// How far neighbours are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Bytes between two blobs that are read over rather than asked around.
    pub(crate) gap_bytes: u32,
    /// How long a request gets, unless one blob is longer.
    pub(crate) run_bytes: u32,
    /// How many plain bytes a request brings, unless one blob brings more.
    pub(crate) plain_bytes: u64,
}

impl Limits {
    /// Over a network. A request takes some 20 ms before its first byte, in which 4 MB come at 200 MB/s: reading over half a
    /// megabyte is dearer than an answer that came anyway, and two requests of 4 MiB side by side already fill the line.
    pub(crate) const REMOTE: Self = Self { gap_bytes: 512 << 10, run_bytes: 4 << 20, plain_bytes: 8 << 20 };

    /// Over a network, what stays sealed for a while: as long as a request may be, since its price is the same.
    pub(crate) const STAGED: Self = Self { gap_bytes: 512 << 10, run_bytes: 8 << 20, plain_bytes: u64::MAX };

    /// On a local disk, where a request costs microseconds: small blobs alone are put together, so that both decoding threads
    /// have work as soon as there are two blobs of a usual size.
    pub(crate) const LOCAL: Self = Self { gap_bytes: 16 << 10, run_bytes: 256 << 10, plain_bytes: 512 << 10 };
}

/// A piece of a pack that is read with one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) pack: PackId,
    pub(crate) range: Range<u32>,
    /// Which of the wanted blobs lie in it, by their place in the list, in order of their offsets.
    pub(crate) members: Vec<usize>,
}

/// Returns where a blob lies in the bytes of `range` of its pack; `None` if it does not.
pub(crate) fn slice(range: &Range<u32>, location: &BlobLocation) -> Option<Range<usize>> {
    let start = location.offset.checked_sub(range.start)?;
    let end = start.checked_add(location.len_bytes)?;
    (end <= range.end - range.start).then_some(start as usize..end as usize)
}

/// Puts wanted blobs together into runs. Each blob is in exactly one run. Runs come in the order in which the first of their
/// blobs is wanted. Locations must have been checked: offset and length do not overflow.
///
/// `staged` says which of them a window has: each is a run of its own, since there is no request to share, and one blob finds
/// memory sooner than several.
pub(crate) fn plan(wanted: &[BlobLocation], staged: &[bool], limits: Limits) -> Vec<Run> {
    let staged = |place: usize| staged.get(place).copied().unwrap_or_default();
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_unstable_by_key(|&place| (wanted[place].pack, wanted[place].offset, place));
    let mut runs: Vec<(Run, u64)> = Vec::new();
    for place in order {
        let location = &wanted[place];
        let (start, end) = (location.offset, location.offset.saturating_add(location.len_bytes));
        let plain_bytes = u64::from(location.plain_bytes());
        if let Some((run, sum_bytes)) = runs.last_mut()
            && run.pack == location.pack
            && !staged(run.members[0])
            && !staged(place)
            && start.saturating_sub(run.range.end) <= limits.gap_bytes
            && end.max(run.range.end) - run.range.start <= limits.run_bytes
            && *sum_bytes + plain_bytes <= limits.plain_bytes
        {
            run.range.end = run.range.end.max(end);
            run.members.push(place);
            *sum_bytes += plain_bytes;
        } else {
            runs.push((Run { pack: location.pack, range: start..end, members: vec![place] }, plain_bytes));
        }
    }
    runs.sort_by_key(|(run, _)| run.members.iter().copied().min());
    runs.into_iter().map(|(run, _)| run).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::blob::BlobKind;
    use crate::id::Id;

    const LIMITS: Limits = Limits { gap_bytes: 10, run_bytes: 100, plain_bytes: 200 };

    fn at(pack: u8, offset: u32, len_bytes: u32) -> BlobLocation {
        let pack = PackId(Id::new([pack; 32]));
        BlobLocation { pack, offset, len_bytes, uncompressed_bytes: Some(len_bytes * 2), kind: BlobKind::Data }
    }

    #[test]
    fn test_plan_table() {
        for (name, wanted, expected) in [
            ("nothing", vec![], vec![]),
            ("one, however long", vec![at(1, 5, 500)], vec![(1, 5..505, vec![0])]),
            ("neighbours", vec![at(1, 0, 10), at(1, 10, 10)], vec![(1, 0..20, vec![0, 1])]),
            ("a small gap", vec![at(1, 0, 10), at(1, 20, 10)], vec![(1, 0..30, vec![0, 1])]),
            ("a large gap", vec![at(1, 0, 10), at(1, 21, 10)], vec![(1, 0..10, vec![0]), (1, 21..31, vec![1])]),
            ("too long", vec![at(1, 0, 60), at(1, 60, 41)], vec![(1, 0..60, vec![0]), (1, 60..101, vec![1])]),
            ("two packs", vec![at(2, 0, 10), at(1, 10, 10)], vec![(2, 0..10, vec![0]), (1, 10..20, vec![1])]),
            ("backwards", vec![at(1, 90, 10), at(1, 0, 10)], vec![(1, 90..100, vec![0]), (1, 0..10, vec![1])]),
            (
                "in order of first want, not of place",
                vec![at(1, 50, 10), at(3, 0, 1), at(1, 40, 10)],
                vec![(1, 40..60, vec![2, 0]), (3, 0..1, vec![1])],
            ),
            ("twice the same", vec![at(1, 0, 10), at(1, 0, 10)], vec![(1, 0..10, vec![0, 1])]),
            ("one in another", vec![at(1, 0, 50), at(1, 10, 10)], vec![(1, 0..50, vec![0, 1])]),
        ] {
            let runs = plan(&wanted, &[], LIMITS);
            let runs: Vec<_> = runs.into_iter().map(|run| (run.pack.as_bytes()[0], run.range, run.members)).collect();
            assert_eq!(runs, expected, "{name}");
        }
    }

    #[test]
    fn test_plan_bounds_what_it_decompresses_to() {
        let bomb = |offset| BlobLocation { uncompressed_bytes: Some(150), ..at(1, offset, 10) };
        assert_eq!(plan(&[bomb(0), bomb(10)], &[], LIMITS).len(), 2);
    }

    #[test]
    fn test_plan_takes_out_of_windows_one_by_one() {
        let wanted = [at(1, 0, 10), at(1, 10, 10), at(1, 20, 10), at(1, 30, 10)];
        let runs = plan(&wanted, &[false, false, true, true], LIMITS);
        let runs: Vec<_> = runs.into_iter().map(|run| (run.range, run.members)).collect();
        assert_eq!(runs, [(0..20, vec![0, 1]), (20..30, vec![2]), (30..40, vec![3])]);
    }

    proptest! {
        #[test]
        fn test_plan_covers_each_blob_once_within_limits(
            wanted in prop::collection::vec((0..3_u8, 0..2000_u32, 0..150_u32), 0..60),
        ) {
            let wanted: Vec<_> = wanted.into_iter().map(|(pack, offset, len)| at(pack, offset, len)).collect();
            let runs = plan(&wanted, &[], LIMITS);
            let mut seen = vec![0; wanted.len()];
            for run in &runs {
                let (mut last, mut end) = (0, run.range.start);
                let mut plain_bytes = 0;
                for &place in &run.members {
                    let location = &wanted[place];
                    seen[place] += 1;
                    prop_assert_eq!(location.pack, run.pack);
                    prop_assert_eq!(slice(&run.range, location).map(|slice| slice.len()), Some(location.len_bytes as usize));
                    prop_assert!(location.offset >= last);
                    prop_assert!(location.offset.saturating_sub(end) <= LIMITS.gap_bytes);
                    last = location.offset;
                    end = end.max(location.offset + location.len_bytes);
                    plain_bytes += u64::from(location.plain_bytes());
                }
                prop_assert_eq!(run.range.start, wanted[run.members[0]].offset);
                prop_assert_eq!(run.range.end, end);
                if run.members.len() > 1 {
                    prop_assert!(run.range.end - run.range.start <= LIMITS.run_bytes);
                    prop_assert!(plain_bytes <= LIMITS.plain_bytes);
                }
            }
            prop_assert!(seen.iter().all(|count| *count == 1), "{:?}", seen);
            let firsts: Vec<_> = runs.iter().map(|run| run.members.iter().min().copied()).collect();
            prop_assert!(firsts.is_sorted());
        }
    }
}

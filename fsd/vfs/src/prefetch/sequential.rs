//! Readers that go through a file.
//!
//! A read that continues an earlier one, or nearly so (the kernel's readahead asks for several pieces at once, in any
//! order; a reader may skip a little), makes a stream. A stream fetches ahead as many bytes as it has read so far (over a
//! network four times as many), up to a limit: a random reader pays nothing, a reader that stops early has cost little, and a long reader
//! has the whole window after a few doublings. Each file remembers two streams, so that two readers do not disturb each
//! other.
//!
//! What a long reader has passed lies in the kernel's page cache. Memory lets go of it, and holds more of what comes.

use std::ops::Range;

use super::Limits;

/// How many readers of one file are told apart.
const STREAMS: usize = 2;

/// How far a read may lie before or behind the end of the last one and still belong to the stream: pieces of one kernel
/// readahead (1 to 4 MiB) come in any order.
const SLACK_BYTES: u64 = 4 << 20;

/// How far behind a long reader blobs are kept: pieces of a readahead that come late, and another reader of the same blobs
/// that goes along (`cmp` of a file in two snapshots), find them there.
const BEHIND_BYTES: u64 = 8 << 20;

/// How much farther than what is fetched ahead lies what is downloaded ahead, while a reader is young.
const STAGED_GROWTH: u64 = 4;

/// The streams of one file.
#[derive(Debug, Default)]
pub(crate) struct Sequential {
    streams: [Stream; STREAMS],
    tick: u32,
}

#[derive(Debug, Default, Clone, Copy)]
struct Stream {
    /// The end of the furthest read.
    next: u64,
    /// The last read, and whether it wanted whole blobs.
    last: (u64, u64),
    whole: bool,
    /// Bytes that the stream has read.
    run_bytes: u64,
    /// Reads that belonged to the stream.
    reads: u32,
    /// The blob up to which was fetched ahead (excluded).
    fetched: usize,
    /// The blob up to which was downloaded ahead (excluded).
    staged: usize,
    /// The blob up to which memory has let go (excluded).
    passed: usize,
    /// When the stream was last used.
    tick: u32,
}

/// What to do beside a read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Advice {
    /// Which stream the read belongs to.
    pub(crate) stream: usize,
    /// Decode blobs to their ends: the reader goes on.
    pub(crate) whole: bool,
    /// Fetch these blobs.
    pub(crate) ahead: Range<usize>,
    /// Download these, which come later.
    pub(crate) staged: Range<usize>,
    /// The reader has passed what ends before this byte.
    pub(crate) behind: u64,
}

impl Advice {
    /// Fetch nothing after this blob.
    fn none(end: usize) -> Self {
        Self { ahead: end..end, staged: end..end, ..Self::default() }
    }
}

impl Sequential {
    /// Takes note of a read of `len` bytes at `offset` that touches `blobs` of a file of `total` blobs.
    pub(crate) fn on_read(
        &mut self,
        offset: u64,
        len: u64,
        blobs: Range<usize>,
        total: usize,
        average_bytes: u64,
        limits: &Limits,
    ) -> Advice {
        self.tick = self.tick.wrapping_add(1);
        let tick = self.tick;
        let end = offset.saturating_add(len);
        let belongs = |stream: &Stream| {
            // A young stream has shown nothing yet: only a read that nearly continues it is taken for its next.
            let slack = if stream.reads > 2 { SLACK_BYTES } else { SLACK_BYTES.min(stream.run_bytes) };
            stream.reads > 0 && offset <= stream.next.saturating_add(slack) && end.saturating_add(slack) > stream.next
        };
        let found = self.streams.iter().position(belongs);
        let number = found.unwrap_or_else(|| {
            // The one that was not used for longest is forgotten.
            let age = |stream: &Stream| if stream.reads == 0 { u32::MAX } else { tick.wrapping_sub(stream.tick) };
            (0..STREAMS).max_by_key(|number| age(&self.streams[*number])).unwrap_or_default()
        });
        let stream = &mut self.streams[number];
        if found.is_none() {
            // A read of some length at the beginning is most likely the first of many; anywhere else, of a few pages, it is
            // most likely alone.
            let whole = offset == 0 && len >= WHOLE_BYTES;
            *stream = Stream {
                next: end,
                last: (offset, len),
                whole,
                run_bytes: len,
                reads: 1,
                fetched: blobs.end,
                staged: blobs.end,
                passed: blobs.start,
                tick,
            };
            return Advice { stream: number, whole, ..Advice::none(blobs.end) };
        }
        stream.tick = tick;
        // The same read again says nothing new: what memory does not hold is planned twice, by `try_read` and by `read`.
        if stream.last == (offset, len) {
            return Advice { stream: number, whole: stream.whole, ..Advice::none(blobs.end) };
        }
        (stream.last, stream.whole) = ((offset, len), true);
        stream.reads = stream.reads.saturating_add(1);
        stream.run_bytes = stream.run_bytes.saturating_add(len);
        stream.next = stream.next.max(end);
        let window = |growth: u64, most: (usize, u64)| {
            let bytes = stream.run_bytes.saturating_mul(growth).min(most.1);
            usize::try_from(bytes / average_bytes).unwrap_or(usize::MAX).min(most.0)
        };
        // Half a window at a time, so that what is fetched lies in few requests; at the end of the file the rest.
        let next = |done: usize, window: usize| {
            let from = done.max(blobs.end).min(total);
            let to = blobs.end.saturating_add(window).min(total).max(from);
            if to - from >= window.div_ceil(2) || to == total { from..to } else { from..from }
        };
        let ahead = next(stream.fetched, window(limits.growth, (limits.blobs, limits.bytes)).max(1));
        let staged = next(stream.staged.max(ahead.end), window(limits.growth * STAGED_GROWTH, limits.staged));
        let behind = if stream.run_bytes < BEHIND_BYTES { 0 } else { stream.next.saturating_sub(BEHIND_BYTES) };
        Advice { stream: number, whole: true, ahead, staged, behind }
    }

    /// Notes that the reader has passed the blobs before `passed`, and returns those of them that it had not passed before.
    pub(crate) fn pass(&mut self, stream: usize, passed: usize) -> Range<usize> {
        let Some(stream) = self.streams.get_mut(stream) else { return 0..0 };
        let from = stream.passed;
        stream.passed = from.max(passed);
        from..stream.passed
    }

    /// Notes how far the advice could be followed: up to which blob was fetched, and up to which was downloaded.
    pub(crate) fn taken(&mut self, stream: usize, fetched: usize, staged: usize) {
        if let Some(stream) = self.streams.get_mut(stream) {
            stream.fetched = stream.fetched.max(fetched);
            stream.staged = stream.staged.max(staged);
        }
    }
}

/// A first read at offset 0 from this length on is taken for the beginning of a sequential one: below it lie `head`,
/// `file`, and pages that are read with `POSIX_FADV_RANDOM`; the kernel's readahead starts with more.
const WHOLE_BYTES: u64 = 16 << 10;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;
    const LIMITS: Limits =
        Limits { blobs: 8, bytes: 32 * MIB, growth: 1, staged: (64, 64 * MIB), trees: 0, files: 0, file_bytes: 0 };

    /// A file of blobs of 1 MiB, read through the machine; returns (whole, ahead) and follows all advice.
    fn read(machine: &mut Sequential, offset: u64, len: u64, total: usize) -> (bool, Range<usize>) {
        let blob = |at: u64| usize::try_from(at / MIB).unwrap();
        let blobs = blob(offset)..blob(offset + len - 1) + 1;
        let advice = machine.on_read(offset, len, blobs, total, MIB, &LIMITS);
        machine.taken(advice.stream, advice.ahead.end, advice.staged.end);
        (advice.whole, advice.ahead)
    }

    #[test]
    fn test_a_sequential_reader_gets_a_growing_window() {
        let mut machine = Sequential::default();
        let mut fetched = 0;
        let mut widest = 0;
        for step in 0..400 {
            let offset = step * (MIB / 4);
            let (whole, ahead) = read(&mut machine, offset, MIB / 4, 100);
            assert!(whole);
            if !ahead.is_empty() {
                let first = if fetched == 0 { 1 } else { fetched };
                assert_eq!(ahead.start, first, "nothing twice, nothing left out");
                fetched = ahead.end;
            }
            let reader = usize::try_from(offset / MIB).unwrap();
            widest = widest.max(fetched.saturating_sub(reader + 1));
            if step < 3 {
                assert!(fetched <= 2, "step {step}: {fetched} blobs for {} KiB", (step + 1) * 256);
            }
        }
        assert_eq!((fetched, widest), (100, 8));
    }

    #[test]
    fn test_random_reads_pay_nothing() {
        let mut machine = Sequential::default();
        for step in 0..1_000_u64 {
            // A full cycle in steps far apart.
            let offset = step * 389 % 1_009 * MIB + 5_000;
            let (whole, ahead) = read(&mut machine, offset, 4_096, 1_009);
            assert!(!whole && ahead.is_empty(), "{offset}");
        }
    }

    #[test]
    fn test_a_read_that_is_planned_twice_is_one_read() {
        let mut machine = Sequential::default();
        for step in 0..1_000_u64 {
            let offset = step * 389 % 1_009 * MIB + 5_000;
            for attempt in ["from memory", "with I/O"] {
                let (whole, ahead) = read(&mut machine, offset, 4_096, 1_009);
                assert!(!whole && ahead.is_empty(), "{offset} {attempt}");
            }
        }
        assert!(read(&mut machine, 0, MIB, 1_009).0, "the beginning of a file, read in large pieces");
        assert!(read(&mut machine, 0, MIB, 1_009).0, "and the same again");
    }

    #[test]
    fn test_first_read_at_the_beginning() {
        for (offset, len, whole) in [(0, 4_096, false), (0, 16_384, true), (0, MIB, true), (MIB, MIB, false)] {
            assert_eq!(read(&mut Sequential::default(), offset, len, 9).0, whole, "{offset} {len}");
        }
    }

    #[test]
    fn test_two_readers_do_not_disturb_each_other() {
        let mut machine = Sequential::default();
        let mut sum = 0;
        for step in 0..40 {
            sum += read(&mut machine, step * MIB, MIB, 200).1.len();
            sum += read(&mut machine, (100 + step) * MIB, MIB, 200).1.len();
        }
        // Each got everything ahead of it once: 39 blobs that it then read, and most of a window.
        assert!((2 * (39 + 4)..=2 * (39 + 8)).contains(&sum), "{sum}");
    }

    #[test]
    fn test_pieces_of_one_readahead_in_any_order() {
        let mut machine = Sequential::default();
        for step in 0..20 {
            read(&mut machine, step * MIB, MIB, 200);
        }
        for step in [22, 20, 23, 21] {
            assert!(read(&mut machine, step * MIB, MIB, 200).0, "{step}");
        }
    }

    #[test]
    fn test_advice_that_was_not_followed_comes_again() {
        let mut machine = Sequential::default();
        let mut last = Advice::default();
        for step in 0..10 {
            let blob = usize::try_from(step).unwrap();
            last = machine.on_read(step * MIB, MIB, blob..blob + 1, 100, MIB, &LIMITS);
        }
        assert_eq!(last.ahead, 10..18, "the budget admitted nothing so far");
        machine.taken(last.stream, 12, 12);
        let advice = machine.on_read(10 * MIB, MIB, 10..11, 100, MIB, &LIMITS);
        assert_eq!(advice.ahead, 12..19, "it goes on behind what was taken");
    }

    #[test]
    fn test_what_is_staged_lies_behind_what_is_fetched_and_comes_once() {
        let mut machine = Sequential::default();
        let mut staged = Vec::new();
        let mut most_ahead = 0;
        for step in 0..300 {
            let blob = usize::try_from(step).unwrap();
            let advice = machine.on_read(step * MIB, MIB, blob..blob + 1, 300, MIB, &LIMITS);
            assert!(advice.staged.is_empty() || advice.staged.start >= advice.ahead.end, "{step}: {advice:?}");
            if step < 2 {
                assert!(advice.staged.end <= 12, "{step}: {advice:?}");
            }
            most_ahead = most_ahead.max(advice.staged.end.saturating_sub(blob + 1));
            // Every other time there is no room.
            let taken = if step % 2 == 0 { advice.staged.end } else { advice.staged.start };
            staged.extend(advice.staged.start..taken);
            machine.taken(advice.stream, advice.ahead.end, taken);
        }
        assert_eq!(most_ahead, LIMITS.staged.0);
        assert!(staged.is_sorted_by(|a, b| a < b), "nothing twice");
        assert!(staged.len() > 270, "{}", staged.len());
    }

    #[test]
    fn test_nothing_is_staged_where_that_is_of_no_use() {
        let limits = Limits { staged: (0, 0), ..LIMITS };
        let mut machine = Sequential::default();
        for step in 0..100 {
            let blob = usize::try_from(step).unwrap();
            let advice = machine.on_read(step * MIB, MIB, blob..blob + 1, 100, MIB, &limits);
            assert!(advice.staged.is_empty(), "{step}: {advice:?}");
            machine.taken(advice.stream, advice.ahead.end, advice.staged.end);
        }
    }

    #[test]
    fn test_a_long_reader_passes_each_blob_once_and_a_short_one_none() {
        let mut machine = Sequential::default();
        let mut passed = 30;
        for step in 30..90 {
            let blob = usize::try_from(step).unwrap();
            let advice = machine.on_read(step * MIB, MIB, blob..blob + 1, 100, MIB, &LIMITS);
            let long = step + 1 - 30 >= BEHIND_BYTES / MIB;
            assert_eq!(advice.behind, if long { (step + 1) * MIB - BEHIND_BYTES } else { 0 }, "{step}");
            if long {
                let behind = usize::try_from(advice.behind / MIB).unwrap();
                let range = machine.pass(advice.stream, behind);
                assert_eq!(range, passed..passed.max(behind), "{step}");
                passed = range.end;
            }
        }
        assert_eq!(passed, 82);
        let random = machine.on_read(5 * MIB, 4_096, 5..6, 100, MIB, &LIMITS);
        assert_eq!(random.behind, 0);
    }

    proptest! {
        /// Whatever is read: the advice lies behind the read and within the file, is at most the window, and nothing is
        /// fetched twice by one stream.
        #[test]
        fn test_advice_is_bounded(reads in prop::collection::vec((0..300_u64, 1..4_096_u64), 1..200)) {
            let mut machine = Sequential::default();
            for (at, len) in reads {
                let (offset, len) = (at * MIB / 3, len * 512);
                let total = 128;
                let blob = |at: u64| usize::try_from(at / MIB).unwrap().min(total - 1);
                let blobs = blob(offset)..blob(offset + len - 1) + 1;
                let advice = machine.on_read(offset, len, blobs.clone(), total, MIB, &LIMITS);
                prop_assert!(advice.ahead.start >= blobs.end.min(total) && advice.ahead.end <= total);
                prop_assert!(advice.ahead.is_empty() || advice.ahead.end <= blobs.end + LIMITS.blobs);
                prop_assert!(advice.staged.is_empty() || advice.staged.end <= (blobs.end + LIMITS.staged.0).min(total));
                machine.taken(advice.stream, advice.ahead.end, advice.staged.end);
            }
        }
    }
}

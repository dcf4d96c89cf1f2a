//! The content of files of a mounted snapshot: read and written in ranges, several at once.
//!
//! A range is one stream of reads, so the file system below reads ahead of it. Where a file of the right size stands at the place,
//! its ranges are compared first, and only if one is different is the file written. A part of an earlier run is read beside the
//! source, and what is right in it is not written again.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream;
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::batch::{Batch, Check, FileJob};
use super::content::{finish, open_existing, open_part, write_all, write_sparse};
use super::entry::Entry;
use super::mounted::Found;
use super::{Shared, join};

/// What one stream reads of a file: long enough to be read ahead of, short enough that large files are read by several.
const RANGE_BYTES: u64 = 16 << 20;
/// What is read at once: the most that FUSE reads at once.
const READ_BYTES: u64 = 1 << 20;
/// Ranges that are copied at once, over all batches. Each takes a buffer of [`READ_BYTES`] and, where it compares, a second.
pub(super) const IN_FLIGHT: usize = 16;

/// Returns how many ranges a file has; an empty one has one.
pub(super) fn count(size: u64) -> usize {
    usize::try_from(size.div_ceil(RANGE_BYTES).max(1)).unwrap_or(usize::MAX)
}

fn ranges(size: u64) -> impl Iterator<Item = Range<u64>> + Send {
    (0..size.div_ceil(RANGE_BYTES).max(1)).map(move |at| {
        let from = at * RANGE_BYTES;
        from..size.min(from.saturating_add(RANGE_BYTES))
    })
}

/// Copies all files of a batch. What fails is named; the batch is returned for what follows.
pub(super) async fn run(shared: Arc<Shared>, mut batch: Batch) -> Batch {
    let files = std::mem::take(&mut batch.files);
    each(&shared, files.clone(), true).await;
    let different: Vec<Arc<FileJob>> = files.into_iter().filter(|job| job.state.lock().different).collect();
    if !different.is_empty() {
        each(&shared, different, false).await;
    }
    batch
}

async fn each(shared: &Arc<Shared>, files: Vec<Arc<FileJob>>, first: bool) {
    let all = files.into_iter().flat_map(|job| ranges(job.size).map(move |range| (job.clone(), range)));
    let work = stream::iter(all).for_each_concurrent(IN_FLIGHT, |(job, range)| {
        let shared = shared.clone();
        async move {
            // The semaphore is never closed.
            let Ok(_permit) = shared.groups.clone().acquire_owned().await else { return };
            join(tokio::task::spawn_blocking(move || one(&shared, &job, range, first)).await);
        }
    });
    work.await;
}

/// Works on one range, and after the last one on the file as a whole. What was stopped has no last one: its part stays.
fn one(shared: &Shared, job: &FileJob, range: Range<u64>, first: bool) {
    let compares = first && job.check == Check::Existing;
    let is_over = job.is_failed() || (compares && job.state.lock().different);
    let whole = match &job.source {
        Entry::Mounted(found) if !is_over && compares => compare(shared, job, found, range),
        Entry::Mounted(found) if !is_over => copy(shared, job, found, range),
        _ => Ok(true),
    };
    match whole {
        Ok(true) => {}
        Ok(false) => return,
        Err(error) => job.fail(error),
    }
    if !job.complete(1) {
        return;
    }
    if compares && !job.is_failed() {
        let mut state = job.state.lock();
        if state.different {
            job.restart(count(job.size));
            return;
        }
        state.same = true;
    }
    if job.is_failed() {
        // It is not written by a second look.
        job.state.lock().different = false;
    }
    finish(shared, job);
}

fn chunks(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        let chunk = at..range.end.min(at.saturating_add(READ_BYTES));
        at = chunk.end;
        (!chunk.is_empty()).then_some(chunk)
    })
}

/// Reads a part of the source.
fn read(source: &File, buffer: &mut Vec<u8>, chunk: &Range<u64>) -> io::Result<()> {
    buffer.resize(usize::try_from(chunk.end - chunk.start).unwrap_or(0), 0);
    source.read_exact_at(buffer, chunk.start).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => io::Error::other("it ends before the size that it is said to have"),
        kind => io::Error::new(kind, format!("read what is mounted: {error}")),
    })
}

/// Reads the same part of another file; returns whether it holds the same.
fn holds(file: &File, buffer: &mut Vec<u8>, data: &[u8], at: u64) -> bool {
    buffer.resize(data.len(), 0);
    file.read_exact_at(buffer, at).is_ok() && buffer == data
}

/// Compares a range with the file that stands there; returns whether it came to its end.
fn compare(shared: &Shared, job: &FileJob, found: &Found, range: Range<u64>) -> io::Result<bool> {
    let source = File::from(found.open()?);
    // What cannot be read is written anew.
    let existing = open_existing(shared, job).map(File::from).ok();
    let (mut data, mut other) = (Vec::new(), Vec::new());
    for chunk in chunks(range) {
        if shared.observer.stop() {
            return Ok(false);
        }
        read(&source, &mut data, &chunk)?;
        if !existing.as_ref().is_some_and(|existing| holds(existing, &mut other, &data, chunk.start)) {
            job.state.lock().different = true;
            return Ok(true);
        }
    }
    if existing.is_none() {
        job.state.lock().different = true;
    }
    Ok(true)
}

/// Copies a range into the part; returns whether it came to its end.
fn copy(shared: &Shared, job: &FileJob, found: &Found, range: Range<u64>) -> io::Result<bool> {
    if shared.observer.stop() {
        return Ok(false);
    }
    let source = File::from(found.open()?);
    let Some(part) = open_part(shared, job, true)? else { return Ok(true) };
    let fresh = job.state.lock().fresh;
    let earlier = if fresh { None } else { Some(File::from(part.try_clone()?)) };
    let (mut data, mut other) = (Vec::new(), Vec::new());
    let (mut at, mut data_end) = (range.start, range.start);
    while at < range.end {
        if shared.observer.stop() {
            return Ok(false);
        }
        if fresh && at >= data_end {
            let extent = next_data(&source, at..range.end);
            // What is not written of a new file reads as zeros.
            shared.observer.wrote(extent.start - at);
            (at, data_end) = (extent.start, extent.end);
            continue;
        }
        let end = if fresh { data_end } else { range.end };
        let chunk = at..end.min(at.saturating_add(READ_BYTES));
        read(&source, &mut data, &chunk)?;
        let is_there = earlier.as_ref().is_some_and(|earlier| holds(earlier, &mut other, &data, at));
        if !is_there && fresh && shared.options.sparse {
            write_sparse(&part, &data, at)?;
        } else if !is_there {
            write_all(&part, &data, at)?;
        }
        shared.observer.wrote(data.len() as u64);
        at = chunk.end;
    }
    Ok(true)
}

/// Finds the first part of a range that is no hole; all of it where the file system does not tell.
fn next_data(source: &File, range: Range<u64>) -> Range<u64> {
    let start = match rustix::fs::seek(source, SeekFrom::Data(range.start)) {
        Ok(start) => start.clamp(range.start, range.end),
        // There is no data after it.
        Err(Errno::NXIO) => return range.end..range.end,
        Err(_) => return range,
    };
    let end = rustix::fs::seek(source, SeekFrom::Hole(start)).unwrap_or(range.end);
    // Of a hole at the start of data nobody can tell more: it is read.
    if end <= start { start..range.end } else { start..end.min(range.end) }
}

/// Returns whether an open file holds just what is mounted.
///
/// # Errors
/// What is mounted cannot be read.
pub(super) fn is_same(found: &Found, fd: &OwnedFd) -> io::Result<bool> {
    let (source, file) = (File::from(found.open()?), File::from(fd.try_clone()?));
    let (mut data, mut other) = (Vec::new(), Vec::new());
    for chunk in chunks(0..found.stat.st_size.cast_unsigned()) {
        read(&source, &mut data, &chunk)?;
        if !holds(&file, &mut other, &data, chunk.start) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn test_files_are_cut_into_ranges() {
        for (size, expected) in [(0, 1), (1, 1), (RANGE_BYTES, 1), (RANGE_BYTES + 1, 2), (10 * RANGE_BYTES, 10)] {
            let cut: Vec<Range<u64>> = ranges(size).collect();
            assert_eq!((cut.len(), count(size)), (expected, expected), "{size}");
            assert_eq!((cut[0].start, cut[expected - 1].end), (0, size));
            assert!(cut.windows(2).all(|pair| pair[0].end == pair[1].start));
        }
    }

    proptest! {
        #[test]
        fn prop_chunks_are_all_of_a_range(from in 0_u64..1 << 40, size in 0_u64..5 << 20) {
            let cut: Vec<Range<u64>> = chunks(from..from + size).collect();
            prop_assert_eq!(cut.iter().map(|chunk| chunk.end - chunk.start).sum::<u64>(), size);
            prop_assert!(cut.iter().all(|chunk| !chunk.is_empty() && chunk.end - chunk.start <= READ_BYTES));
            prop_assert!(cut.windows(2).all(|pair| pair[0].end == pair[1].start));
        }
    }

    #[test]
    fn test_holes_are_not_read() {
        let file = tempfile::tempfile().unwrap();
        let size = 8 << 20;
        file.set_len(size).unwrap();
        assert_eq!(next_data(&file, 0..size), size..size);
        file.write_all_at(&[1; 4096], 4 << 20).unwrap();
        assert_eq!(next_data(&file, 0..size), 4 << 20..(4 << 20) + 4096);
        assert_eq!(next_data(&file, 0..1 << 20), 1 << 20..1 << 20);
    }
}

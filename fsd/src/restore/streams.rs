//! The content of files of a mounted snapshot: read and written in chunks, several at once.
//!
//! The chunks of a file are taken in order by a few workers, so that together they are one stream that goes forward, and the file system
//! below reads ahead of it: workers that were each in a part of their own would be as many readers that jump about. Where a file of
//! the right size stands at the place, it is compared first, and only if something is different is the file written. A part of an earlier
//! run is read beside the source, and what is right in it is not written again.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream;
use parking_lot::Mutex;
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::batch::{Batch, Check, FileJob};
use super::content::{finish, open_existing, open_part, write_all, write_sparse};
use super::entry::Entry;
use super::mounted::Found;
use super::{Shared, join};

/// What is read at once: the most that FUSE reads at once.
const READ_BYTES: u64 = 1 << 20;
/// Workers on a file. What they read at once must lie within what a mount takes for one stream (4 MiB, `prefetch::sequential` of stash-vfs).
const WORKERS: u64 = 3;
/// Workers on all files of all batches. Each takes a buffer of [`READ_BYTES`] and, where it compares, a second.
pub(super) const IN_FLIGHT: usize = 16;
/// A smaller file is read without a look for holes: restic knows of none below the smallest blob of its chunker.
const HOLES_FROM_BYTES: u64 = 512 << 10;

/// Returns how many workers a file has; an empty one has one.
pub(super) fn count(size: u64) -> usize {
    usize::try_from(size.div_ceil(READ_BYTES).clamp(1, WORKERS)).unwrap_or(1)
}

/// A file that its workers go through.
struct Stream {
    job: Arc<FileJob>,
    /// A leaf lock but for the look for the next hole.
    cursor: Mutex<Cursor>,
}

#[derive(Debug, Default)]
struct Cursor {
    source: Option<Arc<File>>,
    /// Where the next chunk begins.
    at: u64,
    /// Up to where it is known that there is no hole.
    data_end: u64,
}

impl Stream {
    fn new(job: Arc<FileJob>) -> Self {
        Self { job, cursor: Mutex::default() }
    }

    /// Returns the open file: one for all workers, so that the kernel sees one reader as well.
    fn source(&self, found: &Found) -> io::Result<Arc<File>> {
        let mut cursor = self.cursor.lock();
        if let Some(source) = &cursor.source {
            return Ok(Arc::clone(source));
        }
        let source = Arc::new(File::from(found.open()?));
        cursor.source = Some(Arc::clone(&source));
        Ok(source)
    }

    /// Takes the next chunk; with `skip`, holes are left out, and it is told how long they are.
    fn next(&self, source: &File, skip: Option<&dyn Fn(u64)>) -> Option<Range<u64>> {
        let mut cursor = self.cursor.lock();
        let size = self.job.size;
        let end = match skip {
            None => size,
            Some(skipped) => {
                if cursor.at < size && cursor.at >= cursor.data_end {
                    let extent = next_data(source, cursor.at..size);
                    skipped(extent.start - cursor.at);
                    (cursor.at, cursor.data_end) = (extent.start, extent.end);
                }
                cursor.data_end
            }
        };
        let chunk = cursor.at..end.min(cursor.at.saturating_add(READ_BYTES));
        cursor.at = cursor.at.max(chunk.end);
        (!chunk.is_empty()).then_some(chunk)
    }
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
    let all = files.into_iter().flat_map(|job| {
        let workers = count(job.size);
        std::iter::repeat_n(Arc::new(Stream::new(job)), workers)
    });
    let work = stream::iter(all).for_each_concurrent(IN_FLIGHT, |stream| {
        let shared = shared.clone();
        async move {
            // The semaphore is never closed.
            let Ok(_permit) = shared.groups.clone().acquire_owned().await else { return };
            join(tokio::task::spawn_blocking(move || one(&shared, &stream, first)).await);
        }
    });
    work.await;
}

/// Is one worker of a file, and the last one ends it. A file that was stopped has no last one: its part stays.
fn one(shared: &Shared, stream: &Stream, first: bool) {
    let job = &stream.job;
    let compares = first && job.check == Check::Existing;
    let is_over = job.is_failed() || (compares && job.state.lock().different);
    let whole = match &job.source {
        Entry::Mounted(found) if !is_over && compares => compare(shared, stream, found),
        Entry::Mounted(found) if !is_over => copy(shared, stream, found),
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

/// Compares with the file that stands there; returns whether it came to its end.
fn compare(shared: &Shared, stream: &Stream, found: &Found) -> io::Result<bool> {
    let job = &stream.job;
    let source = stream.source(found)?;
    // What cannot be read is written anew.
    let Ok(existing) = open_existing(shared, job).map(File::from) else {
        job.state.lock().different = true;
        return Ok(true);
    };
    let (mut data, mut other) = (Vec::new(), Vec::new());
    while let Some(chunk) = stream.next(&source, None) {
        if shared.observer.stop() {
            return Ok(false);
        }
        if job.is_failed() || job.state.lock().different {
            break;
        }
        read(&source, &mut data, &chunk)?;
        if !holds(&existing, &mut other, &data, chunk.start) {
            job.state.lock().different = true;
            break;
        }
    }
    Ok(true)
}

/// Copies into the part; returns whether it came to its end.
fn copy(shared: &Shared, stream: &Stream, found: &Found) -> io::Result<bool> {
    let job = &stream.job;
    if shared.observer.stop() {
        return Ok(false);
    }
    let source = stream.source(found)?;
    let Some(part) = open_part(shared, job, true)? else { return Ok(true) };
    let fresh = job.state.lock().fresh;
    let earlier = if fresh { None } else { Some(File::from(part.try_clone()?)) };
    // What is not written of a new file reads as zeros.
    let skipped = |bytes| shared.observer.wrote(bytes);
    let skip: Option<&dyn Fn(u64)> = if fresh && job.size >= HOLES_FROM_BYTES { Some(&skipped) } else { None };
    let (mut data, mut other) = (Vec::new(), Vec::new());
    while let Some(chunk) = stream.next(&source, skip) {
        if shared.observer.stop() {
            return Ok(false);
        }
        if job.is_failed() {
            break;
        }
        read(&source, &mut data, &chunk)?;
        let is_there = earlier.as_ref().is_some_and(|earlier| holds(earlier, &mut other, &data, chunk.start));
        if !is_there && fresh && shared.options.sparse {
            write_sparse(&part, &data, chunk.start)?;
        } else if !is_there {
            write_all(&part, &data, chunk.start)?;
        }
        shared.observer.wrote(data.len() as u64);
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
    use crate::restore::Action;
    use crate::restore::root::Root;

    #[test]
    fn test_workers_of_a_file_stay_close_together() {
        for (size, expected) in [(0, 1), (1, 1), (READ_BYTES, 1), (READ_BYTES + 1, 2), (u64::MAX, 3)] {
            assert_eq!(count(size), expected, "{size}");
        }
        const { assert!(WORKERS * READ_BYTES < 4 << 20, "else a mount takes them for several readers") };
    }

    fn stream(size: u64) -> (File, Stream) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        let root =
            Arc::new(Root::from(rustix::fs::open("/", rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap()));
        let source = Entry::Mounted(Found::root(&root).unwrap());
        let job = FileJob::new(c"part".to_owned(), source, size, count(size), Check::Part, Action::Restored);
        (file, Stream::new(Arc::new(job)))
    }

    #[test]
    fn test_holes_are_left_out_and_counted() {
        let (file, stream) = stream(9 << 20);
        file.write_all_at(&[1; 1 << 20], 4 << 20).unwrap();
        file.write_all_at(&[1; 4096], 7 << 20).unwrap();
        let skipped = std::cell::Cell::new(0);
        let skip = |bytes| skipped.set(skipped.get() + bytes);
        let chunks: Vec<Range<u64>> = std::iter::from_fn(|| stream.next(&file, Some(&skip))).collect();
        assert_eq!(chunks, [4 << 20..5 << 20, 7 << 20..(7 << 20) + 4096]);
        // Whoever writes it makes it as long as it is.
        let read: u64 = chunks.iter().map(|chunk| chunk.end - chunk.start).sum();
        assert_eq!(read + skipped.get(), 9 << 20);
        assert_eq!(stream.next(&file, Some(&skip)), None);
    }

    proptest! {
        #[test]
        fn prop_chunks_are_all_of_a_file_in_order(size in 0_u64..20 << 20) {
            let (file, stream) = stream(size);
            let cut: Vec<Range<u64>> = std::iter::from_fn(|| stream.next(&file, None)).collect();
            prop_assert_eq!(cut.first().map_or(0, |chunk| chunk.start), 0);
            prop_assert_eq!(&cut, &chunks(0..size).collect::<Vec<_>>());
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

//! Which requests a process has read and not answered, where the next process can see it.
//!
//! A kernel without `FUSE_NOTIFY_RESEND` (before Linux 6.9) never tells a request twice: what a killed process had read stays
//! unanswered, and its reader waits for ever, unless the next process knows the request's number (`unique`) and answers it
//! with EIO. So each number stands in this table before work on it starts. The table is a memfd that a keeper holds; it is
//! mapped, and a number is one store of a word, which a kill cannot tear.
//!
//! What is answered at once, on the thread that read it, stands in that thread's word until the thread reads the next one.
//! What becomes a task has a word of its own until it is answered. A number that stands here and was answered already does no
//! harm: numbers are never used twice, and the kernel refuses an answer that it does not wait for.
//!
//! Between read(2) and the store lie some instructions. The kernel counts numbers up, so what was read and not yet noted is
//! close behind the newest number that was: [`Outstanding`] tries those as well.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

/// More than the threads that a session may have.
const THREADS: usize = 16;
/// More than the tasks that a session may have ([`DispatchOptions::max_in_flight`](super::DispatchOptions)).
const TASKS: usize = 1024;
/// Says what this is, and which version: `sfsfly01`.
const MAGIC: u64 = u64::from_le_bytes(*b"sfsfly01");
/// The magic, then threads, then tasks.
const WORDS: usize = 1 + THREADS + TASKS;
const BYTES: usize = WORDS * size_of::<u64>();

/// The step by which the kernel counts (`FUSE_REQ_ID_STEP`, fs/fuse/fuse_dev_i.h); odd numbers are interrupts.
const STEP: u64 = 2;
/// The bit that a request has which the kernel tells again (`FUSE_UNIQUE_RESEND`, include/uapi/linux/fuse.h).
const RESENT: u64 = 1 << 63;
/// How far around the newest number those are tried that no store may have noted: what the threads of a session can have read
/// in the instructions between read(2) and the store, many times over.
const AROUND: u64 = 256;

/// The table of a session. Words are written without locks; who frees a task's word is told by the guard.
#[derive(Debug)]
pub struct InFlight {
    file: OwnedFd,
    map: Map,
    threads: AtomicU32,
    free: Mutex<Vec<u16>>,
}

/// The file's bytes as words.
#[derive(Debug)]
struct Map(NonNull<AtomicU64>);

// SAFETY: it is memory of atomic words, owned by this value until it is dropped; all access is by shared reference.
#[expect(unsafe_code, reason = "a mapping is a pointer")]
unsafe impl Send for Map {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "a mapping is a pointer")]
unsafe impl Sync for Map {}

impl Map {
    #[expect(unsafe_code, reason = "mmap(2) has no safe wrapper")]
    fn of(file: BorrowedFd<'_>) -> io::Result<Self> {
        // SAFETY: a new mapping at an address that the kernel chooses touches no memory that exists. The file is sealed against
        // shrinking (the callers check it), so that no access beyond its end can occur.
        let start = unsafe {
            rustix::mm::mmap(std::ptr::null_mut(), BYTES, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, file, 0)
        }?;
        NonNull::new(start.cast()).map(Self).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }

    #[expect(unsafe_code, reason = "a mapping is a pointer")]
    fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has `WORDS` words, aligned to a page, initialised by the file, and lives as long as `self`.
        // Another process may write them, which atomics allow.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr(), WORDS) }
    }
}

impl Drop for Map {
    #[expect(unsafe_code, reason = "munmap(2) has no safe wrapper")]
    fn drop(&mut self) {
        // SAFETY: this very mapping, to which no reference is left. It cannot fail for one that exists.
        let _ = unsafe { rustix::mm::munmap(self.0.as_ptr().cast(), BYTES) };
    }
}

impl InFlight {
    /// Makes an empty table in a memfd of its own.
    ///
    /// # Errors
    /// The system has no memory or descriptor left.
    pub fn create() -> io::Result<Arc<Self>> {
        let file = rustix::fs::memfd_create("stash-fs-in-flight", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&file, BYTES as u64)?;
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let table = Self::over(file)?;
        table.map.words()[0].store(MAGIC, Ordering::Relaxed);
        Ok(Arc::new(table))
    }

    /// Goes on with the table of another process, and returns what that had not answered. It stays in the table, for the next
    /// process, until [`InFlight::clear`].
    ///
    /// # Errors
    /// The file is none of ours: another length, another version, or it can shrink.
    pub fn adopt(file: OwnedFd) -> io::Result<(Arc<Self>, Outstanding)> {
        let bad =
            |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("table of requests in flight: {what}"));
        let len = File::from(file.try_clone()?).metadata()?.len();
        if len != BYTES as u64 {
            return Err(bad(&format!("{len} bytes, not {BYTES}")));
        }
        let seals = rustix::fs::fcntl_get_seals(&file).map_err(|_| bad("it is no memory file"))?;
        if !seals.contains(SealFlags::SHRINK) {
            return Err(bad("it can shrink"));
        }
        let table = Self::over(file)?;
        if table.map.words()[0].load(Ordering::Relaxed) != MAGIC {
            return Err(bad("another version"));
        }
        let noted =
            table.map.words()[1..].iter().map(|word| word.load(Ordering::Acquire)).filter(|unique| *unique != 0);
        let outstanding = Outstanding::of(noted);
        Ok((Arc::new(table), outstanding))
    }

    fn over(file: OwnedFd) -> io::Result<Self> {
        let map = Map::of(file.as_fd())?;
        let tasks = u16::try_from(TASKS).unwrap_or(u16::MAX);
        Ok(Self { file, map, threads: AtomicU32::new(0), free: Mutex::new((0..tasks).rev().collect()) })
    }

    /// Says that what another process had not answered is seen to.
    pub(super) fn clear(&self) {
        for word in &self.map.words()[1..] {
            word.store(0, Ordering::Release);
        }
    }

    /// Notes, on a thread that reads requests, the one that it has just read.
    pub(super) fn begin(&self, unique: u64) {
        thread_local! {
            static WORD: std::cell::Cell<Option<usize>> = const { std::cell::Cell::new(None) };
        }
        // A thread reads the requests of one session as long as it lives.
        let word = WORD.get().unwrap_or_else(|| {
            let next = self.threads.fetch_add(1, Ordering::Relaxed) as usize;
            let word = 1 + next % THREADS;
            WORD.set(Some(word));
            word
        });
        self.map.words()[word].store(unique, Ordering::Release);
    }

    /// Notes a request that another thread will answer, until the guard is dropped. `None` if there is no word left: then it
    /// must be answered at once.
    pub(super) fn defer(self: &Arc<Self>, unique: u64) -> Option<Deferred> {
        let task = self.free.lock().pop()?;
        self.map.words()[1 + THREADS + usize::from(task)].store(unique, Ordering::Release);
        Some(Deferred { table: Arc::clone(self), task })
    }
}

impl AsFd for InFlight {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// A request that another thread answers.
#[derive(Debug)]
pub(super) struct Deferred {
    table: Arc<InFlight>,
    task: u16,
}

impl Drop for Deferred {
    fn drop(&mut self) {
        self.table.map.words()[1 + THREADS + usize::from(self.task)].store(0, Ordering::Release);
        self.table.free.lock().push(self.task);
    }
}

/// The requests that a process had read and not answered when it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outstanding(Vec<u64>);

impl Outstanding {
    fn of(noted: impl Iterator<Item = u64>) -> Self {
        let mut all: Vec<u64> = noted.collect();
        if let Some(newest) = all.iter().map(|unique| unique & !RESENT).max() {
            let (first, last) = (newest.saturating_sub(AROUND * STEP), newest.saturating_add(AROUND * STEP));
            all.extend((first..=last).step_by(2).filter(|unique| *unique != 0));
        } else {
            // Nothing was ever noted: the first request after INIT may have been read.
            all.extend((1..=AROUND).map(|number| number * STEP));
        }
        all.sort_unstable();
        all.dedup();
        Self(all)
    }

    /// Returns the numbers, those too that only may be outstanding.
    #[must_use]
    pub fn uniques(&self) -> &[u64] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn adopt(table: &Arc<InFlight>) -> (Arc<InFlight>, Outstanding) {
        InFlight::adopt(table.as_fd().try_clone_to_owned().unwrap()).unwrap()
    }

    #[test]
    fn test_what_is_not_answered_is_seen_by_the_next() {
        let table = InFlight::create().unwrap();
        table.begin(1_000_002);
        let waits = table.defer(900_004).unwrap();
        let done = table.defer(900_006).unwrap();
        let resent = table.defer(900_008 | RESENT).unwrap();
        drop(done);
        let (next, outstanding) = adopt(&table);
        let has = |unique| outstanding.uniques().contains(&unique);
        assert!(has(1_000_002) && has(900_004) && has(900_008 | RESENT));
        assert!(has(1_000_004), "it may have been read without being noted");
        assert!(!has(900_006));
        assert_eq!(adopt(&next).1, outstanding, "a process that ends before it has seen to them changes nothing");
        next.clear();
        assert!(!adopt(&next).1.uniques().contains(&900_004), "they are seen to once");
        drop((waits, resent));
    }

    #[test]
    fn test_words_of_tasks_are_used_again_and_never_twice_at_a_time() {
        let table = InFlight::create().unwrap();
        for round in 0..3_u64 {
            let tasks: Vec<_> = (0..TASKS as u64).map(|task| table.defer(10_000 * (round + 1) + 2 * task)).collect();
            assert!(tasks.iter().all(Option::is_some) && table.defer(2).is_none());
            let words = table.map.words()[1 + THREADS..].iter().map(|word| word.load(Ordering::Relaxed));
            assert_eq!(words.collect::<std::collections::BTreeSet<_>>().len(), TASKS);
        }
        assert!(table.map.words()[1 + THREADS..].iter().all(|word| word.load(Ordering::Relaxed) == 0));
    }

    #[test]
    fn test_foreign_files_are_refused() {
        let memfd = |name: &str, bytes: u64, seals: SealFlags| {
            let file = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
            rustix::fs::ftruncate(&file, bytes).unwrap();
            rustix::fs::fcntl_add_seals(&file, seals).unwrap();
            file
        };
        let shown = |file: OwnedFd| InFlight::adopt(file).unwrap_err().to_string();
        assert!(shown(memfd("a", 0, SealFlags::SHRINK)).contains("0 bytes"));
        assert!(shown(memfd("b", BYTES as u64, SealFlags::GROW)).contains("can shrink"));
        assert!(shown(memfd("c", BYTES as u64, SealFlags::SHRINK)).contains("another version"));
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![0; BYTES]).unwrap();
        assert!(shown(file.into()).contains("no memory file"));
    }

    #[test]
    fn test_numbers_at_the_ends_are_no_panic() {
        for noted in [vec![], vec![2], vec![u64::MAX - 1], vec![RESENT | 2]] {
            let outstanding = Outstanding::of(noted.into_iter());
            assert!(!outstanding.uniques().contains(&0), "0 is a notification");
        }
    }
}

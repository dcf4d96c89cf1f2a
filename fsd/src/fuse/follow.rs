//! The thread that reads requests follows the program that waits for it from processor to processor.
//!
//! A program that walks a tree sends a request, sleeps, and is woken by the answer; while one of the two works, the other
//! waits. The scheduler wakes each on an idle processor if there is one, so that every request costs two interrupts to a
//! processor that sleeps: on a virtual machine, several times what answering costs. Where both share a processor, a request
//! costs two context switches. So, while one program alone asks and asks again, the thread
//!
//! * is bound to the processor that the program runs on, and
//! * gets the policy `SCHED_IDLE`: a processor that runs nothing else counts as idle for whoever is woken, so the program is
//!   woken where it was, and goes first.
//!
//! The price is that anybody else on that processor goes first as well. [`watch`] looks every few milliseconds whether the
//! thread wants to run and cannot, and lets it go. Figures: `docs/design/0002-fuse-session.md`.

mod watch;

use std::cell::RefCell;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity};

use self::watch::Watched;

/// Requests of one thread in a row before it is followed: two readers that take turns are never.
const STREAK: u32 = 8;

/// Between two looks at where the program runs, which take some 20 microseconds each.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);

thread_local! {
    static FOLLOWING: RefCell<Option<Following>> = RefCell::new(Following::new());
}

/// Takes note, on a thread that reads requests, of a request by the thread `tid` (0 where the kernel cannot name it).
pub(super) fn on_request(tid: u32) {
    FOLLOWING.with_borrow_mut(|following| {
        if let Some(state) = following {
            state.on_request(tid, Instant::now(), processor_of);
        }
    });
}

/// What a thread that reads requests knows of those who send them.
#[derive(Debug)]
struct Following {
    /// Who sent the last request, and how many in a row.
    tid: u32,
    streak: u32,
    looked: Option<Instant>,
    /// This thread, as the one who watches over it sees it.
    own: Arc<Watched>,
}

impl Following {
    /// Returns `None` where there is nothing to choose.
    fn new() -> Option<Self> {
        let all = sched_getaffinity(None).ok().filter(|all| all.count() > 1)?;
        Some(Self { tid: 0, streak: 0, looked: None, own: Watched::new(all)? })
    }

    fn on_request(&mut self, tid: u32, now: Instant, processor_of: impl FnOnce(u32) -> Option<usize>) {
        self.own.progress();
        if tid != self.tid || tid == 0 {
            (self.tid, self.streak) = (tid, 0);
            return self.own.let_go();
        }
        self.streak = self.streak.saturating_add(1);
        let due = self.looked.is_none_or(|looked| now.saturating_duration_since(looked) >= LOOK_INTERVAL);
        if self.streak < STREAK || !due {
            return;
        }
        self.looked = Some(now);
        match processor_of(tid).filter(|processor| *processor < CpuSet::MAX_CPU) {
            Some(processor) => self.own.bind(processor, now),
            None => self.own.let_go(),
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.own.end();
    }
}

/// Returns the processor that a thread runs on or ran on last.
fn processor_of(tid: u32) -> Option<usize> {
    processor(&fs::read_to_string(format!("/proc/{tid}/stat")).ok()?)
}

/// Field 39 of proc_pid_stat(5), counted after the name, which may hold anything.
fn processor(stat: &str) -> Option<usize> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(36)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_the_processor_is_found_whatever_the_name() {
        let stat = fs::read_to_string("/proc/self/stat").unwrap();
        let shown = processor(&stat).unwrap();
        assert_eq!(processor(&stat.replacen('(', "(a) 1 2 (", 1)), Some(shown));
        assert!(shown < CpuSet::MAX_CPU);
        assert_eq!(processor(""), None);
        assert_eq!(processor("1 (x) S 1 2"), None);
    }

    #[test]
    fn test_one_program_is_followed_and_several_are_not() {
        // On a machine with one processor there is nothing to follow.
        let Some(mut state) = Following::new() else { return };
        let all = sched_getaffinity(None).unwrap();
        let here = (0..CpuSet::MAX_CPU).find(|processor| all.is_set(*processor)).unwrap();
        let mut now = Instant::now();
        let mut request = |state: &mut Following, tid, processor| {
            now += LOOK_INTERVAL;
            state.on_request(tid, now, |_| processor);
            sched_getaffinity(None).unwrap()
        };
        for _ in 0..STREAK {
            assert_eq!(request(&mut state, 7, Some(here)), all, "not at once");
        }
        let bound = request(&mut state, 7, Some(here));
        assert!(bound.count() == 1 && bound.is_set(here));
        assert_eq!(request(&mut state, 8, Some(here)), all, "somebody else came");
        for turn in 0..100 {
            assert_eq!(request(&mut state, 7 + turn % 2, Some(here)), all, "two take turns");
        }
        for (processor, why) in [(None, "it has gone"), (Some(usize::MAX), "there is no such processor")] {
            for _ in 0..2 * STREAK {
                request(&mut state, 7, Some(here));
            }
            assert_eq!(sched_getaffinity(None).unwrap().count(), 1);
            assert_eq!(request(&mut state, 7, processor), all, "{why}");
        }
        for _ in 0..2 * STREAK {
            assert_eq!(request(&mut state, 0, Some(here)), all, "a program that the kernel cannot name");
        }
    }

    #[test]
    fn test_looks_are_rare() {
        let Some(mut state) = Following::new() else { return };
        let (start, mut looks) = (Instant::now(), 0);
        for microsecond in 0..10_000 {
            let now = start + Duration::from_micros(microsecond);
            state.on_request(7, now, |_| (looks += 1, None).1);
        }
        assert!(looks <= 6, "{looks} looks in 10 ms");
    }
}

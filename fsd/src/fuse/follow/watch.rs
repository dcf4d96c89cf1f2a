//! Watches over threads that follow a program: one that wants to run and cannot is let go.

use std::fs;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::thread::{CpuSet, Pid, gettid, sched_setaffinity};

/// How often the watch looks, and so how long a request may be held up by a processor that somebody else uses.
const TICK: Duration = Duration::from_millis(8);

/// Ticks without a request before a thread is let go: nobody reads.
const IDLE_TICKS: u32 = 8;

/// How long a thread that was held up follows nobody; doubled each time, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A thread that follows, as it and the watch see it.
#[derive(Debug)]
pub(super) struct Watched {
    thread: Pid,
    /// Where it may run when it follows nobody.
    all: CpuSet,
    state: Mutex<State>,
    /// Looks in a row at which the thread held the lock.
    locked_ticks: AtomicU32,
}

#[derive(Debug, Default)]
struct State {
    /// The processor that the thread is bound to.
    bound: Option<usize>,
    /// Requests so far, and how many there were at the watch's last look.
    requests: u64,
    seen: u64,
    idle_ticks: u32,
    /// It follows nobody before.
    paused_until: Option<Instant>,
    pause: Duration,
    ended: bool,
}

impl Watched {
    /// Notes the calling thread. Returns `None` if there can be no watch.
    pub(super) fn new(all: CpuSet) -> Option<Arc<Self>> {
        let watched =
            Arc::new(Self { thread: gettid(), all, state: Mutex::default(), locked_ticks: AtomicU32::new(0) });
        Watch::get()?.threads.lock().push(Arc::downgrade(&watched));
        Some(watched)
    }

    /// Counts a request.
    pub(super) fn progress(&self) {
        self.state.lock().requests += 1;
    }

    /// Binds the thread to a processor, unless it was held up lately.
    pub(super) fn bind(&self, processor: usize, now: Instant) {
        let mut state = self.state.lock();
        if state.bound == Some(processor) || state.paused_until.is_some_and(|until| now < until) {
            return;
        }
        if !self.all.is_set(processor) {
            return self.release(&mut state);
        }
        let Some(watch) = Watch::get() else { return };
        let began = state.bound.replace(processor).is_none();
        state.idle_ticks = 0;
        if began {
            // Before anything that may hold this thread up. The watch holds its lock from its last look until it waits, so it
            // cannot miss the call, and it never waits for `state`.
            drop(watch.threads.lock());
            watch.wake.notify_one();
        }
        let mut one = CpuSet::new();
        one.set(processor);
        if sched_setaffinity(Some(self.thread), &one).is_err() {
            state.bound = None;
        } else if began && watch.may_yield {
            // A failure leaves the thread as it is: bound, and as important as others.
            let _ = set_policy(self.thread, libc::SCHED_IDLE);
        }
    }

    /// Lets the scheduler decide again.
    pub(super) fn let_go(&self) {
        self.release(&mut self.state.lock());
    }

    /// The thread ends.
    pub(super) fn end(&self) {
        self.state.lock().ended = true;
    }

    fn release(&self, state: &mut State) {
        if state.ended || state.bound.take().is_none() {
            return;
        }
        // Failures cannot be helped: both were allowed a moment ago.
        let _ = set_policy(self.thread, libc::SCHED_OTHER);
        let _ = sched_setaffinity(Some(self.thread), &self.all);
    }

    /// Looks after the thread; returns whether it follows somebody.
    fn look(&self, now: Instant) -> bool {
        let Some(mut state) = self.state.try_lock() else {
            // The thread is about to give the lock back, or at the second look, is held up with it in its hands.
            if self.locked_ticks.fetch_add(1, Relaxed) > 0 && is_runnable(self.thread) {
                let _ = set_policy(self.thread, libc::SCHED_OTHER);
            }
            return true;
        };
        self.locked_ticks.store(0, Relaxed);
        if state.ended || state.bound.is_none() {
            return false;
        }
        if state.requests != state.seen {
            (state.seen, state.idle_ticks) = (state.requests, 0);
            if state.paused_until.is_some_and(|until| now > until + LONGEST_PAUSE) {
                state.pause = Duration::ZERO;
            }
            return true;
        }
        if is_runnable(self.thread) {
            state.pause = (state.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
            state.paused_until = Some(now + state.pause);
            self.release(&mut state);
            return false;
        }
        state.idle_ticks += 1;
        if state.idle_ticks < IDLE_TICKS {
            return true;
        }
        self.release(&mut state);
        false
    }
}

/// The one who watches, for all mounts of the process.
#[derive(Debug)]
struct Watch {
    threads: Mutex<Vec<Weak<Watched>>>,
    /// Told when a thread begins to follow.
    wake: Condvar,
    /// Whether a thread can get its policy back from `SCHED_IDLE`: not without a right or a limit (sched(7), RLIMIT_NICE).
    may_yield: bool,
}

impl Watch {
    /// Returns the watch, started by the first who asks; `None` where the system gives no thread.
    fn get() -> Option<&'static Self> {
        static WATCH: OnceLock<Option<&'static Watch>> = OnceLock::new();
        *WATCH.get_or_init(|| {
            let may_yield = std::thread::Builder::new()
                .name("follow-try".to_owned())
                .spawn(|| {
                    let own = gettid();
                    set_policy(own, libc::SCHED_IDLE).and_then(|()| set_policy(own, libc::SCHED_OTHER)).is_ok()
                })
                .ok()?
                .join()
                .unwrap_or(false);
            let watch: &'static Self =
                Box::leak(Box::new(Self { threads: Mutex::default(), wake: Condvar::new(), may_yield }));
            std::thread::Builder::new().name("follow-watch".to_owned()).spawn(|| watch.run()).ok()?;
            Some(watch)
        })
    }

    fn run(&self) {
        let mut threads = self.threads.lock();
        loop {
            threads.retain(|thread| thread.strong_count() > 0);
            let live: Vec<_> = threads.iter().filter_map(Weak::upgrade).collect();
            let now = Instant::now();
            let follows = live.iter().filter(|thread| thread.look(now)).count() > 0;
            drop(live);
            if follows {
                self.wake.wait_for(&mut threads, TICK);
            } else {
                self.wake.wait(&mut threads);
            }
        }
    }
}

/// Returns whether a thread of this process runs or wants to (state R of proc_pid_stat(5)).
fn is_runnable(thread: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/self/task/{}/stat", thread.as_raw_nonzero()));
    stat.is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('R')))
}

/// Sets a thread's policy, with `SCHED_RESET_ON_FORK` so that threads that it starts are not concerned.
#[expect(unsafe_code, reason = "rustix has no sched_setscheduler")]
fn set_policy(thread: Pid, policy: i32) -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the call reads one struct, which lives until it returns.
    let set = unsafe {
        libc::sched_setscheduler(
            thread.as_raw_nonzero().get(),
            policy | libc::SCHED_RESET_ON_FORK,
            &raw const parameters,
        )
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use rustix::thread::sched_getaffinity;

    use super::*;

    /// A bound thread whose processor a program uses up is free again soon, and then stays free for a while.
    #[test]
    fn test_a_thread_that_is_held_up_is_let_go() {
        let Some(all) = sched_getaffinity(None).ok().filter(|all| all.count() > 1) else { return };
        let here = (0..CpuSet::MAX_CPU).find(|processor| all.is_set(*processor)).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut one = CpuSet::new();
                one.set(here);
                sched_setaffinity(None, &one).unwrap();
                while !stop.load(Relaxed) {
                    std::hint::spin_loop();
                }
            });
            let watched = Watched::new(all).unwrap();
            let deadline = Instant::now() + Duration::from_secs(20);
            watched.progress();
            watched.bind(here, Instant::now());
            // It wants to run all the time, and answers nothing.
            while sched_getaffinity(None).unwrap() != all {
                assert!(Instant::now() < deadline, "bound for ever");
            }
            watched.bind(here, Instant::now());
            assert_eq!(sched_getaffinity(None).unwrap(), all, "not again at once");
            watched.bind(here, Instant::now() + 2 * LONGEST_PAUSE);
            assert_eq!(sched_getaffinity(None).unwrap().count(), 1, "later it tries again");
            watched.let_go();
            assert_eq!(sched_getaffinity(None).unwrap(), all);
            stop.store(true, Relaxed);
        });
    }
}

//! The threads that decode: one for each core, with a queue for readers that wait and one for what is fetched ahead.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use parking_lot::{Condvar, Mutex};

use super::decode::Decoder;

/// Who waits for a piece of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Priority {
    /// A reader.
    Foreground,
    /// Nobody yet.
    Background,
}

/// A piece of work; it runs with the thread's kept decoder.
pub(crate) type Job = Box<dyn FnOnce(&mut Decoder) + Send>;

/// A pool of named threads.
pub(crate) struct CpuPool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    queues: Mutex<Queues>,
    ready: Condvar,
}

#[derive(Default)]
struct Queues {
    foreground: VecDeque<Job>,
    background: VecDeque<Job>,
    idle: usize,
    /// A thread was woken and has not come yet. It wakes the next one if there is more to do: waking costs the one who does it
    /// as much as a small blob.
    waking: bool,
    stop: bool,
}

impl fmt::Debug for CpuPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CpuPool").field("threads", &self.threads.len()).finish_non_exhaustive()
    }
}

impl CpuPool {
    /// Starts `count` threads named `cpu-N`.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(crate) fn new(count: usize) -> std::io::Result<Self> {
        let mut pool = Self { shared: Arc::default(), threads: Vec::with_capacity(count) };
        for n in 0..count {
            let shared = Arc::clone(&pool.shared);
            // A failure drops `pool`, which stops and joins those that run already.
            pool.threads.push(thread::Builder::new().name(format!("cpu-{n}")).spawn(move || shared.run())?);
        }
        Ok(pool)
    }

    /// Returns how many threads there are.
    pub(crate) fn threads(&self) -> usize {
        self.threads.len()
    }

    /// Puts a piece of work behind others of its priority.
    pub(crate) fn push(&self, priority: Priority, job: Job) {
        let mut queues = self.shared.queues.lock();
        match priority {
            Priority::Foreground => queues.foreground.push_back(job),
            Priority::Background => queues.background.push_back(job),
        }
        let wake = queues.wake();
        drop(queues);
        if wake {
            self.shared.ready.notify_one();
        }
    }
}

impl Drop for CpuPool {
    fn drop(&mut self) {
        let mut queues = self.shared.queues.lock();
        queues.stop = true;
        // Jobs hold what they need to tell their waiters; dropping them does.
        let left = (std::mem::take(&mut queues.foreground), std::mem::take(&mut queues.background));
        drop(queues);
        drop(left);
        self.shared.ready.notify_all();
        for thread in self.threads.drain(..) {
            // The last owner of the pool may be a job.
            if thread.thread().id() != thread::current().id() && thread.join().is_err() {
                tracing::error!("a decoding thread panicked");
            }
        }
    }
}

impl Queues {
    /// Returns whether the caller must wake a thread.
    fn wake(&mut self) -> bool {
        self.idle > 0 && !std::mem::replace(&mut self.waking, true)
    }
}

impl Shared {
    fn run(&self) {
        let mut decoder = Decoder::new();
        while let Some(job) = self.next() {
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| job(&mut decoder))) {
                tracing::error!(message = panic_message(payload.as_ref()), "decoding panicked; the blob fails");
                decoder = Decoder::new();
            }
        }
    }

    fn next(&self) -> Option<Job> {
        let mut queues = self.queues.lock();
        loop {
            if queues.stop {
                return None;
            }
            if let Some(job) = queues.foreground.pop_front().or_else(|| queues.background.pop_front()) {
                let more = !(queues.foreground.is_empty() && queues.background.is_empty());
                let wake = more && queues.wake();
                drop(queues);
                if wake {
                    self.ready.notify_one();
                }
                return Some(job);
            }
            queues.idle += 1;
            self.ready.wait(&mut queues);
            queues.idle -= 1;
            queues.waking = false;
        }
    }
}

fn panic_message(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    #[test]
    fn test_foreground_goes_first() {
        let pool = CpuPool::new(1).unwrap();
        let (gate, wait) = mpsc::channel::<()>();
        let (done, order) = mpsc::channel();
        pool.push(Priority::Foreground, Box::new(move |_| wait.recv_timeout(DEADLINE).unwrap()));
        for (priority, name) in
            [(Priority::Background, "b"), (Priority::Foreground, "f1"), (Priority::Foreground, "f2")]
        {
            let done = done.clone();
            pool.push(priority, Box::new(move |_| done.send(name).unwrap()));
        }
        gate.send(()).unwrap();
        let order: Vec<_> = (0..3).map(|_| order.recv_timeout(DEADLINE).unwrap()).collect();
        assert_eq!(order, ["f1", "f2", "b"]);
    }

    #[test]
    fn test_a_panic_costs_only_its_job() {
        let pool = CpuPool::new(1).unwrap();
        pool.push(Priority::Foreground, Box::new(|_| panic!("on purpose")));
        let (done, wait) = mpsc::channel();
        pool.push(Priority::Background, Box::new(move |_| done.send(()).unwrap()));
        wait.recv_timeout(DEADLINE).unwrap();
    }

    #[test]
    fn test_drop_from_one_of_its_own_threads() {
        let pool = Arc::new(CpuPool::new(2).unwrap());
        let (gate, wait) = mpsc::channel::<()>();
        let (done, finished) = mpsc::channel();
        let own = Arc::clone(&pool);
        pool.push(
            Priority::Foreground,
            Box::new(move |_| {
                wait.recv_timeout(DEADLINE).unwrap();
                drop(own);
                done.send(()).unwrap();
            }),
        );
        drop(pool);
        gate.send(()).unwrap();
        finished.recv_timeout(DEADLINE).unwrap();
    }
}

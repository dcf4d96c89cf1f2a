//! How a request becomes an answer: at once, or as a task that is bounded in number and in time.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use fuser::Errno;
use futures::FutureExt as _;
use parking_lot::Mutex;
use stash_vfs::{Ino, VfsError, VfsResult};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::Instrument as _;

use super::errno::{errno, is_failure};
use super::inflight::InFlight;
use super::metrics::{FuseMetrics, Op};

/// Limits of requests that memory cannot answer.
#[derive(Debug, Clone)]
pub struct DispatchOptions {
    /// No request takes longer: after it, the answer is EIO. A program that waits for FUSE cannot be killed, so this is
    /// also the longest that a `kill -9` waits.
    pub deadline: Duration,
    /// The most requests that are tasks at a time. At the limit the fuser thread waits and the kernel queues: reads ahead
    /// are bounded by `max_background` there, others by the number of programs that wait.
    pub max_in_flight: usize,
}

impl Default for DispatchOptions {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(30), max_in_flight: 512 }
    }
}

/// A reply that can say no.
pub(super) trait Answer: Send + 'static {
    /// Answers with an errno.
    fn fail(self, errno: Errno);
}

macro_rules! answers {
    ($($reply:ty),* $(,)?) => {
        $(impl Answer for $reply {
            fn fail(self, errno: Errno) {
                self.error(errno);
            }
        })*
    };
}
answers!(
    fuser::ReplyAttr,
    fuser::ReplyBmap,
    fuser::ReplyCreate,
    fuser::ReplyData,
    fuser::ReplyDirectory,
    fuser::ReplyDirectoryPlus,
    fuser::ReplyEmpty,
    fuser::ReplyEntry,
    fuser::ReplyIoctl,
    fuser::ReplyLock,
    fuser::ReplyLseek,
    fuser::ReplyOpen,
    fuser::ReplyPoll,
    fuser::ReplyStatfs,
    fuser::ReplyWrite,
    fuser::ReplyXattr,
);

/// One request, from the moment it was read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub(super) op: Op,
    pub(super) ino: Ino,
    /// The kernel's number, where it is noted.
    unique: u64,
    started: Instant,
}

impl Call {
    /// A request that is answered at once.
    pub(super) fn new(op: Op, ino: Ino) -> Self {
        Self { op, ino, unique: 0, started: Instant::now() }
    }
}

/// Answers requests.
#[derive(Debug)]
pub(super) struct Dispatch {
    runtime: Handle,
    deadline: Duration,
    slots: Arc<Semaphore>,
    metrics: Arc<FuseMetrics>,
    failures: FailureLog,
    /// Where requests are noted for a process that comes after this one.
    in_flight: Option<Arc<InFlight>>,
}

impl Dispatch {
    pub(super) fn new(
        runtime: Handle,
        options: &DispatchOptions,
        metrics: Arc<FuseMetrics>,
        in_flight: Option<Arc<InFlight>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            runtime,
            deadline: options.deadline,
            slots: Arc::new(Semaphore::new(options.max_in_flight.max(1))),
            metrics,
            failures: FailureLog::default(),
            in_flight,
        })
    }

    /// Takes note of a request, on the thread that has just read it.
    pub(super) fn begin(&self, unique: u64, op: Op, ino: Ino) -> Call {
        if let Some(in_flight) = &self.in_flight {
            in_flight.begin(unique);
        }
        Call { unique, ..Call::new(op, ino) }
    }

    pub(super) fn metrics(&self) -> &FuseMetrics {
        &self.metrics
    }

    /// Runs a handler on the fuser thread. A panic drops the reply, which answers EIO, and the mount goes on.
    pub(super) fn guard(&self, call: Call, handler: impl FnOnce()) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(handler)) {
            self.panicked(call, &*panic);
        }
    }

    /// Answers with what is known.
    pub(super) fn finish<R: Answer, V>(&self, call: Call, reply: R, result: VfsResult<V>, send: impl FnOnce(R, V)) {
        match result {
            Ok(value) => send(reply, value),
            Err(error) => {
                reply.fail(errno(&error));
                self.failed(call, &error);
            }
        }
        self.metrics.observe(call.op, call.started.elapsed());
    }

    /// Counts a request that was answered without a tree.
    pub(super) fn observe(&self, call: Call) {
        self.metrics.observe(call.op, call.started.elapsed());
    }

    /// Answers from a task. The future is dropped at the deadline.
    pub(super) fn spawn<R, V, F, S>(self: &Arc<Self>, call: Call, reply: R, work: F, send: S)
    where
        R: Answer,
        V: Send + 'static,
        F: Future<Output = VfsResult<V>> + Send + 'static,
        S: FnOnce(R, V) + Send + 'static,
    {
        let this = Arc::clone(self);
        self.task(call, async move {
            let result = work.await;
            this.finish(call, reply, result, send);
        });
    }

    /// Answers from the first poll on this thread if that suffices, else from a task: for what seldom does I/O and has
    /// no `try_` twin.
    pub(super) fn first_poll<R, V, F, S>(self: &Arc<Self>, call: Call, reply: R, work: F, send: S)
    where
        R: Answer,
        V: Send + 'static,
        F: Future<Output = VfsResult<V>> + Send + 'static,
        S: FnOnce(R, V) + Send + 'static,
    {
        let mut work: Pin<Box<F>> = Box::pin(work);
        // A future of the tree may make timers and sockets, which asks for a runtime around it.
        let polled = {
            let _runtime = self.runtime.enter();
            work.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        };
        match polled {
            Poll::Ready(result) => self.finish(call, reply, result, send),
            Poll::Pending => self.spawn(call, reply, work, send),
        }
    }

    /// Runs work that answers by itself, bounded in number and time. A reply that the work holds answers EIO when it is
    /// dropped: at the deadline, on a panic, and when the runtime ends.
    pub(super) fn task(self: &Arc<Self>, call: Call, work: impl Future<Output = ()> + Send + 'static) {
        let slot = self.slot();
        // There are more words than slots.
        let noted = self.in_flight.as_ref().and_then(|in_flight| in_flight.defer(call.unique));
        let this = Arc::clone(self);
        this.metrics.op(call.op).deferred.inc();
        let span = tracing::warn_span!("fuse", op = call.op.name(), ino = format_args!("{:016x}", call.ino.0));
        let task = async move {
            let _slot = slot;
            // Until the reply that the work holds is sent or dropped.
            let _noted = noted;
            let _in_flight = this.metrics.task();
            let work = AssertUnwindSafe(tokio::time::timeout(this.deadline, work)).catch_unwind();
            match work.await {
                Ok(Ok(())) => {}
                Ok(Err(_elapsed)) => this.too_late(call),
                Err(panic) => this.panicked(call, &*panic),
            }
        };
        drop(self.runtime.spawn(task.instrument(span)));
    }

    /// Takes a slot; waits on the fuser thread where all are taken, so that the kernel queues what comes next.
    fn slot(&self) -> Option<OwnedSemaphorePermit> {
        match Arc::clone(&self.slots).try_acquire_owned() {
            Ok(slot) => Some(slot),
            // The semaphore is never closed; without a slot the task would still be bounded in time.
            Err(_) => self.runtime.block_on(Arc::clone(&self.slots).acquire_owned()).ok(),
        }
    }

    fn failed(&self, call: Call, error: &VfsError) {
        if !is_failure(error) {
            tracing::debug!(op = call.op.name(), ino = format_args!("{:016x}", call.ino.0), %error, "refused");
            return;
        }
        self.metrics.op(call.op).failures.inc();
        if let Some(suppressed) = self.failures.admit(Instant::now()) {
            tracing::error!(
                op = call.op.name(),
                ino = format_args!("{:016x}", call.ino.0),
                suppressed,
                %error,
                "a program got EIO"
            );
        }
    }

    fn too_late(&self, call: Call) {
        self.metrics.deadlines.inc();
        self.metrics.op(call.op).failures.inc();
        self.metrics.observe(call.op, call.started.elapsed());
        if let Some(suppressed) = self.failures.admit(Instant::now()) {
            tracing::error!(
                op = call.op.name(),
                ino = format_args!("{:016x}", call.ino.0),
                suppressed,
                deadline_seconds = self.deadline.as_secs(),
                "no answer before the deadline: a program got EIO"
            );
        }
    }

    fn panicked(&self, call: Call, panic: &(dyn Any + Send)) {
        self.metrics.panics.inc();
        self.metrics.op(call.op).failures.inc();
        self.metrics.observe(call.op, call.started.elapsed());
        let message = panic
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("no message");
        tracing::error!(
            op = call.op.name(),
            ino = format_args!("{:016x}", call.ino.0),
            message,
            "a request panicked and was answered EIO; this is a bug, please report it"
        );
    }
}

/// Admits so many failures a period into the log; the rest is counted, and said with the next one that is admitted.
#[derive(Debug, Default)]
struct FailureLog(Mutex<FailureWindow>);

#[derive(Debug, Default)]
struct FailureWindow {
    started: Option<Instant>,
    admitted: u32,
    suppressed: u64,
}

impl FailureLog {
    const PERIOD: Duration = Duration::from_secs(10);
    /// Enough to see which files are hit, too few to fill a disk: 8,640 lines a day for each ten.
    const ADMITTED: u32 = 10;

    /// Returns how many were left out since the last line, or `None` where this one is left out too.
    fn admit(&self, now: Instant) -> Option<u64> {
        let mut window = self.0.lock();
        if window.started.is_none_or(|started| now.saturating_duration_since(started) >= Self::PERIOD) {
            window.started = Some(now);
            window.admitted = 0;
        }
        if window.admitted == Self::ADMITTED {
            window.suppressed += 1;
            return None;
        }
        window.admitted += 1;
        Some(std::mem::take(&mut window.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_failures_are_logged_at_a_bounded_rate_and_none_is_forgotten() {
        let log = FailureLog::default();
        let start = Instant::now();
        let admitted = (0..100).filter(|_| log.admit(start) == Some(0)).count();
        assert_eq!(admitted, 10);
        assert_eq!(log.admit(start + Duration::from_secs(9)), None);
        assert_eq!(log.admit(start + Duration::from_secs(10)), Some(91), "the next line tells how many were left out");
        assert_eq!(log.admit(start + Duration::from_secs(10)), Some(0));
    }
}

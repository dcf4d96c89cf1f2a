//! Counters of the FUSE side of a mount.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use stash_repo::metrics::{Counter, Histogram};

/// The requests that are counted apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Op {
    /// LOOKUP
    Lookup,
    /// GETATTR
    Getattr,
    /// READLINK
    Readlink,
    /// OPEN
    Open,
    /// READ
    Read,
    /// RELEASE
    Release,
    /// READDIR
    Readdir,
    /// READDIRPLUS
    Readdirplus,
    /// GETXATTR
    Getxattr,
    /// LISTXATTR
    Listxattr,
    /// LSEEK
    Lseek,
    /// STATFS
    Statfs,
    /// FORGET and BATCH_FORGET
    Forget,
    /// Everything that would change something, and what is refused on purpose.
    Other,
}

impl Op {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 14] = [
        Self::Lookup,
        Self::Getattr,
        Self::Readlink,
        Self::Open,
        Self::Read,
        Self::Release,
        Self::Readdir,
        Self::Readdirplus,
        Self::Getxattr,
        Self::Listxattr,
        Self::Lseek,
        Self::Statfs,
        Self::Forget,
        Self::Other,
    ];

    /// Returns the label's value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lookup => "lookup",
            Self::Getattr => "getattr",
            Self::Readlink => "readlink",
            Self::Open => "open",
            Self::Read => "read",
            Self::Release => "release",
            Self::Readdir => "readdir",
            Self::Readdirplus => "readdirplus",
            Self::Getxattr => "getxattr",
            Self::Listxattr => "listxattr",
            Self::Lseek => "lseek",
            Self::Statfs => "statfs",
            Self::Forget => "forget",
            Self::Other => "other",
        }
    }
}

/// Counters of one kind of request.
#[derive(Debug, Default)]
pub struct OpMetrics {
    /// From the moment the request was read until its answer was written.
    pub latency: Histogram,
    /// Requests that memory could not answer and that became a task.
    pub deferred: Counter,
    /// Requests that failed because data could not be had (EIO).
    pub failures: Counter,
}

/// All FUSE counters of one mount.
#[derive(Debug, Default)]
pub struct FuseMetrics {
    ops: [OpMetrics; Op::ALL.len()],
    /// Bytes that were given to readers.
    pub read_bytes: Counter,
    /// Requests whose handler panicked.
    pub panics: Counter,
    /// Requests that the deadline ended.
    pub deadlines: Counter,
    /// Requests that are tasks now (a gauge).
    pub in_flight: AtomicU64,
}

impl FuseMetrics {
    /// Returns the counters of one kind of request.
    #[must_use]
    pub fn op(&self, op: Op) -> &OpMetrics {
        &self.ops[op as usize]
    }

    /// Counts an answered request.
    pub(crate) fn observe(&self, op: Op, elapsed: Duration) {
        self.op(op).latency.observe(elapsed);
    }

    /// Notes a task until the guard is dropped.
    pub(crate) fn task(&self) -> InFlight<'_> {
        self.in_flight.fetch_add(1, Relaxed);
        InFlight(&self.in_flight)
    }
}

/// A task that is under way.
#[derive(Debug)]
pub(crate) struct InFlight<'a>(&'a AtomicU64);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_every_op_has_its_own_place_and_name() {
        let mut names: Vec<_> = Op::ALL.iter().map(|op| op.name()).collect();
        for (place, op) in Op::ALL.iter().enumerate() {
            assert_eq!(*op as usize, place);
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Op::ALL.len());
    }

    #[test]
    fn test_tasks_are_counted_back() {
        let metrics = FuseMetrics::default();
        {
            let _one = metrics.task();
            let _two = metrics.task();
            assert_eq!(metrics.in_flight.load(Relaxed), 2);
        }
        assert_eq!(metrics.in_flight.load(Relaxed), 0);
    }
}

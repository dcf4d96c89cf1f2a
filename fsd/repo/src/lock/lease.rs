//! How long a held lock lets its holder write.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::error::{RepoError, RepoResult};

/// Never ends: the lease of work without a lock.
const FOR_EVER: u64 = u64::MAX;

/// The right to write, while a lock is known to be younger than others need it to be. Cheap to clone.
///
/// Time is the system's time since boot, which runs on while a machine sleeps: a laptop that wakes after an hour finds its
/// lease over.
#[derive(Debug, Clone)]
pub struct Lease(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Milliseconds since boot.
    ends_at: AtomicU64,
    /// Why it was lost before its end. A leaf lock.
    lost: Mutex<Option<RepoError>>,
}

impl Lease {
    /// A lease that never ends.
    #[must_use]
    pub fn for_ever() -> Self {
        Self(Arc::new(Inner { ends_at: AtomicU64::new(FOR_EVER), lost: Mutex::default() }))
    }

    /// A lease that ends `duration` after `from` (see [`since_boot`]).
    pub(super) fn until(from: Duration, duration: Duration) -> Self {
        let lease = Self::for_ever();
        lease.renew(from, duration);
        lease
    }

    pub(super) fn renew(&self, from: Duration, duration: Duration) {
        let millis = u64::try_from((from + duration).as_millis()).unwrap_or(FOR_EVER);
        self.0.ends_at.store(millis, Ordering::Release);
    }

    /// Ends the lease now.
    pub(super) fn lose(&self, reason: RepoError) {
        self.0.lost.lock().get_or_insert(reason);
    }

    /// Fails once the lease has ended.
    ///
    /// # Errors
    /// `LockLost`: the lock was removed by somebody, or could not be refreshed for too long.
    pub fn check(&self) -> RepoResult<()> {
        if let Some(reason) = &*self.0.lost.lock() {
            return Err(reason.clone());
        }
        let now = u64::try_from(since_boot().as_millis()).unwrap_or(FOR_EVER);
        if now <= self.0.ends_at.load(Ordering::Acquire) {
            return Ok(());
        }
        let reason = "it could not be refreshed, and others may take it for stale; the work was stopped".to_owned();
        Err(RepoError::LockLost { reason })
    }
}

/// Returns the time since boot, sleep included.
pub(super) fn since_boot() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

//! What the kernel remembers of all mounts of the machine: a test that empties it changes what every other test sees.

use std::sync::{PoisonError, RwLock, RwLockReadGuard};

static CACHES: RwLock<()> = RwLock::new(());

/// Keeps what the kernel remembers for as long as it is held: for a test that counts what the kernel asks.
pub fn remembered() -> RwLockReadGuard<'static, ()> {
    CACHES.read().unwrap_or_else(PoisonError::into_inner)
}

/// Has the kernel forget what is not in use: pages, names and inodes.
pub fn forget() {
    let _alone = CACHES.write().unwrap_or_else(PoisonError::into_inner);
    std::fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
}

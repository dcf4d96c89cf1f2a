//! One binary for all suites. A name's prefix says what a test needs: `root_` root's rights; nothing, only a user.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod backends;
mod damage;
mod fidelity;
mod hostile;
mod root_mount_adapter;
mod workspace;
mod write_backup;
mod write_locks;
mod write_retention;

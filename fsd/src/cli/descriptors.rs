//! How many files this process may have open.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Where the system sets no limit: the most that Linux allows by default (`fs.nr_open`, Documentation/admin-guide/sysctl/fs.rst).
const UNLIMITED: u64 = 1 << 20;

/// Raises the limit of open files to what this process may have at most: a mount takes up to eight, and services are often started with
/// 1,024.
pub(super) fn raise_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = Some(limit.maximum.unwrap_or(UNLIMITED));
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

//! restic's locks: small files in the repository that say who works on it.
//!
//! There may be many shared locks or one exclusive one. Taking one: look for a lock that excludes it, write it, wait,
//! look again; whoever sees another's lock then takes its own back. A lock is written anew every five minutes and counts
//! as stale after thirty. Source: restic, `doc/design.rst`, "Locks".
//!
//! [`Held`] is a lock that this process holds. Its [`Lease`] ends well before others may take the lock for stale: what
//! writes asks the lease first, so that a process which cannot refresh its lock stops before it could do harm.
//!
//! A stale lock still excludes until somebody removes it ([`remove`]), as restic has it: only a person knows whether
//! the holder is dead or merely slow. Readers take no locks.

mod held;
mod lease;

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::backend::{Backend, BackendErrorKind, FileKind};
use crate::error::{RepoError, RepoResult};
use crate::format::SMALL_FILE_LIMIT_BYTES;
use crate::id::Id;
use crate::write::Access;

pub use held::Held;
pub use lease::Lease;

/// A lock of this age may be removed by anybody (restic, `internal/restic/lock.go`, `StaleLockTimeout`).
pub const STALE_AFTER: Duration = Duration::from_secs(30 * 60);
/// How often a held lock is written anew (restic, `cmd/restic/lock.go`, `refreshInterval`).
pub const REFRESH_EVERY: Duration = Duration::from_secs(5 * 60);
/// How long after its time a lock that could not be refreshed still lets its holder write: a request that begins at the
/// very end is over before [`STALE_AFTER`].
pub const LEASE: Duration = Duration::from_secs(25 * 60);
/// Between writing a lock and looking again (restic's `waitBeforeLockCheck`).
const SETTLE: Duration = Duration::from_millis(200);
/// How often a lock file that cannot be read is tried: it may be half written on a store that shows such files.
const READ_ATTEMPTS: u32 = 4;

/// How often the list is made while locks vanish between list and read.
const LIST_ROUNDS: u32 = 5;

/// The content of a lock file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockFile {
    /// When it was written.
    pub time: Timestamp,
    /// Nobody else may hold one.
    #[serde(default)]
    pub exclusive: bool,
    /// On which host.
    #[serde(default)]
    pub hostname: String,
    /// By whom.
    #[serde(default)]
    pub username: String,
    /// By which process.
    #[serde(default)]
    pub pid: i32,
    /// The user's id.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub uid: u32,
    /// The user's group.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub gid: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

impl LockFile {
    /// A lock of this process.
    #[must_use]
    pub fn of_this_process(exclusive: bool) -> Self {
        let uid = rustix::process::getuid().as_raw();
        Self {
            time: Timestamp::now(),
            exclusive,
            hostname: hostname(),
            username: crate::write::users::current_name(),
            pid: rustix::process::getpid().as_raw_nonzero().get(),
            uid,
            gid: rustix::process::getgid().as_raw(),
        }
    }

    /// Returns whether anybody may remove it: it is older than [`STALE_AFTER`], or its process was on this host and is
    /// gone.
    #[must_use]
    pub fn is_stale(&self, now: Timestamp, hostname: &str, is_alive: impl FnOnce(i32) -> bool) -> bool {
        let age = now.duration_since(self.time);
        let old = Duration::try_from(age).is_ok_and(|age| age > STALE_AFTER);
        old || (!self.hostname.is_empty() && self.hostname == hostname && !is_alive(self.pid))
    }

    /// Says who holds it and since when, for a person: fits after "locked by".
    #[must_use]
    pub fn holder(&self, id: &Id) -> String {
        let exclusive = if self.exclusive { "exclusive " } else { "" };
        let stale = if self.is_stale(Timestamp::now(), &self::hostname(), is_alive) { ", stale" } else { "" };
        let name = |text: &str| text.chars().filter(|c| !c.is_control()).take(256).collect::<String>();
        format!(
            "{user}@{host}, pid {pid}, since {time} ({exclusive}lock {id}{stale})",
            user = name(&self.username),
            host = name(&self.hostname),
            pid = self.pid,
            time = self.time,
            id = id.short(),
        )
    }
}

/// A lock in the repository.
#[derive(Debug, Clone)]
pub struct FoundLock {
    /// The file's id.
    pub id: Id,
    /// What it says, or why it cannot be read.
    pub content: RepoResult<LockFile>,
}

/// Reads all locks but those in `except`. Empty files are left out, as restic does: they are remains of writes that failed.
///
/// A lock that was removed between list and read may have been refreshed, so the list is made again then.
///
/// # Errors
/// The list failed.
pub async fn list(access: &Access, except: &HashSet<Id>) -> RepoResult<Vec<FoundLock>> {
    let backend = access.backend();
    let mut round = 1;
    loop {
        let entries = backend.list(FileKind::Lock).await?;
        let ids = entries.into_iter().filter(|entry| entry.len_bytes > 0 && !except.contains(&entry.id));
        let mut reads = futures::stream::iter(ids)
            .map(|entry| read(access, entry.id))
            .buffer_unordered(backend.concurrency().max(1));
        let mut found = Vec::new();
        let mut vanished = false;
        while let Some(lock) = reads.next().await {
            match lock {
                Some(lock) => found.push(lock),
                None => vanished = true,
            }
        }
        // A store whose lists lag behind may name a file for long that is gone.
        if !vanished || round == LIST_ROUNDS {
            return Ok(found);
        }
        round += 1;
        pause(SETTLE).await;
    }
}

/// Reads a lock; `None` if it is gone.
async fn read(access: &Access, id: Id) -> Option<FoundLock> {
    let mut attempt = 1;
    loop {
        match access.read_file(FileKind::Lock, "lock", id, SMALL_FILE_LIMIT_BYTES).await {
            Err(error) if is_not_found(&error) => return None,
            Err(_) if attempt < READ_ATTEMPTS => {
                pause(SETTLE * attempt).await;
                attempt += 1;
            }
            Err(error) => return Some(FoundLock { id, content: Err(error) }),
            Ok(json) => {
                let content = serde_json::from_slice(&json).map_err(|error| RepoError::Format {
                    what: "lock",
                    id,
                    reason: error.to_string(),
                });
                return Some(FoundLock { id, content });
            }
        }
    }
}

/// Removes stale locks, or all, and returns how many. Locks that cannot be read are stale to nobody, so they go with all.
///
/// # Errors
/// The list or a removal failed.
pub async fn remove(access: &Access, all: bool) -> RepoResult<usize> {
    let (now, hostname) = (Timestamp::now(), hostname());
    let mut removed = 0;
    if all {
        for entry in access.backend().list(FileKind::Lock).await? {
            access.backend().remove(FileKind::Lock, &entry.id).await?;
            removed += 1;
        }
        return Ok(removed);
    }
    for lock in list(access, &HashSet::new()).await? {
        match lock.content {
            Ok(content) if content.is_stale(now, &hostname, is_alive) => {
                access.backend().remove(FileKind::Lock, &lock.id).await?;
                removed += 1;
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(lock = %lock.id.short(), %error, "a lock cannot be read and stays"),
        }
    }
    Ok(removed)
}

fn is_not_found(error: &RepoError) -> bool {
    matches!(error, RepoError::Backend(backend) if backend.kind == BackendErrorKind::NotFound)
}

/// Fails with the first lock that excludes one of ours.
async fn check(access: &Access, exclusive: bool, own: &HashSet<Id>) -> RepoResult<()> {
    for lock in list(access, own).await? {
        let content = lock.content?;
        if exclusive || content.exclusive {
            return Err(RepoError::Locked { holder: content.holder(&lock.id) });
        }
    }
    Ok(())
}

async fn write(access: &Access, file: &LockFile) -> RepoResult<Id> {
    let json = serde_json::to_vec(file)
        .map_err(|error| RepoError::Local { what: "lock file".to_owned(), reason: error.to_string() })?;
    access.write_file(FileKind::Lock, &json).await
}

async fn remove_one(backend: &Arc<dyn Backend>, id: &Id) -> RepoResult<()> {
    Ok(backend.remove(FileKind::Lock, id).await?)
}

/// Returns the host's name as locks and snapshots carry it.
#[must_use]
pub fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Returns whether a process exists, also one that we may not signal.
fn is_alive(pid: i32) -> bool {
    match rustix::process::Pid::from_raw(pid) {
        Some(pid) if pid.as_raw_nonzero().get() > 0 => {
            !matches!(rustix::process::test_kill_process(pid), Err(rustix::io::Errno::SRCH))
        }
        _ => false,
    }
}

#[expect(clippy::disallowed_methods, reason = "the protocol asks for a wait, and retries back off")]
async fn pause(duration: Duration) {
    tokio::time::sleep(duration).await;
}

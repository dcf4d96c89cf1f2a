//! A lock that this process holds, and the task that refreshes it.

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::lease::since_boot;
use super::{LEASE, Lease, LockFile, REFRESH_EVERY, SETTLE, check, pause, remove_one, write};
use crate::backend::FileKind;
use crate::error::{RepoError, RepoResult};
use crate::id::Id;
use crate::write::Access;

/// After a refresh that failed.
const RETRY_REFRESH: Duration = Duration::from_secs(10);
/// The first wait for another's lock; it doubles up to [`RETRY_LOCK_MAX`].
const RETRY_LOCK: Duration = Duration::from_secs(1);
const RETRY_LOCK_MAX: Duration = Duration::from_secs(60);

/// A lock in force, or none where the person asked for none. [`Held::release`] gives it back; one that is only dropped
/// stays in the repository until it is stale.
#[derive(Debug)]
pub struct Held {
    lease: Lease,
    locked: Option<Locked>,
}

#[derive(Debug)]
struct Locked {
    access: Access,
    #[cfg(test)]
    exclusive: bool,
    files: Arc<Files>,
    stop: Arc<Notify>,
    refresher: JoinHandle<()>,
}

/// The lock's files: one, and for a moment or after a failed removal more. The last is the present one. A leaf lock.
#[derive(Debug, Default)]
struct Files(Mutex<Vec<Id>>);

impl Files {
    fn set(&self) -> HashSet<Id> {
        self.0.lock().iter().copied().collect()
    }
}

impl Held {
    /// Works without a lock.
    #[must_use]
    pub fn none() -> Self {
        Self { lease: Lease::for_ever(), locked: None }
    }

    /// Takes a lock. Where another excludes it, tries again until `retry` is over.
    ///
    /// From here on the process ignores SIGHUP: restic on the same host sends it to see whether a lock's holder lives.
    ///
    /// # Errors
    /// `Locked` with the holder's name; a lock cannot be read; the store failed.
    pub async fn take(
        access: &Access,
        exclusive: bool,
        retry: Duration,
        stop: impl Future<Output = ()>,
    ) -> RepoResult<Self> {
        Self::retry(retry, stop, async || Self::try_take(access, exclusive, &HashSet::new()).await).await
    }

    /// Tries until another lock is no more in the way, `retry` is over, or `stop` ends, which is looked at between tries: a
    /// try leaves no lock behind unless it is dropped half way.
    async fn retry(
        retry: Duration,
        stop: impl Future<Output = ()>,
        mut attempt: impl AsyncFnMut() -> RepoResult<Self>,
    ) -> RepoResult<Self> {
        let deadline = Instant::now() + retry;
        let mut wait = RETRY_LOCK;
        tokio::pin!(stop);
        loop {
            match attempt().await {
                Err(RepoError::Locked { holder }) if Instant::now() < deadline => {
                    tracing::info!(%holder, "waiting for a lock");
                    // Two that wait for each other do not come back at the same moment.
                    let jitter = Duration::from_millis(u64::from(rand::random::<u8>()));
                    let left = deadline.saturating_duration_since(Instant::now());
                    tokio::select! {
                        () = pause((wait + jitter).min(left)) => {}
                        () = &mut stop => return Err(RepoError::Cancelled),
                    }
                    wait = (wait * 2).min(RETRY_LOCK_MAX);
                }
                result => return result,
            }
        }
    }

    async fn try_take(access: &Access, exclusive: bool, own: &HashSet<Id>) -> RepoResult<Self> {
        let hangup = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())
            .map_err(|error| RepoError::Local { what: "handler of SIGHUP".to_owned(), reason: error.to_string() })?;
        check(access, exclusive, own).await?;
        let taken_at = since_boot();
        let id = write(access, &LockFile::of_this_process(exclusive)).await?;
        let mut own = own.clone();
        own.insert(id);
        pause(SETTLE).await;
        if let Err(error) = check(access, exclusive, &own).await {
            if let Err(error) = remove_one(access.backend(), &id).await {
                tracing::warn!(lock = %id.short(), %error, "our lock, which is not in force, cannot be removed");
            }
            return Err(error);
        }
        let lease = Lease::until(taken_at, LEASE);
        let files = Arc::new(Files(Mutex::new(vec![id])));
        let stop = Arc::new(Notify::new());
        let refresher = tokio::spawn(refresh_until_stopped(
            access.clone(),
            exclusive,
            files.clone(),
            lease.clone(),
            stop.clone(),
            hangup,
        ));
        let locked = Locked {
            access: access.clone(),
            #[cfg(test)]
            exclusive,
            files,
            stop,
            refresher,
        };
        Ok(Self { lease, locked: Some(locked) })
    }

    /// Trades a shared lock for an exclusive one, without a moment in which there is neither. Without a lock this is nothing.
    ///
    /// # Errors
    /// As [`Held::take`]; the shared lock was given back then.
    pub async fn into_exclusive(self, retry: Duration, stop: impl Future<Output = ()>) -> RepoResult<Self> {
        let Some(locked) = &self.locked else { return Ok(self) };
        let taken =
            Self::retry(retry, stop, async || Self::try_take(&locked.access, true, &locked.files.set()).await).await;
        let released = self.release().await;
        let exclusive = taken?;
        released?;
        Ok(exclusive)
    }

    /// Does what the refreshing task does, now.
    #[cfg(test)]
    pub(super) async fn refresh_now(&self) -> RepoResult<()> {
        match &self.locked {
            Some(locked) => refresh(&locked.access, locked.exclusive, &locked.files, &self.lease).await,
            None => Ok(()),
        }
    }

    /// Returns the right to write that the lock gives.
    #[must_use]
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Gives the lock back.
    ///
    /// # Errors
    /// Its file cannot be removed; it will be stale in half an hour.
    pub async fn release(self) -> RepoResult<()> {
        let Some(locked) = self.locked else { return Ok(()) };
        locked.stop.notify_one();
        if let Err(error) = locked.refresher.await {
            tracing::error!(%error, "the task that refreshes the lock failed");
        }
        let mut result = Ok(());
        for id in locked.files.set() {
            if let Err(error) = remove_one(locked.access.backend(), &id).await {
                tracing::warn!(lock = %id.short(), %error, "our lock cannot be removed; it will be stale in half an hour");
                result = Err(error);
            }
        }
        result
    }
}

async fn refresh_until_stopped(
    access: Access,
    exclusive: bool,
    files: Arc<Files>,
    lease: Lease,
    stop: Arc<Notify>,
    hangup: tokio::signal::unix::Signal,
) {
    // Holding it is enough: tokio's handler replaces the default action, which would end the process.
    let _hangup = hangup;
    let mut wait = REFRESH_EVERY;
    loop {
        if tokio::time::timeout(wait, stop.notified()).await.is_ok() {
            return;
        }
        wait = match refresh(&access, exclusive, &files, &lease).await {
            Ok(()) => REFRESH_EVERY,
            Err(error @ RepoError::LockLost { .. }) => {
                lease.lose(error);
                stop.notified().await;
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "the lock cannot be refreshed; trying again");
                RETRY_REFRESH
            }
        };
    }
}

/// Writes the lock anew and removes the old file. A lock that is gone was removed by somebody who may hold an exclusive one
/// by now: it is not written again.
async fn refresh(access: &Access, exclusive: bool, files: &Files, lease: &Lease) -> RepoResult<()> {
    let own = files.set();
    let present = access.backend().list(FileKind::Lock).await?;
    if !present.iter().any(|entry| own.contains(&entry.id)) {
        let reason = "somebody removed it, and may work alone by now; the work was stopped".to_owned();
        return Err(RepoError::LockLost { reason });
    }
    let taken_at = since_boot();
    let id = write(access, &LockFile::of_this_process(exclusive)).await?;
    files.0.lock().push(id);
    lease.renew(taken_at, LEASE);
    for old in own {
        match remove_one(access.backend(), &old).await {
            Ok(()) => files.0.lock().retain(|id| *id != old),
            Err(error) => {
                tracing::warn!(lock = %old.short(), %error, "an old lock file cannot be removed; trying again");
            }
        }
    }
    Ok(())
}

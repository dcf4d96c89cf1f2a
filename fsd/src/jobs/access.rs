//! From spec and Secret to an opened repository under a lock.

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use stash_proto::job::args::BackupFlags;
use stash_proto::job::{ErrorCode, JobError, JobSpec, RepositoryAccess};
use stash_repo::backend::connect::{self, ConnectOptions};
use stash_repo::backend::location::Location;
use stash_repo::budget::cgroup;
use stash_repo::lock::{self, Held};
use stash_repo::write::init::{InitOptions, init};
use stash_repo::write::{Access, NoProgress, PackOptions, Session};
use stash_repo::{Backend, FileKind, RepoError, RepoResult, Repository, RepositoryOptions};

use super::error::of_repository;
use super::secret::Secret;
use crate::cli::Interrupt;

/// How long another's lock is waited for: maintenance of the same repository takes its time.
const RETRY_LOCK: Duration = Duration::from_secs(5 * 60);
/// How often a repository is looked for that another Job is about to make, and how long is waited between.
const INIT_ATTEMPTS: u32 = 10;
const INIT_WAIT: Duration = Duration::from_secs(1);

/// What all the work of a Job has in common.
pub(super) struct Job<'a> {
    repository: &'a RepositoryAccess,
    dead_hosts: &'a [String],
    secret: Secret,
    interrupt: Interrupt,
}

/// An opened repository.
pub(super) struct Opened {
    pub(super) access: Access,
    /// It was made just now.
    pub(super) initialized: bool,
}

impl<'a> Job<'a> {
    pub(super) fn new(spec: &'a JobSpec, secret: Secret, interrupt: &Interrupt) -> Self {
        let (repository, dead_hosts) = (&spec.repository, spec.dead_hosts.as_slice());
        Self { repository, dead_hosts, secret, interrupt: interrupt.clone() }
    }

    /// Ends when the Job is asked to stop.
    pub(super) fn stop(&self) -> impl Future<Output = ()> + Send + 'static {
        let interrupt = self.interrupt.clone();
        async move { interrupt.wait().await }
    }

    /// Runs work that may be dropped where it stands.
    pub(super) async fn or_stop<T>(&self, work: impl Future<Output = RepoResult<T>>) -> Result<T, JobError> {
        tokio::select! {
            result = work => result.map_err(|error| of_repository(&error)),
            () = self.stop() => Err(of_repository(&RepoError::Cancelled)),
        }
    }

    /// Opens the repository, makes it if that is asked for, and removes the locks of processes that are known to be dead.
    pub(super) async fn open(&self, flags: &BackupFlags, initialize: bool) -> Result<Opened, JobError> {
        let (location, options) = (self.location()?, self.options(flags));
        self.or_stop(async {
            let backend = connect::connect(&location, &options).await?;
            let opened = self.open_or_make(&backend, flags.key_hint.as_deref(), initialize).await?;
            self.remove_dead_locks(&opened.access).await?;
            Ok(opened)
        })
        .await
    }

    fn location(&self) -> Result<Location, JobError> {
        Location::parse_in_cluster(&self.repository.address)
            .map_err(|error| JobError::new(ErrorCode::BadAddress, error.to_string()))
    }

    /// Reaches the store.
    pub(super) async fn connect(&self) -> Result<Arc<dyn Backend>, JobError> {
        let (location, options) = (self.location()?, self.options(&BackupFlags::default()));
        self.or_stop(async { Ok(connect::connect(&location, &options).await?) }).await
    }

    /// Opens the repository in a store, and removes the locks of processes that are known to be dead.
    pub(super) async fn open_at(&self, backend: &Arc<dyn Backend>) -> RepoResult<Access> {
        let open = async {
            let access = Access::open(backend.clone(), &self.secret.password, None).await?;
            self.remove_dead_locks(&access).await?;
            Ok(access)
        };
        tokio::select! {
            opened = open => opened,
            () = self.stop() => Err(RepoError::Cancelled),
        }
    }

    /// Credentials come from the Secret alone, other settings from the spec first; nothing from the environment.
    fn options(&self, flags: &BackupFlags) -> ConnectOptions {
        let mut environment = self.secret.connection.environment.clone();
        environment.extend(self.repository.environment.clone());
        let mut extended = self.repository.options.clone();
        extended.extend(flags.options.clone());
        let bytes = |kib: Option<u64>| kib.map(|kib| kib.saturating_mul(1024));
        ConnectOptions {
            environment,
            ambient: false,
            extended,
            ca_certificates: self.secret.connection.ca_certificates.clone(),
            insecure_tls: self.repository.insecure_tls,
            limit_download: bytes(flags.limit_download_kib),
            limit_upload: bytes(flags.limit_upload_kib),
            ..ConnectOptions::default()
        }
    }

    async fn open_or_make(
        &self,
        backend: &Arc<dyn Backend>,
        key_hint: Option<&str>,
        initialize: bool,
    ) -> RepoResult<Opened> {
        let open = async || Access::open(backend.clone(), &self.secret.password, key_hint).await;
        let missing = match open().await {
            Ok(access) => return Ok(Opened { access, initialized: false }),
            Err(error @ RepoError::NoRepository { .. }) if initialize => error,
            Err(error) => return Err(error),
        };
        tracing::info!("{missing}; making one");
        let failure = match init(backend.clone(), &self.secret.password, &InitOptions::default()).await {
            Ok(access) => return Ok(Opened { access, initialized: true }),
            // There is a repository now, or a part of one: somebody else is making it.
            Err(error @ RepoError::Unsupported { .. }) => {
                tracing::info!("{error}: opening that");
                error
            }
            Err(error) => return Err(error),
        };
        for _ in 0..INIT_ATTEMPTS {
            match open().await {
                Ok(access) => return Ok(Opened { access, initialized: false }),
                // A stop ends this work from outside.
                Err(RepoError::NoRepository { .. }) => {
                    let _ = tokio::time::timeout(INIT_WAIT, self.stop()).await;
                }
                Err(error) => return Err(error),
            }
        }
        Err(failure)
    }

    async fn remove_dead_locks(&self, access: &Access) -> RepoResult<()> {
        if self.dead_hosts.is_empty() {
            return Ok(());
        }
        for found in lock::list(access, &HashSet::new()).await? {
            match found.content {
                Ok(content) if self.dead_hosts.contains(&content.hostname) => {
                    tracing::info!(holder = content.holder(&found.id), "removing the lock of a dead process");
                    access.backend().remove(FileKind::Lock, &found.id).await?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Takes a lock; waits for another's.
    pub(super) async fn lock(&self, access: &Access, retry: Option<Duration>) -> Result<Held, JobError> {
        let held = Held::take(access, false, retry.unwrap_or(RETRY_LOCK), self.stop()).await;
        held.map_err(|error| of_repository(&error))
    }

    /// Trades a lock for an exclusive one.
    pub(super) async fn make_exclusive(&self, held: Held) -> Result<Held, JobError> {
        held.into_exclusive(RETRY_LOCK, self.stop()).await.map_err(|error| of_repository(&error))
    }

    /// Makes a session under a lock.
    pub(super) fn session(access: &Access, held: &Held, pack: PackOptions) -> Session {
        Session::new(access, pack, held.lease(), Arc::new(NoProgress))
    }

    /// Opens the repository for reading, with its index.
    pub(super) async fn reader(&self, access: &Access) -> RepoResult<Repository> {
        self.read(access.backend().clone(), None).await
    }

    /// Reaches the store and opens the repository for reading. Readers take no lock.
    pub(super) async fn open_reader(&self, flags: &BackupFlags) -> Result<Repository, JobError> {
        let (location, options) = (self.location()?, self.options(flags));
        self.or_stop(async {
            let backend = connect::connect(&location, &options).await?;
            self.read(backend, flags.key_hint.clone()).await
        })
        .await
    }

    async fn read(&self, backend: Arc<dyn Backend>, key_hint: Option<String>) -> RepoResult<Repository> {
        let memory_bytes = RepositoryOptions::default().memory_bytes;
        let options = RepositoryOptions {
            memory_bytes: cgroup::share_bytes(memory_bytes, cgroup::memory_limit_bytes(), 1),
            key_hint,
            ..RepositoryOptions::default()
        };
        let repository = Repository::open(backend, &self.secret.password, options).await?;
        repository.refresh().await?;
        Ok(repository)
    }

    /// Whoever asks whether the work shall end.
    pub(super) fn interrupt(&self) -> Interrupt {
        self.interrupt.clone()
    }
}

/// Gives a lock back. Where that fails the work is done all the same, and the lock will be stale.
pub(super) async fn release(held: Held) {
    if let Err(error) = held.release().await {
        tracing::warn!(%error, "the lock stays in the repository");
    }
}

#[cfg(test)]
mod tests {
    use stash_proto::job::secret::Connection;

    use super::*;

    #[test]
    fn test_settings_come_from_spec_and_secret_alone() {
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
        let repository = RepositoryAccess {
            address: "s3:host/bucket".to_owned(),
            options: map(&[("s3.connections", "5"), ("s3.region", "a")]),
            insecure_tls: true,
            environment: map(&[("AWS_DEFAULT_REGION", "spec")]),
        };
        let secret = Secret {
            password: zeroize::Zeroizing::new("p".to_owned()),
            connection: Connection {
                environment: map(&[("AWS_DEFAULT_REGION", "secret"), ("AWS_ACCESS_KEY_ID", "id")]),
                ca_certificates: Some("pem".to_owned()),
            },
        };
        let job = Job { repository: &repository, dead_hosts: &[], secret, interrupt: Interrupt::default() };
        let flags = BackupFlags {
            options: map(&[("s3.connections", "9")]),
            limit_upload_kib: Some(2),
            ..BackupFlags::default()
        };
        let options = job.options(&flags);
        assert_eq!(options.environment, map(&[("AWS_ACCESS_KEY_ID", "id"), ("AWS_DEFAULT_REGION", "spec")]));
        assert_eq!(options.extended, map(&[("s3.connections", "9"), ("s3.region", "a")]));
        assert_eq!((options.ambient, options.insecure_tls, options.limit_upload), (false, true, Some(2048)));
        assert_eq!(options.ca_certificates.as_deref(), Some("pem"));
    }
}

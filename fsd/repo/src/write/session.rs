//! One piece of work by `rustic_core`, on threads of its own, that can be stopped.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustic_core::repofile::MasterKey;
use rustic_core::{
    Credentials, OpenStatus, Repository, RepositoryBackends, RepositoryOptions, RusticError, WriteBackend,
};
use tokio::runtime::Handle;
use zeroize::Zeroizing;

use super::access::Access;
use super::adapter::Adapter;
use super::gate::{Gate, Snapshots};
use super::overlay::PackOptions;
use super::progress::{Bars, ProgressSink};
use crate::error::{RepoError, RepoResult};
use crate::lock::Lease;

/// `rustic_core`'s repository, opened.
pub(crate) type Rustic = Repository<OpenStatus>;

/// The most threads that wait for the store at a time.
const MAX_THREADS: usize = 32;

/// What a piece of work by `rustic_core` runs with.
#[derive(Debug, Clone)]
pub struct Session {
    access: Access,
    pack: PackOptions,
    lease: Lease,
    progress: Arc<dyn ProgressSink>,
}

impl Session {
    /// Works on a repository under a lock's lease (see [`crate::lock::Held::lease`]).
    #[must_use]
    pub fn new(access: &Access, pack: PackOptions, lease: &Lease, progress: Arc<dyn ProgressSink>) -> Self {
        Self { access: access.clone(), pack, lease: lease.clone(), progress }
    }

    /// Returns the repository.
    #[must_use]
    pub fn access(&self) -> &Access {
        &self.access
    }

    pub(crate) fn progress(&self) -> &Arc<dyn ProgressSink> {
        &self.progress
    }

    /// Returns the right to write that the session has.
    #[must_use]
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    pub(crate) fn gate(&self, snapshots: Snapshots) -> Gate {
        Gate::new(self.lease.clone(), snapshots)
    }

    /// A gate for the backup of a stream: see [`super::packing`].
    pub(crate) fn gate_for_streams(&self) -> Gate {
        Gate::keeping_tree_packs(self.lease.clone(), Snapshots::Withhold)
    }

    /// Opens the repository with `rustic_core`. Blocks; not for a thread of the runtime.
    pub(crate) fn open(&self, gate: &Gate, runtime: Handle) -> RepoResult<Rustic> {
        let adapter = Adapter::new(&self.access, self.pack, gate.clone(), runtime);
        let backends = RepositoryBackends::new(Arc::new(adapter) as Arc<dyn WriteBackend>, None);
        // Its cache has a race between processes and no bound; we have our own.
        let mut options = RepositoryOptions::default();
        options.no_cache = true;
        Repository::new_with_progress(&options, &backends, Bars(self.progress.clone()))
            .and_then(|repository| repository.open(&Credentials::Masterkey(master_key(&self.access)?)))
            .map_err(|error| rustic_error(gate, "open the repository", &error))
    }

    /// Runs `work` on threads of its own until it ends or `stop` does. When it is stopped, nothing is written or removed any
    /// more from the moment at which this returns.
    ///
    /// # Errors
    /// Those of the work; `Cancelled` where it was stopped; `Rustic` where it panicked.
    pub(crate) async fn run<T, W>(&self, gate: &Gate, stop: impl Future<Output = ()>, work: W) -> RepoResult<T>
    where
        T: Send + 'static,
        W: FnOnce(Handle) -> RepoResult<T> + Send + 'static,
    {
        let runtime = Handle::current();
        let threads = self.access.backend().concurrency().clamp(2, MAX_THREADS) + 1;
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let failed = |reason: String| RepoError::Rustic { operation: "start threads", reason };
        std::thread::Builder::new()
            .name("write".to_owned())
            .spawn(move || {
                // Index and snapshot files are read by rayon's threads: as many as requests to the store pay.
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|n| format!("write-{n}"));
                let result = match pool.build() {
                    Ok(pool) => {
                        catch_unwind(AssertUnwindSafe(|| pool.install(|| work(runtime)))).unwrap_or_else(|panic| {
                            let text = panic.downcast_ref::<&str>().map(ToString::to_string);
                            let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
                            Err(RepoError::Rustic {
                                operation: "work on the repository",
                                reason: format!("panicked: {text}"),
                            })
                        })
                    }
                    Err(error) => Err(RepoError::Rustic { operation: "start threads", reason: error.to_string() }),
                };
                // Nobody waits any more for work that was stopped.
                drop(sender.send(result));
            })
            .map_err(|error| failed(error.to_string()))?;
        tokio::pin!(stop);
        tokio::select! {
            result = receiver => result.unwrap_or_else(|_| Err(failed("the thread ended without a result".to_owned()))),
            () = &mut stop => {
                gate.shut(RepoError::Cancelled);
                let gate = gate.clone();
                tokio::task::spawn_blocking(move || gate.wait_idle())
                    .await
                    .map_err(|error| failed(error.to_string()))?;
                Err(RepoError::Cancelled)
            }
        }
    }
}

/// Hands our master key to `rustic_core`, which knows it as JSON only.
fn master_key(access: &Access) -> Result<MasterKey, Box<RusticError>> {
    let parts = access.key().expose_parts();
    let encode = |range: std::ops::Range<usize>| Zeroizing::new(STANDARD.encode(&parts[range]));
    let (encrypt, k, r) = (encode(0..32), encode(32..48), encode(48..64));
    let json = Zeroizing::new(format!(
        r#"{{"mac":{{"k":"{}","r":"{}"}},"encrypt":"{}"}}"#,
        k.as_str(),
        r.as_str(),
        encrypt.as_str()
    ));
    // serde's message could quote a part of the key.
    serde_json::from_str(&json)
        .map_err(|_| RusticError::new(rustic_core::ErrorKind::Key, "the master key cannot be handed on"))
}

/// What failed: what shut the gate, if anything did, else what `rustic_core` says.
pub(crate) fn rustic_error(gate: &Gate, operation: &'static str, error: &RusticError) -> RepoError {
    if let Err(reason) = gate.check() {
        return reason;
    }
    // The failure of a read is our own error, somewhere below.
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if let Some(error) = inner.downcast_ref::<RepoError>() {
            return error.clone();
        }
        source = inner.source();
    }
    RepoError::Rustic { operation, reason: error.display_log() }
}

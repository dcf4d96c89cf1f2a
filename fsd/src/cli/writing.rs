//! What the verbs that write have in common: an opened repository, a lock that is given back on every end, progress.

use std::future::Future;
use std::io::{IsTerminal as _, Write as _};
use std::sync::Arc;

use stash_repo::lock::Held;
use stash_repo::write::{Access, Meter, PackOptions, ProgressSink, Session, Unit};
use stash_repo::{RepoError, RepoResult};

use super::global::Compression;
use super::progress::Progress;
use super::{CliError, CliResult, Context, GlobalArgs};

/// The program, as snapshots name it.
pub(crate) const PROGRAM: &str = concat!("stash-fs ", env!("CARGO_PKG_VERSION"));

/// Which lock a verb takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lock {
    /// Others may work too, but not remove anything.
    Shared,
    /// Nobody else may work.
    Exclusive,
}

impl Context {
    /// Opens the one repository that is named, for writing.
    pub(super) async fn access(&self) -> CliResult<Access> {
        let backend = self.backend().await?;
        let password = self.password()?;
        Ok(Access::open(backend, &password, self.global.key_hint.as_deref()).await?)
    }

    /// Ends when the person or the system asks the process to stop.
    pub(super) fn stop(&self) -> impl Future<Output = ()> + Send + 'static {
        let interrupt = self.interrupt.clone();
        async move { interrupt.wait().await }
    }

    /// Says why work ended: by the signal, if there was one.
    pub(super) fn ended(&self, error: RepoError) -> CliError {
        match error {
            RepoError::Cancelled if self.interrupt.is_set() => CliError::interrupted(),
            error => error.into(),
        }
    }

    /// Returns how packs are made under the options.
    pub(super) fn pack_options(&self, no_extra_verify: bool) -> CliResult<PackOptions> {
        use stash_repo::write::Compression as To;
        let compression = match self.global.compression {
            Compression::Auto => To::Auto,
            Compression::Off => To::Off,
            Compression::Fastest => To::Fastest,
            Compression::Better => To::Better,
            Compression::Max => To::Max,
        };
        let options = PackOptions { compression, pack_mib: self.global.pack_size, no_extra_verify };
        options.check().map_err(|error| CliError::usage(error.to_string()))?;
        Ok(options)
    }

    /// Takes a lock, unless `--no-lock` was given.
    pub(super) async fn lock(&self, access: &Access, lock: Lock) -> CliResult<Held> {
        if self.global.no_lock {
            return Ok(Held::none());
        }
        Held::take(access, lock == Lock::Exclusive, self.global.retry_lock, self.stop())
            .await
            .map_err(|error| self.ended(error))
    }

    /// Trades a shared lock for an exclusive one.
    pub(super) async fn make_exclusive(&self, held: Held) -> CliResult<Held> {
        held.into_exclusive(self.global.retry_lock, self.stop()).await.map_err(|error| self.ended(error))
    }

    /// Gives a lock back, whatever became of the work.
    pub(super) async fn unlock<T>(&self, held: Held, result: CliResult<T>) -> CliResult<T> {
        let released = held.release().await;
        let value = result?;
        released.map_err(|error| CliError::from(error).context("the work is done, but the lock cannot be removed"))?;
        Ok(value)
    }

    /// Makes a session under a lock.
    pub(super) fn session(&self, access: &Access, held: &Held, pack: PackOptions) -> Session {
        Session::new(access, pack, held.lease(), Arc::new(Bars::new(&self.global)))
    }

    /// Runs work of one session under a lock, and gives the lock back on every end.
    pub(super) async fn with_session<T>(
        &self,
        access: &Access,
        lock: Lock,
        work: impl AsyncFnOnce(&Session) -> RepoResult<T>,
    ) -> CliResult<T> {
        let pack = self.pack_options(false)?;
        let held = self.lock(access, lock).await?;
        let result = work(&self.session(access, &held, pack)).await.map_err(|error| self.ended(error));
        self.unlock(held, result).await
    }
}

/// Steps of the work as bars, or as lines of JSON.
#[derive(Debug)]
pub(super) struct Bars {
    global: GlobalArgs,
    hidden: bool,
}

impl Bars {
    pub(super) fn new(global: &GlobalArgs) -> Self {
        let hidden = global.quiet || !(global.json || std::io::stderr().is_terminal());
        Self { global: global.clone(), hidden }
    }
}

impl ProgressSink for Bars {
    fn begin(&self, unit: Unit, title: &str) -> Arc<dyn Meter> {
        let progress = match unit {
            Unit::Bytes => Progress::bytes(&self.global, title),
            Unit::Items | Unit::None => Progress::items(&self.global, title),
        };
        Arc::new(Bar { progress, status_lines: self.global.json && unit == Unit::Bytes })
    }

    fn is_hidden(&self) -> bool {
        self.hidden
    }
}

#[derive(Debug)]
struct Bar {
    progress: Progress,
    status_lines: bool,
}

impl Meter for Bar {
    fn set_total(&self, amount: u64) {
        self.progress.add_total(0, amount);
    }

    fn add(&self, amount: u64) {
        self.progress.add(0, amount);
        if self.status_lines
            && let Some(counts) = self.progress.due()
        {
            // restic's line (restic, `doc/075_scripting.rst`, "backup").
            #[expect(clippy::cast_precision_loss, reason = "a share for people")]
            let percent_done = match counts.total_bytes {
                0 => 0.0,
                total => (counts.bytes as f64 / total as f64).min(1.0),
            };
            let line = serde_json::json!({
                "message_type": "status", "seconds_elapsed": counts.seconds_elapsed, "percent_done": percent_done,
                "total_bytes": counts.total_bytes, "bytes_done": counts.bytes,
            });
            // Whoever closed standard output learns of it when the result is printed.
            drop(writeln!(std::io::stdout().lock(), "{line}"));
        }
    }

    fn finish(&self) {
        self.progress.finish();
    }
}

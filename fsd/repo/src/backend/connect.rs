//! From an address, its options and an environment to a [`Backend`] with all its decorators.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::error::Failure;
use super::local::LocalBackend;
use super::location::Location;
use super::{Backend, BackendResult};
use crate::metrics::Metrics;

/// The deadline where none is set.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(30);

/// How a store is reached.
#[derive(Clone)]
pub struct ConnectOptions {
    /// The variables that credentials and endpoints are taken from (`AWS_ACCESS_KEY_ID`, ...): the process's for a command, the Secret's keys alone in a cluster.
    pub environment: BTreeMap<String, String>,
    /// Whether credentials may also come from where the machine keeps them: profile files, instance metadata, the
    /// proxies of the process's environment. A command allows it; in a cluster only the given keys are used.
    pub ambient: bool,
    /// restic's `-o key=value`.
    pub extended: BTreeMap<String, String>,
    /// `--cacert`: PEM files of further roots.
    pub cacert: Vec<PathBuf>,
    /// `--tls-client-cert`: a PEM file with certificate and key.
    pub tls_client_cert: Option<PathBuf>,
    /// `--insecure-tls`: no verification.
    pub insecure_tls: bool,
    /// `--limit-download`, bytes a second.
    pub limit_download: Option<u64>,
    /// `--limit-upload`, bytes a second.
    pub limit_upload: Option<u64>,
    /// No call outlives this (each attempt is bounded by a part of it).
    pub deadline: Duration,
    /// Where calls are counted.
    pub metrics: Arc<Metrics>,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            environment: BTreeMap::new(),
            ambient: false,
            extended: BTreeMap::new(),
            cacert: Vec::new(),
            tls_client_cert: None,
            insecure_tls: false,
            limit_download: None,
            limit_upload: None,
            deadline: DEFAULT_DEADLINE,
            metrics: Arc::default(),
        }
    }
}

impl ConnectOptions {
    /// The options of a command that a person runs: the process's environment, and whatever the machine keeps.
    #[must_use]
    pub fn from_process() -> Self {
        // Variables that are not UTF-8 are none of ours.
        let utf8 = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
        Self { environment: std::env::vars_os().filter_map(utf8).collect(), ambient: true, ..Self::default() }
    }
}

/// Reaches the store of a repository. Does no request yet where the store allows that.
///
/// # Errors
/// `Invalid` for a wrong or missing option or credential, named.
pub async fn connect(location: &Location, options: &ConnectOptions) -> BackendResult<Arc<dyn Backend>> {
    let _ = options;
    match location {
        Location::Local { path } => Ok(Arc::new(LocalBackend::new(path))),
        other => Err(Failure::invalid(format!("{}: not yet", other.scheme())).at(
            "connect",
            "repository",
            &other.to_string(),
        )),
    }
}

impl std::fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The environment holds credentials: never printed.
        f.debug_struct("ConnectOptions").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

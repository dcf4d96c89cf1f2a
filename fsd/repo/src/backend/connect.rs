//! From an address, its options and an environment to a [`Backend`] with all its decorators.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::location::Location;
use super::{Backend, BackendResult};
use crate::metrics::Metrics;

/// How a store is reached.
#[derive(Clone, Default)]
pub struct ConnectOptions {
    /// The variables that credentials and endpoints are taken from (`AWS_ACCESS_KEY_ID`, ...): the process's for a command, the Secret's keys alone in a cluster.
    pub environment: BTreeMap<String, String>,
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

/// Reaches the store of a repository. Does no request yet where the store allows that.
///
/// # Errors
/// `Invalid` for a wrong or missing option or credential, named.
pub async fn connect(location: &Location, options: &ConnectOptions) -> BackendResult<Arc<dyn Backend>> {
    let _ = (location, options);
    todo!()
}

impl std::fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The environment holds credentials: never printed.
        f.debug_struct("ConnectOptions").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

//! From an address, its options and an environment to a [`Backend`] with all its decorators.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use url::Url;
use zeroize::Zeroizing;

use super::decorated::Decorated;
use super::decorated::bandwidth::Bandwidth;
use super::decorated::limit::Limit;
use super::decorated::metered::Metered;
use super::decorated::retry::Retry;
use super::decorated::timeout::Timeout;
use super::error::Failure;
use super::local::LocalBackend;
use super::located::{Located, Store};
use super::location::{Location, RestLocation};
use super::opendal::services;
use super::rclone::Rclone;
use super::rest::RestBackend;
use super::settings::Settings;
use super::sftp::SftpBackend;
use super::{Backend, BackendResult};
use crate::metrics::Metrics;

/// The deadline where none is set.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(30);

/// Requests in parallel to a REST server. restic's 5 are chosen for uploads; reading ranges is latency times chunks.
const DEFAULT_REST_CONNECTIONS: usize = 16;

/// Calls in parallel that a store without connections of its own is let have.
const MIN_PARALLEL: usize = 16;

/// Says of a host's name and an address that it leads to whether no connection may be made.
pub type Refused = Arc<dyn Fn(&str, IpAddr) -> bool + Send + Sync>;

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
    /// `--cacert`: PEM files of the roots that are trusted instead of the machine's.
    pub cacert: Vec<PathBuf>,
    /// PEM of such roots that no file holds, as `CA_CERT_DATA` of a Secret.
    pub ca_certificates: Option<String>,
    /// Which addresses a host's name must not lead to; `None` takes any.
    pub refused: Option<Refused>,
    /// `--tls-client-cert`: a PEM file with certificate and key.
    pub tls_client_cert: Option<PathBuf>,
    /// PEM of such a certificate and its key that no file holds. It goes before a file.
    pub client_identity: Option<Arc<Zeroizing<String>>>,
    /// Where a host is, by its name in the address: nobody is asked then, and [`Self::refused`] is not either. The server still has to
    /// show a certificate for the name.
    pub resolved: Option<(String, IpAddr)>,
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
            ca_certificates: None,
            refused: None,
            tls_client_cert: None,
            client_identity: None,
            resolved: None,
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

impl ConnectOptions {
    /// The deadline, or its default where none is set.
    fn deadline(&self) -> Duration {
        if self.deadline.is_zero() { DEFAULT_DEADLINE } else { self.deadline }
    }

    /// How long one attempt may take: a call has time for three.
    pub(super) fn attempt_timeout(&self) -> Duration {
        self.deadline() / 3
    }
}

/// Reaches the store of a repository. Does no request yet where the store allows that.
///
/// # Errors
/// `Invalid` for a wrong or missing option or credential, named.
pub async fn connect(location: &Location, options: &ConnectOptions) -> BackendResult<Arc<dyn Backend>> {
    let shown = location.to_string();
    let reach = reach(location, options, &shown);
    // Swift and B2 log in first.
    let reached = match tokio::time::timeout(options.deadline(), reach).await {
        Ok(reached) => reached,
        Err(_) => Err(Failure::unavailable(format!("no answer within {:.1} s", options.deadline().as_secs_f64()))),
    };
    let (backend, parallel, max_attempts) = reached.map_err(|failure| failure.at("connect", "repository", &shown))?;
    Ok(decorate(backend, options, parallel, max_attempts))
}

/// Puts the decorators that [`connect`] uses around any store.
#[must_use]
pub fn decorated(backend: Arc<dyn Backend>, options: &ConnectOptions) -> Arc<dyn Backend> {
    let parallel = backend.concurrency().max(MIN_PARALLEL);
    decorate(backend, options, parallel, None)
}

fn decorate(
    backend: Arc<dyn Backend>,
    options: &ConnectOptions,
    parallel: usize,
    max_attempts: Option<u32>,
) -> Arc<dyn Backend> {
    let metrics = &options.metrics;
    let backend = Decorated::wrap(backend, Metered(Arc::clone(metrics)));
    let backend = Decorated::wrap(backend, Timeout { attempt: options.attempt_timeout() });
    let backend = Decorated::wrap(backend, Limit::new(parallel));
    let retry = Retry { deadline: options.deadline(), max_attempts, metrics: Arc::clone(metrics) };
    let backend = Decorated::wrap(backend, retry);
    match Bandwidth::new(options.limit_download, options.limit_upload) {
        Some(bandwidth) => Decorated::wrap(backend, bandwidth),
        None => backend,
    }
}

type Reached = (Arc<dyn Backend>, usize, Option<u32>);

async fn reach(location: &Location, options: &ConnectOptions, shown: &str) -> Result<Reached, Failure> {
    let settings = Settings::new(options, location.scheme())?;
    let mut max_attempts = None;
    let backend = match location {
        Location::Local { path } => {
            settings.default_layout()?;
            let connections = settings.connections(super::local::DEFAULT_CONNECTIONS)?;
            // The disk queues by itself; the limit is for threads that a dead network file system holds.
            let parallel = connections.max(MIN_PARALLEL);
            return Ok((Arc::new(LocalBackend::with_connections(path, connections)), parallel, None));
        }
        Location::S3 { plain_http, endpoint, bucket, prefix } => {
            let place = services::S3Place { plain_http: *plain_http, endpoint, bucket, prefix };
            max_attempts = settings.number("retries")?;
            located(services::s3(&place, &settings)?, shown)
        }
        Location::Rest(place) => located(rest(place, &settings)?, shown),
        Location::Gcs(place) => located(services::gcs(place, &settings)?, shown),
        Location::Azure(place) => located(services::azure(place, &settings)?, shown),
        Location::Swift(place) => located(services::swift(place, &settings).await?, shown),
        Location::B2(place) => located(services::b2(place, &settings).await?, shown),
        Location::Rclone { remote } => {
            let rclone = RestBackend {
                http: Arc::new(Rclone::new(remote, &settings)?),
                url: Url::parse("http://localhost/").map_err(|_| Failure::invalid("rclone's address"))?,
                authorization: None,
                connections: settings.connections(DEFAULT_REST_CONNECTIONS)?,
            };
            located(rclone, shown)
        }
        Location::Sftp { user, host, port, path } => {
            located(SftpBackend::new((user.as_deref(), host, *port), path, &settings)?, shown)
        }
    };
    let parallel = backend.concurrency();
    Ok((backend, parallel, max_attempts))
}

fn located(store: impl Store, shown: &str) -> Arc<dyn Backend> {
    Arc::new(Located::new(store, shown))
}

fn rest(place: &RestLocation, settings: &Settings<'_>) -> Result<RestBackend, Failure> {
    let connections = settings.connections(DEFAULT_REST_CONNECTIONS)?;
    let client = match &place.unix_socket {
        Some(socket) => super::http::unix_client(settings.options, connections, socket)?,
        None => super::http::client(settings.options, connections)?,
    };
    // restic: what the address says goes before the variables.
    let (username, password) = match (&place.username, &place.password) {
        (None, None) => (settings.env("RESTIC_REST_USERNAME"), settings.env("RESTIC_REST_PASSWORD")),
        (username, password) => (username.as_deref(), password.as_deref()),
    };
    let authorization = match (username, password) {
        (None, None) => None,
        (username, password) => Some(super::rest::basic(username.unwrap_or(""), password.unwrap_or(""))?),
    };
    Ok(RestBackend { http: Arc::new(client), url: place.url.clone(), authorization, connections })
}

impl std::fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The environment holds credentials: never printed.
        f.debug_struct("ConnectOptions").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

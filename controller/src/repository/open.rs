//! From a Repository and its Secret to an opened repository: the one place where the controller reads a store itself.
//!
//! Only files that are small and bounded are read here (config, keys, snapshots), by decoders that are made for hostile
//! repositories. Credentials are those of the Repository's Secret and nothing else; they are read when they are needed and not kept.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use stash_crds::Repository;
use stash_proto::job::secret::{self, PASSWORD, SecretError};
use stash_repo::backend::connect::{ConnectOptions, connect};
use stash_repo::backend::location::{Location, ParseLocationError};
use stash_repo::write::Access;
use stash_repo::{Backend, BackendErrorKind, FileKind, Id, RepoError};
use zeroize::Zeroizing;

use super::backend::{self, BackendProblem};
use crate::access::{self, Door};
use crate::context::Context;
use crate::errors::ReconcileError;
use crate::secrets::Known;
use crate::spec;
use crate::stores;

/// How long what is done with a store in one go may take.
pub const DEADLINE: Duration = Duration::from_secs(30);
/// How long one call may take, with all its tries: a store that is away is to be known within seconds.
const CALL_DEADLINE: Duration = Duration::from_secs(9);

/// More than any config.
const CONFIG_LIMIT_BYTES: u64 = 1 << 20;

/// Keys whose values are addresses of servers.
const ADDRESS_KEYS: [&str; 3] = ["OS_AUTH_URL", "OS_STORAGE_URL", "ST_AUTH"];

/// Why a repository was not opened. Without secrets, and without anything that a server answered.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The repository is a volume, which only pods mount.
    #[error("a local backend is a volume of the cluster, which the controller does not open")]
    Local,
    /// No pod serves the volume.
    #[error(transparent)]
    Access(#[from] access::Problem),
    /// The backend cannot be used.
    #[error(transparent)]
    Backend(#[from] BackendProblem),
    /// Its address is none.
    #[error(transparent)]
    Address(#[from] ParseLocationError),
    /// There is no Secret.
    #[error("Backend Secret {0} does not exist.")]
    NoSecret(String),
    /// It lacks something.
    #[error("the Repository's Secret: {0}")]
    Secret(#[from] SecretError),
    /// The API server did not tell.
    #[error(transparent)]
    Api(#[from] ReconcileError),
    /// The repository could not be read.
    #[error(transparent)]
    Repository(#[from] RepoError),
    /// It took too long.
    #[error("no answer within {} s", DEADLINE.as_secs())]
    Deadline,
}

impl OpenError {
    /// Whether there is no repository yet, which is no failure: the first backup makes it.
    pub fn is_no_repository(&self) -> bool {
        matches!(self, Self::Repository(RepoError::NoRepository { .. }))
    }
}

/// Where a repository is, and what opens it.
pub struct Place {
    location: Location,
    options: ConnectOptions,
    password: Zeroizing<String>,
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Place").field("location", &self.location.to_string()).finish_non_exhaustive()
    }
}

impl Place {
    /// Finds out where a repository is and what opens it: reads the Secret, judges the addresses. One that is a volume is reached
    /// through a `door`.
    ///
    /// # Errors
    ///
    /// See [`OpenError`]; nothing was connected to.
    pub async fn of(repository: &Repository, door: Option<&Door>, context: &Context) -> Result<Self, OpenError> {
        let stored = &repository.spec.backend;
        if stored.local.is_some() {
            return Self::through(door.ok_or(OpenError::Local)?, repository, context).await;
        }
        let rule = context.options.addresses.clone();
        backend::check_address(stored, &rule)?;
        let access = spec::access(stored)?;
        let location = Location::parse_in_cluster(&access.address)?;
        if matches!(location, Location::Local { .. }) {
            return Err(OpenError::Local);
        }
        let credentials = needed_credentials(repository, context).await?;
        let value = |key: &str| credentials.get(key).map(|bytes| bytes.as_slice());
        let password = Zeroizing::new(secret::password(value(PASSWORD))?.to_owned());
        let connection = secret::connection(value)?;
        for key in ADDRESS_KEYS {
            if let Some(address) = connection.environment.get(key) {
                backend::check_url(address, &rule)?;
            }
        }
        let mut environment = connection.environment;
        environment.extend(access.environment);
        let options = ConnectOptions {
            environment,
            ambient: false,
            extended: access.options,
            ca_certificates: connection.ca_certificates,
            insecure_tls: access.insecure_tls,
            refused: Some(Arc::new(move |name, address| !rule.permits(name, address))),
            deadline: CALL_DEADLINE,
            ..ConnectOptions::default()
        };
        Ok(Self { location, options, password })
    }

    /// A repository that a pod serves. Of its Secret the password alone is needed; what the pod must be, and who we are to it, is of this run.
    async fn through(door: &Door, repository: &Repository, context: &Context) -> Result<Self, OpenError> {
        let location = Location::parse_in_cluster(&format!("rest:https://{}:{}/", access::SERVER_NAME, access::PORT))?;
        let credentials = needed_credentials(repository, context).await?;
        let password = secret::password(credentials.get(PASSWORD).map(|bytes| bytes.as_slice()))?;
        let options = ConnectOptions {
            ca_certificates: Some(door.identity.authority.to_string()),
            client_identity: Some(Arc::clone(&door.identity.client)),
            resolved: Some((access::SERVER_NAME.to_owned(), door.address)),
            deadline: CALL_DEADLINE,
            ..ConnectOptions::default()
        };
        Ok(Self { location, options, password: Zeroizing::new(password.to_owned()) })
    }

    /// Reaches the store.
    ///
    /// # Errors
    ///
    /// It cannot be reached.
    pub async fn connect(&self) -> Result<Arc<dyn Backend>, OpenError> {
        Ok(connect(&self.location, &self.options).await.map_err(RepoError::from)?)
    }

    /// Opens the repository. The work of the password is done on a thread of its own.
    ///
    /// # Errors
    ///
    /// There is none, or the password opens no key.
    pub async fn open(&self, backend: Arc<dyn Backend>) -> Result<Access, OpenError> {
        Ok(Access::open(backend, &self.password, None).await?)
    }
}

/// Fails where there is no repository: by its config alone, which needs no key.
///
/// # Errors
///
/// There is none, or the store failed.
pub async fn require_config(backend: &Arc<dyn Backend>) -> Result<(), OpenError> {
    match backend.read_full(FileKind::Config, &Id::default(), CONFIG_LIMIT_BYTES).await {
        Ok(_) => Ok(()),
        Err(error) if error.kind == BackendErrorKind::NotFound => {
            Err(RepoError::NoRepository { location: backend.location().to_owned() }.into())
        }
        Err(error) => Err(RepoError::from(error).into()),
    }
}

/// Does `work` within [`DEADLINE`].
///
/// # Errors
///
/// Those of `work`, and `Deadline`.
pub async fn within_deadline<T>(work: impl Future<Output = Result<T, OpenError>>) -> Result<T, OpenError> {
    tokio::time::timeout(DEADLINE, work).await.unwrap_or(Err(OpenError::Deadline))
}

/// Returns the name of a Repository's Secret, with its namespace.
pub fn secret_name(repository: &Repository) -> String {
    let name = repository.spec.backend.storage_secret_name.as_deref().unwrap_or_default();
    format!("{}/{name}", repository.namespace().unwrap_or_default())
}

async fn needed_credentials(
    repository: &Repository,
    context: &Context,
) -> Result<BTreeMap<&'static str, Zeroizing<Vec<u8>>>, OpenError> {
    credentials(repository, context).await?.ok_or_else(|| OpenError::NoSecret(secret_name(repository)))
}

/// Reads the credentials of a Repository: of its Secret those keys that its backend needs. `None` if there is no such Secret.
///
/// # Errors
///
/// The API server did not tell, or there is not exactly one backend.
pub async fn credentials(
    repository: &Repository,
    context: &Context,
) -> Result<Option<BTreeMap<&'static str, Zeroizing<Vec<u8>>>>, OpenError> {
    let provider = backend::provider(&repository.spec.backend)?;
    let Some(name) = stores::secret_name(repository) else { return Ok(None) };
    if context.stores.secret_of(repository) == Known::NotYet {
        // The right to it may not be there yet.
        return Err(ReconcileError::NotSeen.into());
    }
    let secret = context.api::<Secret>(&repository.namespace().unwrap_or_default()).get_opt(name).await;
    let secret =
        secret.map_err(|error| ReconcileError::of(format!("read Secret {}", secret_name(repository)), error))?;
    let Some(mut data) = secret.and_then(|secret| secret.data) else { return Ok(None) };
    Ok(Some(
        backend::secret_keys(provider).filter_map(|key| Some((key, Zeroizing::new(data.remove(key)?.0)))).collect(),
    ))
}

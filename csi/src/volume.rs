//! What the attributes of a volume ask for. Pure: anyone who may create a pod writes them, so each is judged here by name, before
//! anything is looked up.

use std::collections::BTreeMap;

use crate::names::{SnapshotId, is_hex, is_object_name};
use crate::quantity;

/// The Repository.
pub const REPOSITORY: &str = "repository";
/// Its namespace; without it that of the pod.
pub const REPOSITORY_NAMESPACE: &str = "repositoryNamespace";
/// Which snapshot.
pub const SNAPSHOT: &str = "snapshot";
/// Of which host the latest snapshot is meant.
pub const HOST: &str = "host";
/// The folder of the snapshot that becomes the volume's root.
pub const PATH: &str = "path";
/// Whether the volume can be written.
pub const MODE: &str = "mode";
/// How much may be written to a volume that can be written.
pub const SCRATCH_SIZE: &str = "scratchSize";
/// The user to whom files belong.
pub const UID: &str = "uid";
/// The group to which files belong.
pub const GID: &str = "gid";
/// Whether all is fetched at once.
pub const PREFETCH: &str = "prefetch";

/// The RestoreSession whose init container sees the volume. The controller writes it, and no snapshot beside it.
pub const RESTORE_SESSION: &str = "restoreSession";
/// Where that container reads it, by which its orders name it.
pub const RESTORE_SOURCE: &str = "restoreSource";

/// All attributes that a user writes.
pub const ATTRIBUTES: [&str; 10] =
    [REPOSITORY, REPOSITORY_NAMESPACE, SNAPSHOT, HOST, PATH, MODE, SCRATCH_SIZE, UID, GID, PREFETCH];

/// What kubelet says about the pod, where the CSIDriver object asks for it.
pub const POD_NAME: &str = "csi.storage.k8s.io/pod.name";
/// The pod's namespace.
pub const POD_NAMESPACE: &str = "csi.storage.k8s.io/pod.namespace";
/// The pod's uid.
pub const POD_UID: &str = "csi.storage.k8s.io/pod.uid";
/// The pod's service account.
pub const SERVICE_ACCOUNT: &str = "csi.storage.k8s.io/serviceAccount.name";
/// Whether the volume is of the pod alone.
pub const EPHEMERAL: &str = "csi.storage.k8s.io/ephemeral";
/// Of external-provisioner, in each PersistentVolume that it makes. Nothing is done with it.
pub const PROVISIONER: &str = "storage.kubernetes.io/csiProvisionerIdentity";

/// The longest host that is taken, as restic's.
const HOST_LIMIT: usize = 255;
/// The longest path that is taken.
const PATH_LIMIT: usize = 4096;
/// How much of a value an error shows.
const SHOWN: usize = 64;

/// Why attributes are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttributeError {
    /// There is no such attribute.
    #[error("the attribute {name:?} is not known; these are: {}", ATTRIBUTES.join(", "))]
    Unknown {
        /// Its name. Its value is not shown: it may be a secret that somebody put in the wrong place.
        name: String,
    },
    /// One is needed.
    #[error("the attribute {0} is needed")]
    Missing(&'static str),
    /// Its value is none.
    #[error("the attribute {name} is {value:?}; it must be {expected}")]
    Invalid {
        /// Its name.
        name: &'static str,
        /// Its value, cut.
        value: String,
        /// What it must be.
        expected: &'static str,
    },
    /// It says nothing beside another.
    #[error("the attribute host chooses the latest snapshot of a host: it goes with snapshot: latest only")]
    HostWithoutLatest,
    /// It says nothing beside another.
    #[error("the attribute scratchSize bounds what is written to a volume: it goes with mode: overlay only")]
    ScratchWithoutOverlay,
    /// Kubelet did not say which pod it is.
    #[error("{0} is needed: the CSIDriver object {driver} must have podInfoOnMount: true", driver = crate::names::DRIVER)]
    NoPod(&'static str),
}

/// Which snapshot is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotChoice {
    /// The latest one that holds the path, of a host if one is named.
    Latest {
        /// The host.
        host: Option<String>,
    },
    /// The one with this id.
    Id(SnapshotId),
    /// The one whose id begins so.
    Prefix(String),
    /// The one that this object stands for.
    Named(String),
    /// The one that a pod restores from before it starts, if it does.
    AtStart {
        /// The RestoreSession, in the pod's namespace.
        session: String,
        /// Where the pod reads it.
        source: String,
    },
}

/// Whether a volume can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It cannot.
    ReadOnly,
    /// It can; what is written is kept beside the snapshot, for as long as the volume is mounted.
    Overlay,
}

impl Mode {
    /// Returns it as the attribute has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ReadOnly => "ro",
            Self::Overlay => "overlay",
        }
    }
}

/// To whom files belong, where not to those of the backup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ownership {
    /// The user.
    pub uid: Option<u32>,
    /// The group.
    pub gid: Option<u32>,
}

/// A folder of a snapshot: `/`, or parts behind a slash each; no `.`, no `..`, none empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotPath(String);

impl Default for SnapshotPath {
    fn default() -> Self {
        Self("/".to_owned())
    }
}

impl SnapshotPath {
    /// Reads a path; one without a slash at its beginning is taken from the root, and slashes are counted once.
    pub fn parse(text: &str) -> Option<Self> {
        let plain = |part: &&str| !matches!(*part, "." | "..") && part.len() <= 255;
        let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty()).collect();
        let fine = !text.is_empty() && text.len() <= PATH_LIMIT && !text.contains('\0') && parts.iter().all(plain);
        fine.then(|| Self(format!("/{}", parts.join("/"))))
    }

    /// Returns it as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a backup of `path` holds this folder: it is that path, or lies below it.
    pub fn is_within(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        self.0 == path || self.0.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'))
    }
}

/// What a volume is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The Repository.
    pub repository: String,
    /// Its namespace.
    pub repository_namespace: Option<String>,
    /// The snapshot.
    pub snapshot: SnapshotChoice,
    /// The folder of it.
    pub path: SnapshotPath,
    /// Whether it can be written.
    pub mode: Mode,
    /// How much, in bytes; without it what the node has for all.
    pub scratch_bytes: Option<u64>,
    /// To whom files belong.
    pub ownership: Ownership,
    /// Whether all is fetched at once.
    pub prefetch: bool,
}

/// The pod that a volume is for, as kubelet names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodInfo {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its service account.
    pub service_account: String,
    /// Whether the volume is of this pod alone.
    pub ephemeral: bool,
}

/// Reads the context of a volume that is to be published: what the user wrote, and what kubelet says of the pod.
///
/// # Errors
///
/// The first attribute that is wrong, by name.
pub fn parse(context: &BTreeMap<String, String>) -> Result<(Wanted, PodInfo), AttributeError> {
    let of_pod = [POD_NAME, POD_NAMESPACE, POD_UID, SERVICE_ACCOUNT, EPHEMERAL, PROVISIONER];
    let ephemeral = context.get(EPHEMERAL).is_some_and(|value| value == "true");
    let wanted = if ephemeral && context.contains_key(RESTORE_SESSION) {
        at_start(context, &of_pod)?
    } else {
        wanted(context, &of_pod)?
    };
    let pod = |name: &'static str| {
        context.get(name).filter(|value| !value.is_empty()).cloned().ok_or(AttributeError::NoPod(name))
    };
    let pod = PodInfo {
        namespace: pod(POD_NAMESPACE)?,
        name: pod(POD_NAME)?,
        uid: pod(POD_UID)?,
        service_account: pod(SERVICE_ACCOUNT)?,
        ephemeral,
    };
    Ok((wanted, pod))
}

/// Reads what a user asks for; keys of `others` are not the user's.
///
/// # Errors
///
/// The first attribute that is wrong, by name.
pub fn wanted(attributes: &BTreeMap<String, String>, others: &[&str]) -> Result<Wanted, AttributeError> {
    let given = Given::of(attributes, others)?;
    let repository = given.object(REPOSITORY)?.ok_or(AttributeError::Missing(REPOSITORY))?;
    let snapshot = given.get(SNAPSHOT).ok_or(AttributeError::Missing(SNAPSHOT))?;
    let host = given.host()?;
    let snapshot = match snapshot {
        "latest" => SnapshotChoice::Latest { host },
        _ if host.is_some() => return Err(AttributeError::HostWithoutLatest),
        text => choice(text).ok_or_else(|| {
            given.invalid(SNAPSHOT, "latest, an id or its first 4 digits or more, or the name of a Snapshot")
        })?,
    };
    let rest = given.rest()?;
    Ok(Wanted { repository, repository_namespace: given.object(REPOSITORY_NAMESPACE)?, snapshot, ..rest })
}

/// Reads what the init container of a restored workload asks for.
fn at_start(attributes: &BTreeMap<String, String>, of_pod: &[&str]) -> Result<Wanted, AttributeError> {
    let given = Given::of(attributes, &[of_pod, &[RESTORE_SESSION, RESTORE_SOURCE]].concat())?;
    for name in ATTRIBUTES.into_iter().filter(|name| *name != REPOSITORY) {
        if given.get(name).is_some() {
            return Err(given.invalid(name, "left out: the RestoreSession says which snapshot it is"));
        }
    }
    let session = given.object(RESTORE_SESSION)?.ok_or(AttributeError::Missing(RESTORE_SESSION))?;
    let repository = given.object(REPOSITORY)?.ok_or(AttributeError::Missing(REPOSITORY))?;
    let source = given.get(RESTORE_SOURCE).ok_or(AttributeError::Missing(RESTORE_SOURCE))?.to_owned();
    Ok(Wanted { repository, snapshot: SnapshotChoice::AtStart { session, source }, ..given.rest()? })
}

/// Reads what may stand beside a snapshot that something else names: folder, mode, owners, prefetch. The rest of the answer says nothing.
///
/// # Errors
///
/// The first attribute that is wrong, by name; one that names a snapshot is wrong.
pub fn beside_snapshot(
    attributes: &BTreeMap<String, String>,
    others: &[&str],
) -> Result<(Wanted, bool), AttributeError> {
    let given = Given::of(attributes, others)?;
    for name in [REPOSITORY, REPOSITORY_NAMESPACE, SNAPSHOT, HOST] {
        if given.get(name).is_some() {
            return Err(given.invalid(name, "left out: the claim's dataSourceRef names the Snapshot"));
        }
    }
    Ok((given.rest()?, given.get(PATH).is_some()))
}

/// Reads which snapshot is meant, where `latest` is read already: a whole id, the beginning of one, or the name of an object.
pub fn choice(text: &str) -> Option<SnapshotChoice> {
    if let Some(id) = SnapshotId::parse(text) {
        return Some(SnapshotChoice::Id(id));
    }
    if (4..64).contains(&text.len()) && is_hex(text) {
        return Some(SnapshotChoice::Prefix(text.to_owned()));
    }
    is_object_name(text).then(|| SnapshotChoice::Named(text.to_owned()))
}

struct Given<'a>(&'a BTreeMap<String, String>);

impl<'a> Given<'a> {
    fn of(attributes: &'a BTreeMap<String, String>, others: &[&str]) -> Result<Self, AttributeError> {
        let known = |name: &str| ATTRIBUTES.contains(&name) || others.contains(&name);
        match attributes.keys().find(|name| !known(name)) {
            Some(unknown) => Err(AttributeError::Unknown { name: unknown.chars().take(SHOWN).collect() }),
            None => Ok(Self(attributes)),
        }
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).map(String::as_str)
    }

    fn invalid(&self, name: &'static str, expected: &'static str) -> AttributeError {
        let value = self.get(name).unwrap_or_default().chars().take(SHOWN).collect();
        AttributeError::Invalid { name, value, expected }
    }

    fn object(&self, name: &'static str) -> Result<Option<String>, AttributeError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        if is_object_name(value) {
            Ok(Some(value.to_owned()))
        } else {
            Err(self.invalid(name, "the name of an object"))
        }
    }

    fn host(&self) -> Result<Option<String>, AttributeError> {
        let Some(value) = self.get(HOST) else { return Ok(None) };
        let fine = !value.is_empty() && value.len() <= HOST_LIMIT && !value.chars().any(char::is_control);
        if fine { Ok(Some(value.to_owned())) } else { Err(self.invalid(HOST, "the name of a host")) }
    }

    fn number(&self, name: &'static str) -> Result<Option<u32>, AttributeError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
        // The last number means "nobody" to the kernel.
        let number = value.parse().ok().filter(|number| digits && *number != u32::MAX);
        number.map(Some).ok_or_else(|| self.invalid(name, "a number from 0 to 4294967294"))
    }

    /// What says nothing about which snapshot it is.
    fn rest(&self) -> Result<Wanted, AttributeError> {
        let path = match self.get(PATH) {
            None => SnapshotPath::default(),
            Some(text) => SnapshotPath::parse(text)
                .ok_or_else(|| self.invalid(PATH, "a folder of the snapshot, without . and .."))?,
        };
        let mode = match self.get(MODE) {
            None | Some("ro") => Mode::ReadOnly,
            Some("overlay") => Mode::Overlay,
            Some(_) => return Err(self.invalid(MODE, "ro or overlay")),
        };
        let scratch_bytes = match self.get(SCRATCH_SIZE) {
            None => None,
            Some(_) if mode == Mode::ReadOnly => return Err(AttributeError::ScratchWithoutOverlay),
            Some(text) => Some(
                quantity::bytes(text)
                    .filter(|bytes| *bytes > 0)
                    .ok_or_else(|| self.invalid(SCRATCH_SIZE, "a size like 500Mi or 2Gi"))?,
            ),
        };
        let prefetch = match self.get(PREFETCH) {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => return Err(self.invalid(PREFETCH, "true or false")),
        };
        let ownership = Ownership { uid: self.number(UID)?, gid: self.number(GID)? };
        Ok(Wanted {
            repository: String::new(),
            repository_namespace: None,
            snapshot: SnapshotChoice::Latest { host: None },
            path,
            mode,
            scratch_bytes,
            ownership,
            prefetch,
        })
    }
}

#[cfg(test)]
mod tests;

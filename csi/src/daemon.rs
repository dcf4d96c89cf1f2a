//! The node daemon, as the driver sees it: it reads repositories, and has a keeper that mounts.
//!
//! The driver itself mounts, binds and unmounts nothing, and opens no store; it makes the folder to mount on, and removes it
//! ([`folder`](crate::folder)). All else happens behind this trait, by typed requests: which volume, which folder below kubelet's
//! directory, which repository with which keys, which snapshot.

use std::collections::BTreeMap;

use async_trait::async_trait;
use zeroize::Zeroizing;

use crate::names::{MountName, SnapshotId};
use crate::target::TargetPath;
use crate::volume::{Mode, Ownership, SnapshotPath};

/// A repository, and what opens it. In memory only, wiped when it is dropped, never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct RepositoryAccess {
    /// The address, as restic takes it, without a secret in it.
    pub address: String,
    /// The password.
    pub password: Zeroizing<String>,
    /// Settings and credentials of the store, by restic's variables. No others are used.
    pub environment: BTreeMap<String, Zeroizing<String>>,
    /// restic's options (`-o`).
    pub options: BTreeMap<String, String>,
    /// PEM of the certificates that are trusted instead of the machine's.
    pub ca_certificates: Option<String>,
    /// Whether the server's certificate is taken unseen.
    pub insecure_tls: bool,
}

impl std::fmt::Debug for RepositoryAccess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RepositoryAccess").field("address", &self.address).finish_non_exhaustive()
    }
}

/// A mount that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountRequest {
    /// What it is called.
    pub name: MountName,
    /// Where it is made. The folder is there.
    pub target: TargetPath,
    /// Of which repository.
    pub repository: RepositoryAccess,
    /// Which snapshot.
    pub snapshot: SnapshotId,
    /// Which folder of it.
    pub path: SnapshotPath,
    /// Whether it can be written.
    pub mode: Mode,
    /// How much, in bytes; without it what the daemon has for all.
    pub scratch_bytes: Option<u64>,
    /// To whom files belong.
    pub ownership: Ownership,
    /// Whether all is fetched at once, in the background.
    pub prefetch: bool,
}

/// A mount that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// What it is called.
    pub name: MountName,
    /// Of which snapshot; not known while an operation is under way, nor of what an earlier daemon left until it is served again.
    pub snapshot: Option<SnapshotId>,
    /// What is wrong with it: a sentence without secrets. `None` while it is served.
    pub trouble: Option<String>,
}

/// What the daemon has for all mounts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DaemonStats {
    /// The budget of memory that all mounts share, in bytes.
    pub memory_limit_bytes: u64,
}

/// What kind of failure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DaemonErrorKind {
    /// The request is none.
    Invalid,
    /// Another mount has the name or the place.
    Exists,
    /// Another call for the mount is under way.
    Busy,
    /// It is not possible as things are: the mount is in use, the mode is none that this daemon has.
    Precondition,
    /// The repository's password or the store's credentials are wrong.
    Unauthenticated,
    /// There is no such repository, snapshot or folder, or no such mount.
    NotFound,
    /// The store, or the daemon, or its keeper is away.
    Unavailable,
    /// There are as many mounts as there may be.
    Exhausted,
    /// Something else.
    Internal,
}

/// Why the daemon did not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node daemon: {message}")]
pub struct DaemonError {
    /// Which kind.
    pub kind: DaemonErrorKind,
    /// A sentence without secrets: it becomes an event of the pod.
    pub message: String,
}

impl DaemonError {
    /// Makes one.
    pub fn new(kind: DaemonErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

/// The node daemon. Every call may be made twice, and is the same to whoever looks: nothing is mounted twice, what is not there is
/// unmounted without an error.
///
/// # What an implementation must hold
///
/// * The target is opened below kubelet's directory without following symbolic links, and so is each parent.
/// * A mount whose server is gone is detached (`MNT_DETACH`) without a stat of it.
/// * After an error nothing is mounted, but for `Busy`, `Unavailable` and `Exhausted`: after these it may be.
#[async_trait]
pub trait NodeDaemon: Send + Sync + std::fmt::Debug + 'static {
    /// Mounts, and returns when the tree can be read. The same request again changes nothing.
    ///
    /// # Errors
    ///
    /// Another mount has the name or the place, or it cannot be done.
    async fn mount(&self, request: &MountRequest) -> Result<(), DaemonError>;

    /// Unmounts; the folder stays. What is not there is no error.
    ///
    /// # Errors
    ///
    /// It is still there.
    async fn unmount(&self, name: &MountName, target: &TargetPath) -> Result<(), DaemonError>;

    /// Lists all mounts.
    ///
    /// # Errors
    ///
    /// The daemon does not answer.
    async fn list(&self) -> Result<Vec<Mounted>, DaemonError>;

    /// Returns what the daemon has for all.
    ///
    /// # Errors
    ///
    /// The daemon does not answer.
    async fn stats(&self) -> Result<DaemonStats, DaemonError>;
}

/// How much of the daemon's memory a volume is counted as.
const BYTES_PER_VOLUME: u64 = 4 << 20;
/// The most volumes of a node, whatever its memory: none of them may show the same.
const MOST_VOLUMES: u64 = stash_control::MAX_SESSIONS as u64;

/// Returns how many volumes a node may have, by the memory that they share. Never none: 0 would say "any number".
pub fn max_volumes(stats: DaemonStats) -> i64 {
    let volumes = (stats.memory_limit_bytes / BYTES_PER_VOLUME).clamp(1, MOST_VOLUMES);
    volumes.try_into().unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_credentials_are_not_printed() {
        let access = RepositoryAccess {
            address: "s3:host/b".to_owned(),
            password: Zeroizing::new("geheim".to_owned()),
            environment: [("AWS_SECRET_ACCESS_KEY".to_owned(), Zeroizing::new("geheim".to_owned()))].into(),
            ca_certificates: Some("geheim".to_owned()),
            ..RepositoryAccess::default()
        };
        assert_eq!(format!("{access:?}"), "RepositoryAccess { address: \"s3:host/b\", .. }");
    }

    #[test]
    fn test_how_many_volumes_a_node_may_have() {
        for (memory_limit_bytes, expected) in [(0, 1), (64 << 20, 16), (512 << 20, 128), (u64::MAX, 480)] {
            assert_eq!(max_volumes(DaemonStats { memory_limit_bytes }), expected, "{memory_limit_bytes}");
        }
    }
}

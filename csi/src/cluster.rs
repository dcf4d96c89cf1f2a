//! What the driver asks the API server. It only reads, but for one taint; what it decides by that stands in [`authorise`](crate::authorise),
//! [`resolve`](crate::resolve) and [`provision`](crate::provision).

use std::collections::BTreeMap;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use stash_crds::{Repository, RestoreSession, Snapshot};
use zeroize::Zeroizing;

use crate::authorise::Account;

mod kube_api;

pub use kube_api::KubeApi;

/// What lies under the keys of a Secret. Wiped when it is dropped.
pub type SecretData = BTreeMap<String, Zeroizing<Vec<u8>>>;

/// Why the API server did not tell.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// The driver's account must not ask this.
    #[error("the driver's account may not {0}: it lacks that right")]
    Forbidden(String),
    /// It is away, or failed.
    #[error("the API server did not answer to: {what}: {reason}")]
    Unavailable {
        /// What was asked.
        what: String,
        /// What happened.
        reason: String,
    },
}

/// What is asked. `None` is an answer: it is not there. Everything else that is not an answer is an error, so that nothing is allowed by
/// a failure.
#[async_trait]
pub trait Cluster: Send + Sync + std::fmt::Debug + 'static {
    /// Returns a Repository.
    async fn repository(&self, namespace: &str, name: &str) -> Result<Option<Repository>, ClusterError>;
    /// Returns a Snapshot.
    async fn snapshot(&self, namespace: &str, name: &str) -> Result<Option<Snapshot>, ClusterError>;
    /// Returns a RestoreSession.
    async fn restore_session(&self, namespace: &str, name: &str) -> Result<Option<RestoreSession>, ClusterError>;
    /// Returns all Snapshots of a Repository: of the same label, others may be among them.
    async fn snapshots(&self, namespace: &str, repository: &str) -> Result<Vec<Snapshot>, ClusterError>;
    /// Returns the labels of a namespace.
    async fn namespace_labels(&self, name: &str) -> Result<Option<BTreeMap<String, String>>, ClusterError>;
    /// Returns a pod.
    async fn pod(&self, namespace: &str, name: &str) -> Result<Option<Pod>, ClusterError>;
    /// Returns what a Secret holds.
    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<SecretData>, ClusterError>;
    /// Returns a claim.
    async fn claim(&self, namespace: &str, name: &str) -> Result<Option<PersistentVolumeClaim>, ClusterError>;
    /// Returns a volume of the cluster.
    async fn volume(&self, name: &str) -> Result<Option<PersistentVolume>, ClusterError>;
    /// Takes the taint of [`taint`](crate::taint) off a node; returns whether it had one.
    async fn lift_taint(&self, node: &str) -> Result<bool, ClusterError>;
    /// Whether an account may mount a snapshot of a namespace; without a name, any of them.
    async fn may_mount(&self, account: &Account, namespace: &str, snapshot: Option<&str>)
    -> Result<bool, ClusterError>;
}

#[cfg(test)]
pub(crate) mod fake;

//! A cluster in memory.

use parking_lot::Mutex;

use super::*;

/// The content of a Secret.
type Content = Vec<(String, Vec<u8>)>;

/// What it holds. What is not put in is not there; what is asked is written down.
#[derive(Debug, Default)]
pub(crate) struct FakeCluster {
    pub(crate) repositories: Vec<Repository>,
    pub(crate) snapshots: Mutex<Vec<Snapshot>>,
    pub(crate) namespaces: BTreeMap<String, BTreeMap<String, String>>,
    pub(crate) pods: Vec<Pod>,
    pub(crate) restores: Mutex<Vec<RestoreSession>>,
    pub(crate) secrets: BTreeMap<(String, String), Content>,
    pub(crate) claims: Vec<PersistentVolumeClaim>,
    pub(crate) volumes: Vec<PersistentVolume>,
    /// Who may mount: user, namespace, snapshot or `*`.
    pub(crate) grants: Vec<(String, String, String)>,
    /// Whether the API server is away.
    pub(crate) away: bool,
    pub(crate) asked: Mutex<Vec<String>>,
}

impl FakeCluster {
    fn ask<T>(&self, what: String, answer: T) -> Result<T, ClusterError> {
        self.asked.lock().push(what.clone());
        if self.away { Err(ClusterError::Unavailable { what, reason: "away".to_owned() }) } else { Ok(answer) }
    }
}

fn find<K: kube::ResourceExt + Clone>(all: &[K], namespace: &str, name: &str) -> Option<K> {
    all.iter().find(|one| one.namespace().unwrap_or_default() == namespace && one.name_any() == name).cloned()
}

#[async_trait]
impl Cluster for FakeCluster {
    async fn repository(&self, namespace: &str, name: &str) -> Result<Option<Repository>, ClusterError> {
        self.ask(format!("repository {namespace}/{name}"), find(&self.repositories, namespace, name))
    }

    async fn snapshot(&self, namespace: &str, name: &str) -> Result<Option<Snapshot>, ClusterError> {
        let found = find(&self.snapshots.lock(), namespace, name);
        self.ask(format!("snapshot {namespace}/{name}"), found)
    }

    async fn restore_session(&self, namespace: &str, name: &str) -> Result<Option<RestoreSession>, ClusterError> {
        let found = find(&self.restores.lock(), namespace, name);
        self.ask(format!("restore session {namespace}/{name}"), found)
    }

    async fn snapshots(&self, namespace: &str, repository: &str) -> Result<Vec<Snapshot>, ClusterError> {
        let mut found = self.snapshots.lock().clone();
        found.retain(|one| one.metadata.namespace.as_deref() == Some(namespace));
        self.ask(format!("snapshots {namespace}/{repository}"), found)
    }

    async fn namespace_labels(&self, name: &str) -> Result<Option<BTreeMap<String, String>>, ClusterError> {
        self.ask(format!("namespace {name}"), self.namespaces.get(name).cloned())
    }

    async fn pod(&self, namespace: &str, name: &str) -> Result<Option<Pod>, ClusterError> {
        self.ask(format!("pod {namespace}/{name}"), find(&self.pods, namespace, name))
    }

    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<SecretData>, ClusterError> {
        let found = self.secrets.get(&(namespace.to_owned(), name.to_owned()));
        let data = |pairs: &Vec<(String, Vec<u8>)>| {
            pairs.iter().map(|(key, value)| (key.clone(), Zeroizing::new(value.clone()))).collect()
        };
        self.ask(format!("secret {namespace}/{name}"), found.map(data))
    }

    async fn claim(&self, namespace: &str, name: &str) -> Result<Option<PersistentVolumeClaim>, ClusterError> {
        self.ask(format!("claim {namespace}/{name}"), find(&self.claims, namespace, name))
    }

    async fn volume(&self, name: &str) -> Result<Option<PersistentVolume>, ClusterError> {
        self.ask(format!("volume {name}"), find(&self.volumes, "", name))
    }

    async fn lift_taint(&self, node: &str) -> Result<bool, ClusterError> {
        self.ask(format!("taints of {node}"), false)
    }

    async fn may_mount(
        &self,
        account: &Account,
        namespace: &str,
        snapshot: Option<&str>,
    ) -> Result<bool, ClusterError> {
        let granted = self.grants.iter().any(|(user, place, name)| {
            *user == account.user() && place == namespace && (name == "*" || Some(name.as_str()) == snapshot)
        });
        self.ask(format!("review {} {namespace} {}", account.user(), snapshot.unwrap_or("*")), granted)
    }
}

//! The API server, what users have made there, and the controller.

use std::fmt::Debug;

use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret};
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use stash_crds::backup_configuration::InvokerPhase;
use stash_crds::{BackupConfiguration, Repository};
use stash_repo::backend::{ConnectOptions, Location, connect};
use stash_repo::write::init::{InitOptions, init};
use stash_repo::{FileKind, Id};
use stash_tests::cluster::ApiServer;
use stash_tests::controller::Controller;
use stash_tests::servers::Minio;

/// Where everything is.
pub(crate) const NAMESPACE: &str = "bench";
/// How many requests are under way at once.
pub(crate) const AT_ONCE: usize = 16;
/// How many configurations share a repository.
const SHARE: usize = 10;
/// A schedule that is never due while a benchmark runs.
const SELDOM: &str = "0 0 29 2 *";

/// The bucket of all repositories.
const BUCKET: &str = "bench";
/// Their password.
const PASSWORD: &str = "p";
/// More than a config or a key.
const SMALL_FILE: u64 = 1 << 20;

/// The API server, a client of it, and the store of the repositories.
pub(crate) struct World {
    server: ApiServer,
    minio: Minio,
    client: Client,
    folder: tempfile::TempDir,
}

impl World {
    /// Starts an API server that knows all kinds.
    pub(crate) async fn start() -> Self {
        let server = tokio::task::spawn_blocking(|| {
            let server = ApiServer::start();
            for definition in stash_crds::definitions() {
                server.kubectl().apply(&serde_json::to_value(definition).unwrap());
            }
            server.kubectl().wait_for_definitions();
            server.kubectl().run(&["create", "namespace", NAMESPACE]);
            let minio = Minio::start();
            minio.create_bucket(BUCKET);
            (server, minio)
        });
        let (server, minio) = server.await.unwrap();
        drop(rustls::crypto::ring::default_provider().install_default());
        let kubeconfig = Kubeconfig::read_from(server.kubectl().kubeconfig()).unwrap();
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        let client = Client::try_from(config).unwrap();
        Self { server, minio, client, folder: tempfile::tempdir().unwrap() }
    }

    /// Returns the calls for a kind.
    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    /// Makes configurations, each with a claim of its own.
    pub(crate) async fn configure(&self, count: usize) {
        let mut keys = json!(self.minio.environment());
        keys["RESTIC_PASSWORD"] = json!(PASSWORD);
        self.create::<Secret>(vec![json!({"metadata": {"name": "s3"}, "stringData": keys})]).await;
        self.found(count.div_ceil(SHARE)).await;
        let endpoint = format!("http://{}", self.minio.address());
        let repositories = (0..count.div_ceil(SHARE)).map(|number| {
            let s3 = json!({"endpoint": endpoint, "bucket": BUCKET, "prefix": format!("r{number}")});
            json!({
                "apiVersion": "stash.appscode.com/v1alpha1", "kind": "Repository", "metadata": {"name": format!("r{number}")},
                "spec": {"backend": {"storageSecretName": "s3", "s3": s3}}
            })
        });
        self.create::<Repository>(repositories.collect()).await;
        let claims = (0..count).map(|number| {
            json!({
                "metadata": {"name": format!("data{number}")},
                "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
            })
        });
        self.create::<PersistentVolumeClaim>(claims.collect()).await;
        let configurations = (0..count).map(|number| {
            let target = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": format!("data{number}")});
            json!({
                "apiVersion": "stash.appscode.com/v1beta1", "kind": "BackupConfiguration",
                "metadata": {"name": format!("c{number}")},
                "spec": {
                    "schedule": SELDOM, "repository": {"name": format!("r{}", number / SHARE)}, "target": {"ref": target},
                    "retentionPolicy": {"name": "keep", "keepLast": 5, "prune": true}
                }
            })
        });
        self.create::<BackupConfiguration>(configurations.collect()).await;
    }

    /// Makes the repositories: one, and copies of it.
    async fn found(&self, count: usize) {
        let options = ConnectOptions { environment: self.minio.environment(), ..ConnectOptions::default() };
        let location = |number: usize| Location::parse(&self.minio.repository(BUCKET, &format!("r{number}"))).unwrap();
        let first = connect(&location(0), &options).await.unwrap();
        let access = init(first.clone(), PASSWORD, &InitOptions::default()).await.unwrap();
        let (none, key) = (Id::default(), access.key_id().0);
        let config = first.read_full(FileKind::Config, &none, SMALL_FILE).await.unwrap();
        let key_file = first.read_full(FileKind::Key, &key, SMALL_FILE).await.unwrap();
        for number in 1..count {
            let backend = connect(&location(number), &options).await.unwrap();
            backend.write(FileKind::Key, &key, key_file.clone()).await.unwrap();
            backend.write(FileKind::Config, &none, config.clone()).await.unwrap();
        }
    }

    async fn create<K>(&self, objects: Vec<Value>)
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Serialize,
    {
        let api = self.api::<K>();
        let made = objects.into_iter().map(|object| {
            let (api, object) = (api.clone(), serde_json::from_value::<K>(object).unwrap());
            async move { api.create(&PostParams::default(), &object).await }
        });
        let made: Vec<_> = stream::iter(made).buffer_unordered(AT_ONCE).collect().await;
        made.into_iter().for_each(|made| drop(made.unwrap()));
    }

    /// Gives all configurations another schedule.
    pub(crate) async fn schedule(&self, count: usize, line: &str) {
        let api = self.api::<BackupConfiguration>();
        let patched = (0..count).map(|number| {
            let (api, patch) = (api.clone(), Patch::Merge(json!({"spec": {"schedule": line}})));
            async move { api.patch(&format!("c{number}"), &PatchParams::default(), &patch).await }
        });
        let patched: Vec<_> = stream::iter(patched).buffer_unordered(AT_ONCE).collect().await;
        patched.into_iter().for_each(|patched| drop(patched.unwrap()));
    }

    /// Waits until all configurations are Ready.
    pub(crate) async fn wait_until_ready(&self, count: usize) {
        let api = self.api::<BackupConfiguration>();
        loop {
            let listed = api.list(&ListParams::default()).await.unwrap();
            let ready = |configuration: &&BackupConfiguration| {
                configuration.status.as_ref().is_some_and(|status| status.phase == Some(InvokerPhase::Ready))
            };
            if listed.items.iter().filter(ready).count() == count {
                return;
            }
            crate::pause(std::time::Duration::from_millis(500)).await;
        }
    }

    /// Starts the controller.
    pub(crate) fn controller(&mut self) -> Controller {
        let log = self.folder.path().join("controller.log");
        Controller::start(
            self.server.kubectl().kubeconfig(),
            &log,
            &["--jitter=60s", "--log=warn", "--allow-address=127.0.0.1"],
        )
    }

    /// Returns the API server's own figures.
    pub(crate) async fn metrics(&self) -> String {
        let request = http::Request::get("/metrics").body(Vec::new()).unwrap();
        self.client.request_text(request).await.unwrap()
    }
}

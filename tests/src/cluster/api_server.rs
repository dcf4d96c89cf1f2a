//! An API server with its store and nothing else: for schemas, and for controllers whose nodes the test plays.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use super::{Kubectl, Namespace, wait_until};
use crate::servers::{Certificates, Server, free_port, http1, tool};

/// etcd and kube-apiserver on loopback. Nothing runs, schedules or collects what is created there; several may run at
/// once, beside a [`Cluster`](super::Cluster) too.
#[derive(Debug)]
pub struct ApiServer {
    kubectl: Kubectl,
    token: String,
    // Dropped in this order.
    api_server: Server,
    _etcd: Server,
    _folder: tempfile::TempDir,
}

impl ApiServer {
    /// Starts it and waits until it is ready.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let etcd = Server::start("etcd", |port| {
            let (client, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{}", free_port()));
            let mut command = Command::new("etcd");
            command.args(["--unsafe-no-fsync", "--data-dir", &path("etcd")]);
            command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
            command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
            command.args(["--initial-cluster", &format!("default={peer}")]);
            command
        });
        let certificates = Certificates::make();
        let token = hex::encode(rand::random::<[u8; 16]>());
        fs::write(path("tokens"), format!("{token},admin,admin,system:masters\n")).unwrap();
        let (certificate, key) = (certificates.certificate("server"), certificates.key("server"));
        let api_server = Server::start("kube-apiserver", |port| {
            let mut command = Command::new(tool("kube-apiserver"));
            command.args(["--bind-address=127.0.0.1", "--service-cluster-ip-range=198.19.0.0/16"]);
            command.arg(format!("--etcd-servers=http://{}", etcd.address()));
            command.arg(format!("--secure-port={port}"));
            command.arg(format!("--token-auth-file={}", path("tokens")));
            command.arg("--tls-cert-file").arg(&certificate).arg("--tls-private-key-file").arg(&key);
            command.args(["--authorization-mode=RBAC", "--allow-privileged"]);
            // Nobody makes the accounts that it would ask for.
            command.arg("--disable-admission-plugins=ServiceAccount");
            command.arg("--service-account-issuer=https://kubernetes.default.svc");
            command.arg("--service-account-key-file").arg(&certificate);
            command.arg("--service-account-signing-key-file").arg(&key);
            command
        });
        let kubeconfig = folder.path().join("admin.conf");
        let authority = fs::read_to_string(certificates.certificate("ca")).unwrap();
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{ "name": "test", "cluster": {
                "server": format!("https://{}", api_server.address()),
                "certificate-authority-data": base64::Engine::encode(&base64::prelude::BASE64_STANDARD, authority),
            } }],
            "users": [{ "name": "admin", "user": { "token": token } }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "admin" } }],
        });
        fs::write(&kubeconfig, config.to_string()).unwrap();
        let kubectl = Kubectl::new(kubeconfig);
        wait_until("kube-apiserver", || kubectl.try_run(&["get", "--raw", "/readyz"], "").ok());
        Self { kubectl, token, api_server, _etcd: etcd, _folder: folder }
    }

    /// A client with all rights.
    pub fn kubectl(&self) -> &Kubectl {
        &self.kubectl
    }

    /// Sends one request, as `POST`, `/api/v1/namespaces`, an object; returns the status and the answer. A field that the object's
    /// kind does not have is an error.
    pub fn request(&self, method: &str, path: &str, object: &Value) -> (u16, Value) {
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let headers = [("Authorization", format!("Bearer {}", self.token)), ("Content-Type", kind.to_owned())];
        let headers = headers.map(|(name, value)| (name.to_owned(), value));
        let path = format!("{path}?fieldValidation=Strict");
        let body = object.to_string();
        let answer = http1::request_tls(self.api_server.address(), method, &path, &headers, body.as_bytes());
        let (status, answer) = answer.unwrap();
        (status, serde_json::from_slice(&answer).unwrap_or_else(|error| panic!("{method} {path}: {error}")))
    }

    /// A namespace of its own for a test.
    pub fn namespace(&self) -> Namespace<'_> {
        Namespace::create(&self.kubectl, false)
    }
}

//! The API server, with the rights of whoever calls.

use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use stash_csi::cluster::{ClusterError, KubeApi};
use stash_fs::cli::{CliError, CliResult};

use crate::args::ClusterArgs;

/// Where the rights that the verbs need are listed.
pub(crate) const RIGHTS: &str =
    "docs/kubectl.md has a Role with what each verb needs; `kubectl auth can-i --list` shows what you may";

/// How long one request may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// A client, and the namespace that is meant.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) client: Client,
    pub(crate) namespace: String,
}

impl Cluster {
    /// Finds the API server as kubectl does.
    pub(crate) async fn connect(options: &ClusterArgs) -> CliResult<Self> {
        let config = config(options).await?;
        let namespace = options.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config)
            .map_err(|error| CliError::failure(format!("the API server cannot be reached: {error}")))?;
        Ok(Self { client, namespace })
    }

    /// The same questions as the CSI driver's.
    pub(crate) fn api(&self) -> KubeApi {
        KubeApi::new(self.client.clone())
    }
}

async fn config(options: &ClusterArgs) -> CliResult<Config> {
    let chosen = KubeConfigOptions { context: options.context.clone(), ..KubeConfigOptions::default() };
    let read = match &options.kubeconfig {
        Some(path) => Kubeconfig::read_from(path),
        None => Kubeconfig::read(),
    };
    let wrong = |error: String| {
        CliError::failure(format!("the kubeconfig: {error}")).hint("name one by --kubeconfig or KUBECONFIG")
    };
    match read {
        Ok(file) => Config::from_custom_kubeconfig(file, &chosen).await.map_err(|error| wrong(error.to_string())),
        // In a pod there is none.
        Err(error) if options.kubeconfig.is_none() && options.context.is_none() => {
            Config::incluster().map_err(|_| wrong(error.to_string()))
        }
        Err(error) => Err(wrong(error.to_string())),
    }
}

/// Asks the API server; `what` is what is asked for, as `create pods in shop`.
pub(crate) async fn ask<T>(what: &str, question: impl Future<Output = kube::Result<T>>) -> CliResult<T> {
    match tokio::time::timeout(DEADLINE, question).await {
        Ok(answer) => answer.map_err(|error| refused(what, &error)),
        Err(_) => Err(CliError::failure(format!("{what}: no answer in {} s", DEADLINE.as_secs()))),
    }
}

/// Tells why the API server did not do it.
pub(crate) fn refused(what: &str, error: &kube::Error) -> CliError {
    match error {
        kube::Error::Api(status) if status.code == 403 => {
            // It may be a right, a quota, or Pod Security: the server says which.
            CliError::failure(format!("the API server refused to {what}: {}", status.message)).hint(RIGHTS)
        }
        kube::Error::Api(status) if status.code == 401 => {
            CliError::failure(format!("the API server refused to {what}: {}", status.message))
                .hint("log in again; --kubeconfig and --context say as whom")
        }
        kube::Error::Api(status) => CliError::failure(format!("{what}: {}", status.message)),
        error => CliError::failure(format!("{what}: {error}")).hint("check --kubeconfig and --context"),
    }
}

/// Tells why a question was not answered.
pub(crate) fn unanswered(error: ClusterError) -> CliError {
    match error {
        ClusterError::Forbidden(what) => CliError::failure(format!("you may not {what}")).hint(RIGHTS),
        ClusterError::Unavailable { what, reason } => {
            CliError::failure(format!("{what}: {reason}")).hint("check --kubeconfig and --context")
        }
    }
}

//! Puts the parts together and runs them until somebody says stop.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use kube::Client;
use stash_crds::access::AddressRule;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::args::Args;
use crate::cluster::{Cluster, KubeApi};
use crate::controller::ControllerService;
use crate::daemon::NodeDaemon;
use crate::identity::IdentityService;
use crate::lock::Locks;
use crate::node::NodeService;
use crate::pins::Pins;
use crate::provisioner;
use crate::publish::NodeContext;
use crate::register::{self, Outcome, RegistrationService};
use crate::server::{self, Services};
use crate::{taint, telemetry};

/// How often is looked whether the node daemon is there.
const LOOK: Duration = Duration::from_millis(200);

/// Runs the driver, by the node daemon that is given.
///
/// # Errors
///
/// It cannot start, or kubelet does not take it.
pub async fn run(args: Args, daemon: Arc<dyn NodeDaemon>) -> anyhow::Result<()> {
    telemetry::start(&args.log, args.log_json)?;
    let has_service = args.node.is_some() || args.controller;
    anyhow::ensure!(has_service || args.provision, "give --node, --controller, --provision, or several of them");
    // A process has one cryptography; a second call of another part is no error.
    drop(rustls::crypto::ring::default_provider().install_default());
    let client = Client::try_default().await.context("failed to find the API server")?;
    let mut signals = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let told = async move {
        tokio::select! { _ = signals.0.recv() => {}, _ = signals.1.recv() => {} }
    };
    let cluster: Arc<dyn Cluster> = Arc::new(KubeApi::new(client.clone()));
    if !args.provision {
        return serve(&args, cluster, daemon, told).await;
    }
    let (stop, stopped) = watch::channel(false);
    let provisioner = tokio::spawn(provisioner::run(client, Arc::clone(&cluster), args.image.clone(), stopped));
    tracing::info!(image = args.image, "makes volumes for claims");
    let served = if has_service {
        serve(&args, cluster, daemon, told).await
    } else {
        told.await;
        Ok(())
    };
    stop.send_replace(true);
    provisioner.await.context("the provisioner was lost").and(served)
}

/// Serves until `told` says stop.
///
/// # Errors
///
/// See [`run`].
pub async fn serve(
    args: &Args,
    cluster: Arc<dyn Cluster>,
    daemon: Arc<dyn NodeDaemon>,
    told: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let node = match &args.node {
        None => None,
        Some(node) => {
            let pins = Pins::open(args.pins.clone()).await;
            let context = NodeContext {
                cluster: Arc::clone(&cluster),
                daemon: Arc::clone(&daemon),
                pins: pins.with_context(|| format!("failed to make the folder {}", args.pins.display()))?,
                locks: Locks::default(),
                addresses: AddressRule {
                    allowed: args.allowed_addresses.clone(),
                    api_servers: std::env::var("KUBERNETES_SERVICE_HOST").ok().into_iter().collect(),
                },
                kubelet: args.kubelet_dir.clone(),
                node: node.clone(),
                max_volumes: args.max_volumes,
            };
            Some(NodeService::new(Arc::new(context)))
        }
    };
    let asked = Arc::clone(&daemon);
    let identity = IdentityService { controls: args.controller, daemon: node.is_some().then_some(daemon) };
    let controller = args.controller.then(|| ControllerService::new(Arc::clone(&cluster)));
    let (stop, stopped) = watch::channel(false);
    let mut tasks = JoinSet::new();
    let socket = |path: &std::path::Path| {
        stash_control::listen(path).with_context(|| format!("failed to listen on {}", path.display()))
    };
    let listener = socket(&args.endpoint)?;
    tasks.spawn(server::serve(listener, Services::of_driver(identity, controller, node), stopped.clone()));

    // Kubelet asks the driver's own socket as soon as it sees this one, so it comes second.
    let registry = args.registry.as_ref().map(|folder| folder.join(register::SOCKET));
    let (mut outcome, mut lifting) = (None, None);
    if let (Some(path), Some(endpoint)) = (&registry, &args.kubelet_endpoint) {
        let (service, seen) = RegistrationService::new(endpoint.display().to_string());
        tasks.spawn(register(path.clone(), Services::of_registration(service), asked, stopped.clone()));
        if let (true, Some(node)) = (args.remove_taint, &args.node) {
            lifting = Some(tokio::spawn(taint::lift(Arc::clone(&cluster), node.clone(), seen.clone())));
        }
        outcome = Some(seen);
    }
    tracing::info!(endpoint = %args.endpoint.display(), node = args.node, controller = args.controller, "started");
    let ended = tokio::select! {
        () = told => Ok(()),
        refused = refused(outcome) => Err(anyhow::anyhow!("kubelet did not take the driver: {refused}")),
        _ = tasks.join_next() => Err(anyhow::anyhow!("a socket was closed")),
    };
    tracing::info!("stopping");
    // Kubelet takes the driver out when the socket goes. Mounts stay: they are not ours.
    if let Some(path) = registry
        && let Err(error) = std::fs::remove_file(&path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(%error, path = %path.display(), "the socket of the registration was not removed");
    }
    stop.send_replace(true);
    if let Some(lifting) = lifting {
        lifting.abort();
    }
    while tasks.join_next().await.is_some() {}
    ended
}

/// Shows kubelet the driver when the daemon is there: it asks at once how many volumes the node may have, and does not take a driver that
/// does not know.
async fn register(path: PathBuf, services: Services, daemon: Arc<dyn NodeDaemon>, mut stopped: watch::Receiver<bool>) {
    let mut looks = tokio::time::interval(LOOK);
    let mut is_told = false;
    while let Err(error) = daemon.stats().await {
        if !is_told {
            tracing::info!(%error, "waits for the node daemon");
            is_told = true;
        }
        tokio::select! {
            _ = looks.tick() => {}
            _ = stopped.wait_for(|stopped| *stopped) => return,
        }
    }
    match stash_control::listen(&path) {
        Ok(listener) => server::serve(listener, services, stopped).await,
        Err(error) => tracing::error!(%error, path = %path.display(), "the socket of the registration cannot be made"),
    }
}

/// Waits until kubelet says no.
async fn refused(outcome: Option<watch::Receiver<Outcome>>) -> String {
    let Some(mut outcome) = outcome else { return std::future::pending().await };
    let reason = match outcome.wait_for(|outcome| matches!(outcome, Outcome::Refused(_))).await.as_deref() {
        Ok(Outcome::Refused(reason)) => Some(reason.clone()),
        _ => None,
    };
    match reason {
        Some(reason) => reason,
        // The service is gone with its task, which is seen elsewhere.
        None => std::future::pending().await,
    }
}

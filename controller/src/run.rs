//! Puts the parts together and runs them until somebody says stop.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Context as _;
use futures::{Stream, StreamExt as _};
use kube::runtime::applier;
use kube::runtime::controller::{Action, Config};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, Resource, ResourceExt as _};
use rustix::process::{Resource as Limit, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::admin::{self, Health};
use crate::args::Args;
use crate::clock::SystemClock;
use crate::context::Context;
use crate::errors::ReconcileError;
use crate::lease::Leadership;
use crate::metrics::Metrics;
use crate::snapshot::state::Mirrors;
use crate::wake::Wakes;
use crate::{
    backup_configuration, backup_session, beside_stash, jobs, repository, restore_session, rights, snapshot, telemetry,
    watches,
};

/// Runs the controller.
///
/// # Errors
///
/// It cannot start, or a part that it needs ended.
pub async fn run(args: Args) -> anyhow::Result<()> {
    telemetry::start(&args.log, args.log_json)?;
    // A process has one cryptography; a second call of another part is no error.
    drop(rustls::crypto::ring::default_provider().install_default());
    raise_file_limit();
    let listener = admin::listen(args.listen).await.with_context(|| format!("failed to listen on {}", args.listen))?;
    let client = Client::try_default().await.context("failed to find the API server")?;
    let api_server = std::env::var("KUBERNETES_SERVICE_HOST").ok();
    let (health, metrics) = (Arc::new(Health::default()), Arc::new(Metrics::default()));

    let mut tasks = JoinSet::new();
    tasks.spawn(admin::serve(listener, Arc::clone(&health), Arc::clone(&metrics)));
    let (stores, queues) = watches::start(&client, &mut tasks);
    // Nobody else sets it.
    drop(health.stores.set(stores.clone()));
    let mirrors = Mirrors::new(Arc::clone(&queues.mirrors), Arc::clone(&queues.repositories));
    let options = args.options(api_server, client.default_namespace());
    let clock = Arc::new(SystemClock);
    let context = Arc::new(Context::new(client, clock, stores.clone(), options, metrics, mirrors, Arc::clone(&queues)));

    let (stop, stopped) = watch::channel(false);
    let mut signals = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let told = async {
        tokio::select! { _ = signals.0.recv() => {}, _ = signals.1.recv() => {} }
    };
    tokio::pin!(told);
    tokio::select! {
        ready = stores.wait_until_ready() => ready.context("a watch ended")?,
        () = &mut told => return Ok(()),
        _ = tasks.join_next() => anyhow::bail!("a watch ended"),
    }
    health.ready.store(true, Ordering::Relaxed);
    tracing::info!(image = context.options.jobs.image, "started");

    let identity = args.identity.clone().unwrap_or_else(host_name);
    let mut leadership =
        Leadership::new(context.client.clone(), &context.options.release_namespace, &args.lease, &identity);
    tokio::select! {
        () = async {
            beside_stash::wait_until_gone(&context.client).await;
            leadership.acquire().await;
        } => {}
        () = &mut told => return Ok(()),
        _ = tasks.join_next() => anyhow::bail!("a watch ended"),
    }
    tracing::info!(identity, "acting");

    let mut reconcilers = JoinSet::new();
    reconcilers.spawn(control(
        "Namespace",
        &queues.namespaces,
        &stores.namespaces,
        rights::reconcile,
        &context,
        &stopped,
    ));
    reconcilers.spawn(control(
        "Repository",
        &queues.repositories,
        &stores.repositories,
        repository::reconcile,
        &context,
        &stopped,
    ));
    reconcilers.spawn(control(
        "BackupConfiguration",
        &queues.configurations,
        &stores.configurations,
        backup_configuration::reconcile,
        &context,
        &stopped,
    ));
    reconcilers.spawn(control(
        "BackupSession",
        &queues.sessions,
        &stores.sessions,
        backup_session::reconcile,
        &context,
        &stopped,
    ));
    reconcilers.spawn(control(
        "RestoreSession",
        &queues.restores,
        &stores.restores,
        restore_session::reconcile,
        &context,
        &stopped,
    ));
    tasks.spawn(jobs::sweep(Arc::clone(&context)));
    // Both are about Snapshots, though the first looks at the Repository that they are of.
    reconcilers.spawn(control(
        "Snapshot",
        &queues.mirrors,
        &stores.repositories,
        snapshot::mirror::reconcile,
        &context,
        &stopped,
    ));
    reconcilers.spawn(control(
        "Snapshot",
        &queues.snapshots,
        &stores.snapshots,
        snapshot::reconcile,
        &context,
        &stopped,
    ));
    reconcilers.spawn(control(
        "PersistentVolumeClaim",
        &queues.claims,
        &stores.claims,
        jobs::leaving::reconcile,
        &context,
        &stopped,
    ));
    let outcome = tokio::select! {
        () = &mut told => Ok(()),
        () = beside_stash::wait_until_there(&context.client) => Err(anyhow::anyhow!("Stash's operator was installed beside it")),
        () = leadership.hold() => Err(anyhow::anyhow!("the Lease was lost: another controller acts, or the API server does not answer")),
        _ = tasks.join_next() => Err(anyhow::anyhow!("a watch ended")),
        _ = reconcilers.join_next() => Err(anyhow::anyhow!("a reconciler ended")),
    };
    health.ready.store(false, Ordering::Relaxed);
    tracing::info!("stopping");
    // What is being done is finished; what waits is found again by whoever starts next.
    stop.send_replace(true);
    while reconcilers.join_next().await.is_some() {}
    if outcome.is_ok() {
        leadership.release().await;
    }
    outcome
}

/// Looks at the objects of a kind as they are woken, until `stopped`. `kind` is what it is counted as.
fn control<K, F, R>(
    kind: &'static str,
    wakes: &Arc<Wakes<K>>,
    store: &Store<K>,
    reconcile: R,
    context: &Arc<Context>,
    stopped: &watch::Receiver<bool>,
) -> impl Future<Output = ()> + Send + use<K, F, R>
where
    R: Fn(Arc<K>, Arc<Context>) -> F + Send + 'static,
    K: Resource<DynamicType = ()> + Clone + Debug + Send + Sync + 'static,
    F: Future<Output = Result<Action, ReconcileError>> + Send + 'static,
{
    let mut stopped = stopped.clone();
    let stop = async move {
        // An error says that the sender is gone, which stops as well.
        drop(stopped.wait_for(|stopped| *stopped).await);
    };
    let queue = wakes.stream().take_until(Box::pin(stop));
    let config = Config::default().concurrency(context.options.concurrency);
    let counted = move |object: Arc<K>, context: Arc<Context>| {
        let looking = reconcile(object, Arc::clone(&context));
        Box::pin(async move {
            let outcome = looking.await;
            context.metrics.count(kind, outcome.as_ref().map_or_else(ReconcileError::reason, |_| "ok"));
            outcome
        })
    };
    let applied = applier(counted, on_error::<K>, Arc::clone(context), store.clone(), Box::pin(queue), config);
    drain(Box::pin(applied))
}

fn on_error<K: Resource<DynamicType = ()>>(object: Arc<K>, error: &ReconcileError, _: Arc<Context>) -> Action {
    if !error.is_usual() {
        let (namespace, name) = (object.namespace(), object.name_any());
        tracing::warn!(kind = kind_name::<K>(), namespace, name, error = error.story(), "a look at an object failed");
    }
    Action::requeue(error.requeue())
}

/// Each Secret that Repositories name is watched over a connection of its own. What the process may have is more than what it starts with.
fn raise_file_limit() {
    let limit = getrlimit(Limit::Nofile);
    if let Err(error) = setrlimit(Limit::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, "the number of files that may be open could not be raised");
    }
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

async fn drain<K, E>(mut applied: impl Stream<Item = Result<(ObjectRef<K>, Action), E>> + Unpin)
where
    K: Resource<DynamicType = ()>,
{
    // Errors were told where they were handled; that an object is gone from the store is none.
    while applied.next().await.is_some() {}
}

fn kind_name<K: Resource<DynamicType = ()>>() -> &'static str {
    match K::kind(&()) {
        std::borrow::Cow::Borrowed(kind) => kind,
        std::borrow::Cow::Owned(_) => "unknown",
    }
}

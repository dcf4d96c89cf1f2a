//! The watch of one Secret: of its metadata, by its name.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher::watch_object;
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::{Known, NamedSecrets};
use crate::pauses::Pauses;

/// How long the Role that gives the right is waited for before the Secret is asked for without it.
const ROLE_WAIT: Duration = Duration::from_secs(10);
/// How long nothing is said of a Secret that cannot be looked at: the right may be given at this moment.
const PATIENCE: Duration = Duration::from_secs(15);

/// Watches a Secret until it is aborted, and calls `changed` whenever something else is known of it. `is_granted` tells whether the
/// right to it has been seen; `retry` tells when it came.
pub async fn watch(
    client: Client,
    reference: ObjectRef<Secret>,
    retry: Arc<Notify>,
    secrets: NamedSecrets,
    is_granted: impl Fn() -> bool + Send,
    changed: impl Fn(&ObjectRef<Secret>) + Send,
) {
    let namespace = reference.namespace.clone().unwrap_or_default();
    let secret = Api::<Secret>::namespaced(client.clone(), &namespace);
    let begun = Instant::now();
    let note = |found: Option<PartialObjectMeta<Secret>>| {
        let known = found.map_or(Known::Absent, |found| Known::Version(found.resource_version().unwrap_or_default()));
        if secrets.note(&reference, &retry, known) {
            changed(&reference);
        }
    };
    let fail = |error: &dyn std::fmt::Display| {
        if begun.elapsed() < PATIENCE {
            return;
        }
        tracing::warn!(namespace, name = reference.name, %error, "the watch of a Secret was interrupted");
        if secrets.get(&reference) == Known::NotYet && secrets.note(&reference, &retry, Known::Unknown) {
            changed(&reference);
        }
    };
    if !is_granted() {
        // Asking for what is not allowed yet is noise in the audit log of the cluster.
        drop(timeout(ROLE_WAIT, retry.notified()).await);
    }
    let mut pauses = Pauses::default();
    // A right that is new may be refused for a moment, of which the watcher would tell the log.
    loop {
        match secret.get_metadata_opt(&reference.name).await {
            Ok(found) => break note(found),
            Err(error) => fail(&error),
        }
        pauses.rest(&retry).await;
    }
    let metadata = Api::<PartialObjectMeta<Secret>>::namespaced(client, &namespace);
    let mut events = std::pin::pin!(watch_object(metadata, &reference.name));
    while let Some(event) = events.next().await {
        match event {
            Ok(found) => {
                pauses = Pauses::default();
                note(found);
            }
            Err(error) => {
                fail(&error);
                // The stream goes on by itself, where it was.
                pauses.rest(&retry).await;
            }
        }
    }
}

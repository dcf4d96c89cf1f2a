//! BackupConfigurations: whether backups can be taken, and when the next one begins.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource as _, ResourceExt as _};
use stash_crds::backup_session::{BackupInvokerRef, BackupSessionSpec};
use stash_crds::{BackupConfiguration, BackupSession, names as labels};

use crate::backup_session::history::last_success;
use crate::backup_session::plan::RETRY_OF_ANNOTATION;
use crate::context::Context;
use crate::errors::{ReconcileError, is_already_exists};
use crate::plan::Notice;
use crate::secrets::Known;
use crate::stores::as_ref_of;
use crate::workload::Workload;
use plan::{NewSession, Observed, SESSION_CREATED, TargetState};
use validate::{Target, TargetKind};

pub mod plan;
pub mod validate;

/// Looks at a BackupConfiguration.
///
/// # Errors
///
/// The API server did not do what it should.
pub async fn reconcile(
    configuration: Arc<BackupConfiguration>,
    context: Arc<Context>,
) -> Result<Action, ReconcileError> {
    let namespace = configuration.namespace().unwrap_or_default();
    let stores = &context.stores;
    let repository = stores.repository_of(&configuration);
    let secret = repository.as_ref().map_or(Known::Absent, |repository| stores.secret_of(repository));
    let own = stores.namespaces.get(&as_ref_of(&namespace, None));
    let no_labels = BTreeMap::new();
    let found = match validate::target(&configuration) {
        Ok(target) => exists(&target, &namespace, &context).await?,
        Err(_) => false,
    };
    let sessions = stores.sessions_of(&ObjectRef::from_obj(&*configuration));
    let target = if found { TargetState::Found } else { TargetState::Missing };
    let observed = Observed {
        configuration: &configuration,
        repository: repository.as_deref(),
        secret,
        namespace_labels: own.as_ref().map_or(&no_labels, |own| own.labels()),
        target,
        jitter: context.options.jitter,
        last_success: last_success(sessions.iter().map(|session| &**session)),
        addresses: &context.options.addresses,
    };
    if plan::waits(&observed) {
        return Ok(Action::await_change());
    }
    let plan = plan::plan(&observed, context.now());
    if plan.release {
        context.release(&*configuration, labels::INVOKER_FINALIZER).await?;
        return Ok(Action::await_change());
    }
    if let Some(session) = &plan.session {
        create(session, &configuration, &context).await?;
        context.metrics.made_late(Duration::try_from(context.now().duration_since(session.time)).unwrap_or_default());
    }
    if configuration.status.as_ref() != Some(&plan.status) {
        context.apply_status(&*configuration, &plan.status).await?;
        context.tell(&*configuration, &plan.notices).await;
    }
    Ok(plan.requeue.map_or_else(Action::await_change, Action::requeue))
}

/// Whether there is such a target. Kinds that seldom stand alone are not watched.
async fn exists(target: &Target, namespace: &str, context: &Context) -> Result<bool, ReconcileError> {
    let (name, within, stores) = (target.name.as_str(), Some(namespace), &context.stores);
    Ok(match target.kind {
        TargetKind::Claim => stores.claims.get(&as_ref_of(name, within)).is_some(),
        TargetKind::Deployment => stores.deployments.get(&as_ref_of(name, within)).is_some(),
        TargetKind::StatefulSet => stores.stateful_sets.get(&as_ref_of(name, within)).is_some(),
        TargetKind::DaemonSet => stores.daemon_sets.get(&as_ref_of(name, within)).is_some(),
        TargetKind::ReplicaSet | TargetKind::ReplicationController => {
            Workload::find(target, namespace, &context.client).await?.is_some()
        }
    })
}

/// Makes a session. One of the same name is the same: it was made before.
///
/// # Errors
///
/// The API server did not do it.
pub async fn create(
    session: &NewSession,
    invoker: &BackupConfiguration,
    context: &Context,
) -> Result<(), ReconcileError> {
    let spec = BackupSessionSpec {
        invoker: BackupInvokerRef {
            api_group: Some(labels::GROUP.to_owned()),
            kind: "BackupConfiguration".to_owned(),
            name: invoker.name_any(),
        },
        retry_left: Some(session.retry_left),
    };
    let object = BackupSession {
        metadata: ObjectMeta {
            name: Some(session.name.clone()),
            namespace: invoker.namespace(),
            labels: Some(session.labels.clone()),
            annotations: session.retry_of.clone().map(|uid| BTreeMap::from([(RETRY_OF_ANNOTATION.to_owned(), uid)])),
            owner_references: Some(invoker.controller_owner_ref(&()).into_iter().collect()),
            ..ObjectMeta::default()
        },
        spec,
        status: None,
    };
    let api = context.api::<BackupSession>(&invoker.namespace().unwrap_or_default());
    match api.create(&Context::create_parameters(), &object).await {
        Ok(_) => {
            let message = format!("Created BackupSession {}.", session.name);
            context.tell(invoker, &[Notice::normal(SESSION_CREATED, message)]).await;
            Ok(())
        }
        Err(error) if is_already_exists(&error) => Ok(()),
        Err(error) => Err(ReconcileError::of(format!("create BackupSession {}", session.name), error)),
    }
}

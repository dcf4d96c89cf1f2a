//! Repositories: why one does not work, and who uses it.

use std::sync::Arc;

use kube::ResourceExt as _;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use stash_crds::reference::TypedObjectReference;
use stash_crds::{BackupConfiguration, Repository, names as labels};

pub use stash_crds::{access as backend, location};

use crate::context::Context;
use crate::errors::ReconcileError;
use crate::secrets::Known;
use crate::snapshot::mirror;
use crate::stores::secret_name;
use plan::{Observed, Said, SecretState};

pub mod finding;
pub mod open;
pub mod plan;
pub mod used;
pub mod wipe_out;

/// Looks at a Repository.
///
/// # Errors
///
/// The API server did not do what it should.
pub async fn reconcile(repository: Arc<Repository>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    if repository.metadata.deletion_timestamp.is_some() {
        return if wipe_out::is_held(&repository) {
            wipe_out::reconcile(&repository, &context).await
        } else {
            Ok(Action::await_change())
        };
    }
    let namespace = repository.namespace().unwrap_or_default();
    let is_seen = context.stores.secret_of(&repository) != Known::NotYet;
    let secret = match secret_name(&repository) {
        Some(name) => context.secret_state(&namespace, name).await,
        None => SecretState::Missing,
    };
    let unknown = secret == SecretState::Unknown;
    let users = context.stores.users_of(&ObjectRef::from_obj(&*repository));
    let finding = mirror::finding_of(&repository, &context);
    let observed = Observed {
        repository: &repository,
        secret,
        finding: finding.as_ref(),
        references: users
            .iter()
            .filter(|user| user.metadata.deletion_timestamp.is_none())
            .map(|user| reference(user))
            .collect(),
        addresses: &context.options.addresses,
    };
    let plan = plan::plan(observed, context.now());
    // Either changes the object, which is then looked at anew.
    match plan.finalizer {
        Some(true) => {
            wipe_out::hold(&repository, &context).await?;
            return Ok(Action::await_change());
        }
        Some(false) => {
            context.release(&*repository, labels::REPOSITORY_FINALIZER).await?;
            return Ok(Action::await_change());
        }
        None => {}
    }
    if !is_seen {
        // What is found wakes this; until then what was said stays.
        return Ok(Action::await_change());
    }
    if plan.status != Said::of(&repository) {
        context.apply_status(&*repository, &plan.status).await?;
        context.tell(&*repository, &plan.notices).await;
    }
    Ok(if unknown { Action::requeue(std::time::Duration::from_secs(5)) } else { Action::await_change() })
}

fn reference(user: &BackupConfiguration) -> TypedObjectReference {
    TypedObjectReference {
        api_group: Some(labels::GROUP.to_owned()),
        kind: Some("BackupConfiguration".to_owned()),
        namespace: user.namespace(),
        name: user.name_any(),
    }
}

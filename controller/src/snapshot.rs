//! Snapshots: objects that mirror what lies in a repository, so that listing and selecting cost nothing; and what deleting one means.
//!
//! * [`mirror`]: looks at a Repository: lists its snapshots when that is due, makes the objects that lack and removes those whose
//!   snapshot is gone, and forgets what users deleted.
//! * [`reconcile`]: looks at an object by itself: one whose Repository is gone goes too, and erases nothing.
//! * [`plan`], [`forget`], [`due`]: the decisions. Pure.
//! * [`object`]: names, labels and fields.
//! * [`requests`]: how many requests to the API server are under way at once.
//!
//! An object of ours has a finalizer. The mirror takes it off before it deletes an object itself: so a deletion that meets the finalizer
//! is somebody else's.

use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt as _;
use kube::api::{DeleteParams, Preconditions};
use kube::core::PartialObjectMeta;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use stash_crds::names as labels;
use stash_crds::{Repository, Snapshot};

use crate::context::Context;
use crate::errors::{ReconcileError, is_not_found};
use crate::stores::as_ref_of;

mod apply;
pub mod due;
pub mod forget;
pub mod mirror;
pub mod object;
pub mod plan;
pub mod requests;
pub mod state;

/// What is kept of an object: its metadata.
pub type Meta = PartialObjectMeta<Snapshot>;

/// Returns the Repository that an object was mirrored from, whether there is one or not; `None` for an object that is not ours.
pub fn repository_of(meta: &Meta) -> Option<ObjectRef<Repository>> {
    let name = meta.annotations().get(labels::SNAPSHOT_REPOSITORY_ANNOTATION)?;
    Some(as_ref_of(name, meta.namespace().as_deref()))
}

/// Whether an object has our finalizer.
fn is_held(meta: &Meta) -> bool {
    meta.finalizers().iter().any(|finalizer| finalizer == labels::SNAPSHOT_FINALIZER)
}

/// Looks at an object by itself.
///
/// # Errors
///
/// The API server did not do what it should.
pub async fn reconcile(meta: Arc<Meta>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let is_deleted = meta.metadata.deletion_timestamp.is_some();
    let Some(reference) = repository_of(&meta) else {
        if is_deleted {
            let_go(&meta, &context).await?;
        }
        return Ok(Action::await_change());
    };
    let stored = context.stores.repositories.get(&reference);
    let namespace = meta.namespace().unwrap_or_default();
    if stored.as_ref().is_some_and(|repository| mirror::is_mirrored(repository))
        && mirror::namespace_lives(&namespace, &context)
    {
        if is_deleted {
            context.mirrors.wake(reference);
        }
        return Ok(Action::await_change());
    }
    // Without its Repository a deletion erases nothing.
    if is_deleted {
        let_go(&meta, &context).await?;
        return Ok(Action::await_change());
    }
    if stored.is_none() && is_gone(&reference, &context).await? {
        context.mirrors.drop_state(&reference);
        remove(&meta, &context).await?;
    }
    Ok(Action::await_change())
}

/// Whether there is no such Repository, as the API server says it: one that cannot be read is in no store. What it said is taken for
/// true for a moment, because many objects ask at once.
async fn is_gone(reference: &ObjectRef<Repository>, context: &Context) -> Result<bool, ReconcileError> {
    const BELIEVED: Duration = Duration::from_secs(5);
    if let Some(said) = context.mirrors.said_of(reference, context.now(), BELIEVED) {
        return Ok(said);
    }
    let namespace = reference.namespace.as_deref().unwrap_or_default();
    let found = context.api::<Repository>(namespace).get_metadata_opt(&reference.name).await;
    let found = found.map_err(|error| ReconcileError::of(format!("look up Repository {}", reference.name), error))?;
    context.mirrors.keep_said_of(reference.clone(), context.now(), found.is_none());
    Ok(found.is_none())
}

/// Takes our finalizer off an object, if it has it.
async fn let_go(meta: &Meta, context: &Context) -> Result<(), ReconcileError> {
    if !is_held(meta) {
        return Ok(());
    }
    let _permit = context.mirrors.requests.permit().await;
    context.release(meta, labels::SNAPSHOT_FINALIZER).await
}

/// Removes an object whose snapshot, or Repository, is gone.
///
/// # Errors
///
/// The API server did not do it, or the object was changed meanwhile.
async fn remove(meta: &Meta, context: &Context) -> Result<(), ReconcileError> {
    let name = meta.name_any();
    let_go(meta, context).await?;
    if meta.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    let same = Preconditions { uid: meta.uid(), resource_version: None };
    let parameters = DeleteParams { preconditions: Some(same), ..DeleteParams::default() };
    let _permit = context.mirrors.requests.permit().await;
    let deleted = context.api::<Snapshot>(&meta.namespace().unwrap_or_default()).delete(&name, &parameters).await;
    match deleted {
        Err(error) if is_not_found(&error) => Ok(()),
        deleted => deleted.map(drop).map_err(|error| ReconcileError::of(format!("remove Snapshot {name}"), error)),
    }
}

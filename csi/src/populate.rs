//! Claims of anybody's class that name a Snapshot: filled by a copy, and bound when all of it is there.
//!
//! The volume is made for another claim, the *prime* one, of the same class and size in the same namespace. A Job mounts it and the
//! snapshot, and copies. Then the volume is given to the claim that asked, and the prime claim goes. So nobody sees a volume that is
//! not whole: a claim without content stays Pending.
//!
//! Names are functions of the claim's uid, and what to do next is a function of what there is ([`plan`]). So whoever is killed anywhere
//! between two steps is followed by one who does the next.

use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::names::DRIVER;
use crate::provision::data_source;

mod copier;
pub mod hindrance;
pub mod objects;
pub mod source;

pub(crate) use copier::Copier;

/// How the names of prime claims and of Jobs begin; the claim's uid follows.
pub const PREFIX: &str = "stash-populate-";
/// By it the scheduler says on which node the first pod of a claim will run.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Annotation of a Job: the uid of the prime claim that it fills. Another one of that name is empty.
pub const PRIME: &str = "fs.stash.appscode.com/prime";
/// Annotation of a volume: what it was filled with, as `namespace/Snapshot@id`.
pub const POPULATED_FROM: &str = "fs.stash.appscode.com/populated-from";

/// The provisioner of classes whose volumes an administrator makes.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
/// How long after a Job failed for good another is made. Its pods were tried several times by then.
const AFTER_FAILURE: SignedDuration = SignedDuration::from_secs(300);
/// How young a claim is of which is said that somebody bound it without its content.
const YOUNG: SignedDuration = SignedDuration::from_hours(1);

/// Why a claim is not populated. The text becomes an event of the claim.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is of no class.
    #[error("a claim without a class is bound to any volume, with any content: name a StorageClass")]
    NoClass,
    /// There is no such class.
    #[error("there is no StorageClass {0}")]
    ClassGone(String),
    /// Its volumes are there before the claim.
    #[error("the StorageClass {0} makes no volumes: Kubernetes binds the claim to one that is there, with any content")]
    Static(String),
    /// It is no file system.
    #[error("volumeMode is Block: a snapshot is files; make a claim with volumeMode: Filesystem")]
    Block,
    /// Nobody may write to it.
    #[error("accessModes allow nobody to write: a copy needs ReadWriteOnce, ReadWriteOncePod or ReadWriteMany")]
    ReadOnly,
    /// It is for claims of the driver's class.
    #[error("the annotation {annotation} is for claims of the driver {driver}: a copy can be written", driver = DRIVER)]
    Annotation {
        /// The annotation.
        annotation: String,
    },
    /// The content has no room.
    #[error("the Snapshot {snapshot} has {needed} bytes, and the claim requests {asked}: make one that requests more")]
    TooSmall {
        /// The Snapshot.
        snapshot: String,
        /// Its bytes.
        needed: i64,
        /// What the claim requests, as it says it.
        asked: String,
    },
    /// Something of the name is there already.
    #[error("there is a {kind} {name} that was not made for this claim: delete it")]
    Taken {
        /// What it is.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The volume that was filled is somebody else's.
    #[error("the volume {0}, which was filled for this claim, is another claim's: it is left alone")]
    Anothers(String),
    /// The volume that was to be filled went away.
    #[error("the volume that was to be filled is gone: it is made anew")]
    Lost,
    /// Somebody did not wait.
    #[error(
        "the claim was bound to {0}, which holds nothing of the Snapshot: what makes volumes of its class does not look at dataSourceRef. Delete the claim; \
         restore by a RestoreSession, or by a class of a CSI driver with external-provisioner"
    )]
    Bypassed(String),
}

/// What there is of a claim.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The claim.
    pub claim: PersistentVolumeClaim,
    /// Its class.
    pub class: Option<StorageClass>,
    /// What has the name of its prime claim.
    pub prime: Option<PersistentVolumeClaim>,
    /// What has the name of its Job.
    pub job: Option<Job>,
    /// The claim's volume; without one that of the prime claim.
    pub volume: Option<PersistentVolume>,
    /// The time.
    pub now: Timestamp,
}

/// What is done next.
#[derive(Clone, Debug, PartialEq)]
pub enum Plan {
    /// Nothing: it is not ours, or all is done.
    Leave,
    /// Nothing until something else happens, which is seen.
    Wait,
    /// The claim cannot be populated as it is. It is told, and looked at again.
    Refuse(Refusal),
    /// The Snapshot is looked up, and the prime claim made.
    MakePrime,
    /// The Job is made.
    MakeJob,
    /// The Job is at work, or Kubernetes tries it again: what hinders it is told.
    Watch,
    /// The Job failed for good: why is told, and another is made after this time.
    Failed(Duration),
    /// The Job goes, so that another can be made.
    DeleteJob,
    /// The volume is given to the claim.
    Rebind,
    /// All is done: Job and prime claim go.
    Finish,
    /// What was begun is no use: why is told, Job and prime claim go.
    Abandon(Refusal),
}

/// Whether a claim may be one for a copy: it names a Snapshot.
pub fn concerns(claim: &PersistentVolumeClaim) -> bool {
    claim.metadata.deletion_timestamp.is_none() && matches!(data_source(claim), Ok(Some(_)))
}

/// Returns the name of the prime claim and of the Job of a claim.
pub fn name(uid: &str) -> String {
    format!("{PREFIX}{uid}")
}

/// Returns the name of a claim's volume.
pub fn volume_name(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.spec.as_ref()?.volume_name.as_deref().filter(|name| !name.is_empty())
}

/// Decides. Pure.
pub fn plan(seen: &Observed) -> Plan {
    let uid = seen.claim.metadata.uid.as_deref().unwrap_or_default();
    if !concerns(&seen.claim) || uid.is_empty() {
        return Plan::Leave;
    }
    if let Some(volume) = volume_name(&seen.claim) {
        return bound(seen, uid, volume);
    }
    for (kind, found) in [
        ("PersistentVolumeClaim", seen.prime.as_ref().map(|prime| &prime.metadata)),
        ("Job", seen.job.as_ref().map(|job| &job.metadata)),
    ] {
        if found.is_some_and(|found| !is_owned(found, uid)) {
            return Plan::Refuse(Refusal::Taken { kind, name: name(uid) });
        }
    }
    let Some(prime) = &seen.prime else { return first(seen) };
    let holder = seen.volume.as_ref().and_then(|volume| volume.spec.as_ref()?.claim_ref.as_ref());
    if holder.is_some_and(|holder| is_of(holder, uid)) {
        // It was given: the cluster's controller binds it.
        return Plan::Wait;
    }
    let goes = |metadata: &ObjectMeta| metadata.deletion_timestamp.is_some();
    let job = match &seen.job {
        Some(job) if goes(&job.metadata) => return Plan::Wait,
        // Its volume goes with it, and a copy into that is for nobody.
        Some(_) if goes(&prime.metadata) => return Plan::DeleteJob,
        None if goes(&prime.metadata) => return Plan::Wait,
        _ if phase(prime) == Some("Lost") => return Plan::Abandon(Refusal::Lost),
        None => return Plan::MakeJob,
        Some(job) => job,
    };
    let filled = job.metadata.annotations.as_ref().and_then(|annotations| annotations.get(PRIME));
    if filled != prime.metadata.uid.as_ref() {
        // What it filled is gone: this one is empty, whatever the Job says.
        return Plan::DeleteJob;
    }
    match ended(job) {
        Ended::No => Plan::Watch,
        Ended::Failed(at) => {
            let passed = seen.now.duration_since(at.unwrap_or(seen.now));
            match Duration::try_from((AFTER_FAILURE - passed).min(AFTER_FAILURE)) {
                Ok(left) if !left.is_zero() => Plan::Failed(left),
                _ => Plan::DeleteJob,
            }
        }
        Ended::Complete => match (volume_name(prime), holder) {
            (Some(_), Some(holder)) if is_of(holder, prime.metadata.uid.as_deref().unwrap_or_default()) => Plan::Rebind,
            // Whose it is was never in doubt while the prime claim was mounted: somebody changed it.
            (Some(volume), Some(_)) => Plan::Refuse(Refusal::Anothers(volume.to_owned())),
            _ => Plan::Watch,
        },
    }
}

/// Of a claim that nothing was begun for.
fn first(seen: &Observed) -> Plan {
    let spec = seen.claim.spec.clone().unwrap_or_default();
    let class_name = match spec.storage_class_name.as_deref() {
        // The cluster puts its default class there.
        None => return Plan::Wait,
        Some("") => return Plan::Refuse(Refusal::NoClass),
        Some(name) => name.to_owned(),
    };
    let Some(class) = &seen.class else { return Plan::Refuse(Refusal::ClassGone(class_name)) };
    let writes = |mode: &String| mode != "ReadOnlyMany";
    match class.provisioner.as_str() {
        DRIVER => return Plan::Leave,
        NO_PROVISIONER => return Plan::Refuse(Refusal::Static(class_name)),
        _ if spec.volume_mode.as_deref() == Some("Block") => return Plan::Refuse(Refusal::Block),
        _ if !spec.access_modes.iter().flatten().any(writes) => return Plan::Refuse(Refusal::ReadOnly),
        _ => {}
    }
    let waits = class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer");
    let selected = seen.claim.metadata.annotations.as_ref().and_then(|all| all.get(SELECTED_NODE));
    if waits && selected.is_none_or(String::is_empty) { Plan::Wait } else { Plan::MakePrime }
}

/// Of a claim that is being bound, or is.
fn bound(seen: &Observed, uid: &str, volume: &str) -> Plan {
    let prime = seen.prime.as_ref().filter(|prime| is_owned(&prime.metadata, uid));
    let job = seen.job.as_ref().filter(|job| is_owned(&job.metadata, uid));
    if phase(&seen.claim) != Some("Bound") {
        return Plan::Wait;
    }
    let bypassed = || Refusal::Bypassed(volume.to_owned());
    let left = [prime.map(|prime| &prime.metadata), job.map(|job| &job.metadata)];
    let mut left = left.into_iter().flatten().peekable();
    if left.peek().is_none() {
        let empty = seen.volume.as_ref().is_some_and(|volume| is_without_content(volume, seen));
        return if empty { Plan::Refuse(bypassed()) } else { Plan::Leave };
    }
    if left.all(|metadata| metadata.deletion_timestamp.is_some()) {
        return Plan::Wait;
    }
    let has_content = seen.volume.as_ref().is_some_and(is_filled);
    match prime {
        Some(prime) if volume_name(prime) != Some(volume) && !has_content => Plan::Abandon(bypassed()),
        _ => Plan::Finish,
    }
}

/// Whether a volume that a young claim was bound to was filled by nobody.
fn is_without_content(volume: &PersistentVolume, seen: &Observed) -> bool {
    let ours = volume.spec.as_ref().and_then(|spec| spec.csi.as_ref()).is_some_and(|source| source.driver == DRIVER);
    let made = seen.claim.metadata.creation_timestamp.as_ref().map(|time| time.0);
    !ours && !is_filled(volume) && made.is_some_and(|made| seen.now.duration_since(made) < YOUNG)
}

fn is_filled(volume: &PersistentVolume) -> bool {
    volume.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(POPULATED_FROM))
}

fn is_owned(metadata: &ObjectMeta, uid: &str) -> bool {
    metadata.owner_references.iter().flatten().any(|owner| owner.uid == uid)
}

fn is_of(reference: &ObjectReference, uid: &str) -> bool {
    reference.uid.as_deref() == Some(uid)
}

fn phase(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.status.as_ref()?.phase.as_deref()
}

/// How far a Job is. That it is complete means that its pod ended with 0, which it does only where all was copied.
enum Ended {
    No,
    Failed(Option<Timestamp>),
    Complete,
}

fn ended(job: &Job) -> Ended {
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let is = |kind: &str| conditions.iter().find(|condition| condition.type_ == kind && condition.status == "True");
    if let Some(failed) = is("Failed") {
        return Ended::Failed(failed.last_transition_time.as_ref().map(|time| time.0));
    }
    if is("Complete").is_some() { Ended::Complete } else { Ended::No }
}

#[cfg(test)]
mod tests;

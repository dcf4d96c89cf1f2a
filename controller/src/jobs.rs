//! The Jobs that do the work: how they are made, and what became of them.
//!
//! A Job has no rights on the API. What it is to do and the credentials lie in a Secret of its own, immutable, that is deleted with it;
//! what it did is the termination message of its pod. A Job that mounts the snapshots that it restores ([`shown`]) has no credentials.

mod ended;
mod handed;
pub mod leaving;
mod pod;
mod secret;
pub mod shown;
mod sweep;
mod upkeep;

pub use ended::{Ended, ended, is_done};
pub use handed::{Due, Handed, due, has_begun, secret_due};
pub use pod::{
    BESIDE_ANNOTATION, Beside, CLAIMS_ANNOTATION, JobRequest, LocalRepository, Mount, Purpose, REPOSITORY_ANNOTATION,
    RESTORE_ANNOTATION, SESSION_ANNOTATION, SESSION_UID_ANNOTATION, Settings, Source, WORKLOAD_ROOT, confined,
    is_owned_by, job, node_of, progress_at,
};
pub use secret::{secret, spec_key};
pub use sweep::sweep;
pub use upkeep::{Progress, progress};

//! Repositories that are volumes (`spec.backend.local`): a pod mounts the volume and serves it, for as long as a look lasts.
//!
//! The controller opens no path that comes from a Repository. Where it has to read such a repository, it makes a Job in the Repository's
//! own namespace, whose pod mounts the volume read-only and runs `stash-fs access`: Pod Security judges it, as it judges the Jobs that back
//! up. The controller reads restic's REST protocol from that pod. Both sides show certificates that were made for this one run:
//!
//! * The pod's certificate and key, and the authority that signed, lie in the Job's Secret. The client's key is in the memory of the
//!   controller, and nowhere else. So nothing is read back, and nothing is renewed: a controller that starts anew lets go of the runs of
//!   the one before it, and makes its own.
//! * The certificate is for a fixed name ([`SERVER_NAME`]); the address is that of the pod. So there is no Service, and no name is looked up.
//! * A NetworkPolicy lets nobody but the controller's namespace call the pod, and the pod call nobody.
//!
//! A run never stands in the way of a backup: none begins while a Job or a session works on the Repository, and one that is there ends when
//! a Job appears. Why it is a Job, and not a Deployment: `docs/design/0013-local-repositories.md`.

pub mod certificates;
pub mod network_policy;
pub mod plan;
mod run;

use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;

use certificates::Identity;
pub use plan::Problem;
pub use run::{advance, end, is_read_by_pods, runtime_settings};

use crate::repository::open::OpenError;

/// Where the pod listens.
pub const PORT: u16 = 8443;
/// For what the certificate of the pod is. Nobody looks it up.
pub const SERVER_NAME: &str = "repository.stash-fs.internal";

/// A run of a pod that serves a repository, as the controller remembers it.
#[derive(Clone, Debug)]
pub struct Run {
    /// The Job.
    pub job: String,
    /// When it was made.
    pub made: Timestamp,
    /// Who the controller is to it, and whom it trusts.
    pub identity: Identity,
}

/// By what way a repository is reached that is a volume.
#[derive(Clone, Debug)]
pub struct Door {
    /// The pod.
    pub address: IpAddr,
    /// Who the controller is to it, and whom it trusts.
    pub identity: Identity,
}

/// What became of the way to a repository.
#[derive(Debug)]
pub enum Way {
    /// Nothing is to be read, and no pod runs.
    None,
    /// Not yet; when to see again.
    Later(Duration),
    /// It can be read.
    Through(Door),
    /// It cannot.
    Failed(OpenError),
}

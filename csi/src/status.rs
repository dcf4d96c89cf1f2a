//! What became of a call, in gRPC's words: the one place that names a code.
//!
//! Kubelet takes ABORTED, UNAVAILABLE, RESOURCE_EXHAUSTED, CANCELLED and DEADLINE_EXCEEDED as "it may be mounted" and unmounts later;
//! after every other code nothing may be mounted. It shows the message as an event of the pod, so there is no secret in any.

use tonic::{Code, Response, Status};

use crate::at_start::Undecided;
use crate::authorise::Refused;
use crate::capability::CapabilityError;
use crate::cluster::ClusterError;
use crate::daemon::{DaemonError, DaemonErrorKind};
use crate::folder::FolderError;
use crate::names::NameError;
use crate::pins::PinError;
use crate::provision::ProvisionError;
use crate::repository::AccessError;
use crate::resolve::ResolveError;
use crate::target::TargetError;
use crate::volume::AttributeError;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    /// A name is none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A path leads elsewhere.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// An attribute is wrong.
    #[error(transparent)]
    Attribute(#[from] AttributeError),
    /// The volume cannot be used so.
    #[error(transparent)]
    Capability(#[from] CapabilityError),
    /// Somebody may not.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It is not known yet what an init container sees.
    #[error(transparent)]
    Undecided(#[from] Undecided),
    /// There is no such snapshot.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// The repository cannot be opened.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The API server did not tell.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The node daemon did not do it.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    /// The folder of the volume cannot be made or removed.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The disk failed.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// A volume cannot be made.
    #[error(transparent)]
    Provision(#[from] ProvisionError),
    /// Another call for the volume is under way.
    #[error("another call for {0} is under way: call again")]
    Busy(String),
    /// The volume is mounted there, asked for in other words.
    #[error("{0} is mounted there already, with other attributes, or to be used otherwise: unpublish it first")]
    Exists(String),
    /// There is no such volume, or it is not mounted there.
    #[error("there is no volume {0} at this place")]
    NoVolume(String),
    /// The task that did the work was lost.
    #[error("the work on this call ended without a result")]
    Lost,
}

/// Returns the code of a failure.
pub fn code(error: &RpcError) -> Code {
    match error {
        RpcError::Name(_) | RpcError::Target(_) | RpcError::Attribute(_) | RpcError::Capability(_) => {
            Code::InvalidArgument
        }
        RpcError::Refused(refused) => match refused {
            Refused::Pod { .. } | Refused::Policy { .. } | Refused::Account { .. } => Code::PermissionDenied,
            Refused::Owner { .. } => Code::InvalidArgument,
        },
        RpcError::Resolve(error) => match error {
            ResolveError::None { .. } | ResolveError::NoId(_) => Code::NotFound,
            ResolveError::Several { .. } => Code::InvalidArgument,
        },
        // Kubelet asks again, until somebody was chosen or the work is done.
        RpcError::Undecided(_) => Code::Unavailable,
        // The Repository is not ready; somebody may make it so.
        RpcError::Access(_) => Code::FailedPrecondition,
        RpcError::Cluster(error) => match error {
            ClusterError::Forbidden(_) => Code::FailedPrecondition,
            ClusterError::Unavailable { .. } => Code::Unavailable,
        },
        RpcError::Daemon(error) => match error.kind {
            DaemonErrorKind::Invalid => Code::InvalidArgument,
            DaemonErrorKind::Exists => Code::AlreadyExists,
            DaemonErrorKind::Busy => Code::Aborted,
            DaemonErrorKind::Precondition => Code::FailedPrecondition,
            DaemonErrorKind::Unauthenticated => Code::Unauthenticated,
            DaemonErrorKind::NotFound => Code::NotFound,
            DaemonErrorKind::Unavailable => Code::Unavailable,
            DaemonErrorKind::Exhausted => Code::ResourceExhausted,
            DaemonErrorKind::Internal => Code::Internal,
        },
        // Kubelet's directory is not as kubelet leaves it, or something is mounted that is not ours.
        RpcError::Folder(_) => Code::Internal,
        // A full disk is freed by somebody; a call is made again.
        RpcError::Pin(_) => Code::Unavailable,
        RpcError::Provision(error) => match error {
            ProvisionError::NoClaim(_) | ProvisionError::NoSnapshot(_) => Code::NotFound,
            ProvisionError::Exists(_) => Code::AlreadyExists,
            ProvisionError::Size { .. } => Code::OutOfRange,
            ProvisionError::Name(_)
            | ProvisionError::Unsupported(_)
            | ProvisionError::NoNamespace
            | ProvisionError::DataSource { .. }
            | ProvisionError::OverlayReaders => Code::InvalidArgument,
        },
        RpcError::Busy(_) => Code::Aborted,
        RpcError::Exists(_) => Code::AlreadyExists,
        RpcError::NoVolume(_) => Code::NotFound,
        RpcError::Lost => Code::Internal,
    }
}

/// Whether kubelet takes a volume for mounted, perhaps, after this code: it unpublishes it later.
pub fn may_be_mounted(code: Code) -> bool {
    matches!(
        code,
        Code::Aborted | Code::Cancelled | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Unavailable
    )
}

/// Answers a call. A failure is logged here and nowhere else: otherwise only the caller would know.
pub(crate) fn answer<T>(rpc: &'static str, volume: &str, result: Result<T, RpcError>) -> Result<Response<T>, Status> {
    match result {
        Ok(answer) => {
            tracing::debug!(rpc, volume, "answered");
            Ok(Response::new(answer))
        }
        Err(error) => {
            let code = code(&error);
            tracing::warn!(rpc, volume, ?code, %error, "a call failed");
            Err(Status::new(code, error.to_string()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authorise::Account;

    #[test]
    fn test_each_failure_has_its_code() {
        let account = Account { namespace: "shop".to_owned(), name: "default".to_owned() };
        let text = || "x".to_owned();
        for (error, expected) in [
            (NameError::Missing("volume_id").into(), Code::InvalidArgument),
            (TargetError::Missing("target_path").into(), Code::InvalidArgument),
            (AttributeError::Missing("snapshot").into(), Code::InvalidArgument),
            (CapabilityError::Block.into(), Code::InvalidArgument),
            (Refused::Policy { repository: text(), namespace: text() }.into(), Code::PermissionDenied),
            (Refused::Account { account, repository: text(), namespace: text() }.into(), Code::PermissionDenied),
            (Refused::Pod { namespace: text(), name: text(), reason: "r" }.into(), Code::PermissionDenied),
            (
                Refused::Owner { attribute: "uid", asked: 0, field: "runAsUser", own: text() }.into(),
                Code::InvalidArgument,
            ),
            (ResolveError::None { repository: text(), what: text() }.into(), Code::NotFound),
            (ResolveError::Several { repository: text(), prefix: text(), count: 2 }.into(), Code::InvalidArgument),
            (AccessError::Local(text()).into(), Code::FailedPrecondition),
            (ClusterError::Forbidden(text()).into(), Code::FailedPrecondition),
            (ClusterError::Unavailable { what: text(), reason: text() }.into(), Code::Unavailable),
            (DaemonError::new(DaemonErrorKind::Unauthenticated, "x").into(), Code::Unauthenticated),
            (DaemonError::new(DaemonErrorKind::Exhausted, "x").into(), Code::ResourceExhausted),
            (DaemonError::new(DaemonErrorKind::Busy, "x").into(), Code::Aborted),
            (ProvisionError::NoClaim(text()).into(), Code::NotFound),
            (ProvisionError::Exists(text()).into(), Code::AlreadyExists),
            (ProvisionError::Size { asked: 2, limit: 1 }.into(), Code::OutOfRange),
            (RpcError::Busy(text()), Code::Aborted),
            (RpcError::Exists(text()), Code::AlreadyExists),
            (RpcError::NoVolume(text()), Code::NotFound),
        ] {
            let status = answer::<()>("Test", "v", Err(error)).unwrap_err();
            assert_eq!(status.code(), expected, "{status:?}");
        }
    }
}

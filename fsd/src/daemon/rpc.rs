//! The calls of the control API.

use stash_control::control_server::Control;
use stash_control::{
    Code, DropReply, DropRequest, ListReply, ListRequest, Mount, MountReply, MountRequest, RepositoryStats, Request,
    Response, StatsReply, StatsRequest, Status, UnmountReply, UnmountRequest, WarmReply, WarmRequest, async_trait,
};
use stash_repo::{BackendErrorKind, RepoError};
use stash_vfs::VfsError;

use super::spec::{MountSpec, SpecError};
use super::{Daemon, DaemonError};
use crate::keeper::message::Refusal;
use crate::keeper::{LinkError, SessionName};
use crate::kept::KeptError;

#[async_trait]
impl Control for Daemon {
    async fn mount(&self, request: Request<MountRequest>) -> Result<Response<MountReply>, Status> {
        let spec = MountSpec::new(request.into_inner()).map_err(DaemonError::from).map_err(status)?;
        let pin = Self::mount(self, spec).await.map_err(status)?;
        let snapshot = pin.map(|pin| pin.snapshot.to_string()).unwrap_or_default();
        Ok(Response::new(MountReply { snapshot }))
    }

    async fn unmount(&self, request: Request<UnmountRequest>) -> Result<Response<UnmountReply>, Status> {
        let UnmountRequest { name: given, lazy } = request.into_inner();
        Self::unmount(self, name(&given)?, lazy).await.map_err(status)?;
        Ok(Response::new(UnmountReply {}))
    }

    async fn list(&self, _: Request<ListRequest>) -> Result<Response<ListReply>, Status> {
        let mounts = Self::list(self)
            .into_iter()
            .map(|listed| Mount {
                name: listed.name.into(),
                repository: listed.repository,
                snapshot: listed.snapshot.unwrap_or_default(),
                trouble: listed.trouble.unwrap_or_default(),
            })
            .collect();
        Ok(Response::new(ListReply { mounts }))
    }

    async fn stats(&self, _: Request<StatsRequest>) -> Result<Response<StatsReply>, Status> {
        let repositories = self
            .inner
            .repositories
            .all()
            .into_iter()
            .map(|entry| RepositoryStats {
                repository: entry.address().to_owned(),
                mounts: self.mounts_of(&entry),
                requests: entry.metrics.backend_requests.get(),
                fetched_bytes: entry.metrics.backend_read_bytes.get(),
            })
            .collect();
        Ok(Response::new(StatsReply {
            memory_limit_bytes: self.budget().limit_bytes() as u64,
            memory_used_bytes: self.budget().used_bytes() as u64,
            repositories,
        }))
    }

    async fn warm(&self, request: Request<WarmRequest>) -> Result<Response<WarmReply>, Status> {
        let WarmRequest { name: given, path } = request.into_inner();
        let (files, bytes) = Self::warm(self, &name(&given)?, &path).await.map_err(status)?;
        Ok(Response::new(WarmReply { files, bytes }))
    }

    async fn drop(&self, request: Request<DropRequest>) -> Result<Response<DropReply>, Status> {
        Ok(Response::new(DropReply { dropped: self.forget(&request.into_inner().repository) }))
    }
}

fn name(given: &str) -> Result<SessionName, Status> {
    SessionName::new(given).map_err(|error| Status::invalid_argument(format!("name: {error}")))
}

#[expect(clippy::needless_pass_by_value, reason = "it stands in map_err")]
fn status(error: DaemonError) -> Status {
    tracing::warn!(%error, "a call failed");
    Status::new(code(&error), error.to_string())
}

/// The one table from an error to a code.
fn code(error: &DaemonError) -> Code {
    match error {
        DaemonError::Spec(SpecError::Field { .. }) => Code::InvalidArgument,
        DaemonError::NoScratch => Code::FailedPrecondition,
        DaemonError::Scratch { .. } => Code::InvalidArgument,
        DaemonError::Exists(_) => Code::AlreadyExists,
        DaemonError::Busy(_) => Code::Aborted,
        DaemonError::NoMount(_) => Code::NotFound,
        DaemonError::Waiting { .. } => Code::Unavailable,
        DaemonError::Repository(error) => of_repository(error),
        DaemonError::Tree(error) => of_tree(error),
        DaemonError::Kept(KeptError::Keeper(error)) => of_keeper(error),
        DaemonError::Kept(KeptError::Mount(_) | KeptError::Left { .. } | KeptError::Memory { .. }) => Code::Internal,
        DaemonError::Task(_) => Code::Internal,
    }
}

fn of_repository(error: &RepoError) -> Code {
    match error {
        RepoError::WrongPassword { .. } => Code::Unauthenticated,
        RepoError::NoRepository { .. } | RepoError::SnapshotNotFound { .. } => Code::NotFound,
        RepoError::SnapshotAmbiguous { .. } => Code::InvalidArgument,
        RepoError::Backend(error) => match error.kind {
            BackendErrorKind::Denied => Code::Unauthenticated,
            BackendErrorKind::NotFound => Code::NotFound,
            _ => Code::Unavailable,
        },
        // Damage, or a format of another time.
        _ => Code::Internal,
    }
}

fn of_tree(error: &VfsError) -> Code {
    match error {
        VfsError::NotFound | VfsError::Stale | VfsError::NotADirectory => Code::NotFound,
        VfsError::Option { .. } | VfsError::NameTooLong => Code::InvalidArgument,
        VfsError::TooManyInodes => Code::ResourceExhausted,
        VfsError::Repo { source, .. } => of_repository(source),
        _ => Code::Internal,
    }
}

fn of_keeper(error: &LinkError) -> Code {
    match error {
        LinkError::Refused { kind, .. } => match kind {
            Refusal::Exists => Code::AlreadyExists,
            Refusal::NotFound => Code::NotFound,
            Refusal::Busy => Code::FailedPrecondition,
            Refusal::Forbidden => Code::InvalidArgument,
            Refusal::Full => Code::ResourceExhausted,
            Refusal::Occupied => Code::Unavailable,
            Refusal::BadMessage | Refusal::Version | Refusal::System => Code::Internal,
        },
        LinkError::Gone(_) => Code::Unavailable,
        LinkError::Odd(_) => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_codes() {
        let name = SessionName::new("a").unwrap();
        let refused = |kind| DaemonError::from(LinkError::Refused { kind, message: String::new() });
        for (error, expected) in [
            (DaemonError::Exists(name.clone()), Code::AlreadyExists),
            (DaemonError::Busy(name), Code::Aborted),
            (DaemonError::NoScratch, Code::FailedPrecondition),
            (DaemonError::Scratch { asked: 2, most: 1 }, Code::InvalidArgument),
            (refused(Refusal::Busy), Code::FailedPrecondition),
            (refused(Refusal::Full), Code::ResourceExhausted),
            (refused(Refusal::Forbidden), Code::InvalidArgument),
            (DaemonError::Repository(RepoError::WrongPassword { tried: 1 }), Code::Unauthenticated),
            (DaemonError::Tree(VfsError::NotFound), Code::NotFound),
        ] {
            assert_eq!(code(&error), expected, "{error}");
        }
    }
}

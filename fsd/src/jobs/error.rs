//! The one table from what failed to what a controller is told.

use stash_proto::job::{ErrorCode, JobError, SpecError};
use stash_repo::{BackendErrorKind, RepoError};

/// What is said of work that a signal ended.
pub(super) const STOPPED: &str = "the work was asked to stop";

/// Says why a spec is not carried out.
pub(super) fn of_spec(error: &SpecError) -> JobError {
    let code = match error {
        SpecError::Args(_) => ErrorCode::BadArguments,
        _ => ErrorCode::BadSpec,
    };
    JobError::new(code, error.to_string())
}

/// Says why the repository failed. Its messages hold no secret and nothing of what a server answered.
pub(super) fn of_repository(error: &RepoError) -> JobError {
    let message = if matches!(error, RepoError::Cancelled) { STOPPED.to_owned() } else { error.to_string() };
    JobError::new(code(error), message)
}

fn code(error: &RepoError) -> ErrorCode {
    use RepoError as E;
    match error {
        E::Backend(backend) => match backend.kind {
            // A bucket that is not there, or a file that was there a moment ago.
            BackendErrorKind::NotFound => ErrorCode::NoRepository,
            BackendErrorKind::Denied => ErrorCode::Denied,
            BackendErrorKind::Unavailable => ErrorCode::Unreachable,
            BackendErrorKind::Full => ErrorCode::Full,
            BackendErrorKind::Invalid => ErrorCode::BadAddress,
            BackendErrorKind::Corrupt => ErrorCode::Damaged,
            BackendErrorKind::Conflict | BackendErrorKind::Unsupported | BackendErrorKind::Other => ErrorCode::Internal,
        },
        E::NoRepository { .. } => ErrorCode::NoRepository,
        E::WrongPassword { .. } => ErrorCode::WrongPassword,
        E::Deadline { .. } => ErrorCode::Unreachable,
        E::Locked { .. } => ErrorCode::Locked,
        // Named by `--parent`.
        E::SnapshotNotFound { .. } | E::SnapshotAmbiguous { .. } => ErrorCode::BadArguments,
        E::NoSource => ErrorCode::SourceMissing,
        E::Cancelled => ErrorCode::Disrupted,
        E::Format { .. }
        | E::Unsupported { .. }
        | E::WrongMac { .. }
        | E::WrongHash { .. }
        | E::BlobMissing { .. }
        | E::BadBlob { .. }
        | E::BadTree { .. } => ErrorCode::Damaged,
        // Whoever removed our lock, or a failure of this machine: the next try may do.
        E::LockLost { .. } | E::Local { .. } | E::Rustic { .. } => ErrorCode::Internal,
        // The enum may grow.
        _ => ErrorCode::Internal,
    }
}

#[cfg(test)]
mod tests {
    use stash_repo::BackendError;
    use stash_repo::backend::Retry;

    use super::*;

    #[test]
    fn test_failures_have_their_words() {
        let backend = |kind| {
            RepoError::from(BackendError {
                kind,
                retry: Retry::Permanent,
                operation: "read",
                target: "config".to_owned(),
                location: "s3:host/bucket".to_owned(),
                message: "status 403".to_owned(),
            })
        };
        let table = [
            (RepoError::NoRepository { location: "x".to_owned() }, ErrorCode::NoRepository),
            (RepoError::WrongPassword { tried: 1 }, ErrorCode::WrongPassword),
            (RepoError::Locked { holder: "x".to_owned() }, ErrorCode::Locked),
            (RepoError::NoSource, ErrorCode::SourceMissing),
            (RepoError::Cancelled, ErrorCode::Disrupted),
            (RepoError::Deadline { seconds: 30 }, ErrorCode::Unreachable),
            (backend(BackendErrorKind::Denied), ErrorCode::Denied),
            (backend(BackendErrorKind::Unavailable), ErrorCode::Unreachable),
            (backend(BackendErrorKind::Full), ErrorCode::Full),
            (backend(BackendErrorKind::Invalid), ErrorCode::BadAddress),
            (backend(BackendErrorKind::NotFound), ErrorCode::NoRepository),
        ];
        for (error, expected) in table {
            let error = of_repository(&error);
            assert_eq!(error.code, expected, "{}", error.message);
            assert!(!error.message.is_empty());
        }
    }
}

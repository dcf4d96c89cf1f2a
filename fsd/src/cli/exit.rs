//! Exit codes and the one error that reaches a person.

use std::io::{self, Write};
use std::process::ExitCode;

/// The exit codes, restic's where restic has them (restic, `doc/075_scripting.rst`, "Exit codes").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All done.
    Success = 0,
    /// The command failed.
    Failure = 1,
    /// The arguments were wrong.
    Usage = 2,
    /// Done in part: some files could not be read or restored; they are named.
    Incomplete = 3,
    /// There is no repository.
    NoRepository = 10,
    /// The repository is locked.
    Locked = 11,
    /// The password is wrong.
    WrongPassword = 12,
    /// SIGINT or SIGTERM.
    Interrupted = 130,
    /// The reader of our output went away; what a shell reports for a process that SIGPIPE ended.
    BrokenPipe = 141,
}

impl Exit {
    /// Returns the code that a child of this program ended with.
    #[must_use]
    pub(super) fn from_child(code: i32) -> Self {
        let known = [
            Self::Success,
            Self::Failure,
            Self::Usage,
            Self::Incomplete,
            Self::NoRepository,
            Self::Locked,
            Self::WrongPassword,
            Self::Interrupted,
            Self::BrokenPipe,
        ];
        known.into_iter().find(|exit| i32::from(*exit as u8) == code).unwrap_or(Self::Failure)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A failed command: what failed on what, and what to do next.
#[derive(Debug)]
pub struct CliError {
    /// The exit code.
    pub exit: Exit,
    /// What failed on what, a lowercase fragment.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
}

/// The result of a verb.
pub type CliResult<T> = Result<T, CliError>;

impl CliError {
    /// A plain failure.
    pub fn failure(message: impl Into<String>) -> Self {
        Self { exit: Exit::Failure, message: message.into(), hint: None }
    }

    /// Wrong arguments.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, message: message.into(), hint: None }
    }

    /// The person or the system asked to stop.
    #[must_use]
    pub fn interrupted() -> Self {
        Self { exit: Exit::Interrupted, message: "interrupted".to_owned(), hint: None }
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Puts what was being done before the message.
    #[must_use]
    pub fn context(mut self, what: impl std::fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// Tells the person, or with `json` the program, that called: one line of restic's `exit_error` message, or two
    /// lines of text. Says nothing where nobody reads any more.
    pub(super) fn report(&self, json: bool, to: &mut impl Write) {
        if self.exit == Exit::BrokenPipe {
            return;
        }
        // There is nobody to tell that standard error cannot be written.
        let _ = if json {
            let line = serde_json::json!({
                "message_type": "exit_error", "code": self.exit as u8, "message": self.message, "hint": self.hint,
            });
            writeln!(to, "{line}")
        } else {
            writeln!(to, "stash-fs: {}", self.message).and_then(|()| match &self.hint {
                Some(hint) => writeln!(to, "hint: {hint}"),
                None => Ok(()),
            })
        };
    }
}

impl From<stash_repo::RepoError> for CliError {
    fn from(error: stash_repo::RepoError) -> Self {
        use stash_repo::{BackendErrorKind as K, RepoError as E};
        let (exit, hint) = match &error {
            E::NoRepository { .. } => {
                (Exit::NoRepository, Some("make one with `stash-fs init`, or check the address given by -r"))
            }
            E::WrongPassword { .. } => {
                (Exit::WrongPassword, Some("check RESTIC_PASSWORD, RESTIC_PASSWORD_FILE or --password-file"))
            }
            E::Locked { .. } => (
                Exit::Locked,
                Some("wait for the other process, or remove its lock with `stash-fs unlock` if it is dead"),
            ),
            E::LockLost { .. } => (Exit::Failure, Some("run it again; what was stored so far is used")),
            E::SnapshotNotFound { .. } => (Exit::Failure, Some("`stash-fs snapshots` lists what there is")),
            E::BlobMissing { .. } | E::BadBlob { .. } | E::WrongMac { .. } | E::WrongHash { .. } => {
                (Exit::Failure, Some("the repository is damaged; `stash-fs check --read-data` names all that is"))
            }
            E::Backend(backend) => (
                Exit::Failure,
                match backend.kind {
                    K::Denied => Some("check the credentials (AWS_*, AZURE_*, RESTIC_REST_*, ...) and their rights"),
                    K::Unavailable => Some("check the network and the address given by -r; --deadline waits longer"),
                    _ => None,
                },
            ),
            _ => (Exit::Failure, None),
        };
        Self { exit, message: error.to_string(), hint: hint.map(str::to_owned) }
    }
}

impl From<stash_repo::BackendError> for CliError {
    fn from(error: stash_repo::BackendError) -> Self {
        stash_repo::RepoError::from(error).into()
    }
}

impl From<stash_vfs::VfsError> for CliError {
    fn from(error: stash_vfs::VfsError) -> Self {
        match error {
            stash_vfs::VfsError::Repo { source, .. } => source.into(),
            other => Self::failure(other.to_string()),
        }
    }
}

/// Standard output, or a file that a verb writes, failed. A closed pipe ends the command in silence.
impl From<io::Error> for CliError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => {
                Self { exit: Exit::BrokenPipe, message: "the reader went away".to_owned(), hint: None }
            }
            _ => Self::failure(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reported(error: &CliError, json: bool) -> String {
        let mut to = Vec::new();
        error.report(json, &mut to);
        String::from_utf8(to).unwrap()
    }

    #[test]
    fn test_report_says_what_failed_and_what_to_do() {
        let error = CliError::failure("cannot read x").hint("read y");
        assert_eq!(reported(&error, false), "stash-fs: cannot read x\nhint: read y\n");
        let json: serde_json::Value = serde_json::from_str(&reported(&error, true)).unwrap();
        assert_eq!(json["message_type"], "exit_error");
        assert_eq!(json["code"], 1);
        assert_eq!(json["hint"], "read y");
    }

    #[test]
    fn test_closed_pipe_is_silent_and_keeps_its_code() {
        let error = CliError::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(error.exit, Exit::BrokenPipe);
        assert_eq!(reported(&error, false), "");
    }

    #[test]
    fn test_repository_errors_have_restics_exit_codes() {
        use stash_repo::RepoError as E;
        let table = [
            (E::NoRepository { location: "x".into() }, Exit::NoRepository),
            (E::WrongPassword { tried: 1 }, Exit::WrongPassword),
            (E::Locked { holder: "x".into() }, Exit::Locked),
            (E::Cancelled, Exit::Failure),
        ];
        for (error, exit) in table {
            assert_eq!(CliError::from(error).exit, exit);
        }
    }
}

//! Exit codes and the one error that reaches a person.

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

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl From<stash_repo::RepoError> for CliError {
    fn from(error: stash_repo::RepoError) -> Self {
        use stash_repo::RepoError as E;
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
            _ => (Exit::Failure, None),
        };
        Self { exit, message: error.to_string(), hint: hint.map(str::to_owned) }
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

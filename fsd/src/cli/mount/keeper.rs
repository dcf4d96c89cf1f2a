//! `--daemon` with its keeper: who starts whom.
//!
//! The first daemon starts the keeper and mounts through it. When the daemon ends without having let go of the mount, the
//! keeper starts another one, with the same arguments and [`RESUMED_OPTION`]; when the keeper ends, the daemon starts another
//! one. Each is at the other end of a socket that is the started one's standard input, so there is no name that anybody else
//! could connect to.

use std::ffi::OsString;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use stash_vfs::{InodeTable, Vfs};

use super::daemon::{self, Ready};
use super::open::Opened;
use super::{Args, CliError, CliResult, Context};
use crate::cli::keep;
use crate::fuse::{FuseMetrics, FuseSession, SessionOptions};
use crate::keeper::{Link, Place, Reach, SessionName};
use crate::kept::{self, KeptError, KeptRepository, Left, New};

/// The option of a daemon that goes on with a mount.
pub(super) const RESUMED_OPTION: &str = "daemon-resumed";

/// How a daemon with a keeper begins.
#[derive(Debug)]
pub(super) enum Start {
    /// With a new mount and a new keeper.
    New,
    /// With what another daemon left.
    Resumed(Box<Resumed>),
}

/// What another daemon left.
#[derive(Debug)]
pub(super) struct Resumed {
    link: Link,
    repositories: Vec<KeptRepository>,
    left: Left,
}

impl Resumed {
    /// Returns where it is mounted.
    pub(super) fn mountpoint(&self) -> PathBuf {
        self.left.place().path().unwrap_or_default()
    }

    /// Returns what it said of its repositories.
    pub(super) fn repositories(&self) -> &[KeptRepository] {
        &self.repositories
    }
}

/// The one session of such a keeper.
fn session() -> CliResult<SessionName> {
    SessionName::new("mount").map_err(|error| CliError::failure(error.to_string()))
}

/// Takes what another daemon left from the keeper that started this one.
pub(super) fn resume(args: &Args, context: &Context, directory: &Path, ready: &mut Ready) -> CliResult<Start> {
    let failed = |what: &str, error: &dyn std::fmt::Display| CliError::failure(format!("cannot {what}: {error}"));
    let socket = rustix::io::fcntl_dupfd_cloexec(std::io::stdin(), 3)
        .map_err(|error| failed("reach the keeper that started this daemon", &error))?;
    // Relative paths among the arguments are relative to it. Where it is gone, they fail by themselves.
    let log_file = args.log_file.as_ref().map(|path| directory.join(path));
    *ready = Ready::new(false, log_file);
    ready.detach_unseen()?;
    drop(std::env::set_current_dir(directory));
    let link = Link::open(reach(args, context, directory)?, Some(socket))
        .map_err(|error| failed("reach the keeper that started this daemon", &error))?;
    let (repositories, left) = Left::take(&link, &session()?)?;
    Ok(Start::Resumed(Box::new(Resumed { link, repositories, left })))
}

impl Start {
    /// Returns the table of inodes, and the file in which the keeper can see it.
    pub(super) fn table(&mut self) -> CliResult<(InodeTable, OwnedFd)> {
        Ok(match self {
            Self::New => kept::new_table(kept::TABLE_LIMIT)?,
            Self::Resumed(resumed) => resumed.left.table(kept::TABLE_LIMIT)?,
        })
    }
}

/// What a session of a daemon is made of.
pub(super) struct Serve<'a> {
    pub(super) args: &'a Args,
    pub(super) context: &'a Context,
    pub(super) opened: &'a Opened,
    pub(super) options: &'a SessionOptions,
    pub(super) mountpoint: &'a Path,
}

impl Serve<'_> {
    /// Mounts, or goes on with a mount.
    pub(super) fn run(
        self,
        start: Start,
        vfs: Vfs,
        table: OwnedFd,
        metrics: Arc<FuseMetrics>,
    ) -> CliResult<(FuseSession, Link)> {
        match start {
            Start::Resumed(resumed) => {
                let Resumed { link, left, .. } = *resumed;
                let (session, _) = left.serve(&link, vfs, self.args.recovery(), self.options, metrics)?;
                // Relative paths are resolved; no filesystem is held.
                drop(std::env::set_current_dir("/"));
                tracing::info!("going on with the mount of a daemon that ended");
                Ok((session, link))
            }
            Start::New => {
                let directory = std::env::current_dir()
                    .map_err(|error| CliError::failure(format!("the current directory cannot be read: {error}")))?;
                let link = Link::open(reach(self.args, self.context, &directory)?, None)
                    .map_err(|error| CliError::failure(format!("cannot start the keeper: {error}")))?;
                let pins = self.opened.pins.iter().copied().chain(std::iter::repeat(None));
                let resume: Vec<KeptRepository> =
                    self.opened.keys.iter().zip(pins).map(|(key, pin)| KeptRepository::new(key, pin)).collect();
                let place = Place::of_path(self.mountpoint);
                let new = New { session: &session()?, place, scratch_bytes: None, table, resume: &resume };
                Ok((new.serve(&link, vfs, self.options, metrics)?, link))
            }
        }
    }
}

/// Lets go of the mount, which has ended; the keeper then ends too.
pub(super) fn release(link: &Link) {
    if let Ok(session) = session() {
        link.release(&session);
    }
    link.close();
}

/// How a keeper of this daemon is started.
fn reach(args: &Args, context: &Context, directory: &Path) -> CliResult<Reach> {
    let program = keep::Program::own()?;
    let mut arguments: Vec<OsString> = vec!["keep".into(), "--local".into()];
    arguments.push("--max-pause".into());
    arguments.push(format!("{}ms", args.max_pause.as_millis()).into());
    if let Some(path) = &args.log_file {
        arguments.push("--log-file".into());
        arguments.push(directory.join(path).into());
    }
    arguments.extend(std::iter::repeat_n("--verbose=1".into(), usize::from(context.global.verbosity())));
    if context.global.quiet {
        arguments.push("--quiet".into());
    }
    if context.global.log_json {
        arguments.push("--log-json".into());
    }
    arguments.push("--".into());
    arguments.extend(resumed_arguments(daemon::own_arguments()?, directory));
    Ok(Reach::Start(Box::new(move |socket| {
        let start = |program: &Path| {
            let mut command = Command::new(program);
            command.args(&arguments).stdin(Stdio::from(socket.as_fd().try_clone_to_owned()?));
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()
        };
        program.start(start)
    })))
}

/// The arguments of the next daemon: this one's, but how it was started.
fn resumed_arguments(own: Vec<OsString>, directory: &Path) -> Vec<OsString> {
    let child = OsString::from(format!("--{}", daemon::CHILD_OPTION));
    let mut option = OsString::from(format!("--{RESUMED_OPTION}="));
    let begins = |argument: &OsString| argument.as_encoded_bytes().starts_with(option.as_encoded_bytes());
    let places = own.iter().position(|argument| argument == "--").unwrap_or(own.len());
    let kept: Vec<OsString> = own
        .iter()
        .enumerate()
        .filter(|(place, argument)| *place >= places || (**argument != child && !begins(argument)))
        .map(|(_, argument)| argument.clone())
        .collect();
    option.push(directory);
    daemon::with_option(kept, option)
}

impl From<KeptError> for CliError {
    fn from(error: KeptError) -> Self {
        match error {
            KeptError::Mount(error) => error.into(),
            other => Self::failure(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_arguments_of_the_next_daemon() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        let table = [
            ("mount --daemon --daemon-child /mnt", "mount --daemon /mnt --daemon-resumed=/home"),
            (
                "mount --daemon --daemon-resumed=/old -- latest /mnt",
                "mount --daemon --daemon-resumed=/home -- latest /mnt",
            ),
            ("mount --daemon-child -- --daemon-child", "mount --daemon-resumed=/home -- --daemon-child"),
        ];
        for (own, expected) in table {
            assert_eq!(resumed_arguments(words(own), Path::new("/home")), words(expected), "{own}");
        }
    }
}

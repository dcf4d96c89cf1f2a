//! `--daemon`: the parent starts this program again and waits until it says that the tree can be read.
//!
//! Nothing is forked: a process with threads cannot go on safely in a fork. Until it is ready the child has the parent's
//! terminal (for a password), standard error (for errors) and process group (for Ctrl-C). It says `ready` through its
//! standard output, which the parent holds; then it lets go of all of these. If it ends before, its exit code is the
//! parent's.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::helper;
use crate::cli::{CliError, CliResult, Exit};
use crate::telemetry;

/// The option that makes the child.
pub(super) const CHILD_OPTION: &str = "daemon-child";
/// Its name among the arguments.
pub(super) const CHILD_OPTION_ID: &str = "daemon_child";

/// What the child says when the tree can be read.
const READY: &[u8] = b"ready\n";

/// More than any file of variables.
const MAX_ENVIRONMENT_BYTES: u64 = 1 << 20;

/// Starts the child, and returns when it is ready.
pub(super) fn start(environment_file: Option<&Path>) -> CliResult<Exit> {
    let program = std::env::current_exe()
        .map_err(|error| CliError::failure(format!("cannot find this program to start it again: {error}")))?;
    let mut command = Command::new(program);
    command.args(arguments()?).stdin(Stdio::inherit()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    if let Some(path) = environment_file {
        command.envs(environment(path)?);
    }
    let mut child = command.spawn().map_err(|error| CliError::failure(format!("cannot start the daemon: {error}")))?;
    let mut said = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout
            .take(READY.len() as u64)
            .read_to_end(&mut said)
            .map_err(|error| CliError::failure(format!("the daemon cannot be heard: {error}")))?;
    }
    if said == READY {
        return Ok(Exit::Success);
    }
    let status =
        child.wait().map_err(|error| CliError::failure(format!("the daemon cannot be waited for: {error}")))?;
    // It has said why, on our standard error.
    match (status.code(), status.signal()) {
        (Some(code), _) => Ok(Exit::from_child(code)),
        (None, signal) => Err(CliError::failure(format!("the daemon died of signal {}", signal.unwrap_or_default()))),
    }
}

/// The arguments that this process got, in the form of `stash-fs mount`, for the child.
fn arguments() -> CliResult<Vec<OsString>> {
    Ok(with_option(own_arguments()?, format!("--{CHILD_OPTION}").into()))
}

/// The arguments that this process got, in the form of `stash-fs mount`.
pub(super) fn own_arguments() -> CliResult<Vec<OsString>> {
    let mut arguments = match helper::rewrite(std::env::args_os().collect())? {
        helper::Arguments::Fake => Vec::new(),
        helper::Arguments::Of(arguments) => arguments,
    };
    if !arguments.is_empty() {
        arguments.remove(0);
    }
    Ok(arguments)
}

/// Adds an option; behind `--` it would be a mountpoint.
pub(super) fn with_option(mut arguments: Vec<OsString>, option: OsString) -> Vec<OsString> {
    let place = arguments.iter().position(|argument| argument == "--").unwrap_or(arguments.len());
    arguments.insert(place, option);
    arguments
}

/// Reads `NAME=VALUE` lines; `#` begins a comment line, quotes around a value are taken off (systemd's `EnvironmentFile`).
fn environment(path: &Path) -> CliResult<Vec<(String, String)>> {
    let shown = path.display();
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(MAX_ENVIRONMENT_BYTES).read_to_string(&mut text))
        .map_err(|error| CliError::failure(format!("read environment file {shown}: {error}")))?;
    let mut variables = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        // The line may hold a secret: only its number is named.
        let wrong = || CliError::failure(format!("environment file {shown}, line {}: not NAME=VALUE", number + 1));
        let (name, value) = line.strip_prefix("export ").unwrap_or(line).split_once('=').ok_or_else(wrong)?;
        let value = value.trim();
        let unquoted = ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
        let name = name.trim();
        if name.is_empty() || name.contains('\0') || value.contains('\0') {
            return Err(wrong());
        }
        variables.push((name.to_owned(), unquoted.unwrap_or(value).to_owned()));
    }
    Ok(variables)
}

/// Tells the parent, if there is one.
#[derive(Debug)]
pub(super) struct Ready {
    daemon: bool,
    detached: bool,
    log_file: Option<PathBuf>,
}

impl Ready {
    pub(super) fn new(daemon: bool, log_file: Option<PathBuf>) -> Self {
        Self { daemon, detached: false, log_file }
    }

    /// Returns whether a parent waits.
    pub(super) fn is_daemon(&self) -> bool {
        self.daemon
    }

    /// Returns whether the terminal is gone.
    pub(super) fn is_detached(&self) -> bool {
        self.detached
    }

    /// Says that the tree can be read, and lets go of terminal, session and current directory.
    pub(super) fn tell(&mut self) -> CliResult<()> {
        if !self.daemon {
            return Ok(());
        }
        self.detach().map_err(|error| CliError::failure(format!("cannot become a daemon: {error}")))
    }

    fn detach(&mut self) -> io::Result<()> {
        let parent = File::from(rustix::io::fcntl_dupfd_cloexec(io::stdout(), 3)?);
        detach(self.log_file.as_deref(), || (&parent).write_all(READY))?;
        self.detached = true;
        Ok(())
    }

    /// Lets go of everything where nobody waits: a keeper has started this daemon.
    pub(super) fn detach_unseen(&mut self) -> CliResult<()> {
        detach(self.log_file.as_deref(), || Ok(()))
            .map_err(|error| CliError::failure(format!("cannot become a daemon: {error}")))?;
        self.detached = true;
        Ok(())
    }
}

/// Lets go of terminal, session and current directory; `tell` is done before standard error goes.
pub(in crate::cli) fn detach(log_file: Option<&Path>, tell: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    telemetry::detach(log_file)?;
    // A process group's leader has no need to: it was started by itself.
    if let Err(errno) = rustix::process::setsid()
        && errno != rustix::io::Errno::PERM
    {
        return Err(errno.into());
    }
    // So that no filesystem is held.
    std::env::set_current_dir("/")?;
    let null: OwnedFd = File::options().read(true).write(true).open("/dev/null")?.into();
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    tell()?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_the_childs_option_stands_before_the_places() {
        let table = [
            ("mount --daemon /mnt", "mount --daemon /mnt --daemon-child"),
            ("mount --daemon -- latest /mnt", "mount --daemon --daemon-child -- latest /mnt"),
        ];
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        for (given, expected) in table {
            assert_eq!(with_option(words(given), "--daemon-child".into()), words(expected), "{given}");
        }
    }

    #[test]
    fn test_environment_files() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "# comment\n\nA=1\nexport B = \"two words\"\nC='x=y'\nD=\n").unwrap();
        let expected = [("A", "1"), ("B", "two words"), ("C", "x=y"), ("D", "")];
        let expected: Vec<_> = expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        assert_eq!(environment(file.path()).unwrap(), expected);
        std::fs::write(&file, "A=1\nsecret\n").unwrap();
        let error = environment(file.path()).unwrap_err();
        assert!(error.message.contains("line 2") && !error.message.contains("secret"), "{}", error.message);
        assert!(environment(Path::new("/nowhere")).is_err());
    }
}

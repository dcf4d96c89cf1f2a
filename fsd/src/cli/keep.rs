//! `keep`: the process that holds mounts for the daemon that serves them; see [`crate::keeper`].

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};

use super::mount::detach;
use super::units::{parse_bytes, parse_duration};
use super::{CliError, CliResult, Context, Exit, descriptors};
use crate::keeper::overlay::Overlays;
use crate::keeper::place::Base;
use crate::keeper::run::{Daemons, Keeper, Options};
use crate::keeper::socket;

/// The arguments of `keep`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "It mounts for the daemon (`stash-fs serve --keeper SOCKET`), keeps the mounts open, and holds what the \
                  next daemon needs to go on with them, keys included, in memory alone. It needs the right to mount, \
                  and no network. With --scratch it mounts volumes that can be written: what is written to one is kept in a \
                  file there, which goes with the mount."
)]
pub struct Args {
    /// Where the daemon connects: a Unix socket that is made here, for its owner alone
    #[arg(long, value_name = "PATH", required_unless_present = "local")]
    socket: Option<PathBuf>,
    /// Mount below this directory and nowhere else
    #[arg(long, value_name = "DIR", required_unless_present = "local")]
    base: Option<PathBuf>,
    /// Let a daemon of this user connect, beside one of the own user; repeatable
    #[arg(long, value_name = "UID")]
    peer_uid: Vec<u32>,
    /// How long a mount may be without a daemon before it is detached and its readers get an error
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = parse_duration)]
    max_pause: Duration,
    /// Where the scratch space of volumes that can be written lies: a directory of a disk of the node. Without it there are none
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// The largest scratch space of a volume
    #[arg(long, value_name = "SIZE", default_value = "16G", value_parser = parse_bytes, requires = "scratch")]
    scratch_max: u64,
    /// The keeper of one mount, whose daemon is at standard input, and that starts the daemons after it
    #[arg(long, hide = true, conflicts_with_all = ["socket", "base", "peer_uid", "scratch"])]
    local: bool,
    /// Where the log goes (by default to syslog)
    #[arg(long, hide = true, value_name = "FILE", requires = "local")]
    log_file: Option<PathBuf>,
    /// The arguments of the next daemon
    #[arg(last = true, hide = true)]
    daemon: Vec<OsString>,
}

/// Runs the verb.
pub(super) fn run(args: Args, _context: &Context) -> CliResult<Exit> {
    if args.local {
        return local(args);
    }
    descriptors::raise_limit();
    let (Some(path), Some(base)) = (&args.socket, &args.base) else {
        return Err(CliError::usage("--socket and --base are needed"));
    };
    let base = Base::below(base)
        .map_err(|error| CliError::failure(format!("cannot open the base directory {}: {error}", base.display())))?;
    let overlays = args.scratch.as_deref().map(|scratch| {
        let failed =
            |error| CliError::failure(format!("cannot use the scratch directory {}: {error}", scratch.display()));
        Overlays::open(scratch, args.scratch_max).map_err(failed)
    });
    let overlays = overlays.transpose()?;
    end_when_told().map_err(|error| CliError::failure(format!("cannot wait for signals: {error}")))?;
    let listener = socket::listen(path)
        .map_err(|error| CliError::failure(format!("cannot listen at {}: {error}", path.display())))?;
    let mut peers = args.peer_uid;
    peers.push(rustix::process::geteuid().as_raw());
    let options = Options { base, max_pause: args.max_pause, peers, overlays };
    tracing::info!(socket = %path.display(), "keeping");
    end(Keeper::new(options, Daemons::Connect(listener)).and_then(Keeper::run))
}

/// Ends the process at once when it is told to: the daemon gives what it held to the next one, as after a crash. A signal that nobody
/// handles does not end the first process of a container.
fn end_when_told() -> io::Result<()> {
    let always = Arc::new(AtomicBool::new(true));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register_conditional_shutdown(signal, 0, Arc::clone(&always))?;
    }
    Ok(())
}

/// The keeper of `mount --daemon`.
fn local(args: Args) -> CliResult<Exit> {
    let failed = |error: io::Error| CliError::failure(format!("cannot keep a mount: {error}"));
    let first = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3).map_err(|errno| failed(errno.into()))?;
    let program = Program::own()?;
    detach(args.log_file.as_deref(), || Ok(())).map_err(failed)?;
    let daemon = args.daemon;
    let start = Box::new(move |socket: std::os::fd::OwnedFd| {
        program.start(|program| {
            let mut command = Command::new(program);
            command.args(&daemon).stdin(Stdio::from(socket.as_fd().try_clone_to_owned()?));
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()
        })
    });
    let options = Options { base: Base::Anywhere, max_pause: args.max_pause, peers: Vec::new(), overlays: None };
    end(Keeper::new(options, Daemons::Start { first, start }).and_then(Keeper::run))
}

fn end(result: io::Result<()>) -> CliResult<Exit> {
    match result {
        Ok(()) => Ok(Exit::Success),
        Err(error) => {
            tracing::error!(%error, "the keeper ended");
            Err(CliError::failure(format!("the keeper ended: {error}")))
        }
    }
}

/// This program, to be started again: also after another version was put in its place.
#[derive(Debug)]
pub(super) struct Program(PathBuf);

impl Program {
    /// Finds it.
    pub(super) fn own() -> CliResult<Self> {
        let path = std::env::current_exe()
            .map_err(|error| CliError::failure(format!("cannot find this program to start it again: {error}")))?;
        Ok(Self(without_mark(&path)))
    }

    /// Starts what lies at its path now, or itself where nothing does.
    pub(super) fn start(&self, start: impl Fn(&Path) -> io::Result<Child>) -> io::Result<Child> {
        match start(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => start(Path::new("/proc/self/exe")),
            result => result,
        }
    }
}

/// The kernel marks the path of a program whose file was replaced (proc_pid_exe(5)).
fn without_mark(path: &Path) -> PathBuf {
    match path.to_str().and_then(|text| text.strip_suffix(" (deleted)")) {
        Some(text) if !path.exists() => PathBuf::from(text),
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_a_replaced_program_is_found_where_it_was() {
        assert_eq!(without_mark(Path::new("/nowhere/stash-fs (deleted)")), Path::new("/nowhere/stash-fs"));
        assert_eq!(without_mark(Path::new("/nowhere/stash-fs")), Path::new("/nowhere/stash-fs"));
    }
}

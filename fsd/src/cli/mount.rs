//! `mount`: snapshots as a read-only filesystem, until somebody unmounts it or a signal comes.

mod check;
mod daemon;
pub(super) mod helper;
mod keeper;
mod notify;
mod open;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use stash_vfs::inode::table;
use stash_vfs::{DirSink, Entry, FileType, Ino, InodeTable, NamespaceOptions, Vfs, VfsOptions};
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::fuse::mount::{MountError, MountOptions};
use crate::fuse::{self, DispatchOptions, FuseMetrics, FuseSession, Recovery, SessionOptions};
use crate::kept::KeptRepository;
use crate::telemetry::{self, Sources};

use super::units::parse_duration;
use super::{CliError, CliResult, Context, Exit, global};
use daemon::Ready;
pub(super) use daemon::detach;
use open::Opened;

/// The arguments of `mount`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "With several --repo each has its own directory, named by the last part of its address. They share \
                        the password of RESTIC_PASSWORD and its kin, unless --repo-password-file is given once for each, in \
                        the same order. Unmount with Ctrl-C, `stash-fs umount` or umount(8). In /etc/fstab: \
                        `REPOSITORY MOUNTPOINT fuse.stash-fs password-file=/etc/repo.pw,allow_other,_netdev 0 0`."
)]
pub struct Args {
    /// What to mount and where; without a snapshot all of them, in restic's layout
    #[arg(required = true, num_args = 1..=2, value_names = ["[SNAPSHOT[:PATH]]", "MOUNTPOINT"])]
    what_and_where: Vec<OsString>,
    /// Where snapshots stand, as restic takes it (%i id, %I long id, %u user, %h host, %t tag, %T time); repeatable
    #[arg(long, value_name = "TEMPLATE")]
    path_template: Vec<String>,
    /// How times are written, as restic takes it (Go's layout, by default RFC 3339)
    #[arg(long, value_name = "TEMPLATE")]
    time_template: Option<String>,
    /// Only snapshots of this host; repeatable
    #[arg(short = 'H', long)]
    host: Vec<String>,
    /// Only snapshots with all of these tags (`a,b`); repeatable, then any of the lists
    #[arg(long, value_name = "TAG[,TAG...]")]
    tag: Vec<String>,
    /// Only snapshots with this path; repeatable, then all of them
    #[arg(long)]
    path: Vec<String>,
    /// Everything belongs to root
    #[arg(long, conflicts_with_all = ["uid", "gid"])]
    owner_root: bool,
    /// Everything belongs to this user
    #[arg(long)]
    uid: Option<u32>,
    /// Everything belongs to this group
    #[arg(long)]
    gid: Option<u32>,
    /// Let all users in, not only the one who mounts
    #[arg(long)]
    allow_other: bool,
    /// Do not check permissions: whoever is let in may read everything
    #[arg(long)]
    no_default_permissions: bool,
    /// Return once the tree can be read, and go on in the background
    #[arg(long)]
    daemon: bool,
    /// Where a daemon logs (by default to syslog)
    #[arg(long, value_name = "FILE", requires = "daemon")]
    log_file: Option<PathBuf>,
    /// How long a daemon that ended may be missing before readers get an error
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = parse_duration, requires = "daemon")]
    max_pause: Duration,
    /// Take further environment variables (NAME=VALUE a line) from a file, for credentials of a store
    #[arg(long, value_name = "FILE", requires = "daemon")]
    environment_file: Option<PathBuf>,
    /// Fetch ahead of readers
    #[arg(long, value_name = "on|off", default_value = "on", num_args = 0..=1, default_missing_value = "on")]
    prefetch: Switch,
    /// Hash all data, also from a local disk
    #[arg(long)]
    verify: bool,
    /// Serve figures for Prometheus at this port, or address and port
    #[arg(long, value_name = "ADDRESS", value_parser = telemetry::parse_address)]
    metrics: Option<SocketAddr>,
    /// The password file of one of several repositories; once for each --repo, in the same order
    #[arg(long, value_name = "FILE")]
    repo_password_file: Vec<PathBuf>,
    /// Threads that read requests from the kernel
    #[arg(long, hide = true, default_value_t = DEFAULT_THREADS, value_parser = clap::value_parser!(u8).range(1..=4))]
    threads: u8,
    /// This is the daemon that another stash-fs waits for
    #[arg(long = daemon::CHILD_OPTION, hide = true)]
    daemon_child: bool,
    /// This daemon goes on with the mount of one that ended, which was started in this directory
    #[arg(long = keeper::RESUMED_OPTION, hide = true, value_name = "DIR", conflicts_with = daemon::CHILD_OPTION_ID)]
    daemon_resumed: Option<PathBuf>,
    /// Answer EIO to the requests that a daemon left unanswered, as where the kernel cannot tell them again
    #[arg(long, hide = true)]
    no_resend: bool,
}

/// Measured in `docs/design/0002-fuse-session.md`.
const DEFAULT_THREADS: u8 = 1;

/// The kernel reads this far ahead of a sequential reader: four requests under way hide a network's latency, and on a local
/// disk the time that threads take to wake each other (0.83 s a GiB instead of 0.9 to 1.8 with 1 MiB; 8 MiB gain no more).
const READ_AHEAD_KIB: u32 = 4096;

/// A setting that is on or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Switch {
    On,
    Off,
}

impl Args {
    fn mountpoint(&self) -> CliResult<&Path> {
        self.what_and_where.last().map(Path::new).ok_or_else(|| CliError::usage("no mountpoint was given"))
    }

    fn root(&self) -> CliResult<Option<String>> {
        match self.what_and_where.as_slice() {
            [root, _mountpoint] => match root.to_str() {
                Some(root) => Ok(Some(root.to_owned())),
                None => Err(CliError::usage("the snapshot is not UTF-8 text")),
            },
            _ => Ok(None),
        }
    }

    fn namespace(&self) -> CliResult<NamespaceOptions> {
        Ok(NamespaceOptions {
            root: self.root()?,
            pinned: None,
            path_templates: self.path_template.clone(),
            time_template: self.time_template.clone(),
            hosts: self.host.clone(),
            tags: self.tag.clone(),
            paths: self.path.clone(),
        })
    }

    fn recovery(&self) -> Recovery {
        if self.no_resend { Recovery::Fail } else { Recovery::Resend }
    }

    fn vfs_options(&self) -> VfsOptions {
        VfsOptions {
            owner_root: self.owner_root,
            uid: self.uid,
            gid: self.gid,
            prefetch: self.prefetch == Switch::On,
            ..VfsOptions::default()
        }
    }
}

/// Runs the verb.
pub(super) fn run(args: Args, context: Context) -> CliResult<Exit> {
    if args.daemon && !args.daemon_child && args.daemon_resumed.is_none() {
        return daemon::start(args.environment_file.as_deref());
    }
    let mut ready = Ready::new(args.daemon_child, args.log_file.clone());
    let keeper = match &args.daemon_resumed {
        Some(directory) => Some(keeper::resume(&args, &context, directory, &mut ready)?),
        None if args.daemon_child => Some(keeper::Start::New),
        None => None,
    };
    let runtime = global::runtime()?;
    let result = runtime.block_on(serve(&args, &context, &mut ready, keeper));
    // Prefetches and requests of a mount that is gone do not hold the process.
    runtime.shutdown_background();
    if let (true, Err(error)) = (ready.is_detached(), &result) {
        // Nobody reads standard error any more.
        tracing::error!(error = error.message, "the mount ended");
    }
    result
}

/// Mounts, and stays until the mount is gone.
async fn serve(
    args: &Args,
    context: &Context,
    ready: &mut Ready,
    mut keeper: Option<keeper::Start>,
) -> CliResult<Exit> {
    if context.global.deadline.is_zero() {
        return Err(CliError::usage("with --deadline 0 every request would fail"));
    }
    let mut signals = Signals::new()?;
    let locations = open::locations(context)?;
    let (table, table_file) = match &mut keeper {
        None => (InodeTable::new(table::DEFAULT_LIMIT, None), None),
        Some(keeper) => keeper.table().map(|(table, file)| (table, Some(file)))?,
    };
    let resumed = match &keeper {
        Some(keeper::Start::Resumed(resumed)) => Some(&**resumed),
        Some(keeper::Start::New) | None => None,
    };
    let mountpoint = match resumed {
        Some(resumed) => resumed.mountpoint(),
        None => check::mountpoint(args.mountpoint()?, &locations, context.global.cache_directory().as_deref())?,
    };
    let left = resumed.map(keeper::Resumed::repositories);
    let (vfs, opened) = tokio::select! {
        prepared = prepare(args, context, locations, left, table) => prepared?,
        () = signals.stop() => return Err(CliError::interrupted()),
    };
    let listener = match args.metrics {
        Some(address) => Some(
            tokio::net::TcpListener::bind(address)
                .await
                .map_err(|error| CliError::failure(format!("cannot serve metrics at {address}: {error}")))?,
        ),
        None => None,
    };

    let options = session_options(args, context, &opened);
    let metrics = Arc::new(FuseMetrics::default());
    let (session, link) = match (keeper, table_file) {
        (Some(keeper), Some(table_file)) => {
            let start = keeper::Serve { args, context, opened: &opened, options: &options, mountpoint: &mountpoint };
            let (session, link) = start.run(keeper, vfs, table_file, Arc::clone(&metrics))?;
            (session, Some(link))
        }
        _ => (FuseSession::start(vfs, &mountpoint, &options, Handle::current(), Arc::clone(&metrics))?, None),
    };
    let sources = Sources { fuse: metrics, repositories: opened.metrics.clone(), mounts: None };
    if let Some(listener) = listener {
        // Ends with the runtime.
        let sources = sources.clone();
        drop(tokio::spawn(telemetry::serve(listener, move || sources.clone())));
    }
    let result = match announce(context, ready, &session, &opened) {
        Ok(()) => watch(&session, &mut signals, &sources, context.global.quiet).await,
        Err(error) => {
            drop(session.unmount(true));
            Err(error)
        }
    };
    if let Some(link) = link {
        // However it ended, it was meant to: nobody starts another daemon.
        keeper::release(&link);
    }
    result
}

/// Opens the repositories and builds the tree, and reads its root, so that whatever is wrong is said before mounting.
async fn prepare(
    args: &Args,
    context: &Context,
    locations: Vec<open::Named>,
    left: Option<&[KeptRepository]>,
    table: InodeTable,
) -> CliResult<(Vfs, Opened)> {
    let (mounted, mut opened) = open::open(args, context, locations, left).await?;
    let vfs = Vfs::with_table(mounted, args.vfs_options(), table).await?;
    opened.pins = vfs.pins();
    vfs.getattr(Ino::ROOT).await?;
    vfs.readdir(Ino::ROOT, 0, false, &mut Full).await?;
    Ok((vfs, opened))
}

/// Takes no entry: that there is a listing is all that is asked.
struct Full;

impl DirSink for Full {
    fn add(&mut self, _ino: Ino, _next: u64, _kind: FileType, _name: &[u8], _entry: Option<&Entry>) -> bool {
        true
    }
}

fn session_options(args: &Args, context: &Context, opened: &Opened) -> SessionOptions {
    SessionOptions {
        mount: MountOptions {
            source: opened.source.clone(),
            allow_other: args.allow_other,
            default_permissions: !args.no_default_permissions,
        },
        threads: usize::from(args.threads),
        read_ahead_kib: READ_AHEAD_KIB,
        dispatch: DispatchOptions {
            deadline: request_deadline(context.global.deadline, fuse::mount::kernel_request_timeout()),
            ..DispatchOptions::default()
        },
    }
}

/// Returns the deadline of a FUSE request. The layers below have `deadline` too, and name the file: they get the chance to
/// say so first. Where the kernel would give up earlier, and the whole mount with it, the request must.
fn request_deadline(deadline: Duration, kernel: Option<Duration>) -> Duration {
    let ours = deadline + (deadline / 20).min(Duration::from_secs(1));
    match kernel {
        Some(kernel) if ours > kernel * 4 / 5 => {
            tracing::warn!(
                deadline_seconds = (kernel * 4 / 5).as_secs(),
                "fs.fuse's request timeout is shorter than --deadline, which is cut"
            );
            kernel * 4 / 5
        }
        _ => ours,
    }
}

/// Tells whoever waits that the tree can be read.
fn announce(context: &Context, ready: &mut Ready, session: &FuseSession, opened: &Opened) -> CliResult<()> {
    let shown = session.mountpoint().display();
    if !ready.is_daemon() {
        if context.global.json {
            let mut out = context.out();
            out.json_line(&serde_json::json!({
                "message_type": "mounted",
                "mountpoint": shown.to_string(),
                "repositories": opened.metrics.iter().map(|(name, _)| name).collect::<Vec<_>>(),
            }))?;
            out.finish()?;
        } else if !context.global.quiet {
            eprintln!("{} is mounted on {shown}; Ctrl-C unmounts it", opened.source);
        }
    }
    ready.tell()?;
    notify::tell(&format!("READY=1\nSTATUS=mounted on {shown}"));
    tracing::info!(mountpoint = %shown, repository = opened.source, "mounted");
    Ok(())
}

/// Waits for the end of the mount: somebody unmounts it, or a signal asks us to.
async fn watch(session: &FuseSession, signals: &mut Signals, sources: &Sources, quiet: bool) -> CliResult<Exit> {
    let mut stopping = false;
    loop {
        tokio::select! {
            end = session.ended() => {
                notify::tell("STOPPING=1");
                return match end {
                    Ok(()) => Ok(Exit::Success),
                    Err(error) => Err(CliError::failure(format!("the connection to the kernel broke: {error}"))),
                };
            }
            asked = signals.next() => match asked {
                Asked::Figures => telemetry::say(&sources.summary()),
                Asked::Stop if stopping => {
                    tell(quiet, "second signal: open files fail from now on");
                    return Ok(Exit::Interrupted);
                }
                Asked::Stop => {
                    stopping = true;
                    notify::tell("STOPPING=1\nSTATUS=unmounting");
                    stop(session, quiet).await?;
                }
            }
        }
    }
}

/// Unmounts; a mount that is in use is detached, and ends when the last open file is closed.
async fn stop(session: &FuseSession, quiet: bool) -> CliResult<()> {
    let unmount = |lazy| {
        let (mountpoint, device) = (session.mountpoint().to_owned(), session.device());
        tokio::task::spawn_blocking(move || fuse::mount::unmount(&mountpoint, Some(device), lazy))
    };
    let result = match unmount(false).await {
        Ok(Err(MountError::Busy(mountpoint))) => {
            tell(
                quiet,
                &format!(
                    "{} is in use: it is detached, and stash-fs goes on until the last open file is closed; \
                     a second signal ends it at once",
                    mountpoint.display()
                ),
            );
            unmount(true).await
        }
        result => result,
    };
    match result {
        // Somebody else was faster.
        Ok(Ok(()) | Err(MountError::NotMounted(_))) => Ok(()),
        Ok(Err(error)) => Err(error.into()),
        Err(panic) => Err(CliError::failure(format!("unmounting panicked: {panic}"))),
    }
}

fn tell(quiet: bool, message: &str) {
    if !quiet {
        telemetry::say(&format!("stash-fs: {message}"));
    }
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Stop,
    Figures,
}

/// The signals that a mount knows.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    user: Signal,
}

impl Signals {
    fn new() -> CliResult<Self> {
        let listen = |kind| signal(kind).map_err(|error| CliError::failure(format!("listen for signals: {error}")));
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
            user: listen(SignalKind::user_defined1())?,
        })
    }

    /// Waits for the next one.
    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.terminate.recv() => Asked::Stop,
            // The terminal of a mount in the foreground is gone.
            _ = self.hangup.recv() => Asked::Stop,
            _ = self.user.recv() => Asked::Figures,
        }
    }

    /// Waits until the mount is asked to end; before it is there, there are no figures.
    async fn stop(&mut self) {
        while self.next().await != Asked::Stop {}
    }
}

impl From<MountError> for CliError {
    fn from(error: MountError) -> Self {
        let hint = match &error {
            MountError::Helper { message, .. } if message.contains("user_allow_other") => {
                Some("add the line `user_allow_other` to /etc/fuse.conf, or mount without --allow-other")
            }
            MountError::Busy(_) => {
                Some("close what uses it (`fuser -vm MOUNTPOINT` names it), or detach it with `stash-fs umount -l`")
            }
            MountError::NotMounted(_) => Some("`findmnt -t fuse.stash-fs` lists what is mounted"),
            _ => None,
        };
        let failure = Self::failure(error.to_string());
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_deadline_of_a_request_lies_between_the_stores_and_the_kernels() {
        let seconds = Duration::from_secs_f64;
        let table = [
            (30.0, None, 31.0),
            (2.0, None, 2.1),
            (600.0, None, 601.0),
            (30.0, Some(60.0), 31.0),
            (60.0, Some(60.0), 48.0),
        ];
        for (deadline, kernel, expected) in table {
            assert_eq!(request_deadline(seconds(deadline), kernel.map(seconds)), seconds(expected));
        }
    }
}

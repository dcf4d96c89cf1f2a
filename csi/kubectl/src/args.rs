//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use stash_csi::volume::SnapshotPath;
use stash_proto::units::parse_duration;

/// A small public image with a shell, `ls`, `cat` and `tar`.
const IMAGE: &str = "docker.io/library/busybox:1.37";

/// Looks into the snapshots of a Repository, and starts and pauses backups.
#[derive(Debug, Parser)]
#[command(
    name = "kubectl-stash",
    bin_name = "kubectl stash",
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = "SNAPSHOT is the name of a Snapshot (`kubectl get snapshots`), REPOSITORY/latest, or REPOSITORY/ID with the first \
                  4 digits of an id or more. With REPOSITORY/latest, PATH also chooses: the latest snapshot of a backup that \
                  holds it.\n\n\
                  browse, ls, cat and download make a short-lived pod in the namespace with the snapshot for a volume, and \
                  remove it at the end. You need no right to the Repository's Secret, and the store need not be reachable from \
                  here. With --local, and for mount, the Secret is read into memory and the store is read from here: no pod.\n\n\
                  Exit codes: 0 done, 1 failed, 2 wrong arguments, 3 done in part, 12 wrong password, 130 interrupted; else the \
                  code of the command in the pod."
)]
pub struct Cli {
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Which cluster, as kubectl takes it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every verb")]
pub(crate) struct ClusterArgs {
    /// The kubeconfig to use (default: KUBECONFIG, or ~/.kube/config)
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig to use
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// The namespace of the objects (default: the context's)
    #[arg(short, long, global = true, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Open a shell in a short-lived pod that has the snapshot for a volume
    Browse {
        #[command(flatten)]
        what: Place,
        #[command(flatten)]
        pod: PodArgs,
    },
    /// List a directory of a snapshot
    Ls {
        #[command(flatten)]
        what: Place,
        #[command(flatten)]
        way: Way,
    },
    /// Print a file of a snapshot
    Cat {
        #[command(flatten)]
        what: File,
        #[command(flatten)]
        way: Way,
    },
    /// Copy a file, or what a directory holds, out of a snapshot
    #[command(
        after_help = "Of a directory what it holds comes into TARGET-DIR, a file comes by its name. Modes (without setuid and \
                      setgid) and times are kept; all belongs to you. Devices and fifos are left out by name, then the exit \
                      code is 3."
    )]
    Download {
        #[command(flatten)]
        what: File,
        /// Where to; made if need be
        #[arg(value_name = "TARGET-DIR")]
        target: PathBuf,
        #[command(flatten)]
        way: Way,
    },
    /// Mount a snapshot on this machine, until Ctrl-C (needs the right to read the Repository's Secret)
    Mount {
        #[command(flatten)]
        what: Choice,
        /// The mountpoint
        #[arg(value_name = "DIR")]
        directory: PathBuf,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Start a backup now
    Trigger {
        /// The BackupConfiguration
        #[arg(value_name = "BACKUPCONFIGURATION")]
        name: String,
        /// Follow it to its end; fails if it does
        #[arg(long)]
        wait: bool,
    },
    /// Let the schedule of a BackupConfiguration rest
    Pause {
        /// The BackupConfiguration
        #[arg(value_name = "BACKUPCONFIGURATION")]
        name: String,
    },
    /// Keep the schedule of a BackupConfiguration again
    Resume {
        /// The BackupConfiguration
        #[arg(value_name = "BACKUPCONFIGURATION")]
        name: String,
    },
}

/// Which snapshot.
#[derive(Clone, Debug, Args)]
pub(crate) struct Choice {
    /// The snapshot: the name of a Snapshot, REPOSITORY/latest, or REPOSITORY/ID
    #[arg(value_name = "SNAPSHOT")]
    pub(crate) snapshot: String,
    /// With REPOSITORY/latest: of this host
    #[arg(long, value_name = "HOST")]
    pub(crate) host: Option<String>,
}

/// A directory of a snapshot, or all.
#[derive(Clone, Debug, Args)]
pub(crate) struct Place {
    #[command(flatten)]
    pub(crate) choice: Choice,
    /// The directory or file in it
    #[arg(value_name = "PATH", default_value = "/", value_parser = path)]
    pub(crate) path: SnapshotPath,
}

/// A file or directory of a snapshot that is named.
#[derive(Clone, Debug, Args)]
pub(crate) struct File {
    #[command(flatten)]
    choice: Choice,
    /// The path in it
    #[arg(value_name = "PATH", value_parser = path)]
    path: SnapshotPath,
}

impl From<File> for Place {
    fn from(file: File) -> Self {
        Self { choice: file.choice, path: file.path }
    }
}

/// By a pod, or here.
#[derive(Debug, Args)]
pub(crate) struct Way {
    /// Read the store from here, by the Repository's Secret, instead of by a pod
    #[arg(long)]
    pub(crate) local: bool,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    #[command(flatten)]
    pub(crate) pod: PodArgs,
}

/// How a store is reached from here.
#[derive(Debug, Args)]
pub(crate) struct StoreArgs {
    /// A host of the store that is reached from here though it is of this machine or of the link; repeatable
    #[arg(long = "allow-address", value_name = "HOST")]
    pub(crate) allowed_addresses: Vec<String>,
}

/// What the pod is.
#[derive(Debug, Args)]
pub(crate) struct PodArgs {
    /// The pod's image; it needs a shell, ls, cat and tar
    #[arg(long, value_name = "IMAGE", default_value = IMAGE)]
    pub(crate) image: String,
    /// How long the pod may take to run
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse_duration)]
    pub(crate) start_timeout: Duration,
    /// How long the pod runs at most, also if this program is killed
    #[arg(long, value_name = "DURATION", default_value = "4h", value_parser = lifetime)]
    pub(crate) lifetime: Duration,
}

fn path(text: &str) -> Result<SnapshotPath, String> {
    SnapshotPath::parse(text).ok_or_else(|| "it must be a path of the snapshot, without . and ..".to_owned())
}

fn lifetime(text: &str) -> Result<Duration, String> {
    let read = parse_duration(text)?;
    if read.as_secs() == 0 { Err("it must be a second or more".to_owned()) } else { Ok(read) }
}

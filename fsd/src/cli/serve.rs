//! `serve`: the node daemon; see [`crate::daemon`].

use std::net::SocketAddr;
use std::path::PathBuf;

use stash_repo::budget::cgroup;

use super::{CliError, CliResult, Context, Exit, descriptors, interrupt};
use crate::daemon::{Daemon, OpenOptions, Options};
use crate::fuse::Recovery;
use crate::keeper::{Link, Reach};
use crate::telemetry;

/// The arguments of `serve`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "It serves what is asked for at the control socket, under one --memory for all, capped by the control group. \
                  It needs no rights: the keeper mounts. When it ends, however it does, its mounts stay with the keeper, and \
                  the next one goes on with them."
)]
pub struct Args {
    /// Where the keeper listens (`stash-fs keep --socket`)
    #[arg(long, value_name = "PATH")]
    keeper: PathBuf,
    /// Where the control API is offered: a Unix socket that is made here, for its owner alone
    #[arg(long, value_name = "PATH")]
    control: PathBuf,
    /// Let programs of this user use the control API, beside those of the own user; repeatable
    #[arg(long, value_name = "UID")]
    peer_uid: Vec<u32>,
    /// Serve figures for Prometheus at this address, as `9180` (this machine alone) or `0.0.0.0:9180`
    #[arg(long, value_name = "ADDRESS", value_parser = telemetry::parse_address)]
    metrics: Option<SocketAddr>,
    /// Also open repositories in directories of this machine, behind sftp or rclone, and on its own addresses
    #[arg(long)]
    allow_local: bool,
    /// Answer EIO to the requests that a daemon left unanswered, as where the kernel cannot tell them again
    #[arg(long, hide = true)]
    no_resend: bool,
}

/// Runs the verb.
pub(super) async fn run(args: Args, context: &Context) -> CliResult<Exit> {
    let global = &context.global;
    if global.deadline.is_zero() {
        return Err(CliError::usage("with --deadline 0 every request would fail"));
    }
    let options = Options {
        open: OpenOptions {
            cache_dir: global.cache_directory(),
            cache_size_bytes: global.cache_size,
            deadline: global.deadline,
            allow_local: args.allow_local,
        },
        memory_bytes: cgroup::share_bytes(global.memory, cgroup::memory_limit_bytes(), 1),
        deadline: global.deadline,
        recovery: if args.no_resend { Recovery::Fail } else { Recovery::Resend },
    };
    descriptors::raise_limit();
    let keeper = args.keeper.clone();
    let link = tokio::task::spawn_blocking(move || Link::open(Reach::Connect(keeper), None))
        .await
        .map_err(|error| CliError::failure(error.to_string()))?
        .map_err(|error| {
            CliError::failure(format!("cannot reach the keeper at {}: {error}", args.keeper.display()))
                .hint("start one with `stash-fs keep`")
        })?;
    let figures = match args.metrics {
        Some(address) => Some(
            tokio::net::TcpListener::bind(address)
                .await
                .map_err(|error| CliError::failure(format!("cannot serve metrics at {address}: {error}")))?,
        ),
        None => None,
    };
    let daemon = Daemon::start(options, link).map_err(|error| CliError::failure(error.to_string()))?;
    if let Some(listener) = figures {
        let daemon = daemon.clone();
        // Ends with the runtime.
        drop(tokio::spawn(telemetry::serve(listener, move || daemon.sources())));
    }
    let listener = stash_control::listen(&args.control)
        .map_err(|error| CliError::failure(format!("cannot listen at {}: {error}", args.control.display())))?;
    let mut peers = args.peer_uid;
    peers.push(rustix::process::geteuid().as_raw());
    tracing::info!(control = %args.control.display(), "serving");
    // Asked to end, it does: the mounts stay with the keeper, and what is in flight is told to the next daemon again.
    let mut asked = Ok(());
    stash_control::serve(listener, daemon, peers, async { asked = interrupt::signal().await.map(drop) }).await;
    asked?;
    Ok(Exit::Success)
}

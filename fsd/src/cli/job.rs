//! `job`: what a Kubernetes Job of ours runs; see [`crate::jobs`] and `docs/jobs.md`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::{Context, Exit};
use crate::jobs::{self, Places, Start};

/// The arguments of `job`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// What to do, as JSON
    #[arg(long, value_name = "FILE")]
    spec: PathBuf,
    /// The Repository's Secret: a directory with one file for each key; not needed where all that is restored is mounted
    #[arg(long, value_name = "DIR")]
    secret: Option<PathBuf>,
    /// Where the report is left, as JSON
    #[arg(long, value_name = "FILE")]
    report: PathBuf,
    /// Where a restore says how far it is: one JSON object to whoever connects
    #[arg(long, value_name = "ADDRESS")]
    progress: Option<SocketAddr>,
    /// This is the init container of the pod of this name: the spec says what each of a workload's hosts gets
    #[arg(long, value_name = "NAME", requires_all = ["node", "state"], conflicts_with = "secret")]
    pod: Option<String>,
    /// With --pod: its node
    #[arg(long, value_name = "NAME", requires = "pod")]
    node: Option<String>,
    /// With --pod: a directory that lives as long as it
    #[arg(long, value_name = "DIR", requires = "pod")]
    state: Option<PathBuf>,
}

/// Runs the verb.
pub(super) fn run(args: Args, context: &Context) -> Exit {
    let start =
        args.pod.map(|pod| Start { pod, node: args.node.unwrap_or_default(), state: args.state.unwrap_or_default() });
    let places = Places { spec: args.spec, secret: args.secret, report: args.report, progress: args.progress, start };
    jobs::run(&places, &context.interrupt)
}

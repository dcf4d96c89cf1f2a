//! `job`: what a Kubernetes Job of ours runs; see [`crate::jobs`] and `docs/jobs.md`.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::{Context, Exit};
use crate::jobs::{self, Places};

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
}

/// Runs the verb.
pub(super) fn run(args: Args, context: &Context) -> Exit {
    let places = Places { spec: args.spec, secret: args.secret, report: args.report };
    jobs::run(&places, &context.interrupt)
}

//! `mount`.

use super::{CliError, CliResult, Context, Exit};

/// The arguments of `mount`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the verb.
pub(super) fn run(args: Args, context: Context) -> CliResult<Exit> {
    drop((args, context));
    Err(CliError::failure("mount: not in this build"))
}

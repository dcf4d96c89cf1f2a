//! `umount`.

use super::{CliError, CliResult, Context, Exit};

/// The arguments of `umount`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the verb.
pub(super) fn run(args: Args, context: Context) -> CliResult<Exit> {
    drop((args, context));
    Err(CliError::failure("umount: not in this build"))
}

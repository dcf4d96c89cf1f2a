//! `tag`.

use super::{CliError, CliResult, Context, Exit};

/// The arguments of `tag`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the verb.
pub(super) async fn run(args: Args, context: &Context) -> CliResult<Exit> {
    let _ = (args, context);
    Err(CliError::failure("tag: not in this build"))
}

//! `forget`.

use super::{CliError, CliResult, Context, Exit};

/// The arguments of `forget`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the verb.
pub(super) async fn run(args: Args, context: &Context) -> CliResult<Exit> {
    let _ = (args, context);
    Err(CliError::failure("forget: not in this build"))
}

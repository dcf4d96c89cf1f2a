//! `key`.

use super::{CliError, CliResult, Context, Exit};

/// The arguments of `key`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the verb.
pub(super) async fn run(args: Args, context: &Context) -> CliResult<Exit> {
    let _ = (args, context);
    Err(CliError::failure("key: not in this build"))
}

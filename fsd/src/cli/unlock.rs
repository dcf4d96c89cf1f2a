//! `unlock`: remove the locks of dead processes.

use clap::Args as ClapArgs;
use serde_json::json;
use stash_repo::lock;

use super::{CliResult, Context, Exit};

/// The arguments of `unlock`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Remove all locks, also those of processes that work
    #[arg(long)]
    remove_all: bool,
}

/// Runs the verb.
pub(super) async fn run(args: Args, context: &Context) -> CliResult<Exit> {
    let access = context.access().await?;
    let removed = lock::remove(&access, args.remove_all).await?;
    let mut out = context.out();
    if out.json {
        out.json_line(&json!({"message_type": "unlocked", "removed": removed}))?;
    } else if removed > 0 {
        out.say(format_args!("removed {removed} locks"))?;
    }
    out.finish()?;
    Ok(Exit::Success)
}

//! `copy`: snapshots from another repository.

use std::sync::Arc;

use clap::Args as ClapArgs;
use serde_json::json;
use stash_repo::write::copy::copy;
use stash_repo::write::{PackOptions, Session, snapshots};

use super::forget::Selected;
use super::from_repo::FromRepo;
use super::select::SnapshotFilter;
use super::writing::{Bars, Lock};
use super::{CliResult, Context, Exit};

/// The arguments of `copy`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Only these: ids, their beginnings, `latest`
    #[arg(value_name = "SNAPSHOT")]
    snapshots: Vec<String>,
    #[command(flatten)]
    from: FromRepo,
    #[command(flatten)]
    filter: SnapshotFilter,
}

/// Runs the verb.
pub(super) async fn run(args: Args, context: &Context) -> CliResult<Exit> {
    let pack = context.pack_options(false)?;
    let source = args.from.access(context).await?;
    let target = context.access().await?;
    // What is being copied must not be pruned meanwhile, so the source is locked as well, as restic does.
    let source_lock = context.lock(&source, Lock::Shared).await?;
    let result = async {
        let target_lock = context.lock(&target, Lock::Shared).await?;
        let result = async {
            let all = snapshots::read_all(&source).await?;
            let wanted = Selected::new(&args.filter).choose(&all, &args.snapshots)?;
            let bars = Arc::new(Bars::new(&context.global));
            let from = Session::new(&source, PackOptions::default(), source_lock.lease(), bars);
            let to = context.session(&target, &target_lock, pack);
            copy(&from, &to, &wanted, context.stop()).await.map_err(|error| context.ended(error))
        };
        let result = result.await;
        context.unlock(target_lock, result).await
    };
    let result = result.await;
    let copied = context.unlock(source_lock, result).await?;
    let mut out = context.out();
    let new = copied.iter().filter(|copied| copied.new).count();
    for one in &copied {
        if out.json {
            out.json_line(&json!({
                "message_type": "copied", "from_snapshot_id": one.from, "snapshot_id": one.to, "new": one.new,
            }))?;
        } else {
            let (from, to) = (one.from.0.short(), one.to.0.short());
            let what = if one.new { "copied as" } else { "was copied before, as" };
            out.say(format_args!("snapshot {from} {what} {to}"))?;
        }
    }
    out.say(format_args!("copied {new} snapshots"))?;
    out.finish()?;
    Ok(Exit::Success)
}

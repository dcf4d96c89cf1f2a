//! `tag`: change the tags of snapshots.

use clap::Args as ClapArgs;
use serde_json::json;
use stash_repo::SnapshotId;
use stash_repo::lock::Lease;
use stash_repo::write::Access;
use stash_repo::write::snapshots::{self, SnapshotJson};

use super::forget::Selected;
use super::select::SnapshotFilter;
use super::writing::Lock;
use super::{CliError, CliResult, Context, Exit};

/// The arguments of `tag`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Only these: ids, their beginnings, `latest`
    #[arg(value_name = "SNAPSHOT")]
    snapshots: Vec<String>,
    /// Tags to have instead of all others (repeatable; an empty one: none)
    #[arg(long, value_name = "TAG[,TAG...]", value_delimiter = ',', conflicts_with_all = ["add", "remove"])]
    set: Vec<String>,
    /// Tags to add (repeatable)
    #[arg(long, value_name = "TAG[,TAG...]", value_delimiter = ',')]
    add: Vec<String>,
    /// Tags to remove (repeatable)
    #[arg(long, value_name = "TAG[,TAG...]", value_delimiter = ',')]
    remove: Vec<String>,
    #[command(flatten)]
    filter: SnapshotFilter,
}

impl Args {
    /// Returns a snapshot's new tags, or `None` where nothing changes.
    fn change(&self, snapshot: &SnapshotJson) -> Option<Vec<String>> {
        let old: Vec<String> = snapshot.tags().into_iter().map(str::to_owned).collect();
        let mut new = if self.set.is_empty() { old.clone() } else { Vec::new() };
        for tag in self.set.iter().chain(&self.add).filter(|tag| !tag.is_empty()) {
            if !new.contains(tag) {
                new.push(tag.clone());
            }
        }
        new.retain(|tag| !self.remove.contains(tag));
        (new != old).then_some(new)
    }
}

/// Runs the verb.
pub(super) async fn run(args: Args, context: &Context) -> CliResult<Exit> {
    if args.set.is_empty() && args.add.is_empty() && args.remove.is_empty() {
        return Err(CliError::usage("nothing to do").hint("give --set, --add or --remove"));
    }
    let access = context.access().await?;
    let held = context.lock(&access, Lock::Shared).await?;
    let result = change_all(&args, context, &access, held.lease()).await;
    let changed = context.unlock(held, result).await?;
    let mut out = context.out();
    if out.json {
        for (old, new) in &changed {
            out.json_line(&json!({"message_type": "changed", "old_snapshot_id": old, "new_snapshot_id": new}))?;
        }
        out.json_line(&json!({"message_type": "summary", "changed_snapshots": changed.len()}))?;
    } else {
        out.say(format_args!("changed the tags of {} snapshots", changed.len()))?;
    }
    out.finish()?;
    Ok(Exit::Success)
}

async fn change_all(
    args: &Args,
    context: &Context,
    access: &Access,
    lease: &Lease,
) -> CliResult<Vec<(SnapshotId, SnapshotId)>> {
    let all = snapshots::read_all(access).await?;
    let mut changed = Vec::new();
    for mut snapshot in Selected::new(&args.filter).choose(&all, &args.snapshots)? {
        if context.interrupt.is_set() {
            return Err(CliError::interrupted());
        }
        if let Some(tags) = args.change(&snapshot) {
            let old = snapshot.id;
            snapshot.set_tags(tags);
            changed.push((old, snapshots::replace(access, lease, &snapshot).await?));
        }
    }
    Ok(changed)
}

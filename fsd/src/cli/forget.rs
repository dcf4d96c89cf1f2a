//! `forget`: remove snapshots, by id or by a policy.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args as ClapArgs;
use jiff::Zoned;
use serde_json::{Value, json};
use stash_repo::SnapshotId;
use stash_repo::lock::Held;
use stash_repo::write::policy::{Count, GroupKey, Outcome, Policy, Within, group, has_tags};
use stash_repo::write::prune::prune;
use stash_repo::write::snapshots::{self, SnapshotJson};
use stash_repo::write::{Access, backup};

use super::output::{Out, Table, show_name};
use super::prune::{PruneArgs, print as print_prune};
use super::select::SnapshotFilter;
use super::snapshots::{GroupBy, parse_group};
use super::writing::Lock;
use super::{CliError, CliResult, Context, Exit};

/// The arguments of `forget`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Remove these: ids, their beginnings, `latest`
    #[arg(value_name = "SNAPSHOT")]
    snapshots: Vec<String>,
    /// Keep the last N (or `unlimited`)
    #[arg(
        short = 'l',
        long,
        value_name = "N",
        default_value = "0",
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    keep_last: Count,
    /// Keep the last of each of N hours
    #[arg(
        short = 'H',
        long,
        value_name = "N",
        default_value = "0",
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    keep_hourly: Count,
    /// Keep the last of each of N days
    #[arg(
        short = 'd',
        long,
        value_name = "N",
        default_value = "0",
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    keep_daily: Count,
    /// Keep the last of each of N weeks
    #[arg(
        short = 'w',
        long,
        value_name = "N",
        default_value = "0",
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    keep_weekly: Count,
    /// Keep the last of each of N months
    #[arg(
        short = 'm',
        long,
        value_name = "N",
        default_value = "0",
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    keep_monthly: Count,
    /// Keep the last of each of N years
    #[arg(
        short = 'y',
        long,
        value_name = "N",
        default_value = "0",
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    keep_yearly: Count,
    /// Keep all that are so much older than the newest at most, as 1y5m7d2h
    #[arg(long, value_name = "DURATION", default_value = "", hide_default_value = true)]
    keep_within: Within,
    /// Keep the last of each hour within this time of the newest
    #[arg(long, value_name = "DURATION", default_value = "", hide_default_value = true)]
    keep_within_hourly: Within,
    /// Keep the last of each day within this time of the newest
    #[arg(long, value_name = "DURATION", default_value = "", hide_default_value = true)]
    keep_within_daily: Within,
    /// Keep the last of each week within this time of the newest
    #[arg(long, value_name = "DURATION", default_value = "", hide_default_value = true)]
    keep_within_weekly: Within,
    /// Keep the last of each month within this time of the newest
    #[arg(long, value_name = "DURATION", default_value = "", hide_default_value = true)]
    keep_within_monthly: Within,
    /// Keep the last of each year within this time of the newest
    #[arg(long, value_name = "DURATION", default_value = "", hide_default_value = true)]
    keep_within_yearly: Within,
    /// Keep those that have all these tags (repeatable: one of the lists)
    #[arg(long, value_name = "TAG[,TAG...]")]
    keep_tag: Vec<String>,
    /// Only snapshots of this host (repeatable)
    #[arg(long, alias = "hostname", value_name = "HOST")]
    host: Vec<String>,
    /// Only snapshots that have all these tags (repeatable: one of the lists)
    #[arg(long, value_name = "TAG[,TAG...]")]
    tag: Vec<String>,
    /// Only snapshots that hold this absolute path (repeatable: all of them)
    #[arg(long, value_name = "PATH")]
    path: Vec<std::path::PathBuf>,
    /// Leave out the paths
    #[arg(short, long)]
    compact: bool,
    /// Apply the policy to each group of snapshots with the same host, paths, tags (empty: to all together)
    #[arg(short, long, value_name = "GROUP", default_value = "host,paths", value_parser = parse_group)]
    group_by: GroupBy,
    /// Remove nothing, only show what would be removed
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Remove data that is not needed any more, if snapshots were removed
    #[arg(long)]
    prune: bool,
    #[command(flatten)]
    prune_args: PruneArgs,
}

/// Splits restic's lists of tags.
pub(crate) fn tag_lists(lists: &[String]) -> Vec<Vec<String>> {
    lists.iter().map(|list| list.split(',').map(|tag| tag.trim().to_owned()).collect()).collect()
}

/// restic's filters on snapshots as they are stored.
#[derive(Debug)]
pub(super) struct Selected<'a> {
    pub(super) hosts: &'a [String],
    pub(super) tags: Vec<Vec<String>>,
    pub(super) paths: &'a [std::path::PathBuf],
}

impl<'a> Selected<'a> {
    pub(super) fn new(filter: &'a SnapshotFilter) -> Self {
        Self { hosts: &filter.host, tags: tag_lists(&filter.tag), paths: &filter.path }
    }

    fn passes(&self, snapshot: &SnapshotJson) -> bool {
        let mut hosts = self.hosts.iter().filter(|host| !host.is_empty()).peekable();
        (hosts.peek().is_none() || hosts.any(|host| host == snapshot.hostname()))
            && (self.tags.is_empty() || self.tags.iter().any(|list| has_tags(snapshot, list)))
            && self.paths.iter().all(|path| {
                let absolute = std::path::absolute(path).unwrap_or_else(|_| path.clone());
                snapshot.paths().iter().any(|own| std::path::Path::new(own) == absolute)
            })
    }

    /// Returns the snapshots that are named, else all that pass, oldest first.
    pub(super) fn choose(&self, all: &[SnapshotJson], names: &[String]) -> CliResult<Vec<SnapshotJson>> {
        if names.is_empty() {
            return Ok(all.iter().filter(|snapshot| self.passes(snapshot)).cloned().collect());
        }
        let mut chosen: BTreeMap<SnapshotId, SnapshotJson> = BTreeMap::new();
        for name in names {
            let found = match name.strip_prefix("latest") {
                Some(rest) => {
                    let back = match rest.strip_prefix('~') {
                        _ if rest.is_empty() => Some(0),
                        Some(number) => number.parse().ok(),
                        None => None,
                    };
                    let mut passing = all.iter().rev().filter(|snapshot| self.passes(snapshot));
                    back.and_then(|back: usize| passing.nth(back))
                        .ok_or_else(|| stash_repo::RepoError::SnapshotNotFound { spec: name.clone() })
                }
                None => snapshots::find(all, name),
            };
            let snapshot = found.map_err(CliError::from)?;
            chosen.insert(snapshot.id, snapshot.clone());
        }
        let mut chosen: Vec<_> = chosen.into_values().collect();
        chosen.sort_by(|a, b| a.time.cmp(&b.time).then(a.id.cmp(&b.id)));
        Ok(chosen)
    }
}

impl Args {
    fn policy(&self) -> Policy {
        Policy {
            last: self.keep_last,
            hourly: self.keep_hourly,
            daily: self.keep_daily,
            weekly: self.keep_weekly,
            monthly: self.keep_monthly,
            yearly: self.keep_yearly,
            within: self.keep_within,
            within_hourly: self.keep_within_hourly,
            within_daily: self.keep_within_daily,
            within_weekly: self.keep_within_weekly,
            within_monthly: self.keep_within_monthly,
            within_yearly: self.keep_within_yearly,
            tags: tag_lists(&self.keep_tag),
        }
    }
}

/// Runs the verb.
pub(super) async fn run(args: Args, context: &Context) -> CliResult<Exit> {
    if context.global.no_lock && !args.dry_run {
        return Err(CliError::usage("--no-lock goes with forget --dry-run only: removing needs a lock"));
    }
    let access = context.access().await?;
    let mut held = context.lock(&access, Lock::Shared).await?;
    let mut out = context.out();
    let result = decide(&args, &access, &mut out).await;
    let plan = match result {
        Ok(plan) if !plan.remove.is_empty() && !args.dry_run => {
            // Only now somebody else must be kept away.
            held = context.make_exclusive(held).await?;
            plan
        }
        Ok(plan) => plan,
        Err(error) => return context.unlock(held, Err(error)).await,
    };
    let result = carry_out(&args, context, &access, &held, &plan, &mut out).await;
    context.unlock(held, result).await?;
    out.finish()?;
    Ok(Exit::Success)
}

struct Plan {
    remove: BTreeSet<SnapshotId>,
    groups: Vec<Value>,
}

async fn decide(args: &Args, access: &Access, out: &mut Out) -> CliResult<Plan> {
    let all = snapshots::read_all(access).await?;
    let selected = Selected { hosts: &args.host, tags: tag_lists(&args.tag), paths: &args.path };
    let chosen = selected.choose(&all, &args.snapshots)?;
    let now = Zoned::now();
    let mut plan = Plan { remove: BTreeSet::new(), groups: Vec::new() };
    if !args.snapshots.is_empty() {
        if let Some(protected) = chosen.iter().find(|snapshot| snapshot.is_protected(&now)) {
            let id = protected.id.0.short();
            return Err(CliError::failure(format!("snapshot {id} is marked as not to be removed")));
        }
        plan.remove = chosen.iter().map(|snapshot| snapshot.id).collect();
        return Ok(plan);
    }
    let policy = args.policy();
    if policy.is_empty() {
        out.say("no policy was given: no snapshots are removed")?;
        return Ok(plan);
    }
    let by = backup::GroupBy { host: args.group_by.host, paths: args.group_by.paths, tags: args.group_by.tags };
    for (key, snapshots) in group(chosen, by) {
        let outcome = policy.apply(snapshots, &now);
        show(&key, &outcome, args, out)?;
        plan.remove.extend(outcome.remove.iter().map(|snapshot| snapshot.id));
        plan.groups.push(group_json(&key, &outcome));
    }
    Ok(plan)
}

async fn carry_out(
    args: &Args,
    context: &Context,
    access: &Access,
    held: &Held,
    plan: &Plan,
    out: &mut Out,
) -> CliResult<()> {
    let count = plan.remove.len();
    if count > 0 && !args.dry_run {
        snapshots::remove(access, held.lease(), &plan.remove, context.stop())
            .await
            .map_err(|error| context.ended(error))?;
        out.say(format_args!("removed {count} snapshots"))?;
    } else if count > 0 {
        let ids: Vec<_> = plan.remove.iter().map(|id| id.0.short()).collect();
        out.say(format_args!("would remove {count} snapshots: {}", ids.join(" ")))?;
    }
    // As restic: one array, and nothing where there is no group.
    if out.json && !plan.groups.is_empty() {
        out.json_line(&plan.groups)?;
    }
    if !args.prune || count == 0 {
        return Ok(());
    }
    let session = context.session(access, held, context.pack_options(false)?);
    let mut options = args.prune_args.options(args.dry_run);
    if args.dry_run {
        options.without.clone_from(&plan.remove);
    }
    let report = prune(&session, &options, context.stop()).await;
    print_prune(&report.map_err(|error| context.ended(error))?, args.dry_run, out)
}

/// restic's object of a group (restic, `cmd/restic/cmd_forget.go`, `ForgetGroup`).
fn group_json(key: &GroupKey, outcome: &Outcome) -> Value {
    // Go's empty lists are null.
    let list = |values: Vec<Value>| if values.is_empty() { Value::Null } else { values.into() };
    let texts = |texts: &[String]| list(texts.iter().cloned().map(Value::from).collect());
    let kept = || outcome.keep.iter();
    json!({
        "tags": texts(&key.tags),
        "host": key.hostname,
        "paths": texts(&key.paths),
        "keep": list(kept().map(|kept| kept.snapshot.to_json()).collect()),
        "remove": list(outcome.remove.iter().map(SnapshotJson::to_json).collect()),
        "reasons": list(kept().map(|kept| json!({
            "snapshot": kept.snapshot.json_fields(), "matches": kept.matches, "counters": kept.counters,
        })).collect()),
    })
}

fn show(key: &GroupKey, outcome: &Outcome, args: &Args, out: &mut Out) -> CliResult<()> {
    if out.json || out.quiet {
        return Ok(());
    }
    let name = |texts: &[String]| texts.iter().map(|text| show_name(text.as_bytes())).collect::<Vec<_>>().join(", ");
    let mut words = Vec::new();
    if !key.hostname.is_empty() {
        words.push(format!("host {}", show_name(key.hostname.as_bytes())));
    }
    if !key.paths.is_empty() {
        words.push(format!("paths {}", name(&key.paths)));
    }
    if !key.tags.is_empty() {
        words.push(format!("tags {}", name(&key.tags)));
    }
    if !words.is_empty() {
        out.say(format_args!("snapshots of {}:", words.join("; ")))?;
    }
    let table = |rows: &mut dyn Iterator<Item = (&SnapshotJson, String)>| {
        let mut columns = vec!["ID", "Time", "Host", "Tags", "Reasons"];
        if !args.compact {
            columns.push("Paths");
        }
        let mut table = Table::new(&columns);
        for (snapshot, reasons) in rows {
            let texts = |texts: Vec<&str>| {
                texts.into_iter().map(|text| show_name(text.as_bytes())).collect::<Vec<_>>().join("\n")
            };
            let mut row = vec![
                snapshot.id.0.short(),
                snapshot.time.strftime("%Y-%m-%d %H:%M:%S").to_string(),
                show_name(snapshot.hostname().as_bytes()),
                texts(snapshot.tags()),
                reasons,
            ];
            if !args.compact {
                row.push(texts(snapshot.paths()));
            }
            table.row(row);
        }
        table
    };
    if !outcome.keep.is_empty() {
        out.say(format_args!("keep {} snapshots:", outcome.keep.len()))?;
        table(&mut outcome.keep.iter().map(|kept| (&kept.snapshot, kept.matches.join("\n")))).print(out)?;
    }
    if !outcome.remove.is_empty() {
        out.say(format_args!("remove {} snapshots:", outcome.remove.len()))?;
        table(&mut outcome.remove.iter().map(|snapshot| (snapshot, String::new()))).print(out)?;
    }
    Ok(())
}

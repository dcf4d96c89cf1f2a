//! `snapshots`: what there is.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use clap::Args as ClapArgs;
use serde::Serialize;
use stash_repo::Snapshot;

use super::node::{SnapshotJson, show_snapshot_time};
use super::output::{Out, Table, show_name};
use super::select::SnapshotFilter;
use super::units::format_bytes;
use super::{CliError, CliResult, Context, Exit};

/// The arguments of `snapshots`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Only these: ids, their beginnings, `latest`, `latest~N`
    #[arg(value_name = "SNAPSHOT")]
    snapshots: Vec<String>,
    #[command(flatten)]
    filter: SnapshotFilter,
    /// Leave out the paths
    #[arg(short, long)]
    compact: bool,
    /// Only the last N of each host and set of paths
    #[arg(long, value_name = "N")]
    latest: Option<usize>,
    /// Group by `host`, `paths`, `tags`, separated by commas
    #[arg(short, long, value_name = "GROUP", value_parser = parse_group)]
    group_by: Option<GroupBy>,
}

/// restic's `--group-by`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct GroupBy {
    /// By host name.
    pub host: bool,
    /// By the set of paths.
    pub paths: bool,
    /// By the set of tags.
    pub tags: bool,
}

/// Parses `host,paths,tags`.
pub(super) fn parse_group(text: &str) -> Result<GroupBy, String> {
    let mut group = GroupBy::default();
    for word in text.split(',').filter(|word| !word.is_empty()) {
        match word {
            "host" | "hosts" => group.host = true,
            "path" | "paths" => group.paths = true,
            "tag" | "tags" => group.tags = true,
            other => return Err(format!("`{other}` is none of host, paths, tags")),
        }
    }
    Ok(group)
}

/// What the snapshots of a group have in common.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct GroupKey {
    hostname: String,
    paths: Option<Vec<String>>,
    tags: Option<Vec<String>>,
}

impl GroupKey {
    fn of(snapshot: &Snapshot, by: GroupBy) -> Self {
        let sorted = |list: &[String]| {
            let mut list = list.to_vec();
            list.sort();
            list
        };
        Self {
            hostname: if by.host { snapshot.hostname.clone() } else { String::new() },
            paths: by.paths.then(|| sorted(&snapshot.paths)),
            // restic has `null` for a snapshot without tags.
            tags: by.tags.then(|| sorted(&snapshot.tags)).filter(|tags| !tags.is_empty()),
        }
    }
}

impl fmt::Display for GroupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if !self.hostname.is_empty() {
            parts.push(format!("host [{}]", show_name(self.hostname.as_bytes())));
        }
        let list = |list: &[String]| show_name(list.join(", ").as_bytes());
        parts.extend(self.tags.as_ref().map(|tags| format!("tags [{}]", list(tags))));
        parts.extend(self.paths.as_ref().map(|paths| format!("paths [{}]", list(paths))));
        write!(f, "snapshots for ({}):", parts.join(", "))
    }
}

/// Runs the verb.
pub(super) async fn run(args: Args, context: &Context) -> CliResult<Exit> {
    if args.latest == Some(0) {
        return Err(CliError::usage("--latest must be at least 1"));
    }
    let repository = context.open_unindexed().await?;
    let mut list = args.filter.select(&repository, &args.snapshots).await?;
    list.sort_by(|a, b| a.time.cmp(&b.time).then(a.id.cmp(&b.id)));
    if let Some(count) = args.latest {
        list = keep_latest(list, count);
    }
    let mut out = context.out();
    match args.group_by {
        Some(by) => {
            let mut groups: BTreeMap<GroupKey, Vec<Arc<Snapshot>>> = BTreeMap::new();
            for snapshot in list {
                groups.entry(GroupKey::of(&snapshot, by)).or_default().push(snapshot);
            }
            print_groups(&groups, args.compact, &mut out)?;
        }
        None if out.json => out.json_line(&json(&list))?,
        None => table(&list, args.compact).print(&mut out)?,
    }
    out.finish()?;
    Ok(Exit::Success)
}

/// Keeps the newest `count` of every host and set of paths; the list is sorted by time.
fn keep_latest(list: Vec<Arc<Snapshot>>, count: usize) -> Vec<Arc<Snapshot>> {
    let by = GroupBy { host: true, paths: true, tags: false };
    let mut seen: BTreeMap<GroupKey, usize> = BTreeMap::new();
    let mut kept: Vec<_> = list
        .into_iter()
        .rev()
        .filter(|snapshot| {
            let number = seen.entry(GroupKey::of(snapshot, by)).or_insert(0);
            *number += 1;
            *number <= count
        })
        .collect();
    kept.reverse();
    kept
}

fn print_groups(groups: &BTreeMap<GroupKey, Vec<Arc<Snapshot>>>, compact: bool, out: &mut Out) -> CliResult<()> {
    #[derive(Serialize)]
    struct Group<'a> {
        group_key: &'a GroupKey,
        snapshots: Vec<SnapshotJson<'a>>,
    }
    if out.json {
        let groups: Vec<_> =
            groups.iter().map(|(group_key, list)| Group { group_key, snapshots: json(list) }).collect();
        return out.json_line(&groups);
    }
    for (key, list) in groups {
        out.line(key)?;
        table(list, compact).print(out)?;
    }
    Ok(())
}

fn json(list: &[Arc<Snapshot>]) -> Vec<SnapshotJson<'_>> {
    list.iter().map(|snapshot| SnapshotJson::new(snapshot)).collect()
}

/// The table of a list of snapshots, restic's columns; the size where one snapshot knows it.
pub(super) fn table(list: &[Arc<Snapshot>], compact: bool) -> Table {
    let sizes: Vec<Option<u64>> = list.iter().map(|snapshot| total_bytes(snapshot)).collect();
    let with_size = sizes.iter().any(Option::is_some);
    let mut header = vec!["ID", "Time", "Host", "Tags"];
    if !compact {
        header.push("Paths");
    }
    if with_size {
        header.push("Size");
    }
    let mut table = Table::new(&header);
    for (snapshot, size) in list.iter().zip(sizes) {
        let shown = |list: &[String], separator| {
            list.iter().map(|item| show_name(item.as_bytes())).collect::<Vec<_>>().join(separator)
        };
        let mut row = vec![
            snapshot.id.0.short(),
            show_snapshot_time(snapshot),
            show_name(snapshot.hostname.as_bytes()),
            shown(&snapshot.tags, if compact { "\n" } else { "," }),
        ];
        if !compact {
            row.push(shown(&snapshot.paths, "\n"));
        }
        if with_size {
            row.push(size.map(format_bytes).unwrap_or_default());
        }
        table.row(row);
    }
    table.footer(format!("{} snapshots", list.len()));
    table
}

/// The size of all files, where the writer counted them (restic 0.17 and later).
fn total_bytes(snapshot: &Snapshot) -> Option<u64> {
    #[derive(serde::Deserialize)]
    struct Summary {
        total_bytes_processed: u64,
    }
    serde_json::from_str::<Summary>(snapshot.summary.as_ref()?.get()).ok().map(|summary| summary.total_bytes_processed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_parse_group() {
        assert_eq!(parse_group("host,paths"), Ok(GroupBy { host: true, paths: true, tags: false }));
        assert_eq!(parse_group(""), Ok(GroupBy::default()));
        assert!(parse_group("hostname").is_err());
    }
}

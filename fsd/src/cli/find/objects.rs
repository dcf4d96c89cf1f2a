//! Blobs, trees and packs in snapshots: which file or directory needs them.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use serde::Serialize;
use stash_repo::write::snapshots::format_time;
use stash_repo::{BlobId, BlobKind, FileKind, Id, PackId, Repository, Snapshot, TreeId};

use super::super::node::show_snapshot_time;
use super::super::output::{Out, show_name};
use super::super::{CliError, CliResult, Exit};
use super::{Args, bad_id, unreadable};
use crate::walk::{Step, Walk};

/// What is looked for.
struct Wanted {
    data: Prefixes,
    trees: Prefixes,
    packs: HashSet<PackId>,
}

impl Wanted {
    fn in_pack(&self, repository: &Repository, id: BlobId) -> CliResult<bool> {
        Ok(!self.packs.is_empty()
            && repository.index().lookup_all(&id)?.iter().any(|location| self.packs.contains(&location.pack)))
    }
}

/// Ids by their beginnings, as lower-case digits.
#[derive(Default)]
struct Prefixes(Vec<String>);

impl Prefixes {
    fn contain(&self, id: Id) -> bool {
        let hex = if self.0.is_empty() { return false } else { id.to_hex() };
        self.0.iter().any(|prefix| hex.starts_with(prefix))
    }
}

/// A hit, as restic's JSON has it.
///
/// Source: restic 0.14, `cmd/restic/cmd_find.go`, `PrintObjectJSON`.
#[derive(Serialize)]
struct Hit {
    object_type: &'static str,
    id: String,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_tree: Option<String>,
    snapshot: String,
    time: String,
}

pub(super) async fn find(
    args: &Args,
    repository: &Repository,
    snapshots: &[Arc<Snapshot>],
    out: &mut Out,
) -> CliResult<Exit> {
    let wanted = wanted(args, repository).await?;
    let mut report = Report { any: false, packs: BTreeMap::new() };
    let mut exit = Exit::Success;
    if out.json {
        out.bytes(b"[")?;
    }
    for snapshot in snapshots {
        if wanted.trees.contain(snapshot.tree.0) || wanted.in_pack(repository, snapshot.tree.blob())? {
            report.hit(snapshot, "tree", snapshot.tree.blob(), b"/", None, out)?;
        }
        let mut walk = Walk::new(repository, snapshot.tree);
        while let Some(step) = walk.next().await {
            match step {
                Step::Entry(entry) => {
                    let node = entry.node();
                    if let Some(tree) = node.subtree()
                        && (wanted.trees.contain(tree.0) || wanted.in_pack(repository, tree.blob())?)
                    {
                        report.hit(snapshot, "tree", tree.blob(), &entry.path, Some(entry.tree_id), out)?;
                    }
                    let mut seen = BTreeSet::new();
                    for &blob in node.content() {
                        if (wanted.data.contain(blob.0) || wanted.in_pack(repository, blob)?) && seen.insert(blob) {
                            report.hit(snapshot, "blob", blob, &entry.path, Some(entry.tree_id), out)?;
                        }
                    }
                }
                Step::Failed { path, error } => {
                    exit = Exit::Incomplete;
                    out.finish()?;
                    unreadable(&path, &error)?;
                }
                Step::Leave { .. } => {}
            }
        }
    }
    if out.json {
        out.line("]")?;
    }
    if args.show_pack_id && !out.json {
        report.show_packs(repository, out)?;
    }
    Ok(exit)
}

async fn wanted(args: &Args, repository: &Repository) -> CliResult<Wanted> {
    let mut prefixes = Vec::with_capacity(args.patterns.len());
    for pattern in &args.patterns {
        if pattern.is_empty() || pattern.len() > 64 || !pattern.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(bad_id(pattern));
        }
        prefixes.push(pattern.to_ascii_lowercase());
    }
    let mut wanted = Wanted { data: Prefixes::default(), trees: Prefixes::default(), packs: HashSet::new() };
    if args.pack {
        let list = repository.backend().list(FileKind::Pack).await?;
        let prefixes = Prefixes(prefixes);
        wanted.packs = list.iter().filter(|file| prefixes.contain(file.id)).map(|file| PackId(file.id)).collect();
        if wanted.packs.is_empty() {
            return Err(CliError::failure("no pack of the repository has such an id"));
        }
    } else if args.blob {
        wanted.data = Prefixes(prefixes);
    } else {
        wanted.trees = Prefixes(prefixes);
    }
    Ok(wanted)
}

struct Report {
    any: bool,
    /// What was found, to say its pack at the end.
    packs: BTreeMap<BlobId, &'static str>,
}

impl Report {
    fn hit(
        &mut self,
        snapshot: &Snapshot,
        object_type: &'static str,
        id: BlobId,
        path: &[u8],
        parent: Option<TreeId>,
        out: &mut Out,
    ) -> CliResult<()> {
        self.packs.insert(id, object_type);
        if out.json {
            if std::mem::replace(&mut self.any, true) {
                out.bytes(b",")?;
            }
            let hit = Hit {
                object_type,
                id: id.to_string(),
                path: String::from_utf8_lossy(path).into_owned(),
                parent_tree: parent.map(|tree| tree.to_string()),
                snapshot: snapshot.id.to_string(),
                time: format_time(&snapshot.time),
            };
            return out.bytes(&serde_json::to_vec(&hit).map_err(std::io::Error::from)?);
        }
        out.line(format_args!("Found {object_type} {id}"))?;
        match parent {
            Some(tree) if object_type == "blob" => {
                out.line(format_args!(" ... in file {}\n     (tree {tree})", show_name(path)))?;
            }
            _ => out.line(format_args!(" ... path {}", show_name(path)))?,
        }
        out.line(format_args!(" ... in snapshot {} ({})", snapshot.id.0.short(), show_snapshot_time(snapshot)))
    }

    fn show_packs(&self, repository: &Repository, out: &mut Out) -> CliResult<()> {
        for (&id, object_type) in &self.packs {
            let locations = repository.index().lookup_all(&id)?;
            if locations.is_empty() {
                out.line(format_args!("{object_type} {id} is in no pack"))?;
            }
            for location in locations {
                let kind = if location.kind == BlobKind::Tree { "tree" } else { "data" };
                out.line(format_args!("Object belongs to pack {}", location.pack))?;
                out.line(format_args!(
                    " ... Pack {}: <Blob ({kind}) {}, offset {}, length {}, uncompressed length {}>",
                    location.pack.0.short(),
                    id.0.short(),
                    location.offset,
                    location.len_bytes,
                    location.uncompressed_bytes.unwrap_or(0),
                ))?;
            }
        }
        Ok(())
    }
}

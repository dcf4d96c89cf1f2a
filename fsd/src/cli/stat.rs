//! `stat`: all that is known of a file in a snapshot, as stat(1) shows it, with its blobs and packs.

use clap::Args as ClapArgs;
use serde::Serialize;
use stash_repo::{BlobId, NodeKind, NodeRef, Repository, TreeId};

use super::node::{LsNode, go_mode, go_mode_string, kind_name, show_nanos};
use super::output::{Out, show_name};
use super::select::{SnapshotFilter, split_spec};
use super::{CliError, CliResult, Context, Exit};
use crate::walk::{Located, locate};

/// The arguments of `stat`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The file or directory
    #[arg(value_name = "SNAPSHOT:PATH", required = true)]
    files: Vec<String>,
    #[command(flatten)]
    filter: SnapshotFilter,
    /// Also list every blob, with its pack
    #[arg(short, long)]
    blobs: bool,
}

/// One blob of a file.
#[derive(Debug, Serialize)]
struct Blob {
    id: String,
    /// Where in the file.
    offset: u64,
    #[serde(flatten)]
    place: Option<Place>,
}

/// Where a blob lies.
#[derive(Debug, Serialize)]
struct Place {
    size: u32,
    pack: String,
    pack_offset: u32,
    stored_size: u32,
}

#[derive(Serialize)]
struct Stat<'a> {
    #[serde(flatten)]
    node: LsNode,
    snapshot: String,
    user: &'a str,
    group: &'a str,
    links: u64,
    device_id: u64,
    rdev: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    linktarget: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    subtree: Option<String>,
    /// Values in hexadecimal digits.
    extended_attributes: std::collections::BTreeMap<String, String>,
    blobs: Vec<Blob>,
}

/// Runs the verb.
pub(super) async fn run(args: Args, context: &Context) -> CliResult<Exit> {
    let repository = context.open().await?;
    let mut out = context.out();
    for spec in &args.files {
        let (name, path) = split_spec(spec);
        let snapshot = args.filter.one(&repository, name).await?;
        let path = path.unwrap_or("/");
        let located = locate(&repository, snapshot.tree, path.as_bytes()).await?.ok_or_else(|| {
            CliError::failure(format!("snapshot {} has no {}", snapshot.id.0.short(), show_name(path.as_bytes())))
        })?;
        match &located {
            Located::Root(tree) => root(&snapshot.id.to_string(), *tree, &mut out)?,
            Located::Entry(entry) => {
                let shown = Shown {
                    snapshot: snapshot.id.to_string(),
                    path: &entry.path,
                    node: entry.node(),
                    list: args.blobs,
                };
                shown.print(&repository, &mut out)?;
            }
        }
    }
    out.finish()?;
    Ok(Exit::Success)
}

/// The root of a snapshot has nothing but a tree.
fn root(snapshot: &str, tree: TreeId, out: &mut Out) -> CliResult<()> {
    if out.json {
        return out.json_line(&serde_json::json!({
            "struct_type": "node", "type": "dir", "path": "/", "snapshot": snapshot, "subtree": tree.to_string(),
        }));
    }
    out.line("  File: /")?;
    out.line(format_args!("  Type: dir  Tree: {tree}"))
}

struct Shown<'a> {
    snapshot: String,
    path: &'a [u8],
    node: NodeRef<'a>,
    list: bool,
}

impl Shown<'_> {
    fn print(self, repository: &Repository, out: &mut Out) -> CliResult<()> {
        let blobs = blobs(repository, self.node.content())?;
        if out.json { self.json(blobs, out) } else { self.text(&blobs, out) }
    }

    fn json(self, blobs: Vec<Blob>, out: &mut Out) -> CliResult<()> {
        let node = self.node;
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        out.json_line(&Stat {
            node: LsNode::new(self.path, node),
            snapshot: self.snapshot,
            user: node.user(),
            group: node.group(),
            links: node.links(),
            device_id: node.device_id(),
            rdev: node.rdev(),
            linktarget: String::from_utf8_lossy(link_target(node)).into_owned(),
            subtree: node.subtree().map(|tree| tree.to_string()),
            extended_attributes: node
                .xattrs()
                .map(|(name, value)| (String::from_utf8_lossy(name).into_owned(), hex(value)))
                .collect(),
            blobs,
        })
    }

    fn text(self, blobs: &[Blob], out: &mut Out) -> CliResult<()> {
        let node = self.node;
        let target = match node.kind() {
            NodeKind::Symlink => format!(" -> {}", show_name(link_target(node))),
            _ => String::new(),
        };
        out.line(format_args!("  File: {}{target}", show_name(self.path)))?;
        let mut line =
            format!("  Size: {:<15} Type: {:<10} Links: {}", node.size(), kind_name(node.kind()), node.links());
        if matches!(node.kind(), NodeKind::BlockDevice | NodeKind::CharDevice) {
            line.push_str(&format!("  Device type: {},{}", libc::major(node.rdev()), libc::minor(node.rdev())));
        }
        out.line(line)?;
        out.line(format_args!("Device: {:<15} Inode: {}", node.device_id(), node.inode()))?;
        out.line(format_args!(
            "Access: ({:04o}/{})  Uid: ({}/{})  Gid: ({}/{})",
            node.mode(),
            go_mode_string(go_mode(node)),
            node.uid(),
            show_name(node.user().as_bytes()),
            node.gid(),
            show_name(node.group().as_bytes()),
        ))?;
        out.line(format_args!("Access: {}", show_nanos(node.atime())))?;
        out.line(format_args!("Modify: {}", show_nanos(node.mtime())))?;
        out.line(format_args!("Change: {}", show_nanos(node.ctime())))?;
        for (name, value) in node.xattrs() {
            out.line(format_args!(" Xattr: {}={}", show_name(name), show_name(value)))?;
        }
        if let Some(tree) = node.subtree() {
            out.line(format_args!("  Tree: {tree}"))?;
        }
        if node.kind() != NodeKind::File {
            return Ok(());
        }
        let packs: std::collections::BTreeSet<&str> =
            blobs.iter().filter_map(|blob| blob.place.as_ref()).map(|place| place.pack.as_str()).collect();
        let stored: u64 = blobs.iter().filter_map(|blob| blob.place.as_ref()).map(|p| u64::from(p.stored_size)).sum();
        let lost = blobs.iter().filter(|blob| blob.place.is_none()).count();
        out.line(format_args!(" Blobs: {} in {} packs, stored in {stored} bytes", blobs.len(), packs.len()))?;
        if lost > 0 {
            out.line(format_args!("  Lost: {lost} blobs are in no pack"))?;
        }
        if self.list {
            for blob in blobs {
                match &blob.place {
                    Some(place) => out.line(format_args!(
                        "{:>14} {:>9} {} pack {} at {} ({} stored)",
                        blob.offset, place.size, blob.id, place.pack, place.pack_offset, place.stored_size,
                    ))?,
                    None => out.line(format_args!("{:>14} {:>9} {} in no pack", blob.offset, "?", blob.id))?,
                }
            }
        }
        Ok(())
    }
}

fn link_target(node: NodeRef<'_>) -> &[u8] {
    if node.kind() == NodeKind::Symlink { node.link_target() } else { b"" }
}

fn blobs(repository: &Repository, content: &[BlobId]) -> CliResult<Vec<Blob>> {
    let index = repository.index();
    let mut offset = 0;
    let mut blobs = Vec::with_capacity(content.len());
    for id in content {
        let place = index.lookup(id)?.map(|location| Place {
            size: location.plain_bytes(),
            pack: location.pack.to_string(),
            pack_offset: location.offset,
            stored_size: location.len_bytes,
        });
        let size = place.as_ref().map_or(0, |place| u64::from(place.size));
        blobs.push(Blob { id: id.to_string(), offset, place });
        offset += size;
    }
    Ok(blobs)
}

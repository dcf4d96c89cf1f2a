//! From an inode to what a snapshot says of it, as restic writes it.
//!
//! `rustic_core`'s own mapping loses the type bits of character devices, quotes names otherwise than restic, keeps lossy names
//! of extended attributes, and ignores attributes that cannot be read; so this is ours. Source: restic, `internal/restic/node.go`.

use std::ffi::OsStr;
use std::fs::Metadata as Stat;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use rustic_core::repofile::{Metadata, Node, NodeType};
use serde_json::json;

use super::Ledger;
use super::files::Files;
use crate::format::go_mode;
use crate::format::quote::quote;
use crate::format::tree::NodeKind;
use crate::write::users::Names;

/// The years that restic's times can have, 0000 to 9999; others are stored as the nearest.
const TIME_RANGE: std::ops::RangeInclusive<i64> = -62_167_219_200..=253_402_300_799;
/// More extended attributes than an inode can have on Linux's filesystems (64 KiB of names and values each).
const XATTR_LIMIT_BYTES: usize = 1 << 20;

/// Makes nodes.
#[derive(Debug)]
pub(crate) struct NodeMaker {
    with_atime: bool,
    users: Names,
    groups: Names,
    files: Files,
    ledger: Ledger,
}

impl NodeMaker {
    pub(super) fn new(with_atime: bool, files: Files, ledger: Ledger) -> Self {
        Self { with_atime, users: Names::users(), groups: Names::groups(), files, ledger }
    }

    /// Makes the node of an entry that is named `name` in the snapshot and lies at `path`; `None` if the entry was lost.
    /// Extended attributes that cannot be read are a loss, but not of the entry.
    pub(crate) fn make(&self, name: &OsStr, path: &Path, stat: &Stat) -> Option<Node> {
        let kind = kind(stat);
        let node_type = self.node_type(path, stat, kind)?;
        let mtime = time(stat.mtime(), stat.mtime_nsec());
        let meta = Metadata {
            // restic leaves a mode of 0 out, which only a file without any permission has.
            mode: Some(go_mode::from_unix(kind, stat.mode())).filter(|mode| *mode != 0),
            mtime: Some(mtime),
            atime: Some(if self.with_atime { time(stat.atime(), stat.atime_nsec()) } else { mtime }),
            ctime: Some(time(stat.ctime(), stat.ctime_nsec())),
            uid: Some(stat.uid()),
            gid: Some(stat.gid()),
            user: self.users.get(stat.uid()).map(str::to_owned),
            group: self.groups.get(stat.gid()).map(str::to_owned),
            inode: stat.ino(),
            device_id: stat.dev(),
            size: if kind == NodeKind::File { stat.len() } else { 0 },
            // restic stores no link count for these.
            links: if matches!(kind, NodeKind::Dir | NodeKind::Fifo | NodeKind::Socket) { 0 } else { stat.nlink() },
            ..Metadata::default()
        };
        let mut node = named(name, node_type, meta);
        self.add_xattrs(&mut node, path);
        Some(node)
    }

    fn node_type(&self, path: &Path, stat: &Stat, kind: NodeKind) -> Option<NodeType> {
        Some(match kind {
            NodeKind::File => NodeType::File,
            NodeKind::Dir => NodeType::Dir,
            NodeKind::Symlink => match self.files.read_link(path) {
                Ok(target) => NodeType::from_link(&target),
                Err(error) => {
                    self.ledger.lose(path, "read link", error);
                    return None;
                }
            },
            NodeKind::BlockDevice => NodeType::Dev { device: stat.rdev() },
            NodeKind::CharDevice => NodeType::Chardev { device: stat.rdev() },
            NodeKind::Fifo => NodeType::Fifo,
            NodeKind::Socket => NodeType::Socket,
        })
    }

    fn add_xattrs(&self, node: &mut Node, path: &Path) {
        let lose = |reason: &dyn std::fmt::Display| self.ledger.lose(path, "read extended attributes", reason);
        let names = match self.files.list_xattrs(path) {
            Ok(names) => names,
            Err(error) if is_unsupported(&error) => return,
            Err(error) => return lose(&error),
        };
        let mut total = 0;
        let mut attributes = Vec::new();
        for name in names {
            // restic's format has names as text.
            let Some(text) = name.to_str() else {
                lose(&format_args!("the name {name:?} is not UTF-8, which the format cannot hold"));
                continue;
            };
            match self.files.read_xattr(path, &name) {
                Ok(Some(value)) => {
                    total += name.len() + value.len();
                    if total > XATTR_LIMIT_BYTES {
                        return lose(&"there is more than 1 MiB of them");
                    }
                    attributes.push(json!({"name": text, "value": STANDARD.encode(value)}));
                }
                // Removed since the list was made.
                Ok(None) => {}
                Err(error) => lose(&format_args!("{text}: {error}")),
            }
        }
        if !attributes.is_empty() {
            // The type of an attribute has no public name.
            match serde_json::from_value(attributes.into()) {
                Ok(attributes) => node.meta.extended_attributes = attributes,
                Err(error) => lose(&error),
            }
        }
    }
}

/// Makes a node. `rustic_core` would store control and other unprintable characters of a name as they are.
pub(super) fn named(name: &OsStr, node_type: NodeType, meta: Metadata) -> Node {
    Node { name: quote(name.as_bytes()), node_type, meta, content: None, subtree: None }
}

fn kind(stat: &Stat) -> NodeKind {
    let kind = stat.file_type();
    if kind.is_dir() {
        NodeKind::Dir
    } else if kind.is_symlink() {
        NodeKind::Symlink
    } else if kind.is_block_device() {
        NodeKind::BlockDevice
    } else if kind.is_char_device() {
        NodeKind::CharDevice
    } else if kind.is_fifo() {
        NodeKind::Fifo
    } else if kind.is_socket() {
        NodeKind::Socket
    } else {
        NodeKind::File
    }
}

fn is_unsupported(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::NOTSUP, Errno::OPNOTSUPP, Errno::NOSYS]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// The mode of a directory that is made up, with these permissions.
pub(crate) fn dir_mode(permissions: u32) -> u32 {
    go_mode::from_unix(NodeKind::Dir, permissions)
}

fn time(secs: i64, nanos: i64) -> Timestamp {
    let (secs, nanos) = match (secs < *TIME_RANGE.start(), secs > *TIME_RANGE.end()) {
        (true, _) => (*TIME_RANGE.start(), 0),
        (_, true) => (*TIME_RANGE.end(), 0),
        _ => (secs, nanos),
    };
    Timestamp::new(secs, i32::try_from(nanos).unwrap_or(0)).unwrap_or(Timestamp::UNIX_EPOCH)
}

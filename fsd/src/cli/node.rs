//! Entries of a snapshot as a person and as restic's JSON show them.

use jiff::Timestamp as Instant;
use jiff::tz::TimeZone;
use serde::Serialize;
use stash_repo::format::go_mode;
use stash_repo::write::snapshots::format_time;
use stash_repo::{NodeKind, NodeRef, Snapshot, Timestamp};

use super::output::show_name;

/// Returns Go's `os.FileMode`, which restic's JSON holds.
pub(super) fn go_mode(node: NodeRef<'_>) -> u32 {
    go_mode::from_unix(node.kind(), node.mode())
}

/// Shows Go's mode as Go does: `drwxr-xr-x`, `urwxr-xr-x`, `Dcrw-rw-rw-`.
pub(super) fn go_mode_string(mode: u32) -> String {
    let mut text: String =
        "dalTLDpSugct?".chars().enumerate().filter(|&(i, _)| mode & (1 << (31 - i)) != 0).map(|(_, c)| c).collect();
    if text.is_empty() {
        text.push('-');
    }
    text.extend("rwxrwxrwx".chars().enumerate().map(|(i, c)| if mode & (1 << (8 - i)) == 0 { '-' } else { c }));
    text
}

/// Returns restic's name of a kind.
pub(super) fn kind_name(kind: NodeKind) -> &'static str {
    match kind {
        NodeKind::File => "file",
        NodeKind::Dir => "dir",
        NodeKind::Symlink => "symlink",
        NodeKind::BlockDevice => "dev",
        NodeKind::CharDevice => "chardev",
        NodeKind::Fifo => "fifo",
        NodeKind::Socket => "socket",
    }
}

/// An instant of a node; times that no calendar holds are moved to the calendar's end.
fn instant(time: Timestamp) -> Instant {
    let nanos = i32::try_from(time.nanos).unwrap_or(0);
    let end = if time.secs < 0 { Instant::MIN } else { Instant::MAX };
    Instant::new(time.secs, nanos).unwrap_or(end)
}

/// Shows a time in the zone of this machine, to the second.
pub(super) fn show_time(time: Timestamp) -> String {
    instant(time).to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// Shows a time in the zone of this machine, to the nanosecond and with the offset, as stat(1) does.
pub(super) fn show_nanos(time: Timestamp) -> String {
    instant(time).to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S.%9f %z").to_string()
}

/// Shows a snapshot's time in the zone of this machine, to the second.
pub(super) fn show_snapshot_time(snapshot: &Snapshot) -> String {
    snapshot.time.with_time_zone(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

fn node_time(time: Timestamp) -> String {
    format_time(&instant(time).to_zoned(TimeZone::system()))
}

/// The long line of `ls -l` and `find -l`.
pub(super) fn long_line(path: &[u8], node: NodeRef<'_>) -> String {
    let target = match node.kind() {
        NodeKind::Symlink => format!(" -> {}", show_name(node.link_target())),
        _ => String::new(),
    };
    format!(
        "{} {:5} {:5} {:6} {} {}{target}",
        go_mode_string(go_mode(node)),
        node.uid(),
        node.gid(),
        size(node),
        show_time(node.mtime()),
        show_name(path),
    )
}

/// The size that restic shows: of files alone.
fn size(node: NodeRef<'_>) -> u64 {
    if node.kind() == NodeKind::File { node.size() } else { 0 }
}

/// A node in the JSON of `ls`.
///
/// Source: restic 0.14, `cmd/restic/cmd_ls.go`, `lsNode`.
#[derive(Debug, Serialize)]
pub(super) struct LsNode {
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    path: String,
    uid: u32,
    gid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    mode: u32,
    permissions: String,
    mtime: String,
    atime: String,
    ctime: String,
    /// Not in restic 0.14; in 0.17.
    inode: u64,
    struct_type: &'static str,
    /// restic 0.17's twin of `struct_type`.
    message_type: &'static str,
}

impl LsNode {
    pub(super) fn new(path: &[u8], node: NodeRef<'_>) -> Self {
        let mode = go_mode(node);
        Self {
            name: String::from_utf8_lossy(node.name()).into_owned(),
            kind: kind_name(node.kind()),
            path: String::from_utf8_lossy(path).into_owned(),
            uid: node.uid(),
            gid: node.gid(),
            size: (node.kind() == NodeKind::File).then(|| node.size()),
            mode,
            permissions: go_mode_string(mode),
            mtime: node_time(node.mtime()),
            atime: node_time(node.atime()),
            ctime: node_time(node.ctime()),
            inode: node.inode(),
            struct_type: "node",
            message_type: "node",
        }
    }
}

/// A node in the JSON of `find`.
///
/// Source: restic 0.14, `cmd/restic/cmd_find.go`, `PrintPatternJSON`.
#[derive(Debug, Serialize)]
pub(super) struct FindNode {
    path: String,
    permissions: String,
    #[serde(rename = "type")]
    kind: &'static str,
    mode: u32,
    mtime: String,
    atime: String,
    ctime: String,
    uid: u32,
    gid: u32,
    #[serde(skip_serializing_if = "String::is_empty")]
    user: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    group: String,
    #[serde(skip_serializing_if = "is_zero")]
    device_id: u64,
    #[serde(skip_serializing_if = "is_zero")]
    size: u64,
    #[serde(skip_serializing_if = "is_zero")]
    links: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    linktarget: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl FindNode {
    pub(super) fn new(path: &[u8], node: NodeRef<'_>) -> Self {
        let mode = go_mode(node);
        let is_link = node.kind() == NodeKind::Symlink;
        Self {
            path: String::from_utf8_lossy(path).into_owned(),
            permissions: go_mode_string(mode),
            kind: kind_name(node.kind()),
            mode,
            mtime: node_time(node.mtime()),
            atime: node_time(node.atime()),
            ctime: node_time(node.ctime()),
            uid: node.uid(),
            gid: node.gid(),
            user: node.user().to_owned(),
            group: node.group().to_owned(),
            device_id: node.device_id(),
            size: size(node),
            links: node.links(),
            linktarget: if is_link { String::from_utf8_lossy(node.link_target()).into_owned() } else { String::new() },
        }
    }
}

/// A snapshot as restic's JSON has it.
///
/// Source: restic, `cmd/restic/cmd_snapshots.go`, `Snapshot`.
#[derive(Debug, Serialize)]
pub(super) struct SnapshotJson<'a> {
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<String>,
    tree: String,
    paths: &'a [String],
    #[serde(skip_serializing_if = "str::is_empty")]
    hostname: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    username: &'a str,
    #[serde(skip_serializing_if = "is_zero32")]
    uid: u32,
    #[serde(skip_serializing_if = "is_zero32")]
    gid: u32,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    excludes: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    tags: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    original: Option<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    program_version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    summary: Option<&'a serde_json::value::RawValue>,
    id: String,
    short_id: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero32(number: &u32) -> bool {
    *number == 0
}

impl<'a> SnapshotJson<'a> {
    pub(super) fn new(snapshot: &'a Snapshot) -> Self {
        Self {
            time: format_time(&snapshot.time),
            parent: snapshot.parent.map(|id| id.to_string()),
            tree: snapshot.tree.to_string(),
            paths: &snapshot.paths,
            hostname: &snapshot.hostname,
            username: &snapshot.username,
            uid: snapshot.uid,
            gid: snapshot.gid,
            excludes: &snapshot.excludes,
            tags: &snapshot.tags,
            original: snapshot.original.map(|id| id.to_string()),
            program_version: &snapshot.program_version,
            summary: snapshot.summary.as_deref(),
            id: snapshot.id.to_string(),
            short_id: snapshot.id.0.short(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_go_mode_string_is_gos() {
        let table = [
            (0o644, "-rw-r--r--"),
            (1 << 31 | 0o755, "drwxr-xr-x"),
            (1 << 31 | 1 << 20 | 0o777, "dtrwxrwxrwx"),
            (1 << 23 | 0o755, "urwxr-xr-x"),
            (1 << 26 | 1 << 21 | 0o644, "Dcrw-r--r--"),
            (1 << 27 | 0o777, "Lrwxrwxrwx"),
        ];
        for (mode, want) in table {
            assert_eq!(go_mode_string(mode), want);
        }
    }

    #[test]
    fn test_times_never_fail() {
        for secs in [i64::MIN, i64::MAX] {
            assert!(!show_time(Timestamp { secs, nanos: u32::MAX }).is_empty());
            assert!(!node_time(Timestamp { secs, nanos: u32::MAX }).is_empty());
        }
    }
}

//! What the tests of this crate share.

use stash_repo::{Id, Snapshot, SnapshotId, TreeId};

/// Makes a snapshot of nothing; `number` decides its id.
pub(crate) fn snapshot(number: u32, time: &str) -> Snapshot {
    Snapshot {
        id: SnapshotId(Id::hash(format!("snapshot {number}").as_bytes())),
        time: time.parse().unwrap(),
        tree: TreeId(Id::hash(b"")),
        paths: Vec::new(),
        hostname: "host".to_owned(),
        username: "user".to_owned(),
        uid: 0,
        gid: 0,
        tags: Vec::new(),
        parent: None,
        original: None,
        excludes: Vec::new(),
        program_version: String::new(),
        summary: None,
    }
}

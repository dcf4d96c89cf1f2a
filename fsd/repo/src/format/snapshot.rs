//! Snapshot files.
//!
//! Source: restic, `internal/restic/snapshot.go`.

use serde::Deserialize;

use super::time::parse_rfc3339;
use super::{FormatError, SNAPSHOT_LIMIT_BYTES};
use crate::id::{SnapshotId, TreeId};

/// A snapshot: who backed up what, when, and the tree that was stored.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The file's id.
    pub id: SnapshotId,
    /// When the backup began, with the writer's offset from UTC.
    pub time: jiff::Zoned,
    /// The root.
    pub tree: TreeId,
    /// The absolute paths that were backed up.
    pub paths: Vec<String>,
    /// The host.
    pub hostname: String,
    /// The user.
    pub username: String,
    /// The user's id.
    pub uid: u32,
    /// The user's group.
    pub gid: u32,
    /// The tags.
    pub tags: Vec<String>,
    /// The snapshot that unchanged files were taken from.
    pub parent: Option<SnapshotId>,
    /// The first form of a snapshot that was rewritten.
    pub original: Option<SnapshotId>,
    /// The patterns that were left out.
    pub excludes: Vec<String>,
    /// Who wrote it, as `restic 0.17.0`.
    pub program_version: String,
    /// The writer's own counts, where it stored them, as they are in the file.
    pub summary: Option<Box<serde_json::value::RawValue>>,
}

/// The file's JSON.
#[derive(Deserialize)]
struct SnapshotJson {
    time: String,
    tree: TreeId,
    #[serde(default)]
    paths: Option<Vec<String>>,
    #[serde(default)]
    hostname: Option<String>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    uid: Option<u32>,
    #[serde(default)]
    gid: Option<u32>,
    #[serde(default)]
    tags: Option<Vec<String>>,
    #[serde(default)]
    parent: Option<SnapshotId>,
    #[serde(default)]
    original: Option<SnapshotId>,
    #[serde(default)]
    excludes: Option<Vec<String>>,
    #[serde(default)]
    program_version: Option<String>,
    #[serde(default)]
    summary: Option<Box<serde_json::value::RawValue>>,
}

impl Snapshot {
    /// Reads a snapshot's JSON, which is not bound to `id` here: the caller has hashed the file.
    ///
    /// # Errors
    /// It is too long, or no snapshot.
    pub fn parse(id: SnapshotId, json: &[u8]) -> Result<Self, FormatError> {
        if json.len() > SNAPSHOT_LIMIT_BYTES {
            return Err(FormatError::new(format!("{} bytes, at most {SNAPSHOT_LIMIT_BYTES} are read", json.len())));
        }
        let file: SnapshotJson = serde_json::from_slice(json).map_err(|error| FormatError::new(error.to_string()))?;
        let time = zoned(&file.time).ok_or_else(|| FormatError::new(format!("{:.40?} is not a time", file.time)))?;
        Ok(Self {
            id,
            time,
            tree: file.tree,
            paths: file.paths.unwrap_or_default(),
            hostname: file.hostname.unwrap_or_default(),
            username: file.username.unwrap_or_default(),
            uid: file.uid.unwrap_or_default(),
            gid: file.gid.unwrap_or_default(),
            tags: file.tags.unwrap_or_default(),
            parent: file.parent,
            original: file.original,
            excludes: file.excludes.unwrap_or_default(),
            program_version: file.program_version.unwrap_or_default(),
            summary: file.summary,
        })
    }

    /// Returns about how much memory the snapshot takes.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        let lists = [&self.paths, &self.tags, &self.excludes];
        let texts = lists.into_iter().flatten().map(|text| text.capacity() + size_of::<String>()).sum::<usize>();
        let names = self.hostname.capacity() + self.username.capacity() + self.program_version.capacity();
        size_of::<Self>() + texts + names + self.summary.as_ref().map_or(0, |summary| summary.get().len())
    }
}

/// Reads a time with its writer's offset.
fn zoned(text: &str) -> Option<jiff::Zoned> {
    let (time, offset) = parse_rfc3339(text.as_bytes())?;
    let nanos = i128::from(time.secs) * 1_000_000_000 + i128::from(time.nanos);
    let time = jiff::Timestamp::from_nanosecond(nanos).ok()?;
    Some(time.to_zoned(jiff::tz::Offset::from_seconds(offset).ok()?.to_time_zone()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::Id;

    fn parse(json: &str) -> Result<Snapshot, FormatError> {
        Snapshot::parse(SnapshotId(Id::hash(b"id")), json.as_bytes())
    }

    fn full() -> String {
        let id = |digits: &str| digits.repeat(32);
        format!(
            r#"{{"time":"2026-11-22T19:52:21.623533528+05:30","parent":"{}","tree":"{}","paths":["/a","/ä"],
            "hostname":"h","username":"u","uid":1000,"gid":100,"excludes":["*.o"],"tags":["x","y"],"original":"{}",
            "program_version":"restic 0.17.0","summary":{{"files_new":7}},"label":"rustic's","delete":"NotSet"}}"#,
            id("01"),
            id("02"),
            id("03")
        )
    }

    #[test]
    fn test_all_fields() {
        let snapshot = parse(&full()).unwrap();
        assert_eq!(snapshot.id.0, Id::hash(b"id"));
        assert_eq!(
            snapshot.time.strftime("%Y-%m-%dT%H:%M:%S%.f%:z").to_string(),
            "2026-11-22T19:52:21.623533528+05:30"
        );
        assert_eq!(snapshot.parent.unwrap().0, Id::new([1; 32]));
        assert_eq!(snapshot.tree.0, Id::new([2; 32]));
        assert_eq!(snapshot.original.unwrap().0, Id::new([3; 32]));
        assert_eq!((snapshot.uid, snapshot.gid), (1000, 100));
        assert_eq!((snapshot.hostname.as_str(), snapshot.username.as_str()), ("h", "u"));
        assert_eq!(snapshot.paths, ["/a", "/ä"]);
        assert_eq!(snapshot.tags, ["x", "y"]);
        assert_eq!(snapshot.excludes, ["*.o"]);
        assert_eq!(snapshot.program_version, "restic 0.17.0");
        assert_eq!(snapshot.summary.unwrap().get(), r#"{"files_new":7}"#);
    }

    #[test]
    fn test_only_time_and_tree_must_be() {
        let least =
            format!(r#"{{"time":"0001-01-01T00:00:00Z","tree":"{}","paths":null,"tags":null}}"#, "02".repeat(32));
        let snapshot = parse(&least).unwrap();
        assert!(snapshot.paths.is_empty() && snapshot.tags.is_empty() && snapshot.parent.is_none());
        assert_eq!(snapshot.time.year(), 1);
        for bad in [
            "",
            "[]",
            "{}",
            &least.replace("\"time\"", "\"tome\""),
            &least.replace("\"tree\"", "\"three\""),
            &least.replace("00:00Z", "00:00"),
            &least.replace("02", "0x"),
            &least.replace("null", "7"),
            &format!("{least} {least}"),
            &least.replace("null", &format!("{}{}", "[".repeat(100_000), "]".repeat(100_000))),
            &format!("{least}{}", " ".repeat(SNAPSHOT_LIMIT_BYTES)),
        ] {
            assert!(parse(bad).is_err(), "{bad:.100}");
        }
    }

    proptest! {
        #[test]
        fn prop_damage_ends(at: prop::sample::Index, byte: u8, bytes: Vec<u8>) {
            let id = SnapshotId::default();
            drop(Snapshot::parse(id, &bytes));
            let mut json = full().into_bytes();
            let at = at.index(json.len());
            json[at] = byte;
            if let Ok(snapshot) = Snapshot::parse(id, &json) {
                prop_assert!(snapshot.weight_bytes() < 10_000);
            }
            drop(Snapshot::parse(id, &json[..at]));
        }
    }
}

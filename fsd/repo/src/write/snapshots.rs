//! Snapshot files as JSON, so that what other programs wrote into them stays when they are written anew.

use std::collections::BTreeSet;
use std::future::Future;

use futures::{StreamExt as _, TryStreamExt as _};
use jiff::Zoned;
use jiff::fmt::temporal::{DateTimePrinter, Pieces};
use jiff::tz::TimeZone;
use serde_json::{Map, Value};

use super::access::Access;
use crate::backend::{BackendErrorKind, FileKind};
use crate::error::{RepoError, RepoResult};
use crate::format::SNAPSHOT_LIMIT_BYTES;
use crate::id::{Id, SnapshotId, TreeId};
use crate::lock::Lease;

/// A snapshot file.
#[derive(Debug, Clone)]
pub struct SnapshotJson {
    /// The file's id.
    pub id: SnapshotId,
    /// When it was made, with the writer's offset.
    pub time: Zoned,
    /// Its root.
    pub tree: TreeId,
    /// All that the file says.
    pub fields: Map<String, Value>,
}

impl SnapshotJson {
    /// Reads the JSON.
    ///
    /// # Errors
    /// `Format`: it is no snapshot.
    pub fn parse(id: SnapshotId, json: &[u8]) -> RepoResult<Self> {
        let bad = |reason: String| RepoError::Format { what: "snapshot", id: id.0, reason };
        let fields: Map<String, Value> = serde_json::from_slice(json).map_err(|error| bad(error.to_string()))?;
        let text =
            |name: &str| fields.get(name).and_then(Value::as_str).ok_or_else(|| bad(format!("it has no {name}")));
        let time = parse_time(text("time")?).ok_or_else(|| bad("its time is not one".to_owned()))?;
        let tree = text("tree")?.parse().map_err(|_| bad("its tree is not an id".to_owned()))?;
        Ok(Self { id, time, tree, fields })
    }

    fn strings(&self, name: &str) -> Vec<&str> {
        self.fields.get(name).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// Returns the host.
    #[must_use]
    pub fn hostname(&self) -> &str {
        self.fields.get("hostname").and_then(Value::as_str).unwrap_or_default()
    }

    /// Returns the tags.
    #[must_use]
    pub fn tags(&self) -> Vec<&str> {
        self.strings("tags")
    }

    /// Returns the paths that were backed up.
    #[must_use]
    pub fn paths(&self) -> Vec<&str> {
        self.strings("paths")
    }

    /// Returns the snapshot that this one was first written as.
    #[must_use]
    pub fn original(&self) -> SnapshotId {
        let original = self.fields.get("original").and_then(Value::as_str).and_then(|text| text.parse().ok());
        original.unwrap_or(self.id)
    }

    /// Returns whether `rustic` marked it as never to be removed, or not before a time that has not come.
    #[must_use]
    pub fn is_protected(&self, now: &Zoned) -> bool {
        match self.fields.get("delete") {
            Some(Value::String(text)) => text == "Never",
            Some(Value::Object(after)) => {
                after.get("After").and_then(Value::as_str).and_then(parse_time).is_none_or(|time| time > *now)
            }
            _ => false,
        }
    }

    /// Returns the fields as restic prints them with `--json`: the time in restic's form, whoever wrote it.
    #[must_use]
    pub fn json_fields(&self) -> Map<String, Value> {
        let mut fields = self.fields.clone();
        fields.insert("time".to_owned(), format_time(&self.time).into());
        fields
    }

    /// Returns [`Self::json_fields`] with `id` and `short_id`, as restic lists snapshots.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut fields = self.json_fields();
        fields.insert("id".to_owned(), self.id.to_string().into());
        fields.insert("short_id".to_owned(), self.id.0.short().into());
        fields.into()
    }

    /// Sets the tags; none removes the field.
    pub fn set_tags(&mut self, tags: Vec<String>) {
        if tags.is_empty() {
            self.fields.remove("tags");
        } else {
            self.fields.insert("tags".to_owned(), tags.into());
        }
    }
}

/// Parses a time of restic's or `rustic`'s JSON, with its offset.
fn parse_time(text: &str) -> Option<Zoned> {
    let pieces = Pieces::parse(text).ok()?;
    let offset = pieces.to_numeric_offset()?;
    pieces.date().to_datetime(pieces.time()?).to_zoned(TimeZone::fixed(offset)).ok()
}

/// Writes a time as restic does, which is as Go's JSON does: RFC 3339, digits of the second as needed, `Z` for UTC.
#[must_use]
pub fn format_time(time: &Zoned) -> String {
    let mut text = DateTimePrinter::new().timestamp_with_offset_to_string(&time.timestamp(), time.offset());
    if text.ends_with("+00:00") {
        text.truncate(text.len() - "+00:00".len());
        text.push('Z');
    }
    text
}

/// Reads all snapshots, oldest first.
///
/// # Errors
/// The list failed, or a snapshot cannot be read: what decides which snapshots go must know them all.
pub async fn read_all(access: &Access) -> RepoResult<Vec<SnapshotJson>> {
    let results = try_read_all(access).await?;
    let mut snapshots = results.into_iter().map(|(_, result)| result).collect::<RepoResult<Vec<_>>>()?;
    snapshots.sort_by(|a, b| a.time.cmp(&b.time).then(a.id.cmp(&b.id)));
    Ok(snapshots)
}

/// Reads all snapshots, damaged ones as errors.
///
/// # Errors
/// The list failed.
pub async fn try_read_all(access: &Access) -> RepoResult<Vec<(SnapshotId, RepoResult<SnapshotJson>)>> {
    let entries = access.backend().list(FileKind::Snapshot).await?;
    Ok(try_read(access, entries.into_iter().map(|entry| SnapshotId(entry.id))).await)
}

/// Reads the snapshots of these ids, damaged ones as errors; those that are not there are left out.
pub async fn try_read(
    access: &Access,
    ids: impl IntoIterator<Item = SnapshotId>,
) -> Vec<(SnapshotId, RepoResult<SnapshotJson>)> {
    let reads = ids.into_iter().map(|id| async move {
        match access.read_file(FileKind::Snapshot, "snapshot", id.0, SNAPSHOT_LIMIT_BYTES).await {
            // Forgotten since the list was made.
            Err(RepoError::Backend(error)) if error.kind == BackendErrorKind::NotFound => None,
            Err(error) => Some((id, Err(error))),
            Ok(json) => Some((id, SnapshotJson::parse(id, &json))),
        }
    });
    let reads = futures::stream::iter(reads.collect::<Vec<_>>());
    reads.buffer_unordered(access.backend().concurrency().max(1)).filter_map(std::future::ready).collect().await
}

/// Removes snapshots and returns those that are gone, in order. Ends early when `stop` ends or the lease does.
///
/// # Errors
/// A removal failed, or the lease ended; those before it are gone.
pub async fn remove(
    access: &Access,
    lease: &Lease,
    ids: &BTreeSet<SnapshotId>,
    stop: impl Future<Output = ()>,
) -> RepoResult<usize> {
    access.config().check_may_remove()?;
    let removals = ids.iter().map(|id| async move {
        lease.check()?;
        access.backend().remove(FileKind::Snapshot, &id.0).await?;
        Ok::<_, RepoError>(())
    });
    let removals = futures::stream::iter(removals).buffer_unordered(access.backend().concurrency().max(1));
    let removals = removals.try_fold(0, |count, ()| std::future::ready(Ok(count + 1)));
    tokio::select! {
        result = removals => result,
        () = stop => Err(RepoError::Cancelled),
    }
}

/// Writes a changed snapshot and then removes its old file. Returns the new id. restic's meaning of `original`: the id of
/// the first of all these files.
///
/// # Errors
/// The store failed: before the new file is there, nothing changed; after it, both are there.
pub async fn replace(access: &Access, lease: &Lease, snapshot: &SnapshotJson) -> RepoResult<SnapshotId> {
    access.config().check_may_remove()?;
    let mut fields = snapshot.fields.clone();
    fields.insert("original".to_owned(), snapshot.original().to_string().into());
    let id = write(access, lease, &fields).await?;
    if id != snapshot.id {
        lease.check()?;
        access.backend().remove(FileKind::Snapshot, &snapshot.id.0).await?;
    }
    Ok(id)
}

/// Writes a new snapshot: the last act of what makes it.
pub(super) async fn write(access: &Access, lease: &Lease, fields: &Map<String, Value>) -> RepoResult<SnapshotId> {
    let json = serde_json::to_vec(fields)
        .map_err(|error| RepoError::Local { what: "snapshot file".to_owned(), reason: error.to_string() })?;
    lease.check()?;
    access.write_file(FileKind::Snapshot, &json).await.map(SnapshotId)
}

/// Finds the snapshot that an id's beginning names.
///
/// # Errors
/// `SnapshotNotFound`, `SnapshotAmbiguous`.
pub fn find<'s>(snapshots: &'s [SnapshotJson], prefix: &str) -> RepoResult<&'s SnapshotJson> {
    let lower = prefix.to_ascii_lowercase();
    let hex = !lower.is_empty() && lower.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut fitting = snapshots.iter().filter(|snapshot| hex && snapshot.id.0.to_hex().starts_with(&lower));
    match (fitting.next(), fitting.count()) {
        (None, _) => Err(RepoError::SnapshotNotFound { spec: prefix.to_owned() }),
        (Some(one), 0) => Ok(one),
        (Some(_), others) => Err(RepoError::SnapshotAmbiguous { spec: prefix.to_owned(), count: others + 1 }),
    }
}

/// The id that a file would have that says the same: used to see what was copied already.
#[must_use]
pub(super) fn identity(snapshot: &SnapshotJson) -> Id {
    snapshot.original().0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_times_are_written_as_go_writes_them() {
        for (text, expected) in [
            ("1970-01-01T00:00:00.120000000+00:00", "1970-01-01T00:00:00.12Z"),
            ("2021-03-31T00:00:00Z", "2021-03-31T00:00:00Z"),
            ("2021-03-31T00:00:00.000000001+02:00", "2021-03-31T00:00:00.000000001+02:00"),
            ("2021-03-31T00:00:00-11:30", "2021-03-31T00:00:00-11:30"),
        ] {
            assert_eq!(format_time(&parse_time(text).unwrap()), expected);
        }
    }

    #[test]
    fn test_json_has_restics_form_of_a_time() {
        let json = format!(r#"{{"time":"2021-03-31T00:00:00+00:00","tree":"{}","new":1}}"#, "00".repeat(32));
        let snapshot = SnapshotJson::parse(SnapshotId::default(), json.as_bytes()).unwrap();
        assert_eq!(
            (&snapshot.json_fields()["time"], &snapshot.json_fields()["new"]),
            (&"2021-03-31T00:00:00Z".into(), &1.into())
        );
        // What is written back is what was there.
        assert_eq!(snapshot.fields["time"], "2021-03-31T00:00:00+00:00");
    }
}

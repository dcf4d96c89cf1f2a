//! Which snapshot a volume shows. Pure: the objects were looked up before.
//!
//! A snapshot is chosen once for a volume, and its id is written down: a pod that starts again sees the same.

use stash_crds::Snapshot;
use stash_crds::snapshot::SnapshotStatus;

use crate::names::SnapshotId;
use crate::volume::{SnapshotChoice, SnapshotPath};

/// How much of a Repository's name stands in the name of a Snapshot.
const REPOSITORY_PART: usize = 54;

/// Why no snapshot is chosen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// There is none.
    #[error("the Repository {repository} has {what}; `kubectl get snapshots -l repository={label}` lists what it has", label = label(.repository))]
    None {
        /// The Repository, with its namespace.
        repository: String,
        /// What it does not have.
        what: String,
    },
    /// There are several.
    #[error("the Repository {repository} has {count} snapshots whose id begins with {prefix}: give more digits")]
    Several {
        /// The Repository, with its namespace.
        repository: String,
        /// What their ids begin with.
        prefix: String,
        /// How many there are.
        count: usize,
    },
    /// The object does not say which snapshot it stands for.
    #[error("the Snapshot {0} has no status.snapshotID: it is not one of this installation")]
    NoId(String),
}

fn label(repository: &str) -> &str {
    repository.rsplit('/').next().unwrap_or(repository)
}

/// A snapshot that was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Its id.
    pub id: SnapshotId,
    /// The object that stands for it, if there is one.
    pub object: Option<String>,
    /// How many bytes its files have, if the object says it.
    pub bytes: i64,
    /// How many files it has, if the object says it.
    pub files: i64,
}

/// Returns the name that the object of a snapshot has as a rule.
pub fn usual_name(repository: &str, id: &SnapshotId) -> String {
    let cut = repository.get(..REPOSITORY_PART).unwrap_or(repository).trim_end_matches(['.', '-']);
    format!("{cut}-{}", &id.as_str()[..8])
}

/// Chooses among `snapshots`, those of a Repository (others may be among them). Of one that is named by its whole id nothing needs to be
/// there: it may be newer than the objects.
///
/// # Errors
///
/// There is none, or there are several.
pub fn choose(
    choice: &SnapshotChoice,
    path: &SnapshotPath,
    namespace: &str,
    repository: &str,
    snapshots: &[Snapshot],
) -> Result<Chosen, ResolveError> {
    let shown = format!("{namespace}/{repository}");
    let none = |what: String| ResolveError::None { repository: shown.clone(), what };
    // What is being deleted is being forgotten.
    let there = snapshots.iter().filter(|one| one.metadata.deletion_timestamp.is_none());
    let of = |status: &SnapshotStatus| status.repository == repository;
    let mut own = there.filter_map(|one| Some((one, one.status.as_ref().filter(|status| of(status))?)));
    let id_of = |status: &SnapshotStatus| status.snapshot_id.as_deref().and_then(SnapshotId::parse);
    match choice {
        SnapshotChoice::Named(name) => {
            let found = own.find(|(one, _)| one.metadata.name.as_deref() == Some(name));
            let (one, status) = found.ok_or_else(|| none(format!("no Snapshot {name}")))?;
            let id = id_of(status).ok_or_else(|| ResolveError::NoId(format!("{namespace}/{name}")))?;
            Ok(chosen(one, status, id))
        }
        // Who may see it was decided before, by the RestoreSession.
        SnapshotChoice::AtStart { session, .. } => {
            Err(none(format!("no snapshot that RestoreSession {session} chose")))
        }
        SnapshotChoice::Id(id) => {
            let found = own.find(|(_, status)| id_of(status).as_ref() == Some(id));
            let unknown = Chosen { id: id.clone(), object: None, bytes: 0, files: 0 };
            Ok(found.map_or(unknown, |(one, status)| chosen(one, status, id.clone())))
        }
        SnapshotChoice::Prefix(prefix) => {
            let begins = |id: &SnapshotId| id.as_str().starts_with(prefix.as_str());
            let mut found: Vec<Chosen> =
                own.filter_map(|(one, status)| Some(chosen(one, status, id_of(status).filter(begins)?))).collect();
            match found.len() {
                0 => Err(none(format!("no snapshot whose id begins with {prefix}"))),
                1 => Ok(found.remove(0)),
                count => Err(ResolveError::Several { repository: shown, prefix: prefix.clone(), count }),
            }
        }
        SnapshotChoice::Latest { host } => {
            let fits = |status: &SnapshotStatus| {
                host.as_ref().is_none_or(|host| *host == status.hostname)
                    && (path.as_str() == "/" || status.paths.iter().any(|backed_up| path.is_within(backed_up)))
            };
            let fitting = own.filter(|(_, status)| fits(status));
            let newest = fitting
                .filter_map(|(one, status)| Some((status.snapshot_time.clone()?.0, id_of(status)?, one, status)))
                .max_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
            let (_, id, one, status) = newest.ok_or_else(|| {
                let of_host = host.as_ref().map(|host| format!(" of the host {host}")).unwrap_or_default();
                let of_path =
                    if path.as_str() == "/" { String::new() } else { format!(" that holds {}", path.as_str()) };
                none(format!("no snapshot{of_host}{of_path}"))
            })?;
            Ok(chosen(one, status, id))
        }
    }
}

fn chosen(one: &Snapshot, status: &SnapshotStatus, id: SnapshotId) -> Chosen {
    Chosen {
        id,
        object: one.metadata.name.clone(),
        bytes: status.total_bytes.unwrap_or(0).max(0),
        files: status.total_files.unwrap_or(0).max(0),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn id(first: &str) -> String {
        format!("{first}{}", "0".repeat(64 - first.len()))
    }

    fn snapshot(name: &str, first: &str, host: &str, path: &str, time: &str) -> Snapshot {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "storage"},
            "status": {
                "tree": "", "paths": [path], "hostname": host, "username": "", "repository": "repo",
                "snapshotID": id(first), "snapshotTime": time, "totalBytes": 10, "totalFiles": 2,
            },
        }))
        .unwrap()
    }

    fn all() -> Vec<Snapshot> {
        let mut gone = snapshot("repo-gone", "aaaa9", "host-0", "/data", "2026-01-09T00:00:00Z");
        gone.metadata.deletion_timestamp = gone.status.as_ref().unwrap().snapshot_time.clone();
        let mut other = snapshot("other-1", "aaaa8", "host-0", "/data", "2026-01-08T00:00:00Z");
        other.status.as_mut().unwrap().repository = "other".to_owned();
        let mut odd = snapshot("repo-odd", "aaaa7", "host-0", "/data", "2026-01-07T00:00:00Z");
        odd.status.as_mut().unwrap().snapshot_id = None;
        vec![
            gone,
            other,
            odd,
            snapshot("repo-1", "aaaa1", "host-0", "/data", "2026-01-01T00:00:00Z"),
            snapshot("repo-2", "aaaa2", "host-0", "/data", "2026-01-02T00:00:00Z"),
            snapshot("repo-3", "aaab3", "host-1", "/logs", "2026-01-03T00:00:00Z"),
        ]
    }

    #[test]
    fn test_what_is_chosen() {
        let latest = |host: Option<&str>| SnapshotChoice::Latest { host: host.map(str::to_owned) };
        let prefix = |prefix: &str| SnapshotChoice::Prefix(prefix.to_owned());
        let named = |name: &str| SnapshotChoice::Named(name.to_owned());
        let whole = |first: &str| SnapshotChoice::Id(SnapshotId::parse(&id(first)).unwrap());
        for (choice, path, expected) in [
            (latest(None), "/", Ok(Some("repo-3"))),
            (latest(Some("host-0")), "/", Ok(Some("repo-2"))),
            (latest(None), "/data/a", Ok(Some("repo-2"))),
            (latest(Some("host-1")), "/data", Err("no snapshot of the host host-1 that holds /data;")),
            (latest(Some("host-2")), "/", Err("no snapshot of the host host-2;")),
            (latest(None), "/dat", Err("no snapshot that holds /dat;")),
            (prefix("aaaa1"), "/", Ok(Some("repo-1"))),
            (prefix("aaaa"), "/", Err("has 2 snapshots whose id begins with aaaa: give more digits")),
            (prefix("aaaa9"), "/", Err("no snapshot whose id begins with aaaa9;")),
            (prefix("aaaa8"), "/", Err("no snapshot whose id begins with aaaa8;")),
            (named("repo-1"), "/", Ok(Some("repo-1"))),
            (named("repo-gone"), "/", Err("no Snapshot repo-gone;")),
            (named("other-1"), "/", Err("no Snapshot other-1;")),
            (named("repo-odd"), "/", Err("the Snapshot storage/repo-odd has no status.snapshotID")),
            (whole("aaaa2"), "/", Ok(Some("repo-2"))),
            (whole("ffff"), "/", Ok(None)),
        ] {
            let path = SnapshotPath::parse(path).unwrap();
            match (choose(&choice, &path, "storage", "repo", &all()), expected) {
                (Ok(found), Ok(object)) => {
                    assert_eq!(found.object.as_deref(), object, "{choice:?}");
                    assert_eq!(found.bytes, if object.is_some() { 10 } else { 0 });
                }
                (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{choice:?}: {error}"),
                (found, _) => panic!("{choice:?}: {found:?}"),
            }
        }
    }

    #[test]
    fn test_the_usual_name_is_that_of_the_mirror() {
        let id = SnapshotId::parse(&id("0a1b2c3d4e")).unwrap();
        assert_eq!(usual_name("repo", &id), "repo-0a1b2c3d");
        let long = format!("{}-x", "a".repeat(53));
        assert_eq!(usual_name(&long, &id), format!("{}-0a1b2c3d", "a".repeat(53)));
    }
}

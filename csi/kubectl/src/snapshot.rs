//! Which snapshot is meant. Reading the words is pure.

use stash_crds::Repository;
use stash_csi::cluster::Cluster as _;
use stash_csi::names::{SnapshotId, is_object_name};
use stash_csi::resolve;
use stash_csi::volume::{SnapshotChoice, SnapshotPath, choice};
use stash_fs::cli::{CliError, CliResult};

use crate::args::{Choice, Place};
use crate::cluster::{Cluster, unanswered};

/// Which snapshot a person names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// That of an object, which says of which Repository it is.
    Object(String),
    /// One of a Repository.
    Of {
        /// The Repository.
        repository: String,
        /// Which.
        choice: SnapshotChoice,
    },
}

/// Reads how a person names a snapshot: `NAME`, `REPOSITORY/latest`, `REPOSITORY/ID`.
///
/// # Errors
///
/// It is none of these, or a host is named beside something else than `latest`: a sentence.
pub fn parse(text: &str, host: Option<&str>) -> Result<Named, String> {
    let wrong = || {
        format!(
            "{text:?} names no snapshot: give the name of a Snapshot, REPOSITORY/latest, or REPOSITORY/ID with 4 digits or more"
        )
    };
    let named = match text.split_once('/') {
        None if is_object_name(text) => Named::Object(text.to_owned()),
        Some((repository, which)) if is_object_name(repository) => {
            let choice = match which {
                "latest" => SnapshotChoice::Latest { host: host.map(str::to_owned) },
                which => match choice(&which.to_ascii_lowercase()) {
                    Some(choice @ (SnapshotChoice::Id(_) | SnapshotChoice::Prefix(_))) => choice,
                    _ => return Err(wrong()),
                },
            };
            Named::Of { repository: repository.to_owned(), choice }
        }
        _ => return Err(wrong()),
    };
    if host.is_some() && !matches!(named, Named::Of { choice: SnapshotChoice::Latest { .. }, .. }) {
        return Err("--host chooses the latest snapshot of a host: it goes with REPOSITORY/latest only".to_owned());
    }
    Ok(named)
}

/// A snapshot that was found.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// The Repository.
    pub(crate) repository: Repository,
    /// The snapshot.
    pub(crate) id: SnapshotId,
}

impl Found {
    /// Returns the Repository's name.
    pub(crate) fn repository_name(&self) -> &str {
        self.repository.metadata.name.as_deref().unwrap_or_default()
    }

    /// Returns how it is shown: `repo/0a1b2c3d`.
    pub(crate) fn shown(&self) -> String {
        format!("{}/{}", self.repository_name(), &self.id.as_str()[..8])
    }
}

/// Finds the snapshot of a mount, which shows all of it.
pub(crate) async fn find_whole(cluster: &Cluster, choice: &Choice) -> CliResult<Found> {
    find(cluster, &Place { choice: choice.clone(), path: SnapshotPath::default() }).await
}

/// Finds a snapshot by what the API server has of it.
pub(crate) async fn find(cluster: &Cluster, place: &Place) -> CliResult<Found> {
    let (api, namespace) = (cluster.api(), cluster.namespace.as_str());
    let named = parse(&place.choice.snapshot, place.choice.host.as_deref()).map_err(CliError::usage)?;
    let (repository, choice, snapshots) = match named {
        Named::Of { repository, choice } => {
            let snapshots = api.snapshots(namespace, &repository).await.map_err(unanswered)?;
            (repository, choice, snapshots)
        }
        Named::Object(name) => {
            let object = api.snapshot(namespace, &name).await.map_err(unanswered)?;
            let repository = object.as_ref().and_then(|one| Some(one.status.as_ref()?.repository.clone()));
            let repository = repository.ok_or_else(|| {
                CliError::failure(format!("there is no Snapshot {namespace}/{name}"))
                    .hint(format!("`kubectl get snapshots -n {namespace}` lists what there is"))
            })?;
            (repository, SnapshotChoice::Named(name), object.into_iter().collect())
        }
    };
    let found = api.repository(namespace, &repository).await.map_err(unanswered)?;
    let found = found.ok_or_else(|| {
        CliError::failure(format!("there is no Repository {namespace}/{repository}"))
            .hint(format!("`kubectl get repositories -n {namespace}` lists what there is"))
    })?;
    let chosen = resolve::choose(&choice, &place.path, namespace, &repository, &snapshots);
    let chosen = chosen.map_err(|error| CliError::failure(error.to_string()))?;
    Ok(Found { repository: found, id: chosen.id })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_how_snapshots_are_named() {
        let of = |choice: SnapshotChoice| Ok(Named::Of { repository: "repo".to_owned(), choice });
        let latest = |host: Option<&str>| of(SnapshotChoice::Latest { host: host.map(str::to_owned) });
        let whole = "0a".repeat(32);
        for (text, host, expected) in [
            ("repo-0a1b2c3d", None, Ok(Named::Object("repo-0a1b2c3d".to_owned()))),
            ("latest", None, Ok(Named::Object("latest".to_owned()))),
            ("repo/latest", None, latest(None)),
            ("repo/latest", Some("db-0"), latest(Some("db-0"))),
            ("repo/0A1b", None, of(SnapshotChoice::Prefix("0a1b".to_owned()))),
            (&format!("repo/{whole}"), None, of(SnapshotChoice::Id(SnapshotId::parse(&whole).unwrap()))),
            ("repo/0a1", None, Err("names no snapshot")),
            ("repo/repo-0a1b2c3d", None, Err("names no snapshot")),
            ("repo/latest/data", None, Err("names no snapshot")),
            ("repo/", None, Err("names no snapshot")),
            ("/latest", None, Err("names no snapshot")),
            ("", None, Err("names no snapshot")),
            ("latest:/data", None, Err("names no snapshot")),
            ("--x", None, Err("names no snapshot")),
            ("repo/0a1b", Some("db-0"), Err("goes with REPOSITORY/latest only")),
            ("repo-0a1b2c3d", Some("db-0"), Err("goes with REPOSITORY/latest only")),
        ] {
            match (parse(text, host), expected) {
                (Err(error), Err(words)) => assert!(error.contains(words), "{text}: {error}"),
                (found, expected) => assert_eq!(found, expected.map_err(str::to_owned), "{text}"),
            }
        }
    }
}

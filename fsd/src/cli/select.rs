//! Which snapshots a verb works on: restic's filters and names.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use stash_repo::{RepoError, Repository, Snapshot};

use super::{CliError, CliResult};

/// restic's snapshot filters, for verbs that work on several snapshots.
#[derive(Debug, Clone, Default, Args)]
pub struct SnapshotFilter {
    /// Only snapshots of this host (repeatable)
    #[arg(short = 'H', long, env = "RESTIC_HOST", hide_env_values = true, value_name = "HOST")]
    pub host: Vec<String>,
    /// Only snapshots that have all these tags (repeatable: one of the lists; an empty one: no tags)
    #[arg(long, value_name = "TAG[,TAG...]")]
    pub tag: Vec<String>,
    /// Only snapshots that hold this absolute path (repeatable: all of them)
    #[arg(long, value_name = "PATH")]
    pub path: Vec<PathBuf>,
}

impl SnapshotFilter {
    /// Returns whether a snapshot passes.
    #[must_use]
    pub fn matches(&self, snapshot: &Snapshot) -> bool {
        let hosts: Vec<&String> = self.host.iter().filter(|host| !host.is_empty()).collect();
        (hosts.is_empty() || hosts.contains(&&snapshot.hostname))
            && (self.tag.is_empty() || self.tag.iter().any(|list| has_tags(snapshot, list)))
            && self.path.iter().all(|path| has_path(snapshot, path))
    }

    /// Returns whether nothing is filtered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.host.iter().all(String::is_empty) && self.tag.is_empty() && self.path.is_empty()
    }

    /// Selects snapshots as restic's verbs do: those that are named, else all that pass the filter; oldest first.
    ///
    /// # Errors
    /// The list failed, or a name fits no snapshot or several.
    pub async fn select(&self, repository: &Repository, names: &[String]) -> CliResult<Vec<Arc<Snapshot>>> {
        let all = repository.snapshots().await?;
        if names.is_empty() {
            return Ok(all.into_iter().filter(|snapshot| self.matches(snapshot)).collect());
        }
        let mut selected: Vec<Arc<Snapshot>> = Vec::with_capacity(names.len());
        for name in names {
            let snapshot = find(&all, name, self)?;
            if selected.iter().all(|other| other.id != snapshot.id) {
                selected.push(snapshot);
            }
        }
        Ok(selected)
    }

    /// Finds the one snapshot that a name means; `latest` and `latest~N` under the filter.
    ///
    /// # Errors
    /// The list failed, or the name fits no snapshot or several.
    pub async fn one(&self, repository: &Repository, name: &str) -> CliResult<Arc<Snapshot>> {
        find(&repository.snapshots().await?, name, self)
    }
}

fn has_tags(snapshot: &Snapshot, list: &str) -> bool {
    list.split(',').map(str::trim).all(|tag| match tag {
        "" => snapshot.tags.is_empty(),
        tag => snapshot.tags.iter().any(|own| own == tag),
    })
}

fn has_path(snapshot: &Snapshot, path: &std::path::Path) -> bool {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    snapshot.paths.iter().any(|own| std::path::Path::new(own) == absolute)
}

/// Finds a snapshot by `latest`, `latest~N`, an id or its beginning.
pub(crate) fn find(all: &[Arc<Snapshot>], name: &str, filter: &SnapshotFilter) -> CliResult<Arc<Snapshot>> {
    let not_found = || CliError::from(RepoError::SnapshotNotFound { spec: name.to_owned() });
    if let Some(rest) = name.strip_prefix("latest") {
        let back: usize = match rest.strip_prefix('~') {
            _ if rest.is_empty() => 0,
            Some(digits) => digits.parse().map_err(|_| not_found())?,
            None => return Err(not_found()),
        };
        let mut passing: Vec<&Arc<Snapshot>> = all.iter().filter(|snapshot| filter.matches(snapshot)).collect();
        passing.sort_by(|a, b| b.time.cmp(&a.time));
        return passing.get(back).map(|&snapshot| snapshot.clone()).ok_or_else(not_found);
    }
    if name.is_empty() || name.len() > 64 || !name.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(not_found().hint("a snapshot is named by its id, the beginning of its id, `latest` or `latest~N`"));
    }
    let prefix = name.to_ascii_lowercase();
    let fitting: Vec<_> = all.iter().filter(|snapshot| snapshot.id.to_string().starts_with(&prefix)).collect();
    match fitting.as_slice() {
        [] => Err(not_found()),
        [one] => Ok(Arc::clone(one)),
        several => Err(RepoError::SnapshotAmbiguous { spec: name.to_owned(), count: several.len() }.into()),
    }
}

/// Splits restic's `SNAPSHOT[:PATH]`.
#[must_use]
pub fn split_spec(spec: &str) -> (&str, Option<&str>) {
    match spec.split_once(':') {
        Some((snapshot, path)) => (snapshot, Some(path)),
        None => (spec, None),
    }
}

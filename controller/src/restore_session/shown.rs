//! Whether the Job of a host reads snapshots from volumes of the node's driver, and which. Pure.
//!
//! Then it has no credentials, and what several Jobs of a node read is downloaded once. Where anything speaks against it, the Job reads
//! with credentials, as it does without the driver: it restores the same.

use std::collections::BTreeSet;

use stash_crds::runtime_settings::RuntimeSettings;
use stash_crds::{Repository, RestoreSession, Snapshot};
use stash_proto::job::RestoreSource;
use stash_proto::job::args::parse_restore;

use crate::jobs::shown::{self, Snapshot as ShownSnapshot};

/// More volumes than this a pod does not get.
const VOLUMES_LIMIT: usize = 16;
/// What is written down at a Job is no longer than this.
const PATHS_LIMIT_BYTES: usize = 64 << 10;

/// Returns why the Jobs of a session read with credentials, whatever they restore; nothing if volumes may do.
pub fn objection(session: &RestoreSession, repository: &Repository) -> Option<&'static str> {
    let backend = &repository.spec.backend;
    if repository.metadata.namespace != session.metadata.namespace {
        return Some("the Repository is in another namespace, where kubelet may not read its Secret");
    }
    if backend.local.is_some() {
        return Some("the backend is a volume, which the node does not open");
    }
    if backend.storage_secret_name.as_deref().unwrap_or_default().is_empty() {
        return Some("the Repository names no Secret");
    }
    if session.spec.runtime_settings.as_ref().is_some_and(names_a_user) {
        return Some("spec.runtimeSettings say as whom it runs, and files of a snapshot are for their owners");
    }
    let args = session.spec.target.as_ref().map(|target| target.args.as_slice()).unwrap_or_default();
    let flags = parse_restore(args).unwrap_or_default();
    let is_about_reading = !flags.tags.is_empty()
        || flags.limit_download_kib.is_some()
        || flags.key_hint.is_some()
        || !flags.options.is_empty();
    is_about_reading.then_some("spec.target.args say how the repository is read")
}

/// Whether a user says as whom the pod or its container runs.
fn names_a_user(runtime: &RuntimeSettings) -> bool {
    let pod = runtime.pod.as_ref().and_then(|pod| pod.security_context.as_ref());
    let container = runtime.container.as_ref().and_then(|container| container.security_context.as_ref());
    container.is_some() || pod.is_some_and(|pod| pod.run_as_user.is_some() || pod.run_as_non_root.is_some())
}

/// Whether it has to be known which snapshots the repository holds at this moment.
pub fn needs_list(sources: &[RestoreSource]) -> bool {
    sources.iter().any(|source| match source {
        RestoreSource::Snapshot(name) => name == "latest",
        RestoreSource::Latest { .. } => true,
        RestoreSource::Mounted { .. } => false,
    })
}

/// A snapshot, by its object.
struct Known<'a> {
    id: &'a str,
    time: Option<jiff::Timestamp>,
    host: &'a str,
    paths: &'a [String],
}

/// Chooses what the Job mounts. `objects` are the Snapshots of the namespace; `listed` are the ids that the repository holds, where that
/// [has to be known](needs_list).
///
/// # Errors
///
/// Why it reads with credentials: what is to be restored is not known for certain without opening the repository.
pub fn choose(
    sources: &[RestoreSource],
    repository: &str,
    objects: &[Snapshot],
    listed: Option<&BTreeSet<String>>,
) -> Result<Vec<ShownSnapshot>, String> {
    // What is being deleted is being forgotten.
    let there = objects.iter().filter(|one| one.metadata.deletion_timestamp.is_none());
    let known: Vec<Known<'_>> = there
        .filter_map(|one| one.status.as_ref())
        .filter(|status| status.repository == repository)
        .filter_map(|status| {
            let (id, time) = (status.snapshot_id.as_deref()?, status.snapshot_time.as_ref().map(|time| time.0));
            Some(Known { id, time, host: &status.hostname, paths: &status.paths })
        })
        .collect();
    if let Some(listed) = listed {
        let mirrored: BTreeSet<&str> = known.iter().map(|one| one.id).collect();
        if listed.iter().any(|id| !mirrored.contains(id.as_str())) || mirrored.len() != listed.len() {
            return Err("the Snapshots are not just those that the repository holds".to_owned());
        }
    } else if needs_list(sources) {
        return Err("it is not known what the repository holds".to_owned());
    }
    let chosen: Vec<ShownSnapshot> = sources.iter().map(|source| one(source, &known)).collect::<Result<_, _>>()?;
    if shown::distinct(&chosen).len() > VOLUMES_LIMIT {
        return Err(format!("it restores more than {VOLUMES_LIMIT} snapshots"));
    }
    let paths = chosen.iter().flat_map(|snapshot| &snapshot.paths);
    if paths.clone().any(|path| !path.starts_with('/') || path.split('/').any(|name| name == "..")) {
        return Err("a path of a snapshot is not absolute".to_owned());
    }
    if paths.map(|path| path.len() + 3).sum::<usize>() > PATHS_LIMIT_BYTES {
        return Err("the snapshots are of more paths than can be written down".to_owned());
    }
    Ok(chosen)
}

fn one(source: &RestoreSource, known: &[Known<'_>]) -> Result<ShownSnapshot, String> {
    let found = match source {
        RestoreSource::Snapshot(name) if name == "latest" => latest(known, |_| true)?,
        RestoreSource::Snapshot(name) => {
            let name = name.to_ascii_lowercase();
            let mut found = known.iter().filter(|one| one.id.starts_with(&name));
            match (found.next(), found.next()) {
                (Some(only), None) => only,
                _ => return Err(format!("there is not just one Snapshot whose id begins with {name}")),
            }
        }
        RestoreSource::Latest { host, path } => {
            // As restic compares them.
            let path = if path.len() > 1 { path.trim_end_matches('/') } else { path };
            latest(known, |one| one.host == host && one.paths.iter().any(|own| own == path))?
        }
        RestoreSource::Mounted { snapshot, .. } => return Err(format!("{snapshot} is mounted already")),
    };
    if found.paths.is_empty() {
        return Err(format!("the Snapshot of {} does not say what it is of", found.id));
    }
    Ok(ShownSnapshot { id: found.id.to_owned(), paths: found.paths.to_vec() })
}

/// Returns the last of those that fit. Objects have whole seconds: of two of the same one it is not known which it is.
fn latest<'a, 'b>(known: &'a [Known<'b>], fits: impl Fn(&Known<'_>) -> bool) -> Result<&'a Known<'b>, String> {
    let mut fitting: Vec<&Known<'_>> = known.iter().filter(|one| fits(one)).collect();
    if fitting.iter().any(|one| one.time.is_none()) {
        return Err("a Snapshot does not say when it was taken".to_owned());
    }
    fitting.sort_by_key(|one| std::cmp::Reverse(one.time));
    match fitting.as_slice() {
        [] => Err("there is no such Snapshot".to_owned()),
        [first, second, ..] if first.time.map(|time| time.as_second()) == second.time.map(|time| time.as_second()) => {
            Err("two Snapshots were taken in the same second".to_owned())
        }
        [first, ..] => Ok(first),
    }
}

#[cfg(test)]
mod tests;

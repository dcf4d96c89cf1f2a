//! The repositories of a mount.

use std::sync::Arc;

use stash_repo::backend::connect;
use stash_repo::backend::location::Location;
use stash_repo::crypto::MasterKey;
use stash_repo::{Metrics, Repository};
use stash_vfs::{Mounted, NamespaceOptions, Pin};
use zeroize::Zeroizing;

use super::Args;
use crate::cli::{CliError, CliResult, Context, global, password};
use crate::kept::KeptRepository;

/// A repository and the name of its directory.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) name: String,
    pub(super) location: Location,
}

/// What is known of the opened repositories.
#[derive(Debug)]
pub(super) struct Opened {
    /// Their addresses without secrets, for the first column of `mount`.
    pub(super) source: String,
    /// Their counters by name.
    pub(super) metrics: Vec<(String, Arc<Metrics>)>,
    /// Their keys, for a keeper alone.
    pub(super) keys: Vec<MasterKey>,
    /// The snapshots that are roots, once the tree is built.
    pub(super) pins: Vec<Option<Pin>>,
}

/// Returns the repositories that are named. Directories are made absolute, because a daemon leaves its own.
pub(super) fn locations(context: &Context) -> CliResult<Vec<Named>> {
    if context.given.is_some() {
        return Ok(vec![Named { name: "repository".to_owned(), location: context.location()? }]);
    }
    let current = std::env::current_dir()
        .map_err(|error| CliError::failure(format!("the current directory cannot be read: {error}")))?;
    let mut named: Vec<Named> = Vec::new();
    for address in context.global.repositories()? {
        let location = match global::location(&address)? {
            Location::Local { path } => Location::Local { path: current.join(path) },
            other => other,
        };
        let name = free_name(&last_part(&address), &named);
        named.push(Named { name, location });
    }
    Ok(named)
}

/// Opens the repositories, each with its part of the memory; with what another daemon left instead of passwords.
pub(super) async fn open(
    args: &Args,
    context: &Context,
    named: Vec<Named>,
    left: Option<&[KeptRepository]>,
) -> CliResult<(Vec<Mounted>, Opened)> {
    let files = &args.repo_password_file;
    if !files.is_empty() && files.len() != named.len() {
        return Err(CliError::usage(format!(
            "{} repositories and {} --repo-password-file: give one for each, in the same order",
            named.len(),
            files.len()
        )));
    }
    let namespace = args.namespace()?;
    let mut options = context.repository_options(named.len());
    options.verify = args.verify;

    let source = named.iter().map(|one| one.location.to_string()).collect::<Vec<_>>().join(" ");
    let shared: Option<Zeroizing<String>> =
        if files.is_empty() && left.is_none() { Some(context.password()?) } else { None };
    let (mut mounted, mut metrics, mut keys) = (Vec::new(), Vec::new(), Vec::new());
    for (place, Named { name, location }) in named.into_iter().enumerate() {
        let mut connect_options = context.connect_options();
        // The store and all above it count in one place.
        options.metrics = Arc::default();
        connect_options.metrics = Arc::clone(&options.metrics);
        let in_repository = |error: CliError| if place == 0 { error } else { error.context(&name) };
        let backend =
            connect::connect(&location, &connect_options).await.map_err(|error| in_repository(error.into()))?;
        let mut own_options = options.clone();
        own_options.metrics = connect_options.metrics;
        let left = left.and_then(|left| left.get(place));
        let repository = match left {
            Some(left) => {
                Repository::open_with_key(
                    backend,
                    left.key().map_err(|error| CliError::failure(error.to_string()))?,
                    own_options,
                )
                .await
            }
            None => {
                let own = files.get(place).map(|file| password::from_file(file)).transpose()?;
                let password = own.as_ref().or(shared.as_ref());
                let password = password.ok_or_else(|| CliError::usage("no password was given"))?;
                Repository::open(backend, password, own_options).await
            }
        };
        let repository = repository.map_err(|error| in_repository(error.into()))?;
        repository.refresh().await.map_err(|error| in_repository(error.into()))?;
        metrics.push((name.clone(), Arc::clone(repository.metrics())));
        keys.push(repository.master_key().clone());
        let pinned = left.and_then(KeptRepository::pin);
        mounted.push(Mounted { name, repository, namespace: NamespaceOptions { pinned, ..namespace.clone() } });
    }
    Ok((mounted, Opened { source, metrics, keys, pins: Vec::new() }))
}

/// Returns what stands behind the last slash or colon of an address.
fn last_part(address: &str) -> String {
    let name = address.trim_end_matches('/').rsplit(['/', ':']).next().unwrap_or_default();
    match name {
        "" | "." | ".." => "repository".to_owned(),
        name => name.to_owned(),
    }
}

/// Returns a name that no other repository has: `name`, or `name-2`, ...
fn free_name(name: &str, taken: &[Named]) -> String {
    let is_free = |name: &String| taken.iter().all(|other| other.name != *name);
    std::iter::once(name.to_owned())
        .chain((2_u32..).map(|number| format!("{name}-{number}")))
        .find(is_free)
        .unwrap_or_else(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_names_of_directories() {
        let table = [
            ("/srv/backups/laptop", "laptop"),
            ("s3:https://host/bucket/laptop/", "laptop"),
            ("rest:http://user:secret@host:8000/", "8000"),
            ("rclone:remote:laptop", "laptop"),
            ("/", "repository"),
            ("..", "repository"),
        ];
        for (address, name) in table {
            assert_eq!(last_part(address), name, "{address}");
        }
        let mut taken = Vec::new();
        for expected in ["a", "a-2", "a-3"] {
            let name = free_name("a", &taken);
            assert_eq!(name, expected);
            taken.push(Named { name, location: Location::Local { path: "/".into() } });
        }
    }
}

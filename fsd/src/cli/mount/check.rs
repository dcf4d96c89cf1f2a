//! Whether a mountpoint will do.

use std::io;
use std::path::{Path, PathBuf};

use stash_repo::backend::location::Location;

use super::open::Named;
use crate::cli::{CliError, CliResult};
use crate::fuse::mountinfo::{self, MountEntry};

/// Returns the mountpoint without symbolic links.
///
/// # Errors
/// It is not there, is no directory, has a mount of ours on it, or lies over or in something that the mount needs: what is
/// below a mountpoint cannot be reached, and a repository below its own mount stops the whole system (restic#5234).
pub(super) fn mountpoint(path: &Path, repositories: &[Named], cache: Option<&Path>) -> CliResult<PathBuf> {
    let current = std::env::current_dir()
        .map_err(|error| CliError::failure(format!("the current directory cannot be read: {error}")))?;
    let mounts = mountinfo::read()
        .map_err(|error| CliError::failure(format!("/proc/self/mountinfo cannot be read: {error}")))?;
    // First by the table: asking a dead mount anything fails, and a hung one hangs.
    not_ours(&mounts, &mountinfo::in_table(path, &current))?;
    let canonical = directory(path)?;
    not_ours(&mounts, &canonical)?;

    let mut needed = Vec::new();
    for repository in repositories {
        if let Location::Local { path } = &repository.location {
            needed.push(("its own repository", path.clone(), true));
        }
    }
    if let Some(cache) = cache {
        needed.push(("its own cache", cache.to_owned(), true));
    }
    if let Ok(program) = std::env::current_exe() {
        needed.push(("stash-fs itself", program, false));
    }
    for (what, needed, also_inside) in needed {
        apart(&canonical, what, &existing(&current.join(needed)), also_inside)?;
    }
    Ok(canonical)
}

fn directory(path: &Path) -> CliResult<PathBuf> {
    let shown = path.display();
    let metadata = std::fs::metadata(path).map_err(|error| match error.raw_os_error() {
        Some(libc::ENOTCONN) => {
            CliError::failure(format!("there is a dead FUSE mount on {shown}")).hint(format!("umount -l {shown}"))
        }
        Some(libc::ENOENT) => {
            CliError::failure(format!("the mountpoint {shown} does not exist")).hint(format!("mkdir -p {shown}"))
        }
        _ => CliError::failure(format!("the mountpoint {shown} cannot be used: {error}")),
    })?;
    if !metadata.is_dir() {
        return Err(CliError::failure(format!("the mountpoint {shown} is not a directory")));
    }
    path.canonicalize().map_err(|error| CliError::failure(format!("the mountpoint {shown} cannot be used: {error}")))
}

fn not_ours(mounts: &[MountEntry], path: &Path) -> CliResult<()> {
    match mountinfo::topmost(mounts, path) {
        Some(entry) if entry.is_ours() => {
            let shown = path.display();
            Err(CliError::failure(format!("a stash-fs of {} is already mounted on {shown}", entry.source))
                .hint(format!("stash-fs umount {shown}")))
        }
        _ => Ok(()),
    }
}

/// Refuses a mountpoint that would hide `needed`, or, with `also_inside`, that lies in it.
fn apart(mountpoint: &Path, what: &str, needed: &Path, also_inside: bool) -> CliResult<()> {
    let shown = mountpoint.display();
    if needed.starts_with(mountpoint) {
        return Err(CliError::failure(format!("a mount on {shown} would hide {what} ({})", needed.display()))
            .hint("choose an empty directory elsewhere"));
    }
    if also_inside && mountpoint.starts_with(needed) {
        return Err(CliError::failure(format!("the mountpoint {shown} lies in {what} ({})", needed.display()))
            .hint("choose an empty directory elsewhere"));
    }
    Ok(())
}

/// Returns a path without symbolic links, as far as it exists.
fn existing(path: &Path) -> PathBuf {
    let mut missing = Vec::new();
    let mut rest = path;
    loop {
        let found: io::Result<PathBuf> = rest.canonicalize();
        match (found, rest.parent(), rest.file_name()) {
            (Ok(found), ..) => return missing.iter().rev().fold(found, |path, name| path.join(name)),
            (Err(_), Some(parent), Some(name)) => {
                missing.push(name);
                rest = parent;
            }
            (Err(_), ..) => return path.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(path: &Path) -> Vec<Named> {
        vec![Named { name: "r".into(), location: Location::Local { path: path.to_owned() } }]
    }

    #[test]
    fn test_refused_mountpoints() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().canonicalize().unwrap();
        for name in ["mnt", "repo/data", "work/repo", "var/cache"] {
            std::fs::create_dir_all(base.join(name)).unwrap();
        }
        std::fs::write(base.join("file"), "").unwrap();
        std::os::unix::fs::symlink(base.join("work"), base.join("link")).unwrap();
        let table = [
            ("mnt", "repo", None),
            ("missing", "repo", Some("does not exist")),
            ("file", "repo", Some("is not a directory")),
            ("repo", "repo", Some("would hide its own repository")),
            ("repo/data", "repo", Some("lies in its own repository")),
            ("work", "work/repo", Some("would hide its own repository")),
            ("link", "work/repo", Some("would hide its own repository")),
            ("work", "link/repo", Some("would hide its own repository")),
            ("var", "repo", Some("would hide its own cache")),
            ("var/cache", "repo", Some("would hide its own cache")),
            ("/", "repo", Some("would hide")),
        ];
        for (mountpoint_name, repository, refusal) in table {
            let result = mountpoint(
                &base.join(mountpoint_name),
                &local(&base.join(repository)),
                Some(&base.join("var/cache/not/yet")),
            );
            match (result, refusal) {
                (Ok(path), None) => assert_eq!(path, base.join(mountpoint_name)),
                (Err(error), Some(refusal)) => {
                    assert!(error.message.contains(refusal), "{mountpoint_name}: {}", error.message);
                }
                (result, _) => panic!("{mountpoint_name}, {repository}: {result:?}"),
            }
        }
    }
}

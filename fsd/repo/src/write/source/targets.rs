//! Which paths stand where in a snapshot.
//!
//! As restic has it: an absolute target keeps its path; a relative one loses leading `..`; one of dots alone (`.`, `../..`)
//! stands for its entries. Directories above a target are in the snapshot with their metadata and nothing else. Two targets
//! of one name under different directories get `-1`, `-2`, ... behind the name. Source: restic, `doc/040_backup.rst`.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use super::files::Files;
use crate::error::{RepoError, RepoResult};

/// The tree of targets.
#[derive(Debug, Clone, Default)]
pub(super) struct Targets {
    pub(super) root: Branch,
    absolute: Vec<PathBuf>,
    /// The targets themselves, absolute, with nothing resolved but dots.
    roots: BTreeSet<PathBuf>,
}

/// A directory above targets.
#[derive(Debug, Clone, Default)]
pub(super) struct Branch {
    /// What is in it, by name in the snapshot.
    pub(super) children: BTreeMap<OsString, Entry>,
    /// Where its metadata is; nowhere for the root.
    pub(super) metadata: Option<PathBuf>,
    /// The directory that relative targets start from, to tell those of one name apart.
    start: PathBuf,
}

/// What stands under a name.
#[derive(Debug, Clone)]
pub(super) enum Entry {
    /// A directory above targets.
    Branch(Branch),
    /// A file or a whole directory.
    Leaf(PathBuf),
}

impl Targets {
    pub(super) fn new(targets: &[PathBuf], files: &Files) -> RepoResult<Self> {
        let mut tree = Self::default();
        let mut seen = BTreeSet::new();
        for target in targets {
            let target = clean(target);
            let absolute = absolute(&target)?;
            tree.roots.insert(absolute.clone());
            if !tree.absolute.contains(&absolute) {
                tree.absolute.push(absolute);
            }
            for target in resolve_dots(&target, files)? {
                if seen.insert(target.clone()) {
                    tree.add(&target)?;
                }
            }
        }
        tree.absolute.sort();
        unroll(&mut tree.root, files)?;
        Ok(tree)
    }

    pub(super) fn absolute(&self) -> &[PathBuf] {
        &self.absolute
    }

    /// Returns whether a path was named, so that its filesystem is one of those to read.
    pub(super) fn is_root(&self, absolute: &Path) -> bool {
        self.roots.contains(absolute)
    }

    fn add(&mut self, target: &Path) -> RepoResult<()> {
        let start = start_of(target);
        let names = names_of(target);
        let Some((first, rest)) = names.split_first() else { return Ok(()) };
        // Find the name under which the first component stands: its own, or with a number where another start has it.
        let mut name = first.clone();
        let mut number = 0;
        while self.root.children.get(&name).is_some_and(|other| !same_start(other, &start, first)) {
            number += 1;
            name = first.clone();
            name.push(format!("-{number}"));
        }
        insert(&mut self.root, &name, start.join(first), rest, target, &start)
    }
}

fn same_start(entry: &Entry, start: &Path, first: &OsStr) -> bool {
    match entry {
        Entry::Branch(branch) => branch.start == start,
        Entry::Leaf(path) => *path == start.join(first),
    }
}

/// Puts `target` at `name` and, below it, `rest`. `here` is where `name` lies on disk.
fn insert(
    branch: &mut Branch,
    name: &OsStr,
    here: PathBuf,
    rest: &[OsString],
    target: &Path,
    start: &Path,
) -> RepoResult<()> {
    let Some((next, below)) = rest.split_first() else {
        return match branch.children.get_mut(name) {
            None => {
                branch.children.insert(name.to_owned(), Entry::Leaf(target.to_owned()));
                Ok(())
            }
            // Something below it was named before: the whole directory holds that too.
            Some(Entry::Branch(inner)) => {
                inner.children.entry(OsString::new()).or_insert_with(|| Entry::Leaf(target.to_owned()));
                Ok(())
            }
            Some(Entry::Leaf(other)) if other == target => Ok(()),
            Some(Entry::Leaf(other)) => Err(collision(target, other)),
        };
    };
    let entry = branch.children.entry(name.to_owned()).or_insert_with(|| Entry::Branch(Branch::default()));
    if let Entry::Leaf(whole) = entry {
        let mut inner = Branch::default();
        inner.children.insert(OsString::new(), Entry::Leaf(whole.clone()));
        *entry = Entry::Branch(inner);
    }
    if let Entry::Branch(inner) = entry {
        inner.metadata = Some(here.clone());
        inner.start = start.to_owned();
        insert(inner, next, here.join(next), below, target, start)?;
    }
    Ok(())
}

/// Replaces a directory that was named whole, and something in it again, by its entries. The whole stands under the empty
/// name until here.
fn unroll(branch: &mut Branch, files: &Files) -> RepoResult<()> {
    if let Some(Entry::Leaf(whole)) = branch.children.remove(OsStr::new("")) {
        branch.metadata = Some(whole.clone());
        for name in list(&whole, files)? {
            let path = whole.join(&name);
            match branch.children.get_mut(&name) {
                None => {
                    branch.children.insert(name, Entry::Leaf(path));
                }
                Some(Entry::Branch(inner)) => {
                    inner.children.entry(OsString::new()).or_insert(Entry::Leaf(path));
                }
                Some(Entry::Leaf(other)) if *other == path => {}
                Some(Entry::Leaf(other)) => return Err(collision(&path, other)),
            }
        }
    }
    for entry in branch.children.values_mut() {
        if let Entry::Branch(inner) = entry {
            unroll(inner, files)?;
        }
    }
    Ok(())
}

fn collision(one: &Path, other: &Path) -> RepoError {
    RepoError::Local {
        what: format!("back up {}", one.display()),
        reason: format!("{} would stand at the same place in the snapshot", other.display()),
    }
}

/// Replaces a target of dots alone by its entries.
fn resolve_dots(target: &Path, files: &Files) -> RepoResult<Vec<PathBuf>> {
    if !names_of(target).is_empty() {
        return Ok(vec![target.to_owned()]);
    }
    Ok(list(target, files)?
        .into_iter()
        .map(|name| if target == Path::new(".") { name.into() } else { target.join(name) })
        .collect())
}

fn list(path: &Path, files: &Files) -> RepoResult<Vec<OsString>> {
    files
        .list(path)
        .map_err(|error| RepoError::Local { what: format!("list {}", path.display()), reason: error.to_string() })
}

/// The components that stand in the snapshot: neither the root nor leading `..`.
fn names_of(target: &Path) -> Vec<OsString> {
    target
        .components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            _ => None,
        })
        .collect()
}

/// The directory that holds the first of [`names_of`].
fn start_of(target: &Path) -> PathBuf {
    if target.is_absolute() {
        return PathBuf::from("/");
    }
    let ups = target.components().take_while(|component| *component == Component::ParentDir);
    ups.collect()
}

/// Removes `.` and double slashes, and resolves `..` in the text alone, as restic does.
pub(super) fn clean(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => match out.components().next_back() {
                Some(Component::Normal(_)) => {
                    out.pop();
                }
                Some(Component::RootDir) => {}
                _ => out.push(".."),
            },
            other => out.push(other),
        }
    }
    if out.as_os_str().as_bytes().is_empty() { PathBuf::from(".") } else { out }
}

pub(super) fn absolute(path: &Path) -> RepoResult<PathBuf> {
    if path.is_absolute() {
        return Ok(clean(path));
    }
    let here = std::env::current_dir().map_err(|error| RepoError::Local {
        what: "find the working directory".to_owned(),
        reason: error.to_string(),
    })?;
    Ok(clean(&here.join(path)))
}

//! The entries of a backup, depth first, in the order of the bytes of their names.

use std::fs::Metadata as Stat;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustic_core::{ReadSourceEntry, RusticResult};

use super::files::Files;
use super::node::NodeMaker;
use super::reader::{FileOpen, Readers};
use super::select::Marks;
use super::targets::{Branch, Entry, Targets, absolute};
use super::{Ledger, SourceOptions};
use crate::error::RepoError;

/// An entry that was not looked at yet.
#[derive(Debug)]
enum Pending {
    /// A directory above targets: its place in the snapshot.
    Branch(PathBuf, Branch),
    /// A file or directory: its place in the snapshot, where it lies, and on which filesystem its target is.
    Path { place: PathBuf, path: PathBuf, device: Option<u64> },
}

/// The walk. What it could not read it tells the ledger; it gives no errors.
#[derive(Debug)]
pub(crate) struct Walk {
    /// What comes next is last. Holds the entries of the directories above the present place.
    pending: Vec<Pending>,
    targets: Targets,
    options: SourceOptions,
    files: Files,
    marks: Marks,
    ledger: Ledger,
    /// `None`: sizes only.
    nodes: Option<NodeMaker>,
    readers: Readers,
}

impl Walk {
    pub(super) fn new(
        targets: &Targets,
        options: &SourceOptions,
        files: &Files,
        ledger: Ledger,
        nodes: Option<NodeMaker>,
        readers: Readers,
    ) -> Self {
        let mut walk = Self {
            pending: Vec::new(),
            targets: targets.clone(),
            options: options.clone(),
            marks: Marks::new(options.markers.clone(), files.clone()),
            files: files.clone(),
            ledger,
            nodes,
            readers,
        };
        walk.push_branch(Path::new("/"), targets.root.clone());
        walk
    }

    /// Adds up the files, until the backup itself was stopped.
    pub(super) fn total_bytes(mut self, backup: &Ledger) -> u64 {
        let mut total: u64 = 0;
        while let Some(pending) = self.pending.pop() {
            if backup.is_stopped() {
                break;
            }
            match pending {
                Pending::Branch(place, branch) => self.push_branch(&place, branch),
                Pending::Path { place, path, device } => {
                    if let Some((stat, device)) = self.look(&path, device) {
                        if stat.is_dir() {
                            self.push_dir(&place, &path, device);
                        } else if stat.is_file() {
                            total = total.saturating_add(stat.len());
                        }
                    }
                }
            }
        }
        total
    }

    fn push_branch(&mut self, place: &Path, branch: Branch) {
        // The last pushed comes first.
        for (name, entry) in branch.children.into_iter().rev() {
            let place = place.join(&name);
            self.pending.push(match entry {
                Entry::Branch(branch) => Pending::Branch(place, branch),
                Entry::Leaf(path) => Pending::Path { place, path, device: None },
            });
        }
    }

    /// Adds a directory's entries; false if they cannot be listed.
    fn push_dir(&mut self, place: &Path, path: &Path, device: Option<u64>) -> bool {
        match self.files.list(path) {
            Ok(mut names) => {
                names.sort_unstable_by(|a, b| b.cmp(a));
                self.pending.extend(names.into_iter().map(|name| Pending::Path {
                    place: place.join(&name),
                    path: path.join(&name),
                    device,
                }));
                true
            }
            Err(error) => {
                self.ledger.lose(path, "list", error);
                false
            }
        }
    }

    /// Looks at an entry; `None` if it is left out or lost. Returns the filesystem that entries below it must be on.
    fn look(&mut self, path: &Path, device: Option<u64>) -> Option<(Stat, Option<u64>)> {
        let full = match absolute(path) {
            Ok(full) => full,
            Err(error) => {
                self.ledger.fail(error);
                return None;
            }
        };
        if self.options.exclude.as_ref().is_some_and(|exclude| exclude(&full)) {
            return None;
        }
        let stat = match self.files.look(path) {
            Ok(stat) => stat,
            Err(error) => {
                self.ledger.lose(path, "stat", error);
                return None;
            }
        };
        let mut device = device;
        if self.options.one_file_system {
            let own = stat.dev();
            match device {
                Some(wanted) if wanted != own && !self.targets.is_root(&full) => {
                    // A mount point is kept, empty; what lies in it is left out.
                    let above = full.parent().and_then(|above| self.files.look(above).ok());
                    if !stat.is_dir() || above.is_none_or(|above| above.dev() != wanted) {
                        return None;
                    }
                }
                _ => device = Some(own),
            }
        }
        let too_large = self.options.exclude_larger_than.is_some_and(|most| !stat.is_dir() && stat.len() > most);
        if too_large || self.marks.exclude(&full) {
            return None;
        }
        Some((stat, device))
    }

    fn branch_entry(&mut self, place: PathBuf, branch: Branch) -> Option<ReadSourceEntry<FileOpen>> {
        let path = branch.metadata.clone()?;
        // As restic: a link above a target is followed, the snapshot has a directory there.
        match self.files.look_through(&path) {
            Ok(stat) if stat.is_dir() => {
                let node = self.nodes.as_ref()?.make(place.file_name()?, &path, &stat)?;
                self.push_branch(&place, branch);
                Some(ReadSourceEntry { path: place, node, open: None })
            }
            Ok(_) => {
                self.fail(&path, "it is not a directory any more");
                None
            }
            Err(error) => {
                self.fail(&path, error);
                None
            }
        }
    }

    fn fail(&self, path: &Path, reason: impl std::fmt::Display) {
        self.ledger.fail(RepoError::Local { what: format!("stat {}", path.display()), reason: reason.to_string() });
    }

    fn path_entry(&mut self, place: PathBuf, path: PathBuf, device: Option<u64>) -> Option<ReadSourceEntry<FileOpen>> {
        let (stat, device) = self.look(&path, device)?;
        if stat.is_dir() {
            // A directory that cannot be listed is lost whole, as restic has it.
            let before = self.pending.len();
            if !self.push_dir(&place, &path, device) {
                return None;
            }
            let node = self.nodes.as_ref()?.make(place.file_name()?, &path, &stat);
            if node.is_none() {
                self.pending.truncate(before);
            }
            return Some(ReadSourceEntry { path: place, node: node?, open: None });
        }
        let node = self.nodes.as_ref()?.make(place.file_name()?, &path, &stat)?;
        self.ledger.give();
        let open = stat.is_file().then(|| FileOpen {
            path,
            device: stat.dev(),
            inode: stat.ino(),
            size: stat.len(),
            files: self.files.clone(),
            ledger: self.ledger.clone(),
            readers: self.readers.clone(),
        });
        Some(ReadSourceEntry { path: place, node, open })
    }
}

impl Iterator for Walk {
    type Item = RusticResult<ReadSourceEntry<FileOpen>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.ledger.is_stopped() {
                return None;
            }
            let entry = match self.pending.pop()? {
                Pending::Branch(place, branch) => self.branch_entry(place, branch),
                Pending::Path { place, path, device } => self.path_entry(place, path, device),
            };
            if let Some(entry) = entry {
                return Some(Ok(entry));
            }
        }
    }
}

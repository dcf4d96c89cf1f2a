//! The planner: walks the snapshot, makes what has no content, and fills batches with what has.

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, Stat};
use stash_repo::{Id, NodeKind, NodeRef, Timestamp, TreeId};
use tokio::runtime::Handle;
use tokio::sync::mpsc::Sender;

use super::batch::{After, Batch, Check, FileJob, MAX_PIECES, Piece};
use super::content::{holds, open_regular};
use super::decide::{Decision, Existing, Wanted, decide};
use super::delete::{clear_way, extras, part_name};
use super::meta::Meta;
use super::target::{file_type, look};
use super::{Action, Overwrite, RestoreError, Shared};
use crate::walk::{Located, Step, Visited, Walk};

/// A directory on the way down.
struct Level {
    path: Vec<u8>,
    /// The entry; none for a target that was there already.
    entry: Option<Visited>,
    made: Made,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Made {
    /// Nothing below it was taken yet.
    NotYet,
    /// It was not there.
    New,
    /// It was there.
    Existed,
    /// It could not be made, and that was said.
    Failed,
}

struct Planner<'a> {
    shared: &'a Shared,
    batches: &'a Sender<Batch>,
    batch: Batch,
    levels: Vec<Level>,
    /// Files with several names: where the first one went.
    links: HashMap<(u64, u64), Vec<u8>>,
}

/// Counts what will be restored, for a progress bar that knows the end.
pub(super) async fn count(shared: &Shared, root: TreeId) {
    let mut links = HashSet::new();
    let mut walk = Walk::new(&shared.repository, root);
    while let Some(step) = walk.next().await {
        if shared.observer.stop() {
            return;
        }
        let Step::Entry(entry) = step else { continue };
        let node = entry.node();
        let selection = shared.options.filter.select(&entry.path, node.kind() == NodeKind::Dir);
        if selection.selected {
            let again = link_key(node).is_some_and(|key| !links.insert(key));
            let bytes = if node.kind() == NodeKind::File && !again { node.size() } else { 0 };
            shared.observer.found(1, bytes);
        }
        if !selection.descend {
            walk.skip();
        }
    }
}

/// Walks and plans; runs on a thread that may wait.
pub(super) fn run(
    shared: &Shared,
    from: &Located,
    batches: &Sender<Batch>,
    handle: &Handle,
) -> Result<(), RestoreError> {
    // A target that was not there becomes the directory that is restored into it; one that was there keeps its owner,
    // mode and times, for it may be `/`, unless it is a volume.
    let wanted = shared.target.made || shared.options.root_metadata;
    let entry = match from {
        Located::Entry(entry) if entry.node().kind() == NodeKind::Dir && wanted => Some(entry.clone()),
        _ => None,
    };
    let made = if entry.is_some() && shared.target.made { Made::New } else { Made::Existed };
    let root = Level { path: Vec::new(), entry, made };
    let mut planner = Planner { shared, batches, batch: Batch::default(), levels: vec![root], links: HashMap::new() };
    match from {
        Located::Entry(entry) if entry.node().kind() != NodeKind::Dir => {
            let path = [b"/", entry.node().name()].concat();
            planner.entry(&Visited { path, ..entry.clone() });
        }
        _ => planner.walk(from.tree().ok_or(RestoreError::NoTree)?, handle),
    }
    planner.send();
    Ok(())
}

impl Planner<'_> {
    fn walk(&mut self, root: TreeId, handle: &Handle) {
        let mut walk = Walk::new(&self.shared.repository, root);
        while let Some(step) = handle.block_on(walk.next()) {
            if self.shared.observer.stop() {
                return;
            }
            match step {
                Step::Entry(entry) if entry.node().kind() == NodeKind::Dir => {
                    if !self.directory(entry) {
                        walk.skip();
                    }
                }
                Step::Entry(entry) => {
                    if self.shared.options.filter.select(&entry.path, false).selected {
                        self.entry(&entry);
                    }
                }
                Step::Leave { tree, .. } => self.leave(Some(tree)),
                Step::Failed { path, error } => {
                    self.shared.failed(&path, error);
                    // What is in it is not known, so nothing in it is removed.
                    self.leave(None);
                }
            }
            if self.batch.is_full() {
                self.send();
            }
        }
    }

    fn send(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        if !batch.is_empty() {
            // The receiver lives until the planner ends.
            drop(self.batches.blocking_send(batch));
        }
    }

    /// Takes a directory; returns whether it is entered.
    fn directory(&mut self, entry: Visited) -> bool {
        let selection = self.shared.options.filter.select(&entry.path, true);
        if !selection.selected && !selection.descend {
            return false;
        }
        self.levels.push(Level { path: entry.path.clone(), entry: Some(entry), made: Made::NotYet });
        if selection.selected && !self.ensure() {
            self.levels.pop();
            return false;
        }
        if !selection.descend {
            self.leave(None);
            return false;
        }
        true
    }

    /// Makes all directories down to the present one; returns whether they stand.
    fn ensure(&mut self) -> bool {
        for level in &mut self.levels {
            match level.made {
                Made::NotYet => {}
                Made::Failed => return false,
                Made::New | Made::Existed => continue,
            }
            match make_directory(self.shared, &level.path) {
                Ok(made) => {
                    level.made = made;
                    let action = if made == Made::New { Action::Restored } else { Action::Unchanged };
                    self.shared.done(action, &level.path, 0);
                }
                Err(error) => {
                    level.made = Made::Failed;
                    self.shared.failed(&level.path, format_args!("make directory: {error}; all in it is left out"));
                    return false;
                }
            }
        }
        true
    }

    /// All in the present directory was planned.
    fn leave(&mut self, tree: Option<TreeId>) {
        let Some(level) = self.levels.pop() else { return };
        let options = &self.shared.options;
        if level.made == Made::Failed {
            return;
        }
        if level.made == Made::NotYet {
            // Nothing in it was taken; with --delete what is there may still be too much.
            if options.delete && tree.is_some() {
                let after = After::Leave { path: level.path, meta: None, keep: tree, existed: true };
                self.batch.after.push(after);
            }
            return;
        }
        let selected = options.filter.select(&level.path, true).selected;
        // A directory that is only the way to what was taken keeps its own metadata.
        let gets_meta = level.made == Made::New || (selected && options.overwrite != Overwrite::Never);
        let meta = level.entry.as_ref().filter(|_| gets_meta).map(|entry| Meta::of(entry.node(), options.owner));
        let keep = tree.filter(|_| options.delete && level.made == Made::Existed);
        self.batch.after.push(After::Leave { path: level.path, meta, keep, existed: level.made == Made::Existed });
    }

    /// Takes an entry that is no directory.
    fn entry(&mut self, entry: &Visited) {
        if !self.ensure() {
            return;
        }
        if let Err(error) = self.try_entry(entry) {
            self.shared.failed(&entry.path, error);
        }
    }

    fn try_entry(&mut self, entry: &Visited) -> io::Result<()> {
        let node = entry.node();
        let options = &self.shared.options;
        let link = link_key(node);
        if let Some(to) = link.and_then(|key| self.links.get(&key)) {
            let meta = Meta::of(node, options.owner);
            self.batch.after.push(After::Link { path: entry.path.clone(), to: to.clone(), meta });
            return Ok(());
        }
        let size = match node.kind() {
            NodeKind::File => self.content_bytes(node)?,
            _ => 0,
        };
        let there = match self.shared.target.parent(&entry.path) {
            Ok((dir, name)) => look(&dir, &name)?.map(|stat| (dir, name, stat)),
            Err(error) if options.dry_run && error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let existing = there.as_ref().map_or(Existing::Nothing, |(_, _, stat)| existing(stat));
        let wanted = Wanted {
            kind: node.kind(),
            size,
            mtime: node.mtime(),
            overwrite: options.overwrite,
            verify: options.verify,
            delete: options.delete,
        };
        let mut decision = decide(existing, &wanted);
        // One that has another name too is not changed in place: the other name may be none of the snapshot's.
        let shared_inode = there.as_ref().is_some_and(|(_, _, stat)| stat.st_nlink > 1) && node.links() <= 1;
        if shared_inode && matches!(decision, Decision::Compare | Decision::Same) {
            decision = Decision::Replace;
        }
        if decision == Decision::Keep {
            self.shared.done(Action::Kept, &entry.path, size);
            return Ok(());
        }
        if decision == Decision::InTheWay {
            if !options.dry_run
                && let Some((dir, name, _)) = &there
            {
                clear_way(self.shared, dir, name, &entry.path, false)?;
            }
            decision = Decision::Create;
        }
        if let Some(key) = link {
            self.links.insert(key, entry.path.clone());
        }
        let action = if decision == Decision::Create { Action::Restored } else { Action::Updated };
        if options.dry_run {
            let same = matches!(decision, Decision::Same | Decision::Compare)
                && matches!(existing, Existing::File { mtime, .. } if mtime == node.mtime());
            let same = same || there.as_ref().is_some_and(|(dir, name, stat)| is_same_special(dir, name, stat, node));
            self.shared.done(if same { Action::Unchanged } else { action }, &entry.path, size);
            return Ok(());
        }
        if node.kind() == NodeKind::File {
            return self.file(entry, size, decision, action);
        }
        let (dir, name) = self.shared.target.parent(&entry.path)?;
        let meta = Meta::of(node, options.owner);
        if let Some((_, _, stat)) = &there
            && is_same_special(&dir, &name, stat, node)
        {
            meta.apply_at(self.shared, dir.as_fd(), &name)?;
            self.shared.done(Action::Unchanged, &entry.path, 0);
            return Ok(());
        }
        if matches!(existing, Existing::Dir) {
            clear_way(self.shared, &dir, &name, &entry.path, options.delete)?;
        }
        make_special(self.shared, &dir, &name, &entry.path, node, &meta)?;
        self.shared.done(action, &entry.path, 0);
        Ok(())
    }

    fn content_bytes(&self, node: NodeRef<'_>) -> io::Result<u64> {
        let mut size = 0_u64;
        for blob in node.content() {
            let length = self.shared.repository.blobs().plain_bytes(blob).map_err(io::Error::other)?;
            let length = length.ok_or_else(|| io::Error::other(format!("blob {blob} is in no pack")))?;
            size = size.checked_add(length.into()).ok_or_else(|| io::Error::other("it is larger than any file"))?;
        }
        Ok(size)
    }

    /// Plans a regular file; one with more pieces than a batch holds goes on in the next.
    fn file(&mut self, entry: &Visited, size: u64, decision: Decision, action: Action) -> io::Result<()> {
        let node = entry.node();
        let content = node.content();
        let meta = Meta::of(node, self.shared.options.owner);
        // Batches compare files side by side, but one at a time sees all of a file; one of more pieces is compared here.
        let compare = decision == Decision::Compare && content.len() <= MAX_PIECES;
        if matches!(decision, Decision::Same | Decision::Compare) && !compare {
            let (dir, name) = self.shared.target.parent(&entry.path)?;
            match open_regular(&dir, &name) {
                Ok(file) if decision == Decision::Same || holds(self.shared, &file, content) => {
                    meta.apply(self.shared, file.as_fd())?;
                    self.shared.done(Action::Unchanged, &entry.path, size);
                    return Ok(());
                }
                // One that its owner may not read is written anew.
                Ok(_) | Err(_) => {}
            }
        }
        let check = if compare { Check::Existing } else { Check::Part };
        let part = part_name(&part_hash(&entry.path, content));
        let (path, source) = (entry.path.clone(), entry.clone());
        let job = Arc::new(FileJob::new(path, part, source, meta, size, content.len(), check, action));
        if compare && self.batch.pieces.len() + content.len() > MAX_PIECES {
            self.send();
        }
        self.batch.files.push(job.clone());
        let index = self.shared.repository.index();
        let mut offset = 0;
        for &blob in content {
            if self.batch.pieces.len() >= MAX_PIECES {
                self.send();
                if self.shared.observer.stop() {
                    return Ok(());
                }
                self.batch.files.push(job.clone());
            }
            let location = match index.lookup(&blob) {
                Ok(Some(location)) => location,
                Ok(None) => return Err(io::Error::other(format!("blob {blob} is in no pack"))),
                Err(error) => return Err(io::Error::other(error)),
            };
            self.batch.pieces.push(Piece {
                blob,
                file: self.batch.files.len() - 1,
                offset,
                len_bytes: location.plain_bytes(),
                pack: location.pack,
                pack_offset: location.offset,
            });
            offset += u64::from(location.plain_bytes());
        }
        Ok(())
    }
}

/// Names a part by where it goes and what it will hold.
fn part_hash(path: &[u8], content: &[stash_repo::BlobId]) -> String {
    let mut bytes = path.to_vec();
    bytes.push(0);
    bytes.extend(content.iter().flat_map(|id| id.as_bytes()));
    let mut hex = Id::hash(&bytes).to_hex();
    hex.truncate(16);
    hex
}

/// What tells that two entries are one file.
fn link_key(node: NodeRef<'_>) -> Option<(u64, u64)> {
    (node.links() > 1 && node.inode() != 0 && node.kind() != NodeKind::Dir).then(|| (node.device_id(), node.inode()))
}

fn existing(stat: &Stat) -> Existing {
    let nanos = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
    let mtime = Timestamp { secs: stat.st_mtime, nanos };
    match file_type(stat) {
        FileType::Directory => Existing::Dir,
        FileType::RegularFile => Existing::File { size: stat.st_size.cast_unsigned(), mtime },
        _ => Existing::Other { mtime },
    }
}

fn make_directory(shared: &Shared, path: &[u8]) -> io::Result<Made> {
    let (dir, name) = match shared.target.parent(path) {
        Err(error) if shared.options.dry_run && error.kind() == io::ErrorKind::NotFound => return Ok(Made::New),
        other => other?,
    };
    match look(&dir, &name)? {
        Some(stat) if file_type(&stat) == FileType::Directory => {
            // An ordinary user's own directory that forbids writing is opened for the time of the restore.
            if !shared.options.dry_run && !shared.privileged && stat.st_mode & 0o700 != 0o700 {
                rustix::fs::chmodat(
                    &dir,
                    name.as_c_str(),
                    Mode::from_raw_mode((stat.st_mode | 0o700) & 0o7777),
                    AtFlags::empty(),
                )?;
            }
            return Ok(Made::Existed);
        }
        Some(_) if shared.options.overwrite == Overwrite::Never => {
            return Err(io::Error::other("something else stands there, and --overwrite never keeps it"));
        }
        Some(_) if !shared.options.dry_run => rustix::fs::unlinkat(&dir, name.as_c_str(), AtFlags::empty())?,
        _ => {}
    }
    if !shared.options.dry_run {
        // Nobody else looks in before its owner and mode are set.
        rustix::fs::mkdirat(&dir, name.as_c_str(), Mode::RWXU)?;
    }
    Ok(Made::New)
}

/// Returns whether a symbolic link, device, fifo or socket stands there already.
fn is_same_special(dir: &OwnedFd, name: &CStr, stat: &Stat, node: NodeRef<'_>) -> bool {
    match (node.kind(), file_type(stat)) {
        (NodeKind::Symlink, FileType::Symlink) => {
            rustix::fs::readlinkat(dir, name, Vec::new()).is_ok_and(|target| target.to_bytes() == node.link_target())
        }
        (NodeKind::Fifo, FileType::Fifo) | (NodeKind::Socket, FileType::Socket) => true,
        (NodeKind::BlockDevice, FileType::BlockDevice) | (NodeKind::CharDevice, FileType::CharacterDevice) => {
            stat.st_rdev == node.rdev()
        }
        _ => false,
    }
}

/// Makes a symbolic link, device, fifo or socket beside its place, and moves it there.
fn make_special(
    shared: &Shared,
    dir: &OwnedFd,
    name: &CStr,
    path: &[u8],
    node: NodeRef<'_>,
    meta: &Meta,
) -> io::Result<()> {
    let part = part_name(&part_hash(path, &[]));
    let _ = rustix::fs::unlinkat(dir, part.as_c_str(), AtFlags::empty());
    let node_of = |kind, device| rustix::fs::mknodat(dir, part.as_c_str(), kind, Mode::RUSR | Mode::WUSR, device);
    match node.kind() {
        NodeKind::Symlink => {
            let target = CString::new(node.link_target())
                .map_err(|_| io::Error::other("the symbolic link's target holds a NUL byte"))?;
            rustix::fs::symlinkat(target.as_c_str(), dir, part.as_c_str())?;
        }
        NodeKind::BlockDevice => node_of(FileType::BlockDevice, node.rdev())?,
        NodeKind::CharDevice => node_of(FileType::CharacterDevice, node.rdev())?,
        NodeKind::Fifo => node_of(FileType::Fifo, 0)?,
        NodeKind::Socket => node_of(FileType::Socket, 0)?,
        NodeKind::File | NodeKind::Dir => return Err(io::ErrorKind::InvalidInput.into()),
    }
    let placed = meta
        .apply_at(shared, dir.as_fd(), &part)
        .and_then(|()| Ok(rustix::fs::renameat(dir, part.as_c_str(), dir, name)?));
    if placed.is_err() {
        let _ = rustix::fs::unlinkat(dir, part.as_c_str(), AtFlags::empty());
    }
    placed
}

/// Does what follows a batch: further names of files, then the end of directories.
pub(super) fn finish(shared: &Shared, batch: Batch) {
    for after in batch.after {
        match after {
            After::Link { path, to, meta } => {
                if let Err(error) = link(shared, &path, &to, &meta) {
                    let to = String::from_utf8_lossy(&to).into_owned();
                    shared.failed(&path, format_args!("link to {to}: {error}"));
                }
            }
            After::Leave { path, meta, keep, existed } => {
                leave(shared, &path, meta.as_ref(), keep, existed);
            }
        }
    }
}

fn link(shared: &Shared, path: &[u8], to: &[u8], meta: &Meta) -> io::Result<()> {
    if shared.options.dry_run {
        shared.done(Action::Restored, path, 0);
        return Ok(());
    }
    let (to_dir, to_name) = shared.target.parent(to)?;
    let first = look(&to_dir, &to_name)?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    let (dir, name) = shared.target.parent(path)?;
    let mut action = Action::Restored;
    if let Some(stat) = look(&dir, &name)? {
        if (stat.st_dev, stat.st_ino) == (first.st_dev, first.st_ino) {
            shared.done(Action::Unchanged, path, 0);
            return Ok(());
        }
        let wanted = Wanted {
            kind: NodeKind::File,
            size: first.st_size.cast_unsigned(),
            mtime: meta.mtime,
            overwrite: shared.options.overwrite,
            verify: false,
            delete: shared.options.delete,
        };
        match decide(existing(&stat), &wanted) {
            Decision::Keep => {
                shared.done(Action::Kept, path, 0);
                return Ok(());
            }
            Decision::InTheWay => clear_way(shared, &dir, &name, path, false)?,
            _ if file_type(&stat) == FileType::Directory => {
                clear_way(shared, &dir, &name, path, shared.options.delete)?;
            }
            _ => action = Action::Updated,
        }
    }
    let part = part_name(&part_hash(path, &[]));
    let _ = rustix::fs::unlinkat(&dir, part.as_c_str(), AtFlags::empty());
    rustix::fs::linkat(&to_dir, to_name.as_c_str(), &dir, part.as_c_str(), AtFlags::empty())?;
    let placed = rustix::fs::renameat(&dir, part.as_c_str(), &dir, name.as_c_str());
    if placed.is_err() {
        let _ = rustix::fs::unlinkat(&dir, part.as_c_str(), AtFlags::empty());
    }
    placed?;
    shared.done(action, path, 0);
    Ok(())
}

fn leave(shared: &Shared, path: &[u8], meta: Option<&Meta>, keep: Option<TreeId>, existed: bool) {
    if shared.observer.stop() && keep.is_some() {
        // Stopped: nothing more is removed.
        return;
    }
    match keep.map(|id| Handle::current().block_on(shared.repository.tree(id))) {
        Some(Ok(tree)) => {
            let names: HashSet<Vec<u8>> = tree.iter().map(|node| node.name().to_vec()).collect();
            extras(shared, path, &names, false);
        }
        Some(Err(error)) => shared.failed(path, error),
        None if existed => extras(shared, path, &HashSet::new(), true),
        None => {}
    }
    if shared.options.dry_run {
        return;
    }
    if let Some(meta) = meta {
        let applied = shared.target.dir(path).and_then(|dir| meta.apply(shared, dir.as_fd()));
        if let Err(error) = applied {
            shared.failed(path, format_args!("set metadata: {error}"));
        }
    }
}

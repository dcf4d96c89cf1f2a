//! The planner: walks the snapshot, makes what has no content, and fills batches with what has.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode};
use stash_repo::NodeKind;
use tokio::runtime::Handle;
use tokio::sync::mpsc::Sender;

use super::batch::{After, Batch, Check, FileJob, MAX_PIECES, Piece};
use super::content::{is_same, open_regular};
use super::decide::{Decision, Existing, Wanted, decide};
use super::delete::{clear_way, part_name};
use super::entry::{Entry, Keep, Start, Step, Walker};
use super::root::{file_type, look};
use super::special::{existing, is_same_special, make_special};
use super::{Action, Overwrite, Shared, streams};
use crate::walk::Visited;

/// A directory on the way down.
struct Level {
    path: Vec<u8>,
    /// The entry; none for a target that was there already.
    entry: Option<Entry>,
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

/// Counts what will be restored, for a progress bar that knows the end; runs on a thread that may wait.
pub(super) fn count(shared: &Shared, mut walker: Walker<'_>) {
    let mut links = HashSet::new();
    while let Some(step) = walker.next() {
        if shared.observer.stop() {
            return;
        }
        let Step::Entry(entry) = step else { continue };
        let selection = shared.options.filter.select(entry.path(), entry.kind() == NodeKind::Dir);
        if selection.selected {
            let again = entry.link_key().is_some_and(|key| !links.insert(key));
            shared.observer.found(1, if again { 0 } else { entry.stated_bytes() });
        }
        if !selection.descend {
            walker.skip();
        }
    }
}

/// Walks and plans; runs on a thread that may wait.
pub(super) fn run(shared: &Shared, start: &Start, batches: &Sender<Batch>, handle: &Handle) -> io::Result<()> {
    // A target that was not there becomes the directory that is restored into it; one that was there keeps its owner,
    // mode and times, for it may be `/`, unless it is a volume.
    let wanted = shared.target.made || shared.options.root_metadata;
    let entry = if wanted { start.directory()? } else { None };
    let made = if entry.is_some() && shared.target.made { Made::New } else { Made::Existed };
    let root = Level { path: Vec::new(), entry, made };
    let mut planner = Planner { shared, batches, batch: Batch::default(), levels: vec![root], links: HashMap::new() };
    match (start, start.walker(handle)) {
        (Start::Single(entry), _) => planner.entry(entry),
        (_, Some(walker)) => planner.walk(walker),
        (_, None) => {}
    }
    planner.send();
    Ok(())
}

impl Planner<'_> {
    fn walk(&mut self, mut walker: Walker<'_>) {
        while let Some(step) = walker.next() {
            if self.shared.observer.stop() {
                return;
            }
            match step {
                Step::Entry(entry) if entry.kind() == NodeKind::Dir => {
                    if !self.directory(entry) {
                        walker.skip();
                    }
                }
                Step::Entry(entry) => {
                    if self.shared.options.filter.select(entry.path(), false).selected {
                        self.entry(&entry);
                    }
                }
                Step::Leave(keep) => self.leave(Some(keep)),
                Step::Lost { path, error } => {
                    if self.shared.options.filter.select(&path, false).selected {
                        self.shared.failed(&path, error);
                    }
                }
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
    fn directory(&mut self, entry: Entry) -> bool {
        let selection = self.shared.options.filter.select(entry.path(), true);
        if !selection.selected && !selection.descend {
            return false;
        }
        self.levels.push(Level { path: entry.path().to_vec(), entry: Some(entry), made: Made::NotYet });
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
    fn leave(&mut self, keep: Option<Keep>) {
        let Some(level) = self.levels.pop() else { return };
        let options = &self.shared.options;
        if level.made == Made::Failed {
            return;
        }
        if level.made == Made::NotYet {
            // Nothing in it was taken; with --delete what is there may still be too much.
            if options.delete && keep.is_some() {
                let after = After::Leave { path: level.path, meta: None, keep, existed: true };
                self.batch.after.push(after);
            }
            return;
        }
        let selected = options.filter.select(&level.path, true).selected;
        // A directory that is only the way to what was taken keeps its own metadata.
        let gets_meta = level.made == Made::New || (selected && options.overwrite != Overwrite::Never);
        let meta = level.entry.as_ref().filter(|_| gets_meta).map(|entry| entry.meta(self.shared)).transpose();
        let meta = meta.unwrap_or_else(|error| {
            self.shared.failed(&level.path, error);
            None
        });
        let keep = keep.filter(|_| options.delete && level.made == Made::Existed);
        self.batch.after.push(After::Leave { path: level.path, meta, keep, existed: level.made == Made::Existed });
    }

    /// Takes an entry that is no directory.
    fn entry(&mut self, entry: &Entry) {
        if !self.ensure() {
            return;
        }
        if let Err(error) = self.try_entry(entry) {
            self.shared.failed(entry.path(), error);
        }
    }

    fn try_entry(&mut self, entry: &Entry) -> io::Result<()> {
        let options = &self.shared.options;
        let link = entry.link_key();
        if let Some(to) = link.and_then(|key| self.links.get(&key)) {
            let (path, mtime) = (entry.path().to_vec(), entry.mtime());
            self.batch.after.push(After::Link { path, to: to.clone(), mtime });
            return Ok(());
        }
        let size = self.content_bytes(entry)?;
        let there = match self.shared.target.parent(entry.path()) {
            Ok((dir, name)) => look(&dir, &name)?.map(|stat| (dir, name, stat)),
            Err(error) if options.dry_run && error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let existing = there.as_ref().map_or(Existing::Nothing, |(_, _, stat)| existing(stat));
        let wanted = Wanted {
            kind: entry.kind(),
            size,
            mtime: entry.mtime(),
            overwrite: options.overwrite,
            verify: options.verify,
            delete: options.delete,
        };
        let mut decision = decide(existing, &wanted);
        // One that has another name too is not changed in place: the other name may be none of the snapshot's.
        let shared_inode = there.as_ref().is_some_and(|(_, _, stat)| stat.st_nlink > 1) && entry.links() <= 1;
        if shared_inode && matches!(decision, Decision::Compare | Decision::Same) {
            decision = Decision::Replace;
        }
        if decision == Decision::Keep {
            self.shared.done(Action::Kept, entry.path(), size);
            return Ok(());
        }
        if decision == Decision::InTheWay {
            if !options.dry_run
                && let Some((dir, name, _)) = &there
            {
                clear_way(self.shared, dir, name, entry.path(), false)?;
            }
            decision = Decision::Create;
        }
        if let Some(key) = link {
            self.links.insert(key, entry.path().to_vec());
        }
        let action = if decision == Decision::Create { Action::Restored } else { Action::Updated };
        let special = match &there {
            Some((dir, name, stat)) => is_same_special(dir, name, stat, entry)?,
            None => false,
        };
        if options.dry_run {
            let same = matches!(decision, Decision::Same | Decision::Compare)
                && matches!(existing, Existing::File { mtime, .. } if mtime == entry.mtime());
            self.shared.done(if same || special { Action::Unchanged } else { action }, entry.path(), size);
            return Ok(());
        }
        if entry.kind() == NodeKind::File {
            return self.file(entry, size, decision, action);
        }
        let (dir, name) = self.shared.target.parent(entry.path())?;
        let meta = entry.meta(self.shared)?;
        if special {
            meta.apply_at(self.shared, dir.as_fd(), &name)?;
            self.shared.done(Action::Unchanged, entry.path(), 0);
            return Ok(());
        }
        if matches!(existing, Existing::Dir) {
            clear_way(self.shared, &dir, &name, entry.path(), options.delete)?;
        }
        make_special(self.shared, &dir, &name, entry, &meta)?;
        self.shared.done(action, entry.path(), 0);
        Ok(())
    }

    /// Returns how long the content of a file is.
    fn content_bytes(&self, entry: &Entry) -> io::Result<u64> {
        let Entry::Stored(stored) = entry else { return Ok(entry.stated_bytes()) };
        let mut size = 0_u64;
        for blob in stored.node().content() {
            let length = self.shared.repository()?.blobs().plain_bytes(blob).map_err(io::Error::other)?;
            let length = length.ok_or_else(|| io::Error::other(format!("blob {blob} is in no pack")))?;
            size = size.checked_add(length.into()).ok_or_else(|| io::Error::other("it is larger than any file"))?;
        }
        Ok(size)
    }

    /// Plans a regular file.
    fn file(&mut self, entry: &Entry, size: u64, decision: Decision, action: Action) -> io::Result<()> {
        // Batches compare files side by side, but one at a time sees all of a file; one of more pieces is compared here.
        let fits = match entry {
            Entry::Stored(stored) => stored.node().content().len() <= MAX_PIECES,
            Entry::Mounted(_) => true,
        };
        let compare = decision == Decision::Compare && fits;
        if matches!(decision, Decision::Same | Decision::Compare) && !compare {
            let (dir, name) = self.shared.target.parent(entry.path())?;
            match open_regular(&dir, &name) {
                Ok(file) if decision == Decision::Same || is_same(self.shared, &file, entry)? => {
                    entry.meta(self.shared)?.apply(self.shared, file.as_fd())?;
                    self.shared.done(Action::Unchanged, entry.path(), size);
                    return Ok(());
                }
                // One that its owner may not read is written anew.
                Ok(_) | Err(_) => {}
            }
        }
        let check = if compare { Check::Existing } else { Check::Part };
        let part = part_name(&entry.part_hash());
        match entry {
            Entry::Stored(stored) => self.pieces(stored, part, size, check, action),
            Entry::Mounted(_) => {
                let job = FileJob::new(part, entry.clone(), size, streams::count(size), check, action);
                self.batch.files.push(Arc::new(job));
                Ok(())
            }
        }
    }

    /// Plans the blobs of a regular file; one with more pieces than a batch holds goes on in the next.
    fn pieces(
        &mut self,
        stored: &Visited,
        part: std::ffi::CString,
        size: u64,
        check: Check,
        action: Action,
    ) -> io::Result<()> {
        let index = self.shared.repository()?.index();
        let content = stored.node().content();
        let job = Arc::new(FileJob::new(part, Entry::Stored(stored.clone()), size, content.len(), check, action));
        if check == Check::Existing && self.batch.pieces.len() + content.len() > MAX_PIECES {
            self.send();
        }
        self.batch.files.push(job.clone());
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

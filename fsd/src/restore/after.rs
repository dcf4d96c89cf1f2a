//! What follows a batch: further names of files, then the end of directories.

use std::collections::HashSet;
use std::io;
use std::os::fd::AsFd as _;

use rustix::fs::{AtFlags, FileType};
use stash_repo::{NodeKind, Timestamp};

use super::batch::{After, Batch};
use super::decide::{Decision, Wanted, decide};
use super::delete::{clear_way, extras, part_name};
use super::entry::{Keep, part_hash};
use super::meta::Meta;
use super::root::{file_type, look};
use super::special::existing;
use super::{Action, Shared};

/// Does what follows a batch: further names of files, then the end of directories.
pub(super) fn finish(shared: &Shared, batch: Batch) {
    for after in batch.after {
        match after {
            // Stopped: the file that it is a name of may not be there.
            After::Link { .. } if shared.observer.stop() => {}
            After::Link { path, to, mtime } => {
                if let Err(error) = link(shared, &path, &to, mtime) {
                    let to = String::from_utf8_lossy(&to).into_owned();
                    shared.failed(&path, format_args!("link to {to}: {error}"));
                }
            }
            After::Leave { path, meta, keep, existed } => {
                leave(shared, &path, meta.as_ref(), keep.as_ref(), existed);
            }
        }
    }
}

fn link(shared: &Shared, path: &[u8], to: &[u8], mtime: Timestamp) -> io::Result<()> {
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
            mtime,
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
    let part = part_name(&part_hash(path));
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

fn leave(shared: &Shared, path: &[u8], meta: Option<&Meta>, keep: Option<&Keep>, existed: bool) {
    if shared.observer.stop() && keep.is_some() {
        // Stopped: nothing more is removed.
        return;
    }
    match keep.map(|keep| keep.names(shared, path)) {
        Some(Ok(names)) => extras(shared, path, &names, false),
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

//! `--delete`: removes what the snapshot does not hold, and what stands in the way. Only below the target, only what the
//! filter takes, and never what is mounted there.

use std::collections::HashSet;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType};

use super::root::{file_type, look};
use super::{Action, RESTORED_BY_FILE, Shared, UNFINISHED};

/// Names of parts that a restore was writing when it ended.
const PART_PREFIX: &[u8] = b".stash-fs.";
const PART_SUFFIX: &[u8] = b".part";

/// Returns whether a name is one that a volume's root has for us: it goes only with what it says.
fn is_kept(name: &[u8]) -> bool {
    name == UNFINISHED.as_bytes() || name == RESTORED_BY_FILE.as_bytes()
}

/// Returns whether a name is one of ours for a part.
pub(super) fn is_part(name: &[u8]) -> bool {
    name.strip_prefix(PART_PREFIX)
        .and_then(|rest| rest.strip_suffix(PART_SUFFIX))
        .is_some_and(|hash| hash.len() == 16 && hash.iter().all(u8::is_ascii_hexdigit))
}

/// Makes the name of a part.
pub(super) fn part_name(hash: &str) -> CString {
    let name = [PART_PREFIX, hash.as_bytes(), PART_SUFFIX].concat();
    CString::new(name).expect("hexadecimal digits hold no NUL")
}

/// Lists a directory, without `.` and `..`.
pub(super) fn names(dir: &OwnedFd) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Removes from the directory at `path` what is not in `keep`, and parts of earlier runs.
pub(super) fn extras(shared: &Shared, path: &[u8], keep: &HashSet<Vec<u8>>, parts_only: bool) {
    let listed = shared.target.dir(path).and_then(|dir| Ok((names(&dir)?, dir)));
    let (names, dir) = match listed {
        Ok(listed) => listed,
        // Nothing is there in a dry run.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => return shared.failed(path, format_args!("list for --delete: {error}")),
    };
    for name in names {
        let part = is_part(name.to_bytes());
        if (parts_only && !part) || keep.contains(name.to_bytes()) || is_kept(name.to_bytes()) {
            continue;
        }
        let child = [path, b"/", name.to_bytes()].concat();
        if part && shared.options.dry_run {
            continue;
        }
        if part {
            // It was never restored, so nobody is told that it is gone.
            if let Err(error) = rustix::fs::unlinkat(&dir, name.as_c_str(), AtFlags::empty()) {
                shared.failed(&child, format_args!("remove the part of an earlier run: {error}"));
            }
        } else if let Err(error) = remove(shared, &dir, &name, &child, 0) {
            shared.failed(&child, format_args!("delete: {error}"));
        }
    }
}

/// Removes an entry, a directory with all that the filter takes; returns whether it is gone.
fn remove(shared: &Shared, dir: &OwnedFd, name: &CString, path: &[u8], depth: usize) -> io::Result<bool> {
    let Some(stat) = look(dir, name)? else { return Ok(true) };
    let is_dir = file_type(&stat) == FileType::Directory;
    let selection = shared.options.filter.select(path, is_dir);
    if is_dir && (selection.selected || selection.descend) {
        if depth > crate::walk::MAX_DEPTH {
            return Err(io::Error::other("it is too deep"));
        }
        let inner = open_below(dir, name)?;
        if rustix::fs::fstat(&inner)?.st_dev != rustix::fs::fstat(dir)?.st_dev {
            shared.observer.note(&format!("{} is kept: it is mounted there", String::from_utf8_lossy(path)));
            return Ok(false);
        }
        let mut empty = true;
        for child in names(&inner)? {
            // A volume of the same disk is mounted there, and it is not whole yet.
            if child.to_bytes() == UNFINISHED.as_bytes() {
                empty = false;
                continue;
            }
            let child_path = [path, b"/", child.to_bytes()].concat();
            empty &= remove(shared, &inner, &child, &child_path, depth + 1)?;
        }
        if !(empty && selection.selected) {
            return Ok(false);
        }
    } else if !selection.selected {
        return Ok(false);
    }
    if !shared.options.dry_run {
        let flags = if is_dir { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        rustix::fs::unlinkat(dir, name.as_c_str(), flags)?;
    }
    shared.done(Action::Deleted, path, 0);
    Ok(true)
}

/// Removes whatever stands at a name, for what comes in its place; a directory only when `whole`, or when it is empty.
pub(super) fn clear_way(shared: &Shared, dir: &OwnedFd, name: &CString, path: &[u8], whole: bool) -> io::Result<()> {
    let Some(stat) = look(dir, name)? else { return Ok(()) };
    if file_type(&stat) != FileType::Directory {
        return Ok(rustix::fs::unlinkat(dir, name.as_c_str(), AtFlags::empty())?);
    }
    if whole && !remove(shared, dir, name, path, 0)? {
        return Err(io::Error::other("a directory stands there that may not be removed"));
    }
    if whole {
        return Ok(());
    }
    match rustix::fs::unlinkat(dir, name.as_c_str(), AtFlags::REMOVEDIR) {
        Err(rustix::io::Errno::NOTEMPTY) => {
            Err(io::Error::other("a directory that is not empty stands there; --delete removes it"))
        }
        other => Ok(other?),
    }
}

fn open_below(dir: &OwnedFd, name: &CString) -> io::Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir.as_fd(), name.as_c_str(), flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_only_our_own_names_are_parts() {
        assert!(is_part(part_name("0123456789abcdef").to_bytes()));
        for name in [".stash-fs..part", ".stash-fs.0123456789abcdeg.part", "x.part", ".stash-fs.0123456789abcdef.par"] {
            assert!(!is_part(name.as_bytes()), "{name}");
        }
    }
}

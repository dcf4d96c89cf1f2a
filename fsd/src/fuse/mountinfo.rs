//! What is mounted where, by `/proc/self/mountinfo` (proc(5)): the only way to ask that never touches a mountpoint.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use super::FS_TYPE;

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    /// Major and minor number of the filesystem: `st_dev` of everything in it.
    pub device: (u32, u32),
    /// Where, as the kernel knows it: absolute, without symbolic links.
    pub mountpoint: PathBuf,
    /// The type, with subtype.
    pub fs_type: String,
    /// The name of what is mounted.
    pub source: String,
}

/// Returns all mounts that this process sees, in the order in which they were made.
///
/// # Errors
/// `/proc` is not there.
pub fn read() -> io::Result<Vec<MountEntry>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// Returns the mount that is on top at `mountpoint`, which must be as the kernel knows it.
#[must_use]
pub fn topmost<'a>(mounts: &'a [MountEntry], mountpoint: &Path) -> Option<&'a MountEntry> {
    mounts.iter().rev().find(|entry| entry.mountpoint == mountpoint)
}

impl MountEntry {
    /// Returns whether this is one of our mounts.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.fs_type == FS_TYPE
    }
}

/// Reads the file's lines; one that cannot be read is left out.
fn parse(file: &[u8]) -> Vec<MountEntry> {
    file.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

/// `36 35 98:0 /root /mnt rw,noatime master:1 - ext3 /dev/root rw`: six fields, optional ones, a dash, three fields.
fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = fields.nth(2)?;
    let mountpoint = unescape(fields.nth(1)?);
    let mut after = fields.skip_while(|field| *field != b"-").skip(1);
    let (major, minor) = std::str::from_utf8(device).ok()?.split_once(':')?;
    Some(MountEntry {
        device: (major.parse().ok()?, minor.parse().ok()?),
        mountpoint: PathBuf::from(mountpoint),
        fs_type: unescape(after.next()?).to_string_lossy().into_owned(),
        source: unescape(after.next()?).to_string_lossy().into_owned(),
    })
}

/// The kernel writes blank, tab, newline, `\` and `#` as `\` and three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let code = (*first == b'\\').then(|| tail.get(..3)).flatten().and_then(octal);
        match code {
            Some(code) => {
                bytes.push(code);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(bytes)
}

fn octal(digits: &[u8]) -> Option<u8> {
    digits.iter().try_fold(0_u8, |value, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 8)?;
        value.checked_mul(8)?.checked_add(digit)
    })
}

/// Returns a path without `.`, `..` and double slashes, from the root, by its letters alone: nothing is asked of the
/// filesystem.
#[must_use]
pub fn absolute(path: &Path, current: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for part in current.join(path).components() {
        match part {
            std::path::Component::Normal(name) => clean.push(name),
            std::path::Component::ParentDir => {
                clean.pop();
            }
            std::path::Component::RootDir | std::path::Component::CurDir | std::path::Component::Prefix(_) => {}
        }
    }
    clean
}

/// Returns how a mountpoint is called in the table: its parent without symbolic links, its own name untouched, so that a
/// dead mount is not asked.
#[must_use]
pub fn in_table(path: &Path, current: &Path) -> PathBuf {
    let path = absolute(path, current);
    match (path.parent().map(Path::canonicalize), path.file_name()) {
        (Some(Ok(parent)), Some(name)) => parent.join(name),
        _ => path,
    }
}

/// Returns `path` as one field of the table, for tests and messages.
#[must_use]
pub fn escape(path: &Path) -> String {
    let mut out = String::new();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' | b'#' => {
                use std::fmt::Write as _;
                // Writing into a string cannot fail.
                let _ = write!(out, "\\{byte:03o}");
            }
            _ => out.push(char::from(*byte)),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn test_lines_of_a_real_table() {
        let table = b"22 28 0:20 / /sys rw,nosuid,nodev,noexec,relatime shared:7 - sysfs sysfs rw\n\
            101 28 0:52 / /mnt/a\\040b ro,nosuid,nodev - fuse.stash-fs /srv/repo ro,user_id=0\n\
            garbage\n\
            102 28 0:53 / /mnt/a\\040b rw shared:1 master:2 - tmpfs none rw\n";
        let mounts = parse(table);
        assert_eq!(mounts.len(), 3);
        assert_eq!(
            mounts[1],
            MountEntry {
                device: (0, 52),
                mountpoint: "/mnt/a b".into(),
                fs_type: FS_TYPE.into(),
                source: "/srv/repo".into(),
            }
        );
        assert!(mounts[1].is_ours());
        assert_eq!(
            topmost(&mounts, Path::new("/mnt/a b")).expect("is there").device,
            (0, 53),
            "the last one is on top"
        );
        assert_eq!(topmost(&mounts, Path::new("/mnt")), None);
    }

    #[test]
    fn test_paths_are_made_absolute_by_letters() {
        let table = [
            ("/mnt", "/x", "/mnt"),
            ("a/b", "/x", "/x/a/b"),
            ("./a//b/", "/x", "/x/a/b"),
            ("../a", "/x/y", "/x/a"),
            ("../../../..", "/x", "/"),
        ];
        for (path, current, expected) in table {
            assert_eq!(absolute(Path::new(path), Path::new(current)), Path::new(expected), "{path} in {current}");
        }
    }

    #[test]
    fn test_own_table_can_be_read() {
        assert!(topmost(&read().expect("/proc is mounted"), Path::new("/proc")).is_some());
    }

    proptest! {
        #[test]
        fn test_any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn test_escaped_names_come_back(name in "[ -~\t\n]{1,40}") {
            let path = PathBuf::from(format!("/{name}"));
            prop_assert_eq!(PathBuf::from(unescape(escape(&path).as_bytes())), path);
        }
    }
}

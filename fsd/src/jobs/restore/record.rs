//! What a volume remembers: for which hosts of a RestoreSession it was restored. An application may have written to it since.
//!
//! Several hosts may share a volume, so it holds a line `<uid of the session>/<host>` for each that is done. A uid alone was written by an
//! earlier version, and says nothing of the host.
//!
//! An extended attribute of the root, since a file among an application's may disturb it; a file where there are no such attributes, or no
//! room for one. A restore leaves both as they are.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, XattrFlags, fgetxattr, fsetxattr, openat};
use rustix::io::Errno;

use super::mark::{keep_times, put};
use super::place::sync;
use crate::restore::{RESTORED_BY as ATTRIBUTE, RESTORED_BY_FILE as FILE};

/// The longest value of an attribute (`XATTR_SIZE_MAX`), and more than the hosts of any session in the file.
const LIMIT_BYTES: usize = 64 << 10;

/// What a volume says of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// It restored the volume for the host.
    Host,
    /// It restored the volume, for a host that is not named.
    Unnamed,
    /// Nothing.
    Nobody,
}

fn key(session: &str, host: &str) -> String {
    format!("{session}/{host}")
}

/// Writes it down, on disk, beside what other hosts of the session wrote. What is of another session goes.
///
/// # Errors
/// The volume cannot be written to.
pub(super) fn write(volume: &OwnedFd, session: &str, host: &str) -> io::Result<()> {
    let (own, of_session) = (key(session, host), key(session, ""));
    let mut lines = lines(volume)?;
    lines.retain(|line| *line != own && (line == session || line.starts_with(&of_session)));
    lines.push(own);
    lines.sort();
    lines.dedup();
    let text = lines.join("\n");
    match fsetxattr(volume, ATTRIBUTE, text.as_bytes(), XattrFlags::empty()) {
        // The last three: some file systems keep less than a block of attributes.
        Err(Errno::NOTSUP | Errno::PERM | Errno::ACCESS | Errno::NOSPC | Errno::TOOBIG | Errno::RANGE) => {
            keep_times(volume, || put(volume, FILE, &text))?;
        }
        done => done?,
    }
    sync(volume)
}

/// Returns whether the volume was restored by a session, and whether for a host.
///
/// # Errors
/// The volume cannot be read.
pub(super) fn by(volume: &OwnedFd, session: &str, host: &str) -> io::Result<By> {
    let (own, lines) = (key(session, host), lines(volume)?);
    Ok(if lines.contains(&own) {
        By::Host
    } else if lines.iter().any(|line| line == session) {
        By::Unnamed
    } else {
        By::Nobody
    })
}

/// Reads all that is remembered: the file may hold what the attribute had no room for.
fn lines(volume: &OwnedFd) -> io::Result<Vec<String>> {
    let mut value = vec![0; LIMIT_BYTES];
    let length = match fgetxattr(volume, ATTRIBUTE, &mut value) {
        Ok(length) => length,
        // None, or one that is none of ours.
        Err(Errno::NODATA | Errno::RANGE | Errno::NOTSUP) => 0,
        Err(error) => return Err(error.into()),
    };
    value.truncate(length);
    let mut lines = split(&value);
    let file = match openat(volume, FILE, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT | Errno::LOOP) => return Ok(lines),
        Err(error) => return Err(error.into()),
    };
    let mut read = Vec::new();
    file.take(LIMIT_BYTES as u64).read_to_end(&mut read)?;
    lines.extend(split(&read));
    Ok(lines)
}

fn split(text: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(text).split('\n').filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_a_volume_remembers_who_restored_it() {
        let folder = tempfile::tempdir().unwrap();
        let volume = OwnedFd::from(File::open(folder.path()).unwrap());
        let by = |session, host| by(&volume, session, host).unwrap();
        assert_eq!(by("u", "a"), By::Nobody);
        write(&volume, "u", "a").unwrap();
        assert_eq!([by("u", "a"), by("u", "b"), by("v", "a")], [By::Host, By::Nobody, By::Nobody]);
        // Another host of the session is added, and takes another session's place.
        write(&volume, "u", "b").unwrap();
        assert_eq!([by("u", "a"), by("u", "b"), by("u", "")], [By::Host, By::Host, By::Nobody]);
        write(&volume, "v", "a").unwrap();
        assert_eq!([by("v", "a"), by("u", "a"), by("u", "b")], [By::Host, By::Nobody, By::Nobody]);
        // Where there are no attributes a file says the same. An earlier version named no host.
        std::fs::write(folder.path().join(FILE), "w").unwrap();
        assert_eq!([by("w", "a"), by("", "a"), by("v", "a")], [By::Unnamed, By::Nobody, By::Host]);
        write(&volume, "w", "b").unwrap();
        assert_eq!([by("w", "b"), by("w", "a"), by("v", "a")], [By::Host, By::Unnamed, By::Nobody]);
    }

    #[test]
    fn test_a_volume_remembers_more_hosts_than_its_attributes_hold() {
        let folder = tempfile::tempdir().unwrap();
        let volume = OwnedFd::from(File::open(folder.path()).unwrap());
        let hosts: Vec<String> = (0..30).map(|n| format!("host-{n}-{}", "x".repeat(200))).collect();
        for host in &hosts {
            write(&volume, "u", host).unwrap();
        }
        for host in &hosts {
            assert_eq!(by(&volume, "u", host).unwrap(), By::Host, "{host}");
        }
    }
}

//! Where the report goes: the container's termination message.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Writes the report.
///
/// A regular file is replaced at once, so that nobody reads half of it. Kubernetes mounts a file at `/dev/termination-log`:
/// such a one cannot be replaced, nor can one in a directory that we may not write to; it is written where it is, by one
/// call.
///
/// # Errors
/// It cannot be written either way.
pub(super) fn write(path: &Path, message: &str) -> io::Result<()> {
    // A pipe or a device is not replaced by a file.
    let replaceable = fs::symlink_metadata(path).map_or(true, |there| there.is_file());
    if replaceable && replace(path, message).is_ok() {
        return Ok(());
    }
    let mut file = File::options().write(true).create(true).truncate(true).open(path)?;
    file.write_all(message.as_bytes())
}

fn replace(path: &Path, message: &str) -> io::Result<()> {
    let mut name = path.file_name().map(OsString::from).unwrap_or_default();
    name.push(format!(".{}", std::process::id()));
    let beside: PathBuf = path.with_file_name(name);
    let write = || {
        let mut file = File::options().write(true).create_new(true).open(&beside)?;
        file.write_all(message.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    let result = write();
    if result.is_err() {
        // It may not even be there.
        drop(fs::remove_file(&beside));
    }
    result
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn test_a_file_is_replaced_and_nothing_is_left_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report");
        for message in ["a longer first report", "second"] {
            write(&path, message).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), message);
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn test_a_pipe_is_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let mut reader = File::options().read(true).write(true).open(&path).unwrap();
        write(&path, "report").unwrap();
        let mut read = [0; 6];
        reader.read_exact(&mut read).unwrap();
        assert_eq!(&read, b"report");
    }
}

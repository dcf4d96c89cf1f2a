//! An archive that comes from the pod, into a directory here. What it says is another's: nothing outside the directory is touched.

use std::io::Read;
use std::path::Path;

use stash_fs::cli::output::show_name;
use stash_fs::cli::{CliError, CliResult};
use tar::{Archive, Entry, EntryType};

/// What became of an archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unpacked {
    /// How many entries are there now.
    pub(crate) taken: u64,
    /// How many are not; they were named.
    pub(crate) failed: u64,
}

/// Unpacks an archive below `target`, which is made if need be; reads it to its end.
///
/// # Errors
///
/// The target cannot be made, or the archive is none.
pub(crate) fn unpack(mut from: impl Read, target: &Path) -> CliResult<Unpacked> {
    let shown = show_name(target.as_os_str().as_encoded_bytes());
    let made = std::fs::create_dir_all(target).and_then(|()| target.canonicalize());
    let target = made.map_err(|error| CliError::failure(format!("make the directory {shown}: {error}")))?;
    let broken = |error: std::io::Error| CliError::failure(format!("the archive from the pod: {error}"));
    let mut unpacked = Unpacked::default();
    let mut archive = Archive::new(&mut from);
    let mut directories = Vec::new();
    for entry in archive.entries().map_err(broken)? {
        let entry = entry.map_err(broken)?;
        // A directory that must not be written to is filled first.
        if entry.header().entry_type() == EntryType::Directory {
            directories.push(entry);
        } else {
            unpacked.count(entry, &target);
        }
    }
    directories.sort_by(|a, b| b.path_bytes().cmp(&a.path_bytes()));
    for directory in directories {
        unpacked.count(directory, &target);
    }
    // What fills the last block.
    std::io::copy(&mut from, &mut std::io::sink()).map_err(broken)?;
    Ok(unpacked)
}

impl Unpacked {
    fn count(&mut self, mut entry: Entry<'_, impl Read>, target: &Path) {
        let name = show_name(&entry.path_bytes());
        let why = match entry.header().entry_type() {
            EntryType::Char | EntryType::Block | EntryType::Fifo => Some("it is a device or a fifo".to_owned()),
            _ => match entry.unpack_in(target) {
                Ok(true) => None,
                Ok(false) => Some("its name leads out of the directory".to_owned()),
                Err(error) => Some(error.to_string()),
            },
        };
        match why {
            None => self.taken += 1,
            Some(why) => {
                self.failed += 1;
                eprintln!("kubectl stash: download {name}: {}", show_name(why.as_bytes()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use super::*;

    fn entry(archive: &mut tar::Builder<Vec<u8>>, kind: EntryType, name: &str, mode: u32, content: &str) {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(1_000_000_000);
        // Set as bytes: the builder refuses what a hostile archive has.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        if kind == EntryType::Symlink {
            header.set_link_name_literal(content).unwrap();
            header.set_size(0);
            header.set_cksum();
            archive.append(&header, std::io::empty()).unwrap();
        } else {
            header.set_size(content.len() as u64);
            header.set_cksum();
            archive.append(&header, content.as_bytes()).unwrap();
        }
    }

    #[test]
    fn test_what_an_archive_holds_comes_and_stays_inside() {
        let scratch = std::env::temp_dir().join(format!("stash-kubectl-unpack-{}", std::process::id()));
        let target = scratch.join("new/target");
        let mut archive = tar::Builder::new(Vec::new());
        entry(&mut archive, EntryType::Directory, "./", 0o700, "");
        entry(&mut archive, EntryType::Directory, "./closed/", 0o555, "");
        entry(&mut archive, EntryType::Regular, "./closed/file", 0o4640, "content");
        entry(&mut archive, EntryType::Symlink, "./out", 0o777, "/");
        entry(&mut archive, EntryType::Regular, "./out/tmp/x", 0o644, "hostile");
        entry(&mut archive, EntryType::Regular, "../x", 0o644, "hostile");
        entry(&mut archive, EntryType::Fifo, "./fifo", 0o644, "");
        let bytes = archive.into_inner().unwrap();
        let unpacked = unpack(&bytes[..], &target).unwrap();
        assert_eq!(unpacked, Unpacked { taken: 4, failed: 3 });
        let file = std::fs::metadata(target.join("closed/file")).unwrap();
        assert_eq!((file.mode() & 0o7777, file.mtime()), (0o640, 1_000_000_000));
        assert_eq!(std::fs::read_to_string(target.join("closed/file")).unwrap(), "content");
        assert_eq!(std::fs::metadata(target.join("closed")).unwrap().mode() & 0o777, 0o555);
        assert!(!scratch.join("new/x").exists() && !Path::new("/tmp/x").exists());

        // Again, over what is there; and one that ends in the middle.
        std::fs::set_permissions(target.join("closed"), std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(unpack(&bytes[..], &target).unwrap().taken, 4);
        assert!(unpack(&bytes[..1200], &scratch.join("cut")).is_err());
        std::fs::set_permissions(target.join("closed"), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::remove_dir_all(scratch).unwrap();
    }
}

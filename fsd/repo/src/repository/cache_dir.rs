//! The folder of a repository's caches.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use crate::id::Id;

/// What tells backup programs to leave a folder out. Source: <https://bford.info/cachedir/>.
const TAG: &str =
    "Signature: 8a477f597d28d172789f06886806bc55\n# Caches of stash-fs. They can be removed at any time.\n";

/// Makes `<caches>/<repository id>`, for us alone, and marks `caches` as such.
///
/// A folder that cannot be made is warned of, and nothing is kept on disk: a cache is never the reason for an error.
pub(super) fn create(caches: &Path, id: &Id) -> Option<PathBuf> {
    let dir = caches.join(id.to_hex());
    match try_create(caches, &dir) {
        Ok(()) => Some(dir),
        Err(error) => {
            tracing::warn!(dir = %dir.display(), %error, "no cache: nothing is kept on disk");
            None
        }
    }
}

fn try_create(caches: &Path, dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(caches)?;
    let tag = caches.join("CACHEDIR.TAG");
    if !tag.exists() {
        fs::write(tag, TAG)?;
    }
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => {
            // A link would lead what we write elsewhere.
            let found = fs::symlink_metadata(dir)?;
            if found.is_dir() { Ok(()) } else { Err(io::ErrorKind::NotADirectory.into()) }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn test_the_folder_is_for_us_alone_and_marked() {
        let root = tempfile::tempdir().unwrap();
        let caches = root.path().join("a/b");
        let id = Id::hash(b"repository");
        let dir = create(&caches, &id).unwrap();
        assert_eq!(dir, caches.join(id.to_hex()));
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(fs::read_to_string(caches.join("CACHEDIR.TAG")).unwrap().starts_with("Signature: 8a477f597d28d172"));
        assert_eq!(create(&caches, &id), Some(dir));
    }

    #[test]
    fn test_what_is_no_folder_is_no_cache() {
        let root = tempfile::tempdir().unwrap();
        let id = Id::hash(b"repository");
        symlink("/tmp", root.path().join(id.to_hex())).unwrap();
        assert_eq!(create(root.path(), &id), None);
        assert_eq!(create(&root.path().join("CACHEDIR.TAG"), &id), None);
    }
}

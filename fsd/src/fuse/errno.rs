//! The one table from a failed operation on the tree to an errno. No other file of this program chooses one for an error
//! of the tree.

use fuser::Errno;
use stash_vfs::VfsError;

/// Returns the errno that a program sees.
///
/// Exhaustive on purpose: a new variant does not compile until somebody has chosen its errno. ENOSYS never appears: the
/// kernel would remember it for the whole mount.
#[must_use]
pub fn errno(error: &VfsError) -> Errno {
    match error {
        VfsError::NotFound => Errno::ENOENT,
        VfsError::NotADirectory => Errno::ENOTDIR,
        VfsError::IsADirectory => Errno::EISDIR,
        VfsError::Invalid => Errno::EINVAL,
        VfsError::NoAttribute => Errno::ENODATA,
        // lseek(2): "ENXIO: whence is SEEK_DATA or SEEK_HOLE, and offset is beyond the end of the file".
        VfsError::BeyondEnd => Errno::ENXIO,
        // The kernel drops what it knows of the path and walks it again.
        VfsError::Stale => Errno::ESTALE,
        VfsError::NameTooLong => Errno::ENAMETOOLONG,
        // As open(2) says where the system's table of files is full.
        VfsError::TooManyInodes => Errno::ENFILE,
        // Comes before a mount, not in it.
        VfsError::Option { .. } => Errno::EINVAL,
        // Whatever the store said (403, 404, bad MAC, no answer in time): to a program its data could not be read. EACCES
        // for a 403 would make programs blame the file's permissions.
        VfsError::Repo { .. } => Errno::EIO,
    }
}

/// Returns whether an error means that data is at stake, so that somebody must be told.
#[must_use]
pub fn is_failure(error: &VfsError) -> bool {
    match error {
        VfsError::Repo { .. } | VfsError::TooManyInodes => true,
        VfsError::NotFound
        | VfsError::NotADirectory
        | VfsError::IsADirectory
        | VfsError::Invalid
        | VfsError::NoAttribute
        | VfsError::BeyondEnd
        | VfsError::Stale
        | VfsError::NameTooLong
        | VfsError::Option { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use stash_repo::RepoError;

    use super::*;

    #[test]
    fn test_every_error_has_its_errno_and_none_is_enosys() {
        let repo = |source| VfsError::Repo { path: "/a/b".into(), source };
        let table = [
            (VfsError::NotFound, libc::ENOENT, false),
            (VfsError::NotADirectory, libc::ENOTDIR, false),
            (VfsError::IsADirectory, libc::EISDIR, false),
            (VfsError::Invalid, libc::EINVAL, false),
            (VfsError::NoAttribute, libc::ENODATA, false),
            (VfsError::BeyondEnd, libc::ENXIO, false),
            (VfsError::Stale, libc::ESTALE, false),
            (VfsError::NameTooLong, libc::ENAMETOOLONG, false),
            (VfsError::TooManyInodes, libc::ENFILE, true),
            (VfsError::Option { option: "--x", reason: "y".into() }, libc::EINVAL, false),
            (repo(RepoError::Deadline { seconds: 30 }), libc::EIO, true),
            (repo(RepoError::Cancelled), libc::EIO, true),
            (repo(RepoError::Unsupported { reason: "x".into() }), libc::EIO, true),
        ];
        for (error, expected, failure) in table {
            assert_eq!(errno(&error).code(), expected, "{error}");
            assert_ne!(errno(&error).code(), libc::ENOSYS, "{error}");
            assert_eq!(is_failure(&error), failure, "{error}");
        }
    }
}

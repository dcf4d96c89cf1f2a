//! From what a store, a disk or a protocol said to a [`BackendError`], in words that hold no secrets.

use std::io;
use std::ops::Range;

use bytes::BytesMut;

use super::{BackendError, BackendErrorKind, FileKind, Retry};
use crate::id::Id;

/// The largest buffer that is made because a caller or a file's length asks for it. Packs are at most 128 MiB (restic's
/// largest pack size), files that are read whole 64 MiB.
pub(super) const MAX_BUFFER_BYTES: u64 = 256 << 20;

/// A failure before it is known for which file and place.
#[derive(Debug)]
pub(super) struct Failure {
    kind: BackendErrorKind,
    retry: Retry,
    message: String,
}

impl Failure {
    pub(super) fn new(kind: BackendErrorKind, retry: Retry, message: impl Into<String>) -> Self {
        Self { kind, retry, message: message.into() }
    }

    /// Fewer bytes than asked for. Temporary: a torn answer is worth another try.
    pub(super) fn short(message: impl Into<String>) -> Self {
        Self::new(BackendErrorKind::Corrupt, Retry::Temporary, message)
    }

    /// A range that the store knows to lie beyond the file. Permanent: asking again makes no file longer.
    pub(super) fn ends_before(end: u64) -> Self {
        Self::new(BackendErrorKind::Corrupt, Retry::Permanent, format!("the file ends before byte {end}"))
    }

    /// A file that is longer than its kind may be.
    pub(super) fn too_long(limit_bytes: u64) -> Self {
        Self::new(
            BackendErrorKind::Corrupt,
            Retry::Permanent,
            format!("the file is longer than its limit of {limit_bytes} bytes"),
        )
    }

    /// Wrong address, option or credential.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(BackendErrorKind::Invalid, Retry::Permanent, message)
    }

    /// A repository is to be made where one is.
    pub(super) fn taken() -> Self {
        Self::new(BackendErrorKind::Conflict, Retry::Permanent, "there is a repository already")
    }

    /// No answer, for now.
    pub(super) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(BackendErrorKind::Unavailable, Retry::Temporary, message)
    }

    /// Returns whether it is of a kind.
    pub(super) fn is(&self, kind: BackendErrorKind) -> bool {
        self.kind == kind
    }

    /// Adds to the message.
    pub(super) fn append(&mut self, text: &str) {
        self.message.push_str(text);
    }

    /// Says for which operation, file and place.
    pub(super) fn at(self, operation: &'static str, target: impl Into<String>, location: &str) -> BackendError {
        BackendError {
            kind: self.kind,
            retry: self.retry,
            operation,
            target: target.into(),
            location: location.to_owned(),
            message: self.message,
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        use BackendErrorKind as Kind;
        let (kind, retry) = match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => (Kind::NotFound, Retry::Permanent),
            Some(libc::EACCES | libc::EPERM | libc::EROFS) => (Kind::Denied, Retry::Permanent),
            Some(libc::EEXIST) => (Kind::Conflict, Retry::Permanent),
            Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => (Kind::Full, Retry::Permanent),
            // A network file system, or too many open files: may pass.
            Some(
                libc::ESTALE
                | libc::ETIMEDOUT
                | libc::EAGAIN
                | libc::EINTR
                | libc::EMFILE
                | libc::ENFILE
                | libc::ENOMEM,
            ) => (Kind::Unavailable, Retry::Temporary),
            _ => match error.kind() {
                io::ErrorKind::NotFound => (Kind::NotFound, Retry::Permanent),
                io::ErrorKind::AlreadyExists => (Kind::Conflict, Retry::Permanent),
                io::ErrorKind::BrokenPipe
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::ConnectionRefused
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::TimedOut
                | io::ErrorKind::UnexpectedEof => (Kind::Unavailable, Retry::Temporary),
                _ => (Kind::Other, Retry::Permanent),
            },
        };
        Self::new(kind, retry, error.to_string())
    }
}

/// Names a file for messages, as `index/1234abcd`.
pub(super) fn target(kind: FileKind, id: &Id) -> String {
    match kind {
        FileKind::Config => "config".to_owned(),
        kind => format!("{}/{}", kind.dirname(), id.short()),
    }
}

/// The length of a range that a caller asks for.
///
/// # Errors
/// It ends before it starts or is longer than any pack: a damaged index may say so.
pub(super) fn range_len(range: &Range<u64>) -> Result<u64, Failure> {
    match range.end.checked_sub(range.start) {
        Some(len) if len <= MAX_BUFFER_BYTES => Ok(len),
        _ => Err(Failure::new(
            BackendErrorKind::Invalid,
            Retry::Permanent,
            format!("the range {}..{} cannot be read", range.start, range.end),
        )),
    }
}

/// Makes a zeroed buffer.
///
/// # Errors
/// It would be larger than any file of a repository.
pub(super) fn buffer(len_bytes: u64) -> Result<BytesMut, Failure> {
    let len = usize::try_from(len_bytes.min(MAX_BUFFER_BYTES + 1)).unwrap_or(usize::MAX);
    if len_bytes > MAX_BUFFER_BYTES {
        return Err(Failure::too_long(MAX_BUFFER_BYTES));
    }
    Ok(BytesMut::zeroed(len))
}

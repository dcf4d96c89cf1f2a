//! One SFTP session: files by their paths, over `russh-sftp`'s client.

use std::collections::HashMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, TryStreamExt as _};
use parking_lot::Mutex;
use russh_sftp::client::error::Error;
use russh_sftp::client::rawsession::Limits;
use russh_sftp::client::{Config, RawSftpSession};
use russh_sftp::protocol::{FileAttributes, OpenFlags, StatusCode};

use super::super::child::{Program, Running};
use super::super::error::{Failure, buffer};
use super::super::{BackendErrorKind, Retry};

/// The longest packet that is taken. OpenSSH sends at most 256 KiB.
const MAX_PACKET_BYTES: u32 = 256 << 10;

/// The longest read of a server that tells no limit: what the protocol asks every server to do.
const DEFAULT_READ_BYTES: u64 = 32 << 10;

/// The longest read of one that does, with its header below [`MAX_PACKET_BYTES`].
const MAX_READ_BYTES: u64 = (256 << 10) - 1024;

/// How many reads or writes of one file are in flight: at 255 KiB each it fills 4 MiB of a line's delay.
const IN_FLIGHT: usize = 16;

/// How many files stay open. OpenSSH numbers its handles and the client takes them for text, so that 128 is out of reach;
/// the rest is for files that are open for one call.
const MAX_OPEN: usize = 48;

/// Why a call failed.
#[derive(Debug)]
pub(super) enum Failed {
    /// The server said so; the session is well.
    Answered(Failure),
    /// The session is of no more use.
    Broken(Error),
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        Self::Answered(failure)
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        use BackendErrorKind as Kind;
        let Error::Status(status) = &error else { return Self::Broken(error) };
        // The server's own text may quote paths; the code says enough.
        Self::Answered(match status.status_code {
            StatusCode::NoSuchFile => Failure::new(Kind::NotFound, Retry::Permanent, "not found"),
            StatusCode::PermissionDenied => {
                Failure::new(Kind::Denied, Retry::Permanent, "the server refused the right")
            }
            StatusCode::Eof => Failure::new(Kind::Corrupt, Retry::Permanent, "the file ends before the range does"),
            StatusCode::OpUnsupported => {
                Failure::new(Kind::Unsupported, Retry::Permanent, "the server does not do this")
            }
            StatusCode::Ok | StatusCode::Failure | StatusCode::BadMessage => {
                Failure::new(Kind::Other, Retry::Permanent, "the server reports a failure")
            }
            StatusCode::NoConnection | StatusCode::ConnectionLost => return Self::Broken(error),
        })
    }
}

/// A session and its child process.
pub(super) struct Session {
    sftp: RawSftpSession,
    running: Mutex<Running>,
    read_bytes: u64,
    can_sync: bool,
    can_replace: bool,
    open: Mutex<OpenFiles>,
}

/// Handles of packs by their paths, and when each was used last.
#[derive(Default)]
struct OpenFiles {
    files: HashMap<String, (String, u64)>,
    clock: u64,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("read_bytes", &self.read_bytes).finish_non_exhaustive()
    }
}

impl Session {
    /// Starts the program and greets the server.
    pub(super) async fn start(program: &Program, request_timeout: Duration) -> Result<Self, Failure> {
        let (mut running, stdout, stdin) = program.start()?;
        let config = Config {
            max_packet_len: MAX_PACKET_BYTES,
            request_timeout_secs: request_timeout.as_secs().max(1),
            ..Config::default()
        };
        let mut sftp = RawSftpSession::new_with_config(tokio::io::join(stdout, stdin), config);
        let Ok(version) = sftp.init().await else {
            // The program says why just before it ends.
            drop(tokio::time::timeout(Duration::from_secs(1), running.wait()).await);
            return Err(running.failure(program));
        };
        let offers = |name: &str| version.extensions.contains_key(name);
        let mut read_bytes = DEFAULT_READ_BYTES;
        if offers("limits@openssh.com")
            && let Ok(limits) = sftp.limits().await
        {
            let limits = Limits::from(limits);
            read_bytes = limits.read_len.unwrap_or(DEFAULT_READ_BYTES).clamp(1, MAX_READ_BYTES);
            let write = limits.write_len.unwrap_or(DEFAULT_READ_BYTES);
            read_bytes = read_bytes.min(write);
            sftp.set_limits(limits);
        }
        Ok(Self {
            sftp,
            running: Mutex::new(running),
            read_bytes,
            can_sync: offers("fsync@openssh.com"),
            can_replace: offers("posix-rename@openssh.com"),
            open: Mutex::default(),
        })
    }

    /// Says why the session broke.
    pub(super) fn failure(&self, program: &Program, error: &Error) -> Failure {
        match error {
            Error::Timeout => Failure::unavailable("the server did not answer in time"),
            _ => self.running.lock().failure(program),
        }
    }

    /// The names in a folder and their files' lengths; a missing folder is empty.
    pub(super) async fn list(&self, path: &str) -> Result<Vec<(String, Option<u64>)>, Failed> {
        let handle = match self.sftp.opendir(path).await.map_err(Failed::from) {
            Err(Failed::Answered(failure)) if failure.is(BackendErrorKind::NotFound) => return Ok(Vec::new()),
            opened => opened?.handle,
        };
        let mut entries = Vec::new();
        let listed = loop {
            match self.sftp.readdir(handle.as_str()).await {
                Ok(names) => entries.extend(
                    names.files.into_iter().filter(|file| !file.attrs.is_dir() || file.filename.len() == 2).map(
                        |file| {
                            let symlink = file.attrs.is_symlink();
                            (file.filename, file.attrs.size.filter(|_| !symlink))
                        },
                    ),
                ),
                Err(Error::Status(status)) if status.status_code == StatusCode::Eof => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        let closed = self.sftp.close(handle).await;
        listed?;
        closed?;
        Ok(entries)
    }

    /// A file's length, if it is there.
    pub(super) async fn len(&self, path: &str) -> Result<Option<u64>, Failed> {
        match self.sftp.stat(path).await.map_err(Failed::from) {
            Ok(stat) => Ok(Some(stat.attrs.size.unwrap_or(0))),
            Err(Failed::Answered(failure)) if failure.is(BackendErrorKind::NotFound) => Ok(None),
            Err(failed) => Err(failed),
        }
    }

    /// Reads a whole file.
    pub(super) async fn read_full(&self, path: &str, limit_bytes: u64) -> Result<Bytes, Failed> {
        let handle = self.sftp.open(path, OpenFlags::READ, FileAttributes::empty()).await?.handle;
        let read = async {
            let stat = self.sftp.fstat(handle.as_str()).await?;
            let len_bytes = stat.attrs.size.ok_or_else(|| Failure::short("the server tells no length"))?;
            if len_bytes > limit_bytes {
                return Err(Failure::too_long(limit_bytes).into());
            }
            self.read_handle(&handle, 0, len_bytes).await
        };
        let read = read.await;
        let closed = self.sftp.close(handle.as_str()).await;
        let bytes = read?;
        closed?;
        Ok(bytes)
    }

    /// Reads a piece of a pack, which stays open.
    pub(super) async fn read_range(&self, path: &str, start: u64, len_bytes: u64) -> Result<Bytes, Failed> {
        if let Some(handle) = self.kept(path) {
            let read = self.read_handle(&handle, start, len_bytes).await;
            if read.is_err() {
                self.open.lock().files.remove(path);
            }
            // A handle that another task had to close meanwhile is told apart from a file that is short: once more, anew.
            if !matches!(read, Err(Failed::Answered(_))) {
                return read;
            }
        }
        let handle = self.sftp.open(path, OpenFlags::READ, FileAttributes::empty()).await?.handle;
        let read = self.read_handle(&handle, start, len_bytes).await;
        let closing = if read.is_ok() { self.keep(path, handle) } else { Some(handle) };
        if let Some(handle) = closing {
            self.sftp.close(handle).await?;
        }
        read
    }

    fn kept(&self, path: &str) -> Option<String> {
        let mut open = self.open.lock();
        open.clock += 1;
        let clock = open.clock;
        let (handle, used) = open.files.get_mut(path)?;
        *used = clock;
        Some(handle.clone())
    }

    /// Keeps a handle; returns one that is to be closed.
    fn keep(&self, path: &str, handle: String) -> Option<String> {
        let mut open = self.open.lock();
        open.clock += 1;
        let clock = open.clock;
        if open.files.contains_key(path) {
            // Another task opened it at the same time.
            return Some(handle);
        }
        let oldest = if open.files.len() < MAX_OPEN {
            None
        } else {
            open.files.iter().min_by_key(|(_, (_, used))| *used).map(|(path, _)| path.clone())
        };
        let closing = oldest.and_then(|path| open.files.remove(&path)).map(|(handle, _)| handle);
        open.files.insert(path.to_owned(), (handle, clock));
        closing
    }

    async fn read_handle(&self, handle: &str, start: u64, len_bytes: u64) -> Result<Bytes, Failed> {
        let bytes: BytesMut = buffer(len_bytes)?;
        let step = usize::try_from(self.read_bytes).unwrap_or(usize::MAX);
        let mut pieces = Vec::new();
        let mut rest = bytes;
        let mut offset = start;
        while !rest.is_empty() {
            let piece = rest.split_to(step.min(rest.len()));
            let next = offset.checked_add(piece.len() as u64);
            pieces.push((offset, piece));
            offset = next.ok_or_else(|| Failure::short("the range cannot be read"))?;
        }
        let mut filled = futures::stream::iter(pieces)
            .map(|(offset, piece)| self.read_piece(handle, offset, piece))
            .buffered(IN_FLIGHT);
        // Neighbours of one allocation come together again without a copy.
        let mut whole = BytesMut::new();
        while let Some(piece) = filled.try_next().await? {
            whole.unsplit(piece);
        }
        Ok(whole.freeze())
    }

    /// Fills one piece; the server may answer with less than was asked for.
    async fn read_piece(&self, handle: &str, mut offset: u64, mut piece: BytesMut) -> Result<BytesMut, Failed> {
        let mut filled = 0;
        while filled < piece.len() {
            let rest = &mut piece[filled..];
            let want = u32::try_from(rest.len()).unwrap_or(u32::MAX);
            let data = self.sftp.read(handle, offset, want).await?.data;
            if data.is_empty() || data.len() > rest.len() {
                return Err(Failure::short("the server answered with other bytes than were asked for").into());
            }
            rest[..data.len()].copy_from_slice(&data);
            filled += data.len();
            offset = offset.saturating_add(data.len() as u64);
        }
        Ok(piece)
    }

    /// Writes a file that must not be there.
    pub(super) async fn write_new(&self, path: &str, content: &Bytes) -> Result<(), Failed> {
        let flags = OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::EXCLUDE;
        let attributes = FileAttributes { permissions: Some(0o600), ..FileAttributes::empty() };
        let handle = self.sftp.open(path, flags, attributes).await?.handle;
        let step = usize::try_from(self.read_bytes).unwrap_or(usize::MAX);
        let mut pieces = Vec::new();
        let mut rest = content.clone();
        while !rest.is_empty() {
            let piece = rest.split_to(step.min(rest.len()));
            pieces.push((content.len() as u64 - rest.len() as u64 - piece.len() as u64, piece));
        }
        let writes = async {
            futures::stream::iter(pieces)
                .map(|(offset, piece)| self.sftp.write(handle.as_str(), offset, piece.to_vec()))
                .buffer_unordered(IN_FLIGHT)
                .try_for_each(|_| async { Ok(()) })
                .await?;
            if self.can_sync { self.sftp.fsync(handle.as_str()).await.map(drop) } else { Ok(()) }
        };
        let written = writes.await;
        let closed = self.sftp.close(handle.as_str()).await;
        written?;
        closed?;
        Ok(())
    }

    /// Gives a whole file its name and makes it read-only.
    pub(super) async fn finish(&self, temp: &str, path: &str, replace: bool) -> Result<(), Failed> {
        // restic: files are read-only once whole; servers that know no modes are no reason to fail.
        let read_only = FileAttributes { permissions: Some(0o400), ..FileAttributes::empty() };
        match self.sftp.setstat(temp, read_only).await {
            Ok(_) | Err(Error::Status(_)) => {}
            Err(error) => return Err(error.into()),
        }
        if replace && self.can_replace {
            let mut data = Vec::new();
            for name in [temp, path] {
                let len = u32::try_from(name.len()).map_err(|_| Failure::invalid("the path is too long"))?;
                data.extend(len.to_be_bytes());
                data.extend(name.as_bytes());
            }
            let answer = self.sftp.extended("posix-rename@openssh.com", data).await?;
            return match answer {
                russh_sftp::protocol::Packet::Status(status) if status.status_code == StatusCode::Ok => Ok(()),
                russh_sftp::protocol::Packet::Status(status) => Err(Error::Status(status).into()),
                _ => Err(Failed::Broken(Error::UnexpectedPacket)),
            };
        }
        match self.sftp.rename(temp, path).await.map_err(Failed::from) {
            // The protocol's own rename replaces nothing. The content of a name is known, so what is there is it.
            Err(Failed::Answered(failure)) if replace && failure.is(BackendErrorKind::Other) => {
                if self.len(path).await?.is_none() {
                    return Err(Failed::Answered(failure));
                }
                self.remove(temp).await
            }
            result => result.map(drop),
        }
    }

    /// Removes a file that may be missing.
    pub(super) async fn remove(&self, path: &str) -> Result<(), Failed> {
        let kept = self.open.lock().files.remove(path);
        if let Some((handle, _)) = kept {
            self.sftp.close(handle).await?;
        }
        match self.sftp.remove(path).await.map_err(Failed::from) {
            Err(Failed::Answered(failure)) if failure.is(BackendErrorKind::NotFound) => Ok(()),
            result => result.map(drop),
        }
    }

    /// Makes a folder that may be there.
    pub(super) async fn make_folder(&self, path: &str) -> Result<(), Failed> {
        let attributes = FileAttributes { permissions: Some(0o700), ..FileAttributes::empty() };
        match self.sftp.mkdir(path, attributes).await.map_err(Failed::from) {
            Err(Failed::Answered(failure)) => match self.sftp.stat(path).await {
                Ok(stat) if stat.attrs.is_dir() => Ok(()),
                _ => Err(Failed::Answered(failure)),
            },
            result => result.map(drop),
        }
    }
}

/// Nothing else holds a session when it is dropped: closing its stream lets the program end by itself.
impl Drop for Session {
    fn drop(&mut self) {
        drop(self.sftp.close_session());
    }
}

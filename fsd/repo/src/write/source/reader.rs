//! The bytes of a file: exactly as many as its inode said when the walk looked, or a loss.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use rustic_core::{ErrorKind, ReadSourceOpen, RusticError, RusticResult};
use rustix::fs::OFlags;

use super::Ledger;
use super::files::Files;

/// `rustic_core`'s chunker asks for 4 KiB at a time; the system is asked for this much.
const BUFFER_BYTES: usize = 256 << 10;

/// How many files are read at a time. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Readers(Arc<(Mutex<usize>, Condvar)>);

#[derive(Debug)]
struct Turn(Readers);

impl Readers {
    pub(super) fn new(count: usize) -> Self {
        Self(Arc::new((Mutex::new(count), Condvar::new())))
    }

    fn turn(&self) -> Turn {
        let (free, changed) = &*self.0;
        let mut free = free.lock();
        while *free == 0 {
            changed.wait(&mut free);
        }
        *free -= 1;
        Turn(self.clone())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let (free, changed) = &*self.0.0;
        *free.lock() += 1;
        changed.notify_one();
    }
}

/// A file that the walk found, to be opened when its turn comes.
#[derive(Debug)]
pub(crate) struct FileOpen {
    pub(super) path: PathBuf,
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) size: u64,
    pub(super) files: Files,
    pub(super) ledger: Ledger,
    pub(super) readers: Readers,
}

impl ReadSourceOpen for FileOpen {
    type Reader = FileReader;

    fn open(self) -> RusticResult<FileReader> {
        let turn = self.readers.turn();
        match self.open_same() {
            Ok(file) => Ok(FileReader {
                file,
                path: self.path,
                size: self.size,
                left: self.size,
                buffer: Vec::new(),
                at: 0,
                over: false,
                ledger: self.ledger,
                _turn: turn,
            }),
            Err(error) => {
                let reason = error.to_string();
                self.ledger.withdraw(&self.path, "open", &reason);
                Err(RusticError::new(ErrorKind::InputOutput, reason))
            }
        }
    }
}

impl FileOpen {
    /// Opens the file that the walk saw, and no other that took its name since.
    fn open_same(&self) -> io::Result<File> {
        let file = open_quietly(&self.files, &self.path)?;
        let now = file.metadata()?;
        if !now.is_file() || (now.dev(), now.ino()) != (self.device, self.inode) {
            return Err(io::Error::other("it was replaced by another file while the backup ran"));
        }
        Ok(file)
    }
}

/// Opens a file for reading: no symbolic link is followed, a pipe that took the file's place does not block, and the access
/// time stays where that is allowed.
fn open_quietly(files: &Files, path: &Path) -> io::Result<File> {
    let open = |flags: OFlags| files.open(path, OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | flags);
    match open(OFlags::NOATIME) {
        // Only an owner may leave the access time.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => open(OFlags::empty()),
        result => result,
    }
}

/// Reads a file up to the size that it had.
#[derive(Debug)]
pub(crate) struct FileReader {
    file: File,
    path: PathBuf,
    size: u64,
    left: u64,
    buffer: Vec<u8>,
    at: usize,
    over: bool,
    ledger: Ledger,
    _turn: Turn,
}

impl FileReader {
    /// Reads from the file, at most what is left; nothing left to read there is a loss here.
    fn read_file(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        if self.ledger.is_stopped() {
            self.over = true;
            return Err(io::Error::other("the backup was stopped"));
        }
        match self.file.read(&mut buffer[..most]) {
            Ok(0) => {
                let reason = format!("it became shorter: {} of {} bytes were there", self.size - self.left, self.size);
                Err(self.lost(reason))
            }
            Ok(read) => {
                self.left -= read as u64;
                Ok(read)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                let reason = format!("after {} of {} bytes: {error}", self.size - self.left, self.size);
                Err(self.lost(reason))
            }
        }
    }

    fn lost(&mut self, reason: String) -> io::Error {
        if !std::mem::replace(&mut self.over, true) {
            self.ledger.withdraw(&self.path, "read", &reason);
        }
        io::Error::other(reason)
    }

    /// Tells of a file that grew, once.
    fn end(&mut self) {
        if !std::mem::replace(&mut self.over, true) && self.file.metadata().is_ok_and(|now| now.len() > self.size) {
            let reason = format!("it grew while it was read; its first {} bytes are stored", self.size);
            self.ledger.note(&self.path, "read", reason);
        }
    }
}

impl Read for FileReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at == self.buffer.len() {
            if self.left == 0 {
                self.end();
                return Ok(0);
            }
            if out.len() >= BUFFER_BYTES {
                return self.read_file(out);
            }
            let mut buffer = std::mem::take(&mut self.buffer);
            buffer.resize(BUFFER_BYTES, 0);
            let read = self.read_file(&mut buffer);
            buffer.truncate(*read.as_ref().unwrap_or(&0));
            self.buffer = buffer;
            self.at = 0;
            read?;
        }
        let ready = &self.buffer[self.at..];
        let count = ready.len().min(out.len());
        out[..count].copy_from_slice(&ready[..count]);
        self.at += count;
        Ok(count)
    }
}

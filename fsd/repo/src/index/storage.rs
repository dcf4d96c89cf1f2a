//! Bytes in a file, or in memory where there is no file to be had.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// Bytes that are written once and then only read.
#[derive(Debug)]
pub(super) enum Storage {
    /// A file that is ours alone or that nobody changes any more.
    File(File),
    /// The same bytes in memory.
    Memory(Vec<u8>),
}

impl Storage {
    /// Fills `buf` from `offset`.
    pub(super) fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        match self {
            Self::File(file) => file.read_exact_at(buf, offset),
            Self::Memory(bytes) => {
                let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
                let end = start.checked_add(buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
                buf.copy_from_slice(bytes.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
        }
    }

    /// Returns how many bytes there are.
    pub(super) fn len_bytes(&self) -> io::Result<u64> {
        match self {
            Self::File(file) => Ok(file.metadata()?.len()),
            Self::Memory(bytes) => Ok(bytes.len() as u64),
        }
    }

    /// Returns how much memory is held.
    pub(super) fn memory_bytes(&self) -> usize {
        match self {
            Self::File(_) => 0,
            Self::Memory(bytes) => bytes.capacity(),
        }
    }

    /// Writes at `offset`, which is at most the present length.
    pub(super) fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::File(file) => file.write_all_at(bytes, offset),
            Self::Memory(memory) => {
                let start = usize::try_from(offset).map_err(|_| io::ErrorKind::OutOfMemory)?;
                let end = start.checked_add(bytes.len()).ok_or(io::ErrorKind::OutOfMemory)?;
                if end > memory.len() {
                    memory.try_reserve(end - memory.len())?;
                    memory.resize(end, 0);
                }
                memory[start..end].copy_from_slice(bytes);
                Ok(())
            }
        }
    }
}

/// An append-only store of what a build cannot hold in memory: a nameless file while the disk takes it, else memory.
#[derive(Debug)]
pub(super) struct Spool {
    storage: Storage,
    len_bytes: u64,
}

impl Spool {
    /// Begins one in an unnamed file, or in memory for `None`.
    pub(super) fn new(file: Option<File>) -> Self {
        Self { storage: file.map_or_else(|| Storage::Memory(Vec::new()), Storage::File), len_bytes: 0 }
    }

    /// Returns how many bytes were appended.
    pub(super) fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Appends. A disk that refuses (full, quota, EIO) moves everything into memory.
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Err(error) = self.storage.write_at(self.len_bytes, bytes) {
            if !matches!(self.storage, Storage::File(_)) {
                return Err(error);
            }
            tracing::warn!(%error, "the index is built in memory: its directory takes no more");
            let mut memory = vec![0; usize::try_from(self.len_bytes).map_err(|_| io::ErrorKind::OutOfMemory)?];
            self.storage.read_at(0, &mut memory)?;
            memory.extend_from_slice(bytes);
            self.storage = Storage::Memory(memory);
        }
        self.len_bytes += bytes.len() as u64;
        Ok(())
    }

    /// Fills `buf` from `offset`.
    pub(super) fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.storage.read_at(offset, buf)
    }
}

//! The cache's directory and its files.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::state::{Contents, SegmentName};
use crate::format::blob_segment::{
    Entry, HEADER_BYTES, Head, Keys, RECORD_HEADER_BYTES, RecordHeader, TRAILER_BYTES, decode_header, decode_table,
    encode_table, short_key, table_offset,
};

/// Where a segment's first record begins.
pub(super) const FIRST_RECORD_OFFSET: u32 = 64;
const _: () = assert!(FIRST_RECORD_OFFSET as usize == HEADER_BYTES);

/// The directory of a cache.
#[derive(Debug)]
pub(super) struct Files {
    dir: PathBuf,
    pub(super) keys: Keys,
}

/// What a file turned out to be.
#[derive(Debug)]
pub(super) enum Loaded {
    /// A segment, and what is new in it.
    Segment(Contents),
    /// Its writer has only just begun, or it is of another version.
    NotYet,
    /// Not a segment: it was removed.
    Damaged,
}

impl Files {
    /// Makes the directory where it is missing, readable by its owner only.
    pub(super) fn create(dir: PathBuf, keys: Keys) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        Ok(Self { dir, keys })
    }

    /// Returns the directory.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Lists the segments, sorted.
    pub(super) fn list(&self) -> io::Result<Vec<SegmentName>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            names.extend(entry?.file_name().to_str().and_then(SegmentName::parse));
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Opens a segment for reading. Not kept: an evicted segment must not hold its space for an idle reader.
    pub(super) fn open(&self, name: &SegmentName) -> io::Result<File> {
        File::open(self.path(name))
    }

    /// Makes a new file, locked by this process until it is closed.
    pub(super) fn create_segment(&self, name: &SegmentName) -> io::Result<File> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(self.path(name))?;
        file.lock()?;
        // Between creation and lock another process may have taken it for a dead one and removed it.
        if file.metadata()?.nlink() == 0 {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(file)
    }

    /// Removes a segment unless its writer is alive; returns whether it is gone.
    pub(super) fn remove(&self, name: &SegmentName) -> bool {
        let path = self.path(name);
        let removed = File::open(&path).and_then(|file| {
            file.try_lock()?;
            fs::remove_file(&path)
        });
        match removed {
            Ok(()) => true,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }

    /// Reads what a segment holds from `from` on (0: all). Completes the segment of a writer that was killed.
    pub(super) fn load(&self, name: &SegmentName, from: u32) -> io::Result<Loaded> {
        let file = self.open(name)?;
        let file_bytes = file.metadata()?.len();
        let mut header = [0; HEADER_BYTES];
        let head = match file.read_exact_at(&mut header, 0) {
            Ok(()) => decode_header(&self.keys, &header),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                // Its writer lives and has only begun, or was ended before it wrote the head: then nothing is lost.
                self.remove(name);
                return Ok(Loaded::NotYet);
            }
            Err(error) => return Err(error),
        };
        match head {
            Head::Ours(id) if id == name.id => {}
            Head::OtherVersion(version) => {
                tracing::debug!(segment = %name, version, "a segment of another version is left alone");
                return Ok(Loaded::NotYet);
            }
            Head::Ours(_) | Head::Damaged => {
                return Ok(if self.remove(name) { Loaded::Damaged } else { Loaded::NotYet });
            }
        }
        if let Some((entries, tail)) = self.read_table(&file, name, file_bytes)? {
            let entries = entries.into_iter().filter(|entry| entry.offset >= from).collect();
            return Ok(Loaded::Segment(Contents { entries, tail, complete: true, file_bytes }));
        }
        let (entries, tail) = self.scan(&file, name, file_bytes, from)?;
        let completed = self.complete_abandoned(name)?;
        // If it was completed here, nothing was added: its writer is gone.
        let complete = completed.is_some_and(|(completed_tail, _)| completed_tail == tail);
        let file_bytes = completed.map_or(file_bytes, |(_, file_bytes)| file_bytes);
        Ok(Loaded::Segment(Contents { entries, tail, complete, file_bytes }))
    }

    fn read_table(&self, file: &File, name: &SegmentName, file_bytes: u64) -> io::Result<Option<(Vec<Entry>, u32)>> {
        let Some(trailer_offset) = file_bytes.checked_sub(TRAILER_BYTES as u64) else { return Ok(None) };
        let mut trailer = [0; TRAILER_BYTES];
        file.read_exact_at(&mut trailer, trailer_offset)?;
        let Some(offset) = table_offset(&trailer, file_bytes) else { return Ok(None) };
        let len = usize::try_from(file_bytes - u64::from(offset)).map_err(|_| io::ErrorKind::InvalidData)?;
        let mut table = vec![0; len];
        file.read_exact_at(&mut table, u64::from(offset))?;
        Ok(decode_table(&self.keys, &name.id, offset, &table).map(|entries| (entries, offset)))
    }

    /// Goes from record to record, beginning at `from` (0: the first), until one is not whole.
    fn scan(&self, file: &File, name: &SegmentName, file_bytes: u64, from: u32) -> io::Result<(Vec<Entry>, u32)> {
        let mut entries = Vec::new();
        let mut offset = from.max(FIRST_RECORD_OFFSET);
        let mut first = [0; RECORD_HEADER_BYTES + 16];
        let mut last = [0; 16];
        let last_bytes = last.len() as u64;
        while u64::from(offset) + first.len() as u64 <= file_bytes {
            file.read_exact_at(&mut first, u64::from(offset))?;
            let (header, nonce) = first.split_first_chunk::<RECORD_HEADER_BYTES>().ok_or(io::ErrorKind::InvalidData)?;
            let Some(record) = RecordHeader::decode(header) else { break };
            let Some(next) = record.next_offset(offset).filter(|next| u64::from(*next) <= file_bytes) else { break };
            file.read_exact_at(&mut last, u64::from(next) - last_bytes)?;
            let nonce = nonce.first_chunk().ok_or(io::ErrorKind::InvalidData)?;
            if !RecordHeader::check(header, &self.keys, &name.id, offset, (nonce, &last)) {
                break;
            }
            entries.push(Entry { key: short_key(&record.id, record.kind), offset, len_bytes: record.len_bytes });
            offset = next;
        }
        Ok((entries, offset))
    }

    /// Completes a segment whose writer is gone; returns where its records end and its length, `None` if the writer lives
    /// or completed it meanwhile.
    fn complete_abandoned(&self, name: &SegmentName) -> io::Result<Option<(u32, u64)>> {
        let Ok(file) = OpenOptions::new().read(true).write(true).open(self.path(name)) else { return Ok(None) };
        if file.try_lock().is_err() {
            return Ok(None);
        }
        let file_bytes = file.metadata()?.len();
        if self.read_table(&file, name, file_bytes)?.is_some() {
            return Ok(None);
        }
        // The table names all records, whatever of them the caller knows.
        let (entries, tail) = self.scan(&file, name, file_bytes, 0)?;
        self.complete(&file, name, tail, &entries)
            .map(|file_bytes| Some((tail, file_bytes)))
            .inspect_err(|error| tracing::debug!(segment = %name, %error, "a segment could not be completed"))
            .or(Ok(None))
    }

    /// Cuts a segment at `tail` and writes its table; returns the file's length.
    pub(super) fn complete(&self, file: &File, name: &SegmentName, tail: u32, entries: &[Entry]) -> io::Result<u64> {
        file.set_len(u64::from(tail))?;
        let table = encode_table(&self.keys, &name.id, tail, entries);
        file.write_all_at(&table, u64::from(tail))?;
        Ok(u64::from(tail) + table.len() as u64)
    }

    fn path(&self, name: &SegmentName) -> PathBuf {
        self.dir.join(name.to_string())
    }
}

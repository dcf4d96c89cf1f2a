//! Where the records of the inode table lie so that another process can go on with them.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use super::table::Record;

/// The length of a stored record. It divides a page, so that no record straddles two: the kernel copies a write page by
/// page and may stop between pages when the writer is killed.
pub const STORED_BYTES: usize = 32;

/// Holds the table's records outside of the process's own memory.
///
/// A record is written *before* the reply that names its id, so whoever holds the store knows every id that the kernel
/// knows. The order of writes is the order of calls.
pub trait TableStore: fmt::Debug + Send {
    /// Writes encoded records ([`STORED_BYTES`] each) from record number `first` on.
    ///
    /// # Errors
    /// The store is full or gone. The caller then names none of the ids.
    fn write(&mut self, first: u32, records: &[u8]) -> io::Result<()>;
}

/// Records in a file: a memfd that a keeper holds, or any file.
#[derive(Debug)]
pub struct FileStore(File);

impl FileStore {
    /// Writes to `file` from its beginning.
    #[must_use]
    pub const fn new(file: File) -> Self {
        Self(file)
    }

    /// Reads all records of a file that a table wrote, in the order of their numbers, and counts those that are damaged, which
    /// are given as free.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(file: &File) -> io::Result<(Vec<Record>, usize)> {
        let (mut records, mut damaged) = (Vec::new(), 0);
        let mut offset = 0;
        let mut buffer = vec![0; STORED_BYTES * 2_048];
        loop {
            let mut filled = 0;
            while filled < buffer.len() {
                match file.read_at(&mut buffer[filled..], offset)? {
                    0 => break,
                    read => {
                        filled += read;
                        offset += read as u64;
                    }
                }
            }
            if filled == 0 {
                return Ok((records, damaged));
            }
            let (whole, rest) = buffer[..filled].as_chunks();
            damaged += usize::from(!rest.is_empty()) + whole.iter().filter(|bytes| is_damaged(bytes)).count();
            records.extend(whole.iter().map(decode));
        }
    }
}

impl TableStore for FileStore {
    fn write(&mut self, first: u32, records: &[u8]) -> io::Result<()> {
        self.0.write_all_at(records, u64::from(first) * STORED_BYTES as u64)
    }
}

/// Encodes a record: id, parent, position, lookups (little-endian), 4 bytes of zero, a checksum.
pub(super) fn encode(record: &Record) -> [u8; STORED_BYTES] {
    let mut bytes = [0; STORED_BYTES];
    bytes[..8].copy_from_slice(&record.id.to_le_bytes());
    bytes[8..16].copy_from_slice(&record.parent.to_le_bytes());
    bytes[16..20].copy_from_slice(&record.position.to_le_bytes());
    bytes[20..24].copy_from_slice(&record.lookups.to_le_bytes());
    let checksum = checksum(&bytes);
    bytes[28..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// Decodes a record; one that is damaged or was never written is free.
pub(super) fn decode(bytes: &[u8; STORED_BYTES]) -> Record {
    let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
    let half = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
    if half(28) != checksum(bytes) {
        return Record::FREE;
    }
    Record { id: word(0), parent: word(8), position: half(16), lookups: half(20) }
}

/// Whether a record was written and is not what was written.
fn is_damaged(bytes: &[u8; STORED_BYTES]) -> bool {
    *bytes != [0; STORED_BYTES] && bytes[28..] != checksum(bytes).to_le_bytes()
}

/// FNV-1a over the first 28 bytes: it tells a torn record, not an attacker, who could write the file as he likes.
fn checksum(bytes: &[u8; STORED_BYTES]) -> u32 {
    bytes[..28].iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn test_record_round_trip(id: u64, parent: u64, position: u32, lookups: u32) {
            let record = Record { id, parent, position, lookups };
            prop_assert_eq!(decode(&encode(&record)), record);
        }

        #[test]
        fn test_a_changed_record_is_free(id: u64, at in 0..28_usize, flip in 1..=255_u8) {
            let mut bytes = encode(&Record { id, parent: 1, position: 7, lookups: 1 });
            bytes[at] ^= flip;
            prop_assert_eq!(decode(&bytes), Record::FREE);
        }
    }

    #[test]
    fn test_never_written_is_free() {
        assert_eq!(decode(&[0; STORED_BYTES]), Record::FREE);
    }

    #[test]
    fn test_file_holds_records_by_number() {
        let file = tempfile::tempfile().unwrap();
        let mut store = FileStore::new(file.try_clone().unwrap());
        let record = |id| Record { id, parent: 1, position: 0, lookups: 1 };
        store.write(5_000, &encode(&record(9))).unwrap();
        store.write(0, &[encode(&record(7)), encode(&record(8))].concat()).unwrap();
        let (read, damaged) = FileStore::read(&file).unwrap();
        assert_eq!(damaged, 0);
        assert_eq!(read.len(), 5_001);
        assert_eq!((read[0].id, read[1].id, read[2], read[5_000].id), (7, 8, Record::FREE, 9));
    }
}

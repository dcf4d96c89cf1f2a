//! The file that keeps snapshot files between mounts, as they are stored: encrypted, and named by their hash.
//!
//! `STSNAP01`, then for each: id (32 bytes), length (`u32`, big-endian), the stored bytes. It is written anew as a whole
//! and renamed, so that readers see one state or the other. What does not hash to its id, and all after it, is dropped: no
//! checksum is needed, and no sync either, because a torn file is only read again from the store.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use bytes::Bytes;

use crate::id::{ID_BYTES, Id, SnapshotId};

const MAGIC: &[u8; 8] = b"STSNAP01";
/// The longest file that is read or written; 100,000 snapshots take half of it.
const LIMIT_BYTES: u64 = 128 << 20;

/// Reads what is kept. Nothing is not an error.
pub(super) fn load(path: &Path) -> HashMap<SnapshotId, Bytes> {
    let mut content = Vec::new();
    let read = File::open(path).and_then(|file| file.take(LIMIT_BYTES).read_to_end(&mut content));
    match read {
        Ok(_) => parse(&Bytes::from(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => HashMap::new(),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the kept snapshots cannot be read");
            HashMap::new()
        }
    }
}

/// Takes the records up to the first that is damaged.
fn parse(content: &Bytes) -> HashMap<SnapshotId, Bytes> {
    let mut kept = HashMap::new();
    let mut rest = match content.strip_prefix(MAGIC) {
        Some(_) => content.slice(MAGIC.len()..),
        None => return kept,
    };
    while let Some((id, tail)) = rest.split_first_chunk::<ID_BYTES>()
        && let Some((len, tail)) = tail.split_first_chunk::<4>()
        && let Ok(len) = usize::try_from(u32::from_be_bytes(*len))
        && let Some(stored) = tail.get(..len)
        && Id::hash(stored) == Id::new(*id)
    {
        let id = SnapshotId(Id::new(*id));
        let begin = ID_BYTES + 4;
        kept.insert(id, rest.slice(begin..begin + len));
        rest = rest.slice(begin + len..);
    }
    kept
}

/// Adds `read` to what is kept, drops what is not `listed`, and replaces the file.
pub(super) fn save(path: &Path, listed: &HashSet<SnapshotId>, read: Vec<(SnapshotId, Bytes)>) -> io::Result<()> {
    let mut kept = load(path);
    kept.retain(|id, _| listed.contains(id));
    kept.extend(read);
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let mut content = MAGIC.to_vec();
    for (id, stored) in &kept {
        let len = u32::try_from(stored.len()).map_err(io::Error::other)?;
        if (content.len() + ID_BYTES + 4 + stored.len()) as u64 > LIMIT_BYTES {
            break;
        }
        content.extend_from_slice(id.as_bytes());
        content.extend_from_slice(&len.to_be_bytes());
        content.extend_from_slice(stored);
    }
    // A name of its own: two processes may write at once, and the later rename wins.
    let temporary = dir.join(format!("snapshots.{}.tmp", std::process::id()));
    let written = File::create(&temporary).and_then(|mut file| file.write_all(&content));
    written.and_then(|()| fs::rename(&temporary, path)).inspect_err(|_| {
        // The first error is the one that says what happened.
        let _left_behind = fs::remove_file(&temporary);
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(content: &[u8]) -> (SnapshotId, Bytes) {
        (SnapshotId(Id::hash(content)), Bytes::copy_from_slice(content))
    }

    #[test]
    fn test_what_is_saved_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("snapshots");
        assert!(load(&path).is_empty());
        let (a, b, c) = (record(b"a"), record(b"bb"), record(b""));
        let listed: HashSet<_> = [a.0, b.0, c.0].into();
        save(&path, &listed, vec![a.clone(), c.clone()]).unwrap();
        save(&path, &listed, vec![b.clone()]).unwrap();
        assert_eq!(load(&path), [a.clone(), b.clone(), c].into());
        save(&path, &[a.0, b.0].into(), vec![]).unwrap();
        assert_eq!(load(&path), [a, b].into());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn test_a_failed_save_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("snapshots");
        fs::create_dir(&path).unwrap();
        assert!(save(&path, &HashSet::new(), vec![]).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(load(&path).is_empty());
    }

    proptest! {
        #[test]
        fn prop_damage_never_gives_a_wrong_record(
            contents in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 1..5),
            at: prop::sample::Index,
            byte: u8,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("snapshots");
            let records: Vec<_> = contents.iter().map(|content| record(content)).collect();
            save(&path, &records.iter().map(|(id, _)| *id).collect(), records).unwrap();
            let mut bytes = fs::read(&path).unwrap();
            let at = at.index(bytes.len());
            for end in [at, bytes.len()] {
                for (id, stored) in parse(&Bytes::copy_from_slice(&bytes[..end])) {
                    prop_assert_eq!(Id::hash(&stored), id.0);
                }
            }
            bytes[at] = byte;
            for (id, stored) in parse(&Bytes::from(bytes)) {
                prop_assert_eq!(Id::hash(&stored), id.0);
            }
        }
    }
}

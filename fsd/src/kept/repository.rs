//! What the next daemon is to know of a repository.

use std::io;
use std::str::FromStr as _;

use serde::{Deserialize, Serialize};
use stash_repo::crypto::{MASTER_KEY_BYTES, MasterKey};
use stash_repo::{SnapshotId, Timestamp, TreeId};
use stash_vfs::Pin;
use zeroize::Zeroize as _;

/// A repository's key, and the snapshot that is the root of its mount.
#[derive(Debug, Serialize, Deserialize)]
pub struct KeptRepository {
    key: KeyParts,
    pin: Option<PinParts>,
}

/// A master key on its way to a keeper.
#[derive(Serialize, Deserialize)]
struct KeyParts(Vec<u8>);

impl Drop for KeyParts {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl std::fmt::Debug for KeyParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyParts(..)")
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct PinParts {
    snapshot: String,
    tree: String,
    secs: i64,
    nanos: u32,
}

impl KeptRepository {
    /// Takes what is to be kept.
    #[must_use]
    pub fn new(key: &MasterKey, pin: Option<Pin>) -> Self {
        let pin = pin.map(|pin| PinParts {
            snapshot: pin.snapshot.to_string(),
            tree: pin.tree.to_string(),
            secs: pin.time.secs,
            nanos: pin.time.nanos,
        });
        Self { key: KeyParts(key.expose_parts().to_vec()), pin }
    }

    /// Returns the key.
    ///
    /// # Errors
    /// `InvalidData` if it is none.
    pub fn key(&self) -> io::Result<MasterKey> {
        let mut parts: [u8; MASTER_KEY_BYTES] = self.key.0[..].try_into().map_err(|_| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "what the last daemon left is damaged: the key has another length",
            )
        })?;
        let key = MasterKey::from_parts(&mut parts);
        parts.zeroize();
        Ok(key)
    }

    /// Returns the snapshot that is the root.
    #[must_use]
    pub fn pin(&self) -> Option<Pin> {
        let pin = self.pin.as_ref()?;
        Some(Pin {
            snapshot: SnapshotId::from_str(&pin.snapshot).ok()?,
            tree: TreeId::from_str(&pin.tree).ok()?,
            time: Timestamp { secs: pin.secs, nanos: pin.nanos },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_what_is_left_of_a_repository() {
        let key = MasterKey::generate();
        let pin = Pin {
            snapshot: SnapshotId(stash_repo::Id::hash(b"s")),
            tree: TreeId(stash_repo::Id::hash(b"t")),
            time: Timestamp { secs: -5, nanos: 7 },
        };
        let text = serde_json::to_string(&KeptRepository::new(&key, Some(pin))).unwrap();
        let read: KeptRepository = serde_json::from_str(&text).unwrap();
        assert_eq!(read.key().unwrap().expose_parts(), key.expose_parts());
        assert_eq!(read.pin(), Some(pin));
        assert!(format!("{read:?}").contains("KeyParts(..)"), "a key is never shown");
        let short: KeptRepository = serde_json::from_str(r#"{"key":[1,2],"pin":null}"#).unwrap();
        assert!(short.key().is_err());
    }
}

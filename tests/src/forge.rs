//! Writes repositories that no honest program writes: any tree, any index, any length, properly encrypted.
//!
//! An attacker who knows the password of one tenant can do all this.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use stash_repo::{BlobId, FileKind, Id, TreeId};

use crate::reference::Key;

/// The password of every forged repository.
pub const PASSWORD: &str = "forged";

/// A repository in the making.
#[derive(Debug)]
pub struct Forge {
    root: PathBuf,
    /// The master key, for what a test seals itself.
    pub key: Key,
    nonce: u64,
    packs: Vec<Value>,
    open: Pack,
}

#[derive(Debug, Default)]
struct Pack {
    bytes: Vec<u8>,
    blobs: Vec<Value>,
    header: Vec<u8>,
}

impl Forge {
    /// Makes an empty repository of format 2 with one key.
    #[must_use]
    pub fn create(root: &Path) -> Self {
        for dir in ["keys", "locks", "snapshots", "index", "data"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        let mut forge =
            Self { root: root.to_owned(), key: Self::master_key(), nonce: 0, packs: Vec::new(), open: Pack::default() };
        forge.key_file(1 << 10, 8, 1);
        let config = json!({ "version": 2, "id": "ab".repeat(32), "chunker_polynomial": "2c2dab67f2f4b5" });
        let sealed = forge.seal(config.to_string().as_bytes());
        fs::write(root.join("config"), sealed).unwrap();
        forge
    }

    /// Returns the master key of every forged repository.
    #[must_use]
    pub const fn master_key() -> Key {
        Key { encrypt: [7; 32], mac_k: [8; 16], mac_r: [1; 16] }
    }

    /// Adds a key file; absurd parameters are written as they are, with a key that nothing derives.
    pub fn key_file(&mut self, n: u64, r: u32, p: u32) -> Id {
        let salt = [3u8; 64];
        let mut derived = [0; 64];
        let honest = n.is_power_of_two() && n <= 1 << 15 && r <= 8 && p <= 16;
        if honest {
            let log_n = u8::try_from(n.trailing_zeros()).unwrap();
            let params = scrypt::Params::new(log_n, r, p, 64).unwrap();
            scrypt::scrypt(PASSWORD.as_bytes(), &salt, &params, &mut derived).unwrap();
        }
        let user = Key::from_bytes(&derived);
        let data = user.seal(self.next_nonce(), self.key.to_json().to_string().as_bytes());
        let file = json!({
            "created": "2026-01-01T00:00:00Z", "username": "u", "hostname": "h", "kdf": "scrypt",
            "N": n, "r": r, "p": p, "salt": STANDARD.encode(salt), "data": STANDARD.encode(data),
        });
        self.file(FileKind::Key, file.to_string().as_bytes())
    }

    fn next_nonce(&mut self) -> [u8; 16] {
        self.nonce += 1;
        let mut nonce = [0x5a; 16];
        nonce[..8].copy_from_slice(&self.nonce.to_le_bytes());
        nonce
    }

    /// Encrypts with the master key.
    pub fn seal(&mut self, plain: &[u8]) -> Vec<u8> {
        let nonce = self.next_nonce();
        self.key.seal(nonce, plain)
    }

    /// Writes a file under its own hash.
    pub fn file(&mut self, kind: FileKind, bytes: &[u8]) -> Id {
        let id = Id::hash(bytes);
        let path = self.root.join(kind.path(&id));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
        id
    }

    /// Adds an honest blob to the open pack.
    pub fn blob(&mut self, kind: &str, plain: &[u8]) -> BlobId {
        let id = BlobId(Id::hash(plain));
        self.blob_as(id, kind, plain, None);
        id
    }

    /// Adds a blob under any id, with any claimed length (`Some`: stored as the zstd frame `plain`, claiming so many bytes).
    pub fn blob_as(&mut self, id: BlobId, kind: &str, plain: &[u8], uncompressed: Option<u32>) {
        let sealed = self.seal(plain);
        let (offset, length) = (self.open.bytes.len(), sealed.len());
        let mut entry = json!({ "id": id, "type": kind, "offset": offset, "length": length });
        let tag = u8::from(kind == "tree") + 2 * u8::from(uncompressed.is_some());
        self.open.header.push(tag);
        self.open.header.extend_from_slice(&u32::try_from(length).unwrap().to_le_bytes());
        if let Some(bytes) = uncompressed {
            entry["uncompressed_length"] = bytes.into();
            self.open.header.extend_from_slice(&bytes.to_le_bytes());
        }
        self.open.header.extend_from_slice(id.as_bytes());
        self.open.bytes.extend_from_slice(&sealed);
        self.open.blobs.push(entry);
    }

    /// Adds a tree of these nodes.
    pub fn tree(&mut self, nodes: &[Value]) -> TreeId {
        let mut plain = json!({ "nodes": nodes }).to_string().into_bytes();
        plain.push(b'\n');
        TreeId(self.blob("tree", &plain).0)
    }

    /// Adds a tree of exactly these bytes.
    pub fn tree_bytes(&mut self, plain: &[u8]) -> TreeId {
        TreeId(self.blob("tree", plain).0)
    }

    /// Writes the open pack with its header.
    pub fn finish_pack(&mut self) {
        let pack = std::mem::take(&mut self.open);
        if pack.blobs.is_empty() {
            return;
        }
        let header = self.seal(&pack.header);
        let mut bytes = pack.bytes;
        bytes.extend_from_slice(&header);
        bytes.extend_from_slice(&u32::try_from(header.len()).unwrap().to_le_bytes());
        let id = self.file(FileKind::Pack, &bytes);
        self.packs.push(json!({ "id": id, "blobs": pack.blobs }));
    }

    /// Adds an entry to the index that no pack backs.
    pub fn lie(&mut self, pack: &Value) {
        self.packs.push(pack.clone());
    }

    /// Writes the pack, an index file of all packs, and a snapshot of `tree`; returns the snapshot's id.
    pub fn snapshot(&mut self, tree: TreeId) -> Id {
        self.finish_pack();
        let packs = std::mem::take(&mut self.packs);
        if !packs.is_empty() {
            self.unpacked(FileKind::Index, json!({ "packs": packs }).to_string().as_bytes());
        }
        let snapshot = json!({
            "time": "2026-02-03T04:05:06.789Z", "tree": tree, "paths": ["/data"], "hostname": "host",
            "username": "root", "uid": 0, "gid": 0, "program_version": "forge",
        });
        self.unpacked(FileKind::Snapshot, snapshot.to_string().as_bytes())
    }

    /// Writes an encrypted file of the repository.
    pub fn unpacked(&mut self, kind: FileKind, plain: &[u8]) -> Id {
        let sealed = self.seal(plain);
        self.file(kind, &sealed)
    }
}

/// A regular file of these blobs.
#[must_use]
pub fn file_node(name: &str, size: u64, content: &[BlobId]) -> Value {
    node(name, "file", json!({ "size": size, "content": content }))
}

/// A directory.
#[must_use]
pub fn dir_node(name: &str, subtree: Option<TreeId>) -> Value {
    node(name, "dir", json!({ "subtree": subtree, "mode": 0x8000_01edu32 }))
}

/// A node with `more` over the usual fields.
#[must_use]
pub fn node(name: &str, kind: &str, more: Value) -> Value {
    let mut node = json!({
        "name": name, "type": kind, "mode": 0o644, "mtime": "2026-01-02T03:04:05.678901234Z",
        "atime": "2026-01-02T03:04:05Z", "ctime": "2026-01-02T03:04:05Z", "uid": 0, "gid": 0, "inode": 1,
        "device_id": 1, "links": 1, "content": null,
    });
    for (key, value) in more.as_object().unwrap() {
        node[key] = value.clone();
    }
    node
}

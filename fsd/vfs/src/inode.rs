//! Node ids.
//!
//! A node id is a 64-bit hash of (snapshot, path), or of (snapshot, device, inode) for hard links, so it is the same after
//! a remount; a handle is the node id. The table of ids that the kernel holds ([`table`]) can be resolved by another
//! process: see `docs/design/0001-node-ids.md`.
//!
//! The hash is chained: a child's id is SipHash keyed by its parent's id over its name. A snapshot's directory mixes in the
//! snapshot's id, which the writer of a snapshot does not know before the trees below are fixed, so names that collide
//! cannot be prepared. Collisions that happen all the same are found by the table, and the later one moves to the next id
//! of a fixed sequence.

pub(crate) mod room;
pub mod store;
pub mod table;

use stash_repo::{NodeRef, SnapshotId};

use crate::hash::SipHash;

pub use store::{FileStore, TableStore};
pub use table::{InodeTable, Record};

/// A node id: what the kernel knows an inode by, and `st_ino`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ino(pub u64);

/// What a hash is of, so that equal inputs of different kinds differ.
mod domain {
    pub(super) const CHILD: u64 = 1;
    pub(super) const SNAPSHOT: u64 = 2;
    pub(super) const SNAPSHOT_AT: u64 = 3;
    pub(super) const LINK: u64 = 4;
    pub(super) const LINK_CHECK: u64 = 5;
    pub(super) const PROBE: u64 = 6;
}

impl Ino {
    /// The root's id, set by FUSE.
    pub const ROOT: Self = Self(1);

    /// 0 names nothing in FUSE and 1 is the root.
    const fn of(hash: u64) -> Self {
        if hash <= Self::ROOT.0 { Self(hash + 2) } else { Self(hash) }
    }

    /// Returns the id of a name in a directory whose children are hashed under `seed`.
    pub(crate) fn child(seed: u64, name: &[u8]) -> Self {
        Self::of(SipHash::new(seed, domain::CHILD).bytes(name).finish())
    }

    /// Returns the id that follows in the sequence of ids that a collision tries.
    pub(crate) fn next_probe(self) -> Self {
        Self::of(SipHash::new(self.0, domain::PROBE).finish())
    }
}

/// Returns what hard links of a snapshot are hashed under: the same wherever the snapshot is shown.
pub(crate) fn link_seed(snapshot: &SnapshotId) -> u64 {
    SipHash::new(0, domain::SNAPSHOT).bytes(snapshot.as_bytes()).finish()
}

/// Returns the id of a snapshot's directory, `at` being the id that the name alone has.
pub(crate) fn snapshot_ino(at: Ino, snapshot: &SnapshotId) -> Ino {
    Ino::of(SipHash::new(at.0, domain::SNAPSHOT_AT).bytes(snapshot.as_bytes()).finish())
}

/// The identity of a hard-linked file: its node id, and further bits of the same to tell a collision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) ino: Ino,
    pub(crate) check: u32,
}

impl Link {
    /// Hashes what makes two names one file. Device and inode name the file on the machine that was backed up; content and
    /// times are mixed in because older writers stored no device (then files of two devices may share an inode number),
    /// and because a file that changed between the visits of its two names is two files in the snapshot.
    pub(crate) fn of(seed: u64, node: NodeRef<'_>) -> Self {
        let content = node.content();
        let feed = |domain| {
            let mut hash = SipHash::new(seed, domain)
                .u64(node.device_id())
                .u64(node.inode())
                .u64(node.size())
                .u64(node.rdev())
                .u64(u64::from(node.mode()))
                .u64(content.len() as u64)
                .u64(node.mtime().secs.cast_unsigned())
                .u64(u64::from(node.mtime().nanos))
                .bytes(node.link_target());
            for id in content.first().into_iter().chain(content.last()) {
                hash = hash.bytes(id.as_bytes());
            }
            hash.finish()
        };
        // The upper half: never 0, which says that no check is known.
        let check = u32::try_from(feed(domain::LINK_CHECK) >> 32).unwrap_or_default().max(1);
        Self { ino: Ino::of(feed(domain::LINK)), check }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_ids_are_fixed_for_ever() {
        // A change of any of these numbers changes every inode number of every mount: it needs a design note.
        let snapshot = SnapshotId(stash_repo::Id::hash(b"snapshot"));
        let at = Ino::child(Ino::ROOT.0, b"latest");
        assert_eq!(at, Ino(0xf7ef_7661_58fe_1de3), "{at:x?}");
        let dir = snapshot_ino(at, &snapshot);
        assert_eq!(dir, Ino(0xa293_21e5_9661_856f), "{dir:x?}");
        assert_eq!(link_seed(&snapshot), 0x4382_d7f0_e273_1a98, "{:x}", link_seed(&snapshot));
    }

    #[test]
    fn test_reserved_numbers_are_never_given() {
        assert_eq!(Ino::of(0), Ino(2));
        assert_eq!(Ino::of(1), Ino(3));
        assert_eq!(Ino::of(u64::MAX), Ino(u64::MAX));
    }

    #[test]
    fn test_a_childs_id_depends_on_parent_and_name() {
        let a = Ino::child(1, b"a");
        assert_ne!(a, Ino::child(1, b"b"));
        assert_ne!(a, Ino::child(2, b"a"));
        assert_ne!(a, a.next_probe());
    }
}

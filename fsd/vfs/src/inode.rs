//! Node ids.
//!
//! A node id is a 64-bit hash of (snapshot, path), or of (snapshot, device, inode) for hard links, so it is the same after
//! a remount; a handle is the node id. The table of ids that the kernel holds can be resolved by another process: see
//! `docs/design/`.

/// A node id: what the kernel knows an inode by, and `st_ino`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ino(pub u64);

impl Ino {
    /// The root's id, set by FUSE.
    pub const ROOT: Self = Self(1);
}

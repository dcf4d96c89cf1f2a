//! Directories: restic's tree blobs, decoded into a compact form.
//!
//! A [`Tree`] is what the tree blob's JSON says, sorted by name, without what no reader may see: entries whose name is
//! empty, `.`, `..`, or holds `/` or NUL, and second entries of a name, are left out and counted in [`Tree::rejected`].

use crate::id::{BlobId, TreeId};

/// Seconds and nanoseconds since 1970, as an inode holds them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Timestamp {
    /// Whole seconds, negative before 1970.
    pub secs: i64,
    /// 0 to 999,999,999.
    pub nanos: u32,
}

/// What an entry of a directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NodeKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A block device.
    BlockDevice,
    /// A character device.
    CharDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// One directory: its entries by name.
#[derive(Debug)]
pub struct Tree {}

/// One entry of a [`Tree`].
#[derive(Debug, Clone, Copy)]
pub struct NodeRef<'a> {
    /// The directory.
    pub tree: &'a Tree,
    /// Its place in the order of names.
    pub position: usize,
}

impl Tree {
    /// Returns how many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        todo!()
    }

    /// Returns whether the directory is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the entry at `position` in the order of names.
    #[must_use]
    pub fn get(&self, position: usize) -> Option<NodeRef<'_>> {
        (position < self.len()).then_some(NodeRef { tree: self, position })
    }

    /// Finds an entry by name.
    #[must_use]
    pub fn find(&self, name: &[u8]) -> Option<NodeRef<'_>> {
        let _ = name;
        todo!()
    }

    /// Returns all entries in the order of their names' bytes.
    pub fn iter(&self) -> impl Iterator<Item = NodeRef<'_>> {
        (0..self.len()).map(|position| NodeRef { tree: self, position })
    }

    /// Returns how much memory the tree takes.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        todo!()
    }

    /// Returns how many entries were left out because no filesystem can show them.
    #[must_use]
    pub fn rejected(&self) -> usize {
        todo!()
    }
}

impl<'a> NodeRef<'a> {
    /// Returns the name's bytes (restic quotes them in JSON; these are unquoted).
    #[must_use]
    pub fn name(self) -> &'a [u8] {
        todo!()
    }

    /// Returns what it is.
    #[must_use]
    pub fn kind(self) -> NodeKind {
        todo!()
    }

    /// Returns the permission bits with setuid, setgid and sticky (`0o7777`).
    #[must_use]
    pub fn mode(self) -> u32 {
        todo!()
    }

    /// Returns the owner.
    #[must_use]
    pub fn uid(self) -> u32 {
        todo!()
    }

    /// Returns the group.
    #[must_use]
    pub fn gid(self) -> u32 {
        todo!()
    }

    /// Returns the owner's name as stored, perhaps empty.
    #[must_use]
    pub fn user(self) -> &'a str {
        todo!()
    }

    /// Returns the group's name as stored, perhaps empty.
    #[must_use]
    pub fn group(self) -> &'a str {
        todo!()
    }

    /// Returns the size that the file had when it was stored.
    #[must_use]
    pub fn size(self) -> u64 {
        todo!()
    }

    /// Returns the number of hard links as stored, perhaps 0.
    #[must_use]
    pub fn links(self) -> u64 {
        todo!()
    }

    /// Returns the inode number as stored.
    #[must_use]
    pub fn inode(self) -> u64 {
        todo!()
    }

    /// Returns the id of the filesystem that the inode was on, as stored.
    #[must_use]
    pub fn device_id(self) -> u64 {
        todo!()
    }

    /// Returns the device number of a device node (`st_rdev`, as stored).
    #[must_use]
    pub fn rdev(self) -> u64 {
        todo!()
    }

    /// Returns the time of the last access.
    #[must_use]
    pub fn atime(self) -> Timestamp {
        todo!()
    }

    /// Returns the time of the last change of the content.
    #[must_use]
    pub fn mtime(self) -> Timestamp {
        todo!()
    }

    /// Returns the time of the last change of the inode.
    #[must_use]
    pub fn ctime(self) -> Timestamp {
        todo!()
    }

    /// Returns a file's blobs in order.
    #[must_use]
    pub fn content(self) -> &'a [BlobId] {
        todo!()
    }

    /// Returns a directory's tree; a damaged directory has none.
    #[must_use]
    pub fn subtree(self) -> Option<TreeId> {
        todo!()
    }

    /// Returns where a symbolic link points.
    #[must_use]
    pub fn link_target(self) -> &'a [u8] {
        todo!()
    }

    /// Returns the extended attributes.
    pub fn xattrs(self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        std::iter::empty()
    }
}

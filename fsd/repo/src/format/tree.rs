//! Directories: restic's tree blobs, decoded into a compact form.
//!
//! A [`Tree`] is what the tree blob's JSON says, sorted by name, without what no reader may see: entries whose name is
//! empty, `.`, `..`, holds `/` or NUL or is too long, second entries of a name, entries of a kind that is not known or beyond a
//! limit are left out and counted in [`Tree::rejected`].
//!
//! It lives in six allocations, however many entries there are: a record of 88 bytes for each, one buffer for all names,
//! link targets and attributes, one list of blobs, and tables for what few entries have or most entries share.

mod parse;

use crate::id::{BlobId, TreeId};

pub use parse::parse;

/// The longest name, as Linux 6.17 and later pass them through FUSE (`FUSE_NAME_MAX`, `PATH_MAX` - 1).
pub const NAME_LIMIT_BYTES: usize = 4_095;
/// The longest target of a symbolic link (`PATH_MAX` - 1).
pub const LINK_LIMIT_BYTES: usize = 4_095;
/// The most bytes of extended attributes, names and values, of one entry.
pub const XATTR_LIMIT_BYTES: usize = 1 << 20;
/// The longest name of an extended attribute (`XATTR_NAME_MAX`).
pub const XATTR_NAME_LIMIT_BYTES: usize = 255;
/// The most entries of a directory. [`super::TREE_LIMIT_BYTES`] of what restic writes hold half as many.
pub const ENTRIES_LIMIT: usize = 512 << 10;

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

/// A piece of one of a tree's buffers. A tree's JSON is shorter than 2^32 bytes, and so is everything made of it.
#[derive(Debug, Clone, Copy, Default)]
struct Span {
    at: u32,
    len: u32,
}

impl Span {
    fn of<T>(self, buffer: &[T]) -> &[T] {
        buffer.get(self.at as usize..self.at as usize + self.len as usize).unwrap_or_default()
    }
}

/// What most entries have.
#[derive(Debug, Clone, Copy)]
struct Record {
    size: u64,
    inode: u64,
    secs: [i64; 3],
    nanos: [u32; 3],
    name_at: u32,
    name_len: u16,
    mode: u16,
    /// Into `Tree::owners`.
    owner: u32,
    links: u32,
    /// A file's blobs in `Tree::content`; a directory's tree is the one element of it, if it has one.
    content: Span,
    /// Into `Tree::rare`, or [`NO_RARE`].
    rare: u32,
    kind: NodeKind,
}

/// No entry of `Tree::rare`.
const NO_RARE: u32 = u32::MAX;

/// What the entries of a directory mostly share.
#[derive(Debug, Clone, Copy)]
struct Owner {
    uid: u32,
    gid: u32,
    /// Into `Tree::texts`.
    user: Span,
    group: Span,
    device_id: u64,
}

/// What few entries have.
#[derive(Debug, Clone, Copy, Default)]
struct Rare {
    rdev: u64,
    /// Into `Tree::bytes`.
    link_target: Span,
    /// Into `Tree::xattrs`.
    xattrs: Span,
}

/// An extended attribute; both into `Tree::bytes`.
#[derive(Debug, Clone, Copy)]
struct Xattr {
    name: Span,
    value: Span,
}

/// One directory: its entries by name.
pub struct Tree {
    records: Box<[Record]>,
    bytes: Box<[u8]>,
    texts: Box<str>,
    content: Box<[BlobId]>,
    owners: Box<[Owner]>,
    rare: Box<[Rare]>,
    xattrs: Box<[Xattr]>,
    rejected: usize,
}

impl std::fmt::Debug for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tree").field("len", &self.len()).field("rejected", &self.rejected).finish_non_exhaustive()
    }
}

/// One entry of a [`Tree`].
#[derive(Debug, Clone, Copy)]
pub struct NodeRef<'a> {
    /// The directory.
    pub tree: &'a Tree,
    /// Its place in the order of names.
    pub position: usize,
    record: &'a Record,
}

impl Tree {
    /// Returns how many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Returns whether the directory is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Returns the entry at `position` in the order of names.
    #[must_use]
    pub fn get(&self, position: usize) -> Option<NodeRef<'_>> {
        self.records.get(position).map(|record| NodeRef { tree: self, position, record })
    }

    /// Finds an entry by name.
    #[must_use]
    pub fn find(&self, name: &[u8]) -> Option<NodeRef<'_>> {
        let position = self.records.binary_search_by(|record| self.name(record).cmp(name)).ok()?;
        self.get(position)
    }

    /// Returns all entries in the order of their names' bytes.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = NodeRef<'_>> {
        self.records.iter().enumerate().map(|(position, record)| NodeRef { tree: self, position, record })
    }

    /// Returns how much memory the tree takes.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        size_of::<Self>()
            + size_of_val(&*self.records)
            + self.bytes.len()
            + self.texts.len()
            + size_of_val(&*self.content)
            + size_of_val(&*self.owners)
            + size_of_val(&*self.rare)
            + size_of_val(&*self.xattrs)
    }

    /// Returns how many entries were left out because no filesystem can show them.
    #[must_use]
    pub fn rejected(&self) -> usize {
        self.rejected
    }

    fn name(&self, record: &Record) -> &[u8] {
        Span { at: record.name_at, len: record.name_len.into() }.of(&self.bytes)
    }
}

impl<'a> NodeRef<'a> {
    /// Returns the name's bytes (restic quotes them in JSON; these are unquoted).
    #[must_use]
    pub fn name(self) -> &'a [u8] {
        self.tree.name(self.record)
    }

    /// Returns what it is.
    #[must_use]
    pub fn kind(self) -> NodeKind {
        self.record.kind
    }

    /// Returns the permission bits with setuid, setgid and sticky (`0o7777`).
    #[must_use]
    pub fn mode(self) -> u32 {
        self.record.mode.into()
    }

    fn owner(self) -> Option<&'a Owner> {
        self.tree.owners.get(self.record.owner as usize)
    }

    /// Returns the owner.
    #[must_use]
    pub fn uid(self) -> u32 {
        self.owner().map_or(0, |owner| owner.uid)
    }

    /// Returns the group.
    #[must_use]
    pub fn gid(self) -> u32 {
        self.owner().map_or(0, |owner| owner.gid)
    }

    fn text(self, span: impl Fn(&Owner) -> Span) -> &'a str {
        let Some(span) = self.owner().map(span) else {
            return "";
        };
        self.tree.texts.get(span.at as usize..span.at as usize + span.len as usize).unwrap_or_default()
    }

    /// Returns the owner's name as stored, perhaps empty.
    #[must_use]
    pub fn user(self) -> &'a str {
        self.text(|owner| owner.user)
    }

    /// Returns the group's name as stored, perhaps empty.
    #[must_use]
    pub fn group(self) -> &'a str {
        self.text(|owner| owner.group)
    }

    /// Returns the size that the file had when it was stored; at most `i64::MAX`, whatever its blobs hold.
    #[must_use]
    pub fn size(self) -> u64 {
        self.record.size
    }

    /// Returns the number of hard links as stored, perhaps 0, at most `u32::MAX`.
    #[must_use]
    pub fn links(self) -> u64 {
        self.record.links.into()
    }

    /// Returns the inode number as stored.
    #[must_use]
    pub fn inode(self) -> u64 {
        self.record.inode
    }

    /// Returns the id of the filesystem that the inode was on, as stored.
    #[must_use]
    pub fn device_id(self) -> u64 {
        self.owner().map_or(0, |owner| owner.device_id)
    }

    fn rare(self) -> Option<&'a Rare> {
        self.tree.rare.get(self.record.rare as usize)
    }

    /// Returns the device number of a device node (`st_rdev`, as stored).
    #[must_use]
    pub fn rdev(self) -> u64 {
        self.rare().map_or(0, |rare| rare.rdev)
    }

    fn time(self, which: usize) -> Timestamp {
        Timestamp { secs: self.record.secs[which], nanos: self.record.nanos[which] }
    }

    /// Returns the time of the last access.
    #[must_use]
    pub fn atime(self) -> Timestamp {
        self.time(parse::ATIME)
    }

    /// Returns the time of the last change of the content.
    #[must_use]
    pub fn mtime(self) -> Timestamp {
        self.time(parse::MTIME)
    }

    /// Returns the time of the last change of the inode.
    #[must_use]
    pub fn ctime(self) -> Timestamp {
        self.time(parse::CTIME)
    }

    /// Returns a file's blobs in order; of anything else, none.
    #[must_use]
    pub fn content(self) -> &'a [BlobId] {
        match self.record.kind {
            NodeKind::File => self.record.content.of(&self.tree.content),
            _ => &[],
        }
    }

    /// Returns a directory's tree; a damaged directory has none.
    #[must_use]
    pub fn subtree(self) -> Option<TreeId> {
        match self.record.kind {
            NodeKind::Dir => self.record.content.of(&self.tree.content).first().map(|blob| TreeId(blob.0)),
            _ => None,
        }
    }

    /// Returns where a symbolic link points; empty for anything else.
    #[must_use]
    pub fn link_target(self) -> &'a [u8] {
        self.rare().map_or(&[], |rare| rare.link_target.of(&self.tree.bytes))
    }

    /// Returns the extended attributes, in the order in which they are stored.
    pub fn xattrs(self) -> impl ExactSizeIterator<Item = (&'a [u8], &'a [u8])> {
        let tree = self.tree;
        let xattrs = self.rare().map_or(&[][..], |rare| rare.xattrs.of(&tree.xattrs));
        xattrs.iter().map(|xattr| (xattr.name.of(&tree.bytes), xattr.value.of(&tree.bytes)))
    }
}

#[cfg(test)]
mod tests;

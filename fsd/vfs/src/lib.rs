//! The tree that a reader of a backup sees, without any word of FUSE.
//!
//! * [`namespace`]: which snapshots stand under which names (restic's layouts and templates, `latest`, one snapshot as root).
//! * [`inode`]: node ids that another process can resolve, and the table of those that the kernel holds.
//! * [`attr`]: from a stored node to what `stat` shows.
//! * [`read`] and [`prefetch`]: from (file, offset, length) to bytes, and what to fetch before it is asked for.
//! * [`Vfs`]: the operations. `try_*` answers from memory or not at all and never waits; the async twin does I/O.

pub mod attr;
mod content;
pub mod error;
mod hash;
pub mod inode;
pub mod namespace;
pub mod prefetch;
pub mod read;
mod source;
mod sparse;
#[cfg(test)]
mod testing;
mod vfs;

pub use attr::{Attr, Entry, FileType};
pub use error::{VfsError, VfsResult};
pub use inode::{Ino, InodeTable};
pub use namespace::{NamespaceOptions, Pin};
pub use read::{ReadData, ReadPiece};
pub use vfs::{DirSink, Mounted, StatFs, Vfs, VfsOptions};

//! The adapter between fuser and a tree of `stash-vfs`. This folder is the only place that knows fuser.
//!
//! * [`ReadTree`]: what a mount needs of a tree. `Vfs` implements it; so can a reader that answers from memory, which
//!   measures what FUSE itself costs.
//! * [`adapter`]: one method a FUSE request. What memory holds is answered on the fuser thread; the rest moves, reply
//!   and all, into a task of [`dispatch`], which bounds how many there are, how long they take, and what a panic does.
//! * [`follow`]: the thread that reads requests stays on the processor of the program that it answers.
//! * [`errno`]: the one table from `VfsError` to an errno.
//! * [`inflight`]: which requests were read and not answered, for the process that takes a mount over.
//! * [`session`]: mounting, the recorded INIT exchange, the threads, and the end of it all.
//! * [`mount`], [`mountinfo`]: the system's side: mount(2) or fusermount3, read-ahead, unmounting, without ever calling
//!   stat(2) on a mountpoint, which hangs or fails where a daemon is dead.
//!
//! Invariants: every request is answered exactly once (a reply that is dropped answers EIO); a fuser thread never waits
//! for I/O; a handle is the node id, so that another process can go on with it; nothing is ever written.

pub mod adapter;
mod dispatch;
pub mod errno;
mod follow;
pub mod inflight;
pub mod metrics;
pub mod mount;
pub mod mountinfo;
pub mod session;
mod tree;

pub use adapter::Adapter;
pub use dispatch::DispatchOptions;
pub use inflight::{InFlight, Outstanding};
pub use metrics::{FuseMetrics, Op};
pub use mount::MountError;
pub use session::{Connection, FuseSession, Inheritance, InitExchange, Recovery, SessionOptions};
pub use tree::ReadTree;

/// The type of our mounts in `/proc/self/mountinfo`.
pub const FS_TYPE: &str = "fuse.stash-fs";

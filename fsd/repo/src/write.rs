//! Writing repositories: backup, forget, prune, copy, check, keys and tags, by `rustic_core` under restic's locks.
//!
//! `rustic_core` does what it does well: chunking, packing, indexing, the plans of prune and copy. What it lacks is here:
//!
//! * [`Access`]: an opened repository, for files that we read and write ourselves (locks, snapshots, keys).
//! * [`Session`]: one piece of work by `rustic_core` on threads of its own, under a lock, that can be stopped.
//! * `adapter` and `gate`: our backend as `rustic_core`'s. Nothing is written or removed once the gate is shut: by a stop,
//!   by a lock that was lost, by the first write that failed. Snapshots of a backup never pass: see [`backup`].
//! * [`source`]: what a backup reads, with every entry that it could not read named.
//!
//! Invariants: a snapshot is written last, after every pack and index file that it needs is durable, and only if every
//! entry that it claims was read whole. Files are removed only under an exclusive lock, and only after all that replaces
//! them is durable. `rustic_core`'s own readers are not made for hostile repositories: this module is for commands and
//! jobs that hold the repository's key anyway, never for a daemon.

mod access;
mod adapter;
mod gate;
mod overlay;
mod packing;
mod progress;
mod session;
pub(crate) mod users;

pub mod backup;
pub mod catalog;
pub mod check;
pub mod copy;
pub mod init;
pub mod key;
pub mod policy;
pub mod prune;
pub mod snapshots;
pub mod source;
pub mod wipe;

pub use access::Access;
pub use overlay::{Compression, PackOptions};
pub use progress::{Meter, NoProgress, ProgressSink, Unit};
pub use session::Session;
pub use users::current_name as current_user;

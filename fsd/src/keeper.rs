//! The keeper: a small process that holds what a mount must not lose, so that the daemon that serves it may die.
//!
//! A FUSE mount lives as long as its `/dev/fuse` is open somewhere. The keeper has it open, with the tables in which the
//! daemon notes what the kernel knows (inodes, requests in flight) and a sealed file of what the next daemon needs (keys,
//! what was agreed with the kernel). After the daemon's end the next one gets all of it and goes on; a reader has only waited.
//! After the keeper's end the daemon fills a new one. What both were asked for is in `docs/design/0010-keeper.md`.
//!
//! * [`message`]: what is said, pure; [`socket`]: how it is sent, with descriptors, in bounded packets.
//! * [`held`]: what the keeper holds, and what becomes of it when.
//! * [`place`]: from a typed place to a directory, below a base, never through a symbolic link.
//! * [`overlay`]: volumes that can be written: overlayfs over a mount, and bounded scratch space.
//! * [`run`]: the keeper's loop: one thread, no network, nothing on disk but scratch space; [`work`]: what blocks, beside it.
//! * [`restart`]: when a daemon that ended is started again; pure.
//! * [`link`]: the daemon's side.
//!
//! Invariants: the keeper opens nothing that is named by a peer but places; it never waits for a peer; whatever is received,
//! it goes on. It holds secrets and looks at none.

pub mod held;
pub mod link;
pub mod message;
pub mod overlay;
pub mod place;
pub mod restart;
pub mod run;
pub mod socket;
pub mod work;

pub use link::{Kept, Link, LinkError, Reach};
pub use message::{Place, SessionName};

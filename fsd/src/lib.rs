//! The `stash-fs` program: the FUSE adapter and the command line over `stash-vfs` and `stash-repo`.

pub mod cli;
pub mod filter;
pub mod fuse;
pub mod restore;
pub mod telemetry;
pub mod walk;

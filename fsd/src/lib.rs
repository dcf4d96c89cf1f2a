//! The `stash-fs` program: the FUSE adapter and the command line over `stash-vfs` and `stash-repo`.

pub mod access;
pub mod cli;
pub mod daemon;
pub mod filter;
pub mod fuse;
mod jobs;
pub mod keeper;
pub mod kept;
pub mod restore;
mod stats;
pub mod telemetry;
pub mod walk;

//! Bounded parsers of what a repository, which may be hostile, holds. No I/O here.

pub mod snapshot;
pub mod tree;

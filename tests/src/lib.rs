//! The harness: servers, mounts, forged repositories and trees that the suites and the benchmark share.
//!
//! A harness fails by panicking, with a message that says what it did.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, clippy::missing_panics_doc, reason = "see above")]

pub mod big_index;
pub mod cluster;
pub mod controller;
pub mod csi;
pub mod engine;
pub mod faulty_fs;
pub mod fixture;
pub mod forge;
pub mod kept;
pub mod kernel_caches;
pub mod memory_tree;
pub mod mounted;
pub mod reference;
pub mod restic;
pub mod servers;
pub mod shop;
pub mod small_disk;
pub mod tree_reader;

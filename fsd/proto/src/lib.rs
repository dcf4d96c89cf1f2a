//! What `stash-fs` promises the programs that start it: pure types and functions, without I/O.
//!
//! * [`job`]: what a Kubernetes Job is told to do, and what it reports.
//! * [`units`]: sizes and durations as restic's flags have them.
//!
//! This crate knows no repository and no Kubernetes: a controller checks here, before anything runs, what a Job will take.

#![warn(missing_docs)]

pub mod job;
pub mod units;

//! The controller: Repositories, BackupConfigurations, BackupSessions and RestoreSessions of Stash's API, and the Jobs that do the work.
//!
//! # How an object is looked after
//!
//! The watches ([`watches`]) fill one store a kind and wake what depends on an object that changed. A reconciler then gathers what is
//! known (`observe`), decides what to do and what to say (`plan`: pure, with the time as an argument), and does it (`apply`). What is
//! made has names that are functions of what it is made for, and the status is written last and only over the version that was decided
//! on. So it does not matter when the process is stopped: what was not written down is decided again, and finds what was done.
//!
//! # What must always hold
//!
//! * A session of a time is made once: its name is of the configuration and the time.
//! * Nothing waits for ever: a session that is late is ended, its Jobs with it; a Job that vanished is a failure with a name.
//! * Credentials go from a Repository's Secret to a Job's own Secret, and nowhere else.
//! * The workload is not touched: backups mount claims read-only, and nobody's pods are changed.
//! * No path that comes from a Repository is opened here: a repository that is a volume is read through a pod that mounts it ([`access`]).
//! * A deletion is never held up, but for data that is to go with a Repository: that says what it waits for, and can be let go at once.

pub mod access;
pub mod admin;
mod args;
pub mod backup_configuration;
pub mod backup_session;
pub mod beside_stash;
pub mod clock;
pub mod conditions;
pub mod context;
pub mod errors;
pub mod executor;
pub mod go_duration;
pub mod hooks;
pub mod jobs;
pub mod lease;
pub mod metrics;
pub mod names;
pub mod parts;
pub mod pauses;
pub mod plan;
pub mod progress;
pub mod rbac;
pub mod repository;
pub mod restore_session;
pub mod rights;
mod run;
pub mod schedule;
pub mod secrets;
pub mod snapshot;
pub mod spec;
pub mod stores;
mod telemetry;
pub mod units;
pub mod volume_snapshots;
pub mod wake;
pub mod watches;
pub mod workload;

pub use args::Args;
pub use run::run;

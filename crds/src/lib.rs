//! Stash's Kubernetes API: the types, schemas and rules of its 11 kinds, and what a Repository's fields mean to all who use it
//! ([`access`], [`location`], [`usage_policy`]: pure). No behaviour, and no client.
//!
//! Groups, versions, names, fields, defaults, conditions and reasons are those of Stash v2025.7.31; fields of ours are optional and
//! say so. [`definitions`] are what is installed; the program `crdgen` writes them to `deploy/crds`.
//!
//! # Who refuses what
//!
//! **The schema refuses**, so that there is no webhook which could fail: values that no enum names, lists and texts beyond their
//! bounds, and by rules in CEL all that Stash's webhooks check and what they should have checked. `docs/compatibility.md` lists the
//! rules.
//!
//! **The types accept.** A watch delivers what etcd holds, and one object that cannot be read stops the list of its kind. So an unknown
//! value of an enum is kept as `Other`, an absent spec is an empty one, numbers saturate, quantities and durations are texts until
//! somebody needs them, and senseless parts of a status are absent. Who watches should wrap the types in
//! [`kube::core::DeserializeGuard`] all the same: it turns what is left, as text where an object should be, into one object's error.

#![warn(missing_docs)]

pub mod access;
pub mod app_binding;
pub mod backend;
pub mod backup_batch;
pub mod backup_blueprint;
pub mod backup_configuration;
pub mod backup_session;
pub mod conditions;
mod core_schema;
mod definition;
pub mod function;
pub mod hooks;
pub mod labels;
pub mod location;
pub mod names;
pub mod reasons;
pub mod reference;
pub mod repository;
pub mod restore_batch;
pub mod restore_session;
pub mod retention;
mod rules;
pub mod runtime_settings;
pub mod schedule;
pub mod snapshot;
mod string_enum;
pub mod target;
pub mod task;
mod tolerant;
pub mod usage_policy;
pub mod volumes;

pub use app_binding::{AppBinding, AppBindingSpec};
pub use backend::Backend;
pub use backup_batch::{BackupBatch, BackupBatchSpec, BackupBatchStatus};
pub use backup_blueprint::{BackupBlueprint, BackupBlueprintSpec};
pub use backup_configuration::{BackupConfiguration, BackupConfigurationSpec, BackupConfigurationStatus};
pub use backup_session::{BackupSession, BackupSessionSpec, BackupSessionStatus};
pub use conditions::Condition;
pub use definition::{definitions, file_name, yaml};
pub use function::{Function, FunctionSpec};
pub use repository::{Repository, RepositorySpec, RepositoryStatus};
pub use restore_batch::{RestoreBatch, RestoreBatchSpec, RestoreBatchStatus};
pub use restore_session::{RestoreSession, RestoreSessionSpec, RestoreSessionStatus};
pub use snapshot::{Snapshot, SnapshotSpec, SnapshotStatus};
pub use task::{Task, TaskSpec};

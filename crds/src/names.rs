//! Labels, annotations and finalizers that Stash puts on objects, and those that are ours.

/// The API group of most kinds.
pub const GROUP: &str = "stash.appscode.com";
/// The API group of Snapshot.
pub const SNAPSHOT_GROUP: &str = "repositories.stash.appscode.com";
/// The API group of AppBinding.
pub const CATALOG_GROUP: &str = "appcatalog.appscode.com";

/// Finalizer of a Repository.
pub const REPOSITORY_FINALIZER: &str = "stash";
/// Finalizer of BackupConfiguration, BackupBatch, RestoreSession and RestoreBatch.
pub const INVOKER_FINALIZER: &str = "stash.appscode.com";

/// Label: what an object is for.
pub const COMPONENT_LABEL: &str = "app.kubernetes.io/component";
/// Value of [`COMPONENT_LABEL`] on what backs up.
pub const COMPONENT_BACKUP: &str = "stash-backup";
/// Value of [`COMPONENT_LABEL`] on what restores.
pub const COMPONENT_RESTORE: &str = "stash-restore";
/// Label: who manages an object.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// Value of [`MANAGED_BY_LABEL`].
pub const MANAGED_BY: &str = "stash.appscode.com";

/// Label of a BackupSession: the kind that asked for it.
pub const INVOKER_TYPE_LABEL: &str = "stash.appscode.com/invoker-type";
/// Label of a BackupSession: the name of the object that asked for it.
pub const INVOKER_NAME_LABEL: &str = "stash.appscode.com/invoker-name";
/// Label of a BackupSession: the kind of its target.
pub const TARGET_KIND_LABEL: &str = "stash.appscode.com/target-kind";
/// Label of a BackupSession: the name of its target.
pub const TARGET_NAME_LABEL: &str = "stash.appscode.com/target-name";
/// Label of a BackupSession: the namespace of its target.
pub const TARGET_NAMESPACE_LABEL: &str = "stash.appscode.com/target-namespace";

/// Label of a Snapshot: its Repository.
pub const SNAPSHOT_REPOSITORY_LABEL: &str = "repository";
/// Label of a Snapshot: its host.
pub const SNAPSHOT_HOSTNAME_LABEL: &str = "hostname";

/// Annotation of a target: the BackupBlueprint by which it is backed up.
pub const BACKUP_BLUEPRINT_ANNOTATION: &str = "stash.appscode.com/backup-blueprint";
/// Annotation of a target: the schedule instead of the blueprint's.
pub const SCHEDULE_ANNOTATION: &str = "stash.appscode.com/schedule";
/// Annotation of a target: the paths, separated by commas.
pub const TARGET_PATHS_ANNOTATION: &str = "stash.appscode.com/target-paths";
/// Annotation of a target: `volume:mountPath[:subPath]`, separated by commas.
pub const VOLUME_MOUNTS_ANNOTATION: &str = "stash.appscode.com/volume-mounts";
/// Start of annotations of a target that set a Task's variables.
pub const PARAMS_ANNOTATION_PREFIX: &str = "params.stash.appscode.com/";

/// Annotation of a Repository, ours: more than 20 deletions of Snapshots within a minute forget only with it.
pub const CONFIRM_FORGET_ANNOTATION: &str = "stash.appscode.com/confirm-forget";

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

/// Finalizer of a Snapshot, ours: with it a deletion can be told from one that the mirror does.
pub const SNAPSHOT_FINALIZER: &str = "stash.appscode.com/forget";
/// Annotation of a Snapshot, ours: its Repository, whose name may be longer than a label's value.
pub const SNAPSHOT_REPOSITORY_ANNOTATION: &str = "stash.appscode.com/repository";
/// Annotation of a Snapshot, ours: its id, which is longer than a label's value.
pub const SNAPSHOT_ID_ANNOTATION: &str = "stash.appscode.com/snapshot-id";

/// Annotation of a Repository, ours: with the value `true` the data stays when the object is deleted, whatever `wipeOut` says.
pub const KEEP_DATA_ANNOTATION: &str = "stash.appscode.com/keep-data";
/// Annotation of a Repository, ours: more than 20 deletions of Snapshots within a minute forget only with it. Its value is not
/// read, and it is taken off when they are forgotten.
pub const CONFIRM_FORGET_ANNOTATION: &str = "stash.appscode.com/confirm-forget";

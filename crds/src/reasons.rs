//! Reasons of conditions, as Stash writes them. Those of a condition stand together: true, false, unknown.

/// `RepositoryFound` is true.
pub const REPOSITORY_AVAILABLE: &str = "RepositoryAvailable";
/// `RepositoryFound` is false: it does not exist, or is being deleted.
pub const REPOSITORY_NOT_AVAILABLE: &str = "RepositoryNotAvailable";
/// `RepositoryFound` is unknown.
pub const UNABLE_TO_CHECK_REPOSITORY_AVAILABILITY: &str = "UnableToCheckRepositoryAvailability";

/// `BackendSecretFound` is true.
pub const BACKEND_SECRET_AVAILABLE: &str = "BackendSecretAvailable";
/// `BackendSecretFound` is false.
pub const BACKEND_SECRET_NOT_AVAILABLE: &str = "BackendSecretNotAvailable";
/// `BackendSecretFound` is unknown.
pub const UNABLE_TO_CHECK_BACKEND_SECRET_AVAILABILITY: &str = "UnableToCheckBackendSecretAvailability";

/// `ValidationPassed` is true.
pub const RESOURCE_VALIDATION_PASSED: &str = "ResourceValidationPassed";
/// `ValidationPassed` is false.
pub const RESOURCE_VALIDATION_FAILED: &str = "ResourceValidationFailed";

/// `BackupTargetFound` or `RestoreTargetFound` is true.
pub const TARGET_AVAILABLE: &str = "TargetAvailable";
/// `BackupTargetFound` or `RestoreTargetFound` is false.
pub const TARGET_NOT_AVAILABLE: &str = "TargetNotAvailable";
/// `BackupTargetFound` or `RestoreTargetFound` is unknown.
pub const UNABLE_TO_CHECK_TARGET_AVAILABILITY: &str = "UnableToCheckTargetAvailability";

/// `StashSidecarInjected` is true.
pub const SIDECAR_INJECTION_SUCCEEDED: &str = "SidecarInjectionSucceeded";
/// `StashSidecarInjected` is false.
pub const SIDECAR_INJECTION_FAILED: &str = "SidecarInjectionFailed";

/// `StashInitContainerInjected` is true.
pub const INIT_CONTAINER_INJECTION_SUCCEEDED: &str = "InitContainerInjectionSucceeded";
/// `StashInitContainerInjected` is false.
pub const INIT_CONTAINER_INJECTION_FAILED: &str = "InitContainerInjectionFailed";

/// `CronJobCreated` is true.
pub const CRON_JOB_CREATION_SUCCEEDED: &str = "CronJobCreationSucceeded";
/// `CronJobCreated` is false.
pub const CRON_JOB_CREATION_FAILED: &str = "CronJobCreationFailed";

/// `BackendRepositoryInitialized` is true.
pub const BACKEND_REPOSITORY_FOUND: &str = "BackendRepositoryFound";
/// `BackendRepositoryInitialized` is false.
pub const FAILED_TO_INITIALIZE_BACKEND_REPOSITORY: &str = "FailedToInitializeBackendRepository";

/// `RetentionPolicyApplied` is true.
pub const SUCCESSFULLY_APPLIED_RETENTION_POLICY: &str = "SuccessfullyAppliedRetentionPolicy";
/// `RetentionPolicyApplied` is false.
pub const FAILED_TO_APPLY_RETENTION_POLICY: &str = "FailedToApplyRetentionPolicy";

/// `RepositoryIntegrityVerified` is true.
pub const SUCCESSFULLY_VERIFIED_REPOSITORY_INTEGRITY: &str = "SuccessfullyVerifiedRepositoryIntegrity";
/// `RepositoryIntegrityVerified` is false.
pub const FAILED_TO_VERIFY_REPOSITORY_INTEGRITY: &str = "FailedToVerifyRepositoryIntegrity";

/// `RepositoryMetricsPushed` is true.
pub const SUCCESSFULLY_PUSHED_REPOSITORY_METRICS: &str = "SuccessfullyPushedRepositoryMetrics";
/// `RepositoryMetricsPushed` is false.
pub const FAILED_TO_PUSH_REPOSITORY_METRICS: &str = "FailedToPushRepositoryMetrics";

/// `GlobalPreBackupHookSucceeded` is true.
pub const GLOBAL_PRE_BACKUP_HOOK_EXECUTED_SUCCESSFULLY: &str = "GlobalPreBackupHookExecutedSuccessfully";
/// `GlobalPreBackupHookSucceeded` is false.
pub const GLOBAL_PRE_BACKUP_HOOK_EXECUTION_FAILED: &str = "GlobalPreBackupHookExecutionFailed";

/// `GlobalPostBackupHookSucceeded` is true.
pub const GLOBAL_POST_BACKUP_HOOK_EXECUTED_SUCCESSFULLY: &str = "GlobalPostBackupHookExecutedSuccessfully";
/// `GlobalPostBackupHookSucceeded` is false.
pub const GLOBAL_POST_BACKUP_HOOK_EXECUTION_FAILED: &str = "GlobalPostBackupHookExecutionFailed";

/// `BackupSkipped` is true.
pub const SKIPPED_TAKING_NEW_BACKUP: &str = "SkippedTakingNewBackup";

/// `BackupHistoryCleaned` is true.
pub const SUCCESSFULLY_CLEANED_BACKUP_HISTORY: &str = "SuccessfullyCleanedBackupHistory";
/// `BackupHistoryCleaned` is false.
pub const FAILED_TO_CLEAN_BACKUP_HISTORY: &str = "FailedToCleanBackupHistory";

/// `MetricsPushed` is true.
pub const SUCCESSFULLY_PUSHED_METRICS: &str = "SuccessfullyPushedMetrics";
/// `MetricsPushed` is false.
pub const FAILED_TO_PUSH_METRICS: &str = "FailedToPushMetrics";

/// `DeadlineExceeded` is true.
pub const FAILED_TO_COMPLETE_WITHIN_DEADLINE: &str = "FailedToCompleteWithinDeadline";

/// `BackupExecutorEnsured` is true.
pub const SUCCESSFULLY_ENSURED_BACKUP_EXECUTOR: &str = "SuccessfullyEnsuredBackupExecutor";
/// `BackupExecutorEnsured` is false.
pub const FAILED_TO_ENSURE_BACKUP_EXECUTOR: &str = "FailedToEnsureBackupExecutor";

/// `PreBackupHookExecutionSucceeded` is true.
pub const SUCCESSFULLY_EXECUTED_PRE_BACKUP_HOOK: &str = "SuccessfullyExecutedPreBackupHook";
/// `PreBackupHookExecutionSucceeded` is false.
pub const FAILED_TO_EXECUTE_PRE_BACKUP_HOOK: &str = "FailedToExecutePreBackupHook";

/// `PostBackupHookExecutionSucceeded` is true.
pub const SUCCESSFULLY_EXECUTED_POST_BACKUP_HOOK: &str = "SuccessfullyExecutedPostBackupHook";
/// `PostBackupHookExecutionSucceeded` is false.
pub const FAILED_TO_EXECUTE_POST_BACKUP_HOOK: &str = "FailedToExecutePostBackupHook";

/// `BackupDisrupted` is true.
pub const FAILED_TO_COMPLETE_DUE_TO_DISRUPTION: &str = "FailedToCompleteDueToDisruption";

/// `RestoreExecutorEnsured` is true.
pub const SUCCESSFULLY_ENSURED_RESTORE_EXECUTOR: &str = "SuccessfullyEnsuredRestoreExecutor";
/// `RestoreExecutorEnsured` is false.
pub const FAILED_TO_ENSURE_RESTORE_EXECUTOR: &str = "FailedToEnsureRestoreExecutor";

/// `RestoreJobCreated` is true.
pub const RESTORE_JOB_CREATION_SUCCEEDED: &str = "RestoreJobCreationSucceeded";
/// `RestoreJobCreated` is false.
pub const RESTORE_JOB_CREATION_FAILED: &str = "RestoreJobCreationFailed";

/// `RestoreCompleted` is true.
pub const POST_RESTORE_TASKS_EXECUTED: &str = "PostRestoreTasksExecuted";
/// `RestoreCompleted` is false.
pub const POST_RESTORE_TASKS_NOT_EXECUTED: &str = "PostRestoreTasksNotExecuted";

/// `PreRestoreHookExecutionSucceeded` is true.
pub const SUCCESSFULLY_EXECUTED_PRE_RESTORE_HOOK: &str = "SuccessfullyExecutedPreRestoreHook";
/// `PreRestoreHookExecutionSucceeded` is false.
pub const FAILED_TO_EXECUTE_PRE_RESTORE_HOOK: &str = "FailedToExecutePreRestoreHook";

/// `PostRestoreHookExecutionSucceeded` is true.
pub const SUCCESSFULLY_EXECUTED_POST_RESTORE_HOOK: &str = "SuccessfullyExecutedPostRestoreHook";
/// `PostRestoreHookExecutionSucceeded` is false.
pub const FAILED_TO_EXECUTE_POST_RESTORE_HOOK: &str = "FailedToExecutePostRestoreHook";

/// `GlobalPreRestoreHookSucceeded` is true.
pub const GLOBAL_PRE_RESTORE_HOOK_EXECUTED_SUCCESSFULLY: &str = "GlobalPreRestoreHookExecutedSuccessfully";
/// `GlobalPreRestoreHookSucceeded` is false.
pub const GLOBAL_PRE_RESTORE_HOOK_EXECUTION_FAILED: &str = "GlobalPreRestoreHookExecutionFailed";

/// `GlobalPostRestoreHookSucceeded` is true.
pub const GLOBAL_POST_RESTORE_HOOK_EXECUTED_SUCCESSFULLY: &str = "GlobalPostRestoreHookExecutedSuccessfully";
/// `GlobalPostRestoreHookSucceeded` is false.
pub const GLOBAL_POST_RESTORE_HOOK_EXECUTION_FAILED: &str = "GlobalPostRestoreHookExecutionFailed";

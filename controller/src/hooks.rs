//! Hooks: what is called before and after a backup or a restore.
//!
//! What a hook asks for is read once ([`call`]), and refused by name in `ValidationPassed` where it cannot be done. The controller itself
//! calls: a command through the API server ([`exec`]), a request or a connection from its own address ([`network`]). A hook that acts on
//! the target's pods is called once for each host ([`pods`]), others once.
//!
//! A hook runs as a task of its own ([`runner`]), so that no session waits for another's. Its condition says `Unknown` before it begins,
//! and how it ended after; between the two its outcome is in memory only. A controller that finds `Unknown` and knows nothing of the task
//! calls the hook again: it is called at least once, and its condition says if it may have been more.

use std::time::Duration;

use kube::Resource;
use stash_crds::conditions as aspects;
use stash_crds::hooks::{BackupExecutionPolicy, Hook, RestoreExecutionPolicy};
use stash_crds::{BackupConfiguration, RestoreSession, reasons};

use crate::go_duration;
use crate::repository::backend::AddressRule;
use call::Call;

pub mod call;
pub mod exec;
pub mod network;
pub mod perform;
pub mod pods;
pub mod runner;
pub mod summary;
pub mod template;

/// Annotation of a configuration, ours: how long a hook may take.
pub const TIMEOUT_ANNOTATION: &str = "stash.appscode.com/hook-timeout";
/// How long a hook may take where nothing says it: as long as Stash waits for a server.
pub const TIMEOUT: Duration = Duration::from_secs(300);

/// Reason of an `Unknown` condition, ours: the hook was started.
pub const STARTED: &str = "HookStarted";
/// The same; a controller that was stopped had started it before.
pub const STARTED_AGAIN: &str = "HookStartedAgain";

/// When a hook is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Point {
    /// Before the backup.
    PreBackup,
    /// After it.
    PostBackup,
    /// Before a restore.
    PreRestore,
    /// After it.
    PostRestore,
}

impl Point {
    /// Returns the name of its field.
    pub fn field(self) -> &'static str {
        match self {
            Self::PreBackup => "preBackup",
            Self::PostBackup => "postBackup",
            Self::PreRestore => "preRestore",
            Self::PostRestore => "postRestore",
        }
    }

    /// Returns the condition that tells of it.
    pub fn aspect(self) -> &'static str {
        match self {
            Self::PreBackup => aspects::PRE_BACKUP_HOOK_EXECUTION_SUCCEEDED,
            Self::PostBackup => aspects::POST_BACKUP_HOOK_EXECUTION_SUCCEEDED,
            Self::PreRestore => aspects::PRE_RESTORE_HOOK_EXECUTION_SUCCEEDED,
            Self::PostRestore => aspects::POST_RESTORE_HOOK_EXECUTION_SUCCEEDED,
        }
    }

    /// Returns the condition's reasons: when it succeeded, and when it did not.
    pub fn reasons(self) -> (&'static str, &'static str) {
        match self {
            Self::PreBackup => {
                (reasons::SUCCESSFULLY_EXECUTED_PRE_BACKUP_HOOK, reasons::FAILED_TO_EXECUTE_PRE_BACKUP_HOOK)
            }
            Self::PostBackup => {
                (reasons::SUCCESSFULLY_EXECUTED_POST_BACKUP_HOOK, reasons::FAILED_TO_EXECUTE_POST_BACKUP_HOOK)
            }
            Self::PreRestore => {
                (reasons::SUCCESSFULLY_EXECUTED_PRE_RESTORE_HOOK, reasons::FAILED_TO_EXECUTE_PRE_RESTORE_HOOK)
            }
            Self::PostRestore => {
                (reasons::SUCCESSFULLY_EXECUTED_POST_RESTORE_HOOK, reasons::FAILED_TO_EXECUTE_POST_RESTORE_HOOK)
            }
        }
    }

    /// Returns the hook that a configuration has there.
    pub fn hook(self, configuration: &BackupConfiguration) -> Option<&Hook> {
        let hooks = configuration.spec.hooks.as_ref()?;
        match self {
            Self::PreBackup => hooks.pre_backup.as_ref(),
            Self::PostBackup => hooks.post_backup.as_ref().map(|post| &post.hook),
            Self::PreRestore | Self::PostRestore => None,
        }
    }

    /// Returns the hook that a RestoreSession has there.
    pub fn restore_hook(self, session: &RestoreSession) -> Option<&Hook> {
        let hooks = session.spec.hooks.as_ref()?;
        match self {
            Self::PreRestore => hooks.pre_restore.as_ref(),
            Self::PostRestore => hooks.post_restore.as_ref().map(|post| &post.hook),
            Self::PreBackup | Self::PostBackup => None,
        }
    }
}

/// Returns after which outcomes a RestoreSession's post hook is called.
pub fn restore_policy(session: &RestoreSession) -> RestoreExecutionPolicy {
    let post = session.spec.hooks.as_ref().and_then(|hooks| hooks.post_restore.as_ref());
    post.map(|post| post.execution_policy.clone()).unwrap_or_default()
}

/// Returns after which outcomes a configuration's post hook is called.
pub fn policy(configuration: &BackupConfiguration) -> BackupExecutionPolicy {
    let post = configuration.spec.hooks.as_ref().and_then(|hooks| hooks.post_backup.as_ref());
    post.map(|post| post.execution_policy.clone()).unwrap_or_default()
}

/// Returns how long a hook of a configuration or a RestoreSession may take.
///
/// # Errors
///
/// Its annotation cannot be read: a sentence for the user.
pub fn time_limit<K: Resource>(object: &K) -> Result<Duration, String> {
    let annotations = object.meta().annotations.as_ref();
    match annotations.and_then(|annotations| annotations.get(TIMEOUT_ANNOTATION)) {
        Some(text) => {
            go_duration::parse(text.trim()).map_err(|problem| format!("the annotation {TIMEOUT_ANNOTATION}: {problem}"))
        }
        None => Ok(TIMEOUT),
    }
}

/// Returns what the hooks of a configuration ask for and cannot be done, a sentence each.
pub fn problems(configuration: &BackupConfiguration, addresses: &AddressRule) -> Vec<String> {
    let mut problems = Vec::new();
    for point in [Point::PreBackup, Point::PostBackup] {
        if let Some(Err(found)) = point.hook(configuration).map(|hook| Call::read(hook, addresses)) {
            problems.extend(found.into_iter().map(|problem| format!("spec.hooks.{}: {problem}", point.field())));
        }
    }
    if let BackupExecutionPolicy::Other(other) = policy(configuration) {
        problems.push(format!("spec.hooks.postBackup.executionPolicy: {other} is not known"));
    }
    if let Err(problem) = time_limit(configuration) {
        problems.push(problem);
    }
    problems
}

/// Returns what the hooks of a RestoreSession ask for and cannot be done, a sentence each.
pub fn restore_problems(session: &RestoreSession, addresses: &AddressRule) -> Vec<String> {
    let mut problems = Vec::new();
    for point in [Point::PreRestore, Point::PostRestore] {
        if let Some(Err(found)) = point.restore_hook(session).map(|hook| Call::read(hook, addresses)) {
            problems.extend(found.into_iter().map(|problem| format!("spec.hooks.{}: {problem}", point.field())));
        }
    }
    if let RestoreExecutionPolicy::Other(other) = restore_policy(session) {
        problems.push(format!("spec.hooks.postRestore.executionPolicy: {other} is not known"));
    }
    problems.extend(time_limit(session).err());
    problems
}

/// Whether a reason says that a hook was started and not yet how it ended.
pub fn is_started(reason: &str) -> bool {
    reason == STARTED || reason == STARTED_AGAIN
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn configuration(hooks: Value, timeout: Option<&str>) -> BackupConfiguration {
        let annotations = timeout.map(|timeout| json!({ TIMEOUT_ANNOTATION: timeout }));
        serde_json::from_value(json!({"metadata": {"annotations": annotations}, "spec": {"hooks": hooks}})).unwrap()
    }

    #[test]
    fn test_what_cannot_be_called_is_named_with_its_field() {
        let rule = AddressRule::default();
        let fine = json!({"tcpSocket": {"port": 80, "host": "db.shop.svc"}});
        for (hooks, timeout, expected) in [
            (json!({}), None, vec![]),
            (json!({"preBackup": fine, "postBackup": fine}), Some("1h"), vec![]),
            (json!({"preBackup": {}}), None, vec!["spec.hooks.preBackup: a hook has exactly one action"]),
            (
                json!({"preBackup": fine, "postBackup": {"exec": {"command": ["{{ .Nam }}"]}}}),
                None,
                vec!["spec.hooks.postBackup: exec.command[0]: template: there is no .Nam;"],
            ),
            (
                json!({"postBackup": {"tcpSocket": {"port": 80, "host": "a"}, "executionPolicy": "Sometimes"}}),
                None,
                vec!["spec.hooks.postBackup.executionPolicy: Sometimes is not known"],
            ),
            (json!({}), Some("soon"), vec!["the annotation stash.appscode.com/hook-timeout: \"soon\""]),
        ] {
            let found = problems(&configuration(hooks.clone(), timeout), &rule);
            assert_eq!(found.len(), expected.len(), "{hooks}: {found:?}");
            for (found, expected) in found.iter().zip(expected) {
                assert!(found.starts_with(expected), "{found}");
            }
        }
    }

    #[test]
    fn test_hooks_have_a_time_limit() {
        assert_eq!(time_limit(&configuration(json!({}), None)), Ok(Duration::from_secs(300)));
        assert_eq!(time_limit(&configuration(json!({}), Some(" 1h "))), Ok(Duration::from_secs(3600)));
    }
}

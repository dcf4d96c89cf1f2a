//! Names, hosts and labels of what the controller makes: functions of what they are made for, so that a replay finds them.
//!
//! They are Stash's where Stash has them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use stash_crds::labels::cut_middle;
pub use stash_crds::labels::{LIMIT, backup_labels, cut63, session_labels};
use stash_crds::names as labels;

/// Returns the name of the session that `invoker` begins at `time`: `<invoker>-<unix seconds>`. A name that is cut has a hash, so that
/// two that are equal at both ends are told apart.
pub fn session(invoker: &str, time: Timestamp) -> String {
    let suffix = format!("-{}", time.as_second());
    let limit = LIMIT.saturating_sub(suffix.len());
    let own = if invoker.len() > limit { cut_with_hash(invoker, invoker, limit) } else { cut_middle(invoker, limit) };
    format!("{own}{suffix}")
}

/// Returns a name of at most `limit` characters that ends in a hash of what tells it from others.
fn cut_with_hash(name: &str, distinct: &str, limit: usize) -> String {
    let suffix = format!("-{}", short_hash(distinct));
    format!("{}{suffix}", cut_middle(name, limit.saturating_sub(suffix.len())))
}

/// Returns the name of the Job that backs up a member's host within `session`; `ordinal` is the host's, where a target has several.
pub fn backup_job(session: &str, member: usize, ordinal: Option<usize>) -> String {
    let ordinal = ordinal.map(|ordinal| format!("-{ordinal}")).unwrap_or_default();
    cut63(&format!("stash-backup-{}-{member}{ordinal}", session.replace('.', "-")))
}

/// Returns the name of the Job that restores a host of `session`; `ordinal` is the host's, where a target has several.
pub fn restore_job(session: &str, ordinal: Option<usize>) -> String {
    let ordinal = ordinal.map(|ordinal| format!("-{ordinal}")).unwrap_or_default();
    cut63(&format!("stash-restore-{}-0{ordinal}", session.replace('.', "-")))
}

/// Returns the name of the Job that restores the host of a node, which a DaemonSet has.
pub fn restore_node_job(session: &str, node: &str) -> String {
    cut_with_hash(&restore_job(session, None), node, LIMIT)
}

/// Returns the name of the Job that backs up the host of a node, which a DaemonSet has.
pub fn node_job(session: &str, member: usize, node: &str) -> String {
    cut_with_hash(&backup_job(session, member, None), node, LIMIT)
}

/// Returns the name that a Job of a session in `namespace` has in the release namespace, where Jobs of all namespaces are.
pub fn in_release(namespace: &str, job: &str) -> String {
    cut_with_hash(job, &format!("{namespace}/{job}"), LIMIT)
}

/// Returns eight hexadecimal digits that tell one text from another.
pub fn short_hash(text: &str) -> String {
    let digest = sha2::Sha256::digest(text.as_bytes());
    digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the name of the Job that looks after the repository when all hosts of `session` are done.
pub fn maintenance_job(session: &str) -> String {
    cut63(&format!("stash-maintenance-{}", session.replace('.', "-")))
}

/// Returns the name of the Job that forgets snapshots of a Repository: one at a time.
pub fn forget_job(repository: &str, uid: &str) -> String {
    of_repository("stash-forget-", repository, uid)
}

/// Returns the name of the Job that removes what a Repository has stored.
pub fn wipe_job(repository: &str, uid: &str) -> String {
    of_repository("stash-wipe-", repository, uid)
}

/// Returns the name of a Job that serves a Repository which is a volume. Each run has its own: what it is given is never that of another.
pub fn access_job(repository: &str, uid: &str, time: Timestamp) -> String {
    of_repository(ACCESS_PREFIX, repository, &format!("{uid} {}", time.as_nanosecond()))
}

/// What names of Jobs begin with that serve a Repository.
const ACCESS_PREFIX: &str = "stash-access-";

/// Whether a Job of this name serves a repository, for reading only.
pub fn is_of_access(job: &str) -> bool {
    job.starts_with(ACCESS_PREFIX)
}

fn of_repository(prefix: &str, repository: &str, uid: &str) -> String {
    let suffix = format!("-{}", digest(uid));
    let middle = cut_middle(&repository.replace('.', "-"), LIMIT - prefix.len() - suffix.len());
    format!("{prefix}{middle}{suffix}")
}

/// Whether a Job of this name backs up a host.
pub fn is_of_backup(job: &str) -> bool {
    job.starts_with("stash-backup-")
}

/// Whether a Job of this name looks after a repository: one at a time may.
pub fn is_of_maintenance(job: &str) -> bool {
    ["stash-maintenance-", "stash-forget-", "stash-wipe-"].iter().any(|prefix| job.starts_with(prefix))
}

/// Returns eight hexadecimal digits that are a function of `text`.
pub fn digest(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the host under which a target's snapshots are kept, if it has one only.
pub fn host(alias: Option<&str>) -> String {
    alias.filter(|alias| !alias.is_empty()).unwrap_or("host-0").to_owned()
}

/// Returns the host of a StatefulSet's replica.
pub fn replica_host(alias: Option<&str>, ordinal: usize) -> String {
    format!("{}-{ordinal}", alias.filter(|alias| !alias.is_empty()).unwrap_or("host"))
}

/// Returns the host of a DaemonSet's pod.
pub fn node_host(alias: Option<&str>, node: &str) -> String {
    match alias.filter(|alias| !alias.is_empty()) {
        Some(alias) => format!("{alias}-{node}"),
        None => node.to_owned(),
    }
}

/// Returns the labels of what restores.
pub fn restore_labels() -> BTreeMap<String, String> {
    BTreeMap::from([
        (labels::COMPONENT_LABEL.to_owned(), labels::COMPONENT_RESTORE.to_owned()),
        (labels::MANAGED_BY_LABEL.to_owned(), labels::MANAGED_BY.to_owned()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_names_are_those_of_stash() {
        let time = Timestamp::from_second(1_700_000_000).unwrap();
        assert_eq!(session("data-backup", time), "data-backup-1700000000");
        let long = session(&"x".repeat(80), time);
        assert_eq!((long.len(), long.starts_with("xxx"), long.ends_with("-1700000000")), (63, true, true));
        let alike = |middle: &str| session(&format!("{}{middle}{}", "x".repeat(40), "y".repeat(40)), time);
        assert_ne!(alike("1"), alike("2"), "both ends are the same");
        assert_eq!(session(&"x".repeat(52), time), format!("{}-1700000000", "x".repeat(52)));
        assert_eq!(backup_job("my.data-1700000000", 0, None), "stash-backup-my-data-1700000000-0");
        assert_eq!(backup_job("data-1700000000", 1, Some(2)), "stash-backup-data-1700000000-1-2");
        assert_eq!(maintenance_job("a.b-1700000000"), "stash-maintenance-a-b-1700000000");
        let forget = forget_job("my.repo", "uid");
        assert!(forget.starts_with("stash-forget-my-repo-") && is_of_maintenance(&forget), "{forget}");
        assert_ne!(forget, forget_job("my.repo", "another"));
        assert_eq!(forget_job(&"y".repeat(253), "uid").len(), 63);
        let wipe = wipe_job(&"y".repeat(253), "uid");
        assert!(wipe.len() == 63 && wipe.starts_with("stash-wipe-y") && is_of_maintenance(&wipe), "{wipe}");
        let access = access_job(&"y".repeat(253), "uid", time);
        assert!(access.len() == 63 && is_of_access(&access) && !is_of_maintenance(&access), "{access}");
        let next = Timestamp::from_nanosecond(time.as_nanosecond() + 1).unwrap();
        assert_ne!(access_job("r", "uid", time), access_job("r", "uid", next));
        assert!(is_of_maintenance("stash-maintenance-x") && !is_of_maintenance("stash-backup-x-0"));
        assert!(is_of_backup(&in_release("shop", &backup_job("x", 0, None))) && !is_of_backup(&maintenance_job("x")));
        assert_eq!(restore_job("my.data", None), "stash-restore-my-data-0");
        assert_eq!(restore_job("data", Some(2)), "stash-restore-data-0-2");
        let long = "y".repeat(63);
        let names = [
            restore_node_job(&long, "node-1"),
            backup_job(&long, 0, Some(3)),
            maintenance_job(&long),
            node_job(&long, 0, "node-1"),
            in_release(&long, &long),
        ];
        assert!(names.iter().all(|name| name.len() <= 63), "{names:?}");
        assert_ne!(node_job("a", 0, "node-1"), node_job("a", 0, "node-2"));
        assert_ne!(in_release("shop", "a"), in_release("store", "a"));
    }

    #[test]
    fn test_hosts_are_those_of_stash() {
        assert_eq!(host(None), "host-0");
        assert_eq!(host(Some("")), "host-0");
        assert_eq!(host(Some("app")), "app");
        assert_eq!(replica_host(None, 2), "host-2");
        assert_eq!(replica_host(Some("db"), 0), "db-0");
        assert_eq!(node_host(None, "node-1"), "node-1");
        assert_eq!(node_host(Some("logs"), "node-1"), "logs-node-1");
    }
}

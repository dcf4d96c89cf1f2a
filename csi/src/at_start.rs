//! What the init container of a restored workload gets to see: a snapshot, or what says that there is nothing to do. Pure.
//!
//! A pod sees one thing for as long as it lives. So one that was made after its host was restored does nothing, however often it starts.

use k8s_openapi::api::core::v1::Pod;
use stash_crds::RestoreSession;
use stash_crds::restore_session::{HostRestorePhase, RestorePhase};
use stash_proto::job::{AT_START_ANNOTATION, AtStart, Instead};

use crate::names::SnapshotId;

/// What a volume shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shows {
    /// A snapshot: this pod restores its host.
    Snapshot(SnapshotId),
    /// Something in its place.
    Instead(Instead),
}

/// Why it is not known yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undecided {
    /// The controller has not said how.
    #[error("the RestoreSession {0} has not begun yet")]
    NotBegun(String),
    /// Another pod of the same host does it, or none was chosen.
    #[error("{host} of the RestoreSession {session} is restored by one pod, and this one waits until that is done")]
    Elsewhere {
        /// The host.
        host: String,
        /// The session.
        session: String,
    },
    /// The orders cannot be read.
    #[error("the annotation {AT_START_ANNOTATION} of the RestoreSession {session} cannot be read: {why}")]
    Odd {
        /// The session.
        session: String,
        /// What is wrong with it.
        why: String,
    },
}

/// Decides it. `session` is called `name`; `source` is where the init container reads it.
///
/// # Errors
///
/// It is not known yet; kubelet asks again.
pub fn decide(
    session: Option<&RestoreSession>,
    name: &str,
    pod: &Pod,
    node: &str,
    source: &str,
) -> Result<Shows, Undecided> {
    let nothing = Ok(Shows::Instead(Instead::Nothing));
    // Who deletes the session wants nothing restored any more. What is half done is marked in the volume.
    let Some(session) = session.filter(|session| session.metadata.deletion_timestamp.is_none()) else { return nothing };
    let status = session.status.clone().unwrap_or_default();
    let is_over = status.phase.as_ref().is_some_and(RestorePhase::is_final);
    let orders = session.metadata.annotations.as_ref().and_then(|all| all.get(AT_START_ANNOTATION));
    let Some(orders) = orders else {
        return if is_over { nothing } else { Err(Undecided::NotBegun(name.to_owned())) };
    };
    let odd = |why: String| Undecided::Odd { session: name.to_owned(), why };
    let orders = AtStart::parse(orders).map_err(|error| odd(error.to_string()))?;
    let key = orders.by.of(pod.metadata.name.as_deref().unwrap_or_default(), node);
    let Some(host) = orders.hosts.get(key) else { return nothing };
    let said = status.stats.iter().find(|stats| stats.hostname.as_ref() == Some(&host.host));
    match said.and_then(|said| said.phase.clone()) {
        Some(HostRestorePhase::Succeeded) => return nothing,
        Some(HostRestorePhase::Failed) => {
            let why = said.and_then(|said| said.error.as_deref()).unwrap_or("it is not said why");
            let why = format!("{} was not restored: {why}", host.host);
            return Ok(Shows::Instead(Instead::Failed(why)));
        }
        _ if is_over => {
            let why = format!("{} was not restored: see RestoreSession {name}", host.host);
            return Ok(Shows::Instead(Instead::Failed(why)));
        }
        _ => {}
    }
    let Some(snapshot) = host.shown().get(source).copied() else { return nothing };
    if host.pod != pod.metadata.uid {
        return Err(Undecided::Elsewhere { host: host.host.clone(), session: name.to_owned() });
    }
    let snapshot = SnapshotId::parse(snapshot).ok_or_else(|| odd(format!("{snapshot:.70} is no id of a snapshot")))?;
    Ok(Shows::Snapshot(snapshot))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn session(chosen: Value, status: Value) -> RestoreSession {
        let source =
            |id: &str, root: &str| json!({"mounted": {"snapshot": id.repeat(32), "root": root, "paths": ["/data"]}});
        let task = json!({"sources": [source("0a", "/snapshot/0")], "mounts": ["/data"]});
        let host = json!({"host": "host-1", "pod": chosen, "spec": {"version": 1, "task": {"restore": task}}});
        let orders = json!({"version": 1, "session": "u", "by": "ordinal", "hosts": {"1": host}}).to_string();
        serde_json::from_value(json!({
            "metadata": {"name": "r", "annotations": {AT_START_ANNOTATION: orders}}, "spec": {}, "status": status
        }))
        .unwrap()
    }

    fn pod(name: &str, uid: &str) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": name, "uid": uid}})).unwrap()
    }

    #[test]
    fn test_what_a_pod_sees() {
        let stats = |phase: &str| json!({"phase": "Running", "stats": [{"hostname": "host-1", "phase": phase, "error": "no room"}]});
        let running = || json!({"phase": "Running"});
        let snapshot = Ok(Shows::Snapshot(SnapshotId::parse(&"0a".repeat(32)).unwrap()));
        let nothing = Ok(Shows::Instead(Instead::Nothing));
        let failed = |why: &str| Ok(Shows::Instead(Instead::Failed(why.to_owned())));
        let elsewhere = Err(Undecided::Elsewhere { host: "host-1".to_owned(), session: "r".to_owned() });
        let mut deleted = session(json!("one"), running());
        deleted.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        let mut early = session(json!("one"), json!({"phase": "Pending"}));
        early.metadata.annotations = None;
        let mut over = early.clone();
        over.status.as_mut().unwrap().phase = Some(RestorePhase::Succeeded);
        for (what, session, pod, source, expected) in [
            ("chosen", Some(session(json!("one"), running())), pod("db-1", "one"), "/snapshot/0", snapshot.clone()),
            ("one source", Some(session(json!("one"), running())), pod("db-1", "one"), "/snapshot/1", nothing.clone()),
            ("another", Some(session(json!("one"), running())), pod("db-1", "two"), "/snapshot/0", elsewhere.clone()),
            ("none chosen", Some(session(json!(null), running())), pod("db-1", "one"), "/snapshot/0", elsewhere),
            ("no host", Some(session(json!("one"), running())), pod("db-0", "one"), "/snapshot/0", nothing.clone()),
            (
                "done",
                Some(session(json!("one"), stats("Succeeded"))),
                pod("db-1", "one"),
                "/snapshot/0",
                nothing.clone(),
            ),
            (
                "failed",
                Some(session(json!("one"), stats("Failed"))),
                pod("db-1", "two"),
                "/snapshot/0",
                failed("host-1 was not restored: no room"),
            ),
            (
                "over without a word",
                Some(session(json!("one"), json!({"phase": "Failed"}))),
                pod("db-1", "one"),
                "/snapshot/0",
                failed("host-1 was not restored: see RestoreSession r"),
            ),
            ("deleted", Some(deleted), pod("db-1", "one"), "/snapshot/0", nothing.clone()),
            ("gone", None, pod("db-1", "one"), "/snapshot/0", nothing.clone()),
            ("over without orders", Some(over), pod("db-1", "one"), "/snapshot/0", nothing.clone()),
            ("not begun", Some(early), pod("db-1", "one"), "/snapshot/0", Err(Undecided::NotBegun("r".to_owned()))),
        ] {
            assert_eq!(decide(session.as_ref(), "r", &pod, "node-1", source), expected, "{what}");
        }
        let mut odd = session(json!("one"), running());
        odd.metadata.annotations.as_mut().unwrap().insert(AT_START_ANNOTATION.to_owned(), "{}".to_owned());
        let told = decide(Some(&odd), "r", &pod("db-1", "one"), "node-1", "/snapshot/0");
        assert!(matches!(told, Err(Undecided::Odd { .. })), "{told:?}");
    }
}

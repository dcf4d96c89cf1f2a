//! Which sessions of an invoker are kept, and which go before others.

use std::cmp::Ordering;

use jiff::Timestamp;
use stash_crds::BackupSession;
use stash_crds::backup_session::BackupSessionPhase;

use super::phase::is_final;
use crate::go_duration;

/// Compares sessions by when they were made, and those of one second by name.
pub fn by_age(a: &BackupSession, b: &BackupSession) -> Ordering {
    let key = |session: &BackupSession| {
        let made = session.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (made, session.metadata.name.clone())
    };
    key(a).cmp(&key(b))
}

/// Returns the phase of a session.
pub fn phase(session: &BackupSession) -> Option<&BackupSessionPhase> {
    session.status.as_ref().and_then(|status| status.phase.as_ref())
}

/// Returns when the last of `sessions` that succeeded ended.
pub fn last_success<'a>(sessions: impl Iterator<Item = &'a BackupSession>) -> Option<Timestamp> {
    let succeeded = sessions.filter(|session| phase(session) == Some(&BackupSessionPhase::Succeeded));
    let ended = |session: &BackupSession| {
        let took = session.status.as_ref().and_then(|status| status.session_duration.as_deref());
        let took = took.and_then(|text| go_duration::parse(text).ok()).unwrap_or_default();
        let created = session.metadata.creation_timestamp.as_ref()?.0;
        created.checked_add(took).ok()
    };
    succeeded.filter_map(ended).max()
}

/// Returns the names of the sessions that go: of those that are done, all but the `limit` newest.
///
/// `ending` is the session that just ends, with `outcome`. One that ran is kept whatever came after it, so that there is one to see,
/// unless the limit is 0.
pub fn superfluous(
    ending: &BackupSession,
    outcome: &BackupSessionPhase,
    others: &[&BackupSession],
    limit: i32,
) -> Vec<String> {
    let limit = usize::try_from(limit).unwrap_or(0);
    let mut all: Vec<(&BackupSession, Option<&BackupSessionPhase>)> =
        others.iter().map(|&other| (other, phase(other))).collect();
    all.push((ending, Some(outcome)));
    all.sort_by(|(a, _), (b, _)| by_age(b, a));
    let ran = |phase: Option<&BackupSessionPhase>| {
        matches!(phase, Some(BackupSessionPhase::Succeeded | BackupSessionPhase::Failed))
    };
    let shown = all.iter().position(|(_, phase)| ran(*phase)).filter(|_| limit > 0);
    let own = ending.metadata.name.as_deref();
    all.iter()
        .enumerate()
        .skip(limit)
        .filter(|(index, (session, phase))| {
            is_final(*phase) && Some(*index) != shown && session.metadata.name.as_deref() != own
        })
        .filter(|(_, (session, _))| session.metadata.deletion_timestamp.is_none())
        .filter_map(|(_, (session, _))| session.metadata.name.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn session(name: &str, second: i64, phase: &str) -> BackupSession {
        let made = jiff::Timestamp::from_second(second).unwrap().to_string();
        serde_json::from_value(json!({
            "metadata": {"name": name, "creationTimestamp": made}, "spec": {}, "status": {"phase": phase}
        }))
        .unwrap()
    }

    #[test]
    fn test_the_newest_are_kept_and_one_that_ran() {
        use BackupSessionPhase::{Skipped, Succeeded};
        let (s, f, k, r) = ("Succeeded", "Failed", "Skipped", "Running");
        for (others, outcome, limit, expected) in [
            (&[][..], Succeeded, 1, &[][..]),
            (&[("a", 1, s)], Succeeded, 1, &["a"]),
            (&[("a", 1, s), ("b", 2, f)], Succeeded, 2, &["a"]),
            (&[("a", 1, s), ("b", 2, f)], Succeeded, 1, &["b", "a"]),
            (&[("a", 1, s), ("b", 2, r)], Succeeded, 1, &["a"]),
            (&[("a", 1, s), ("b", 2, k)], Skipped, 1, &["b"]),
            (&[("a", 1, s), ("b", 2, r)], Skipped, 1, &[]),
            (&[("a", 1, s), ("b", 2, k)], Skipped, 0, &["b", "a"]),
            (&[("a", 1, s), ("n", 99, s)], Succeeded, 1, &["a"]),
            (&[("a", 1, s)], Succeeded, -3, &["a"]),
        ] {
            let others: Vec<BackupSession> =
                others.iter().map(|(name, second, phase)| session(name, *second, phase)).collect();
            let others: Vec<&BackupSession> = others.iter().collect();
            let ending = session("own", 50, "Running");
            assert_eq!(superfluous(&ending, &outcome, &others, limit), expected, "{others:?} {outcome} {limit}");
        }
    }
}

//! What the plans of all kinds are made of.

use std::time::Duration;

use jiff::Timestamp;
use kube::runtime::events::EventType;
use stash_crds::conditions::Condition;

use crate::conditions::find;

/// Something to tell the user, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Whether it is a warning.
    pub warning: bool,
    /// Why, for programs.
    pub reason: String,
    /// Why, for people. Without secrets, and without what a server answered.
    pub message: String,
}

impl Notice {
    /// Something that went as it should.
    pub fn normal(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { warning: false, reason: reason.into(), message: message.into() }
    }

    /// Something that did not.
    pub fn warning(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { warning: true, reason: reason.into(), message: message.into() }
    }

    /// Returns what kind of event tells it.
    pub fn event_type(&self) -> EventType {
        if self.warning { EventType::Warning } else { EventType::Normal }
    }
}

/// Returns a notice for each condition of which something else is said now: of a new one only if it is bad.
pub fn transitions(old: &[Condition], new: &[Condition]) -> Vec<Notice> {
    let told = new.iter().filter_map(|condition| {
        let before = find(old, &condition.type_);
        let changed =
            before.is_none_or(|before| before.status != condition.status || before.reason != condition.reason);
        let bad = condition.status != stash_crds::conditions::TRUE;
        if !changed || (before.is_none() && !bad) {
            return None;
        }
        let reason = condition.reason.clone().unwrap_or_default();
        let message = condition.message.clone().unwrap_or_default();
        Some(Notice { warning: bad, reason, message })
    });
    told.collect()
}

/// Returns how long it is from `now` to `time`, at least a moment.
pub fn until(time: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(time.duration_since(now)).unwrap_or_default().max(Duration::from_millis(1))
}

/// Returns the shorter of two times to wait, where none is for ever.
pub fn sooner(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

//! Conditions: how they are set so that an unchanged one is no write.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use stash_crds::conditions::{Condition, FALSE, TRUE, UNKNOWN};

/// A list of conditions while it is decided on.
#[derive(Debug)]
pub struct Conditions<'a> {
    list: &'a mut Vec<Condition>,
    generation: Option<i64>,
    now: Timestamp,
}

impl<'a> Conditions<'a> {
    /// Opens `list` to say something of the `generation` of a spec.
    pub fn new(list: &'a mut Vec<Condition>, generation: Option<i64>, now: Timestamp) -> Self {
        Self { list, generation, now }
    }

    /// Says that `aspect` is as it should be.
    pub fn is(&mut self, aspect: &str, reason: &str, message: impl Into<String>) {
        self.set(aspect, TRUE, reason, message.into());
    }

    /// Says that `aspect` is not as it should be.
    pub fn is_not(&mut self, aspect: &str, reason: &str, message: impl Into<String>) {
        self.set(aspect, FALSE, reason, message.into());
    }

    /// Says that it could not be found out.
    pub fn is_unknown(&mut self, aspect: &str, reason: &str, message: impl Into<String>) {
        self.set(aspect, UNKNOWN, reason, message.into());
    }

    /// Whether it is said that `aspect` is as it should be.
    pub fn holds(&self, aspect: &str) -> bool {
        is_true(self.list, aspect)
    }

    /// Takes back what was said of `aspect`.
    pub fn forget(&mut self, aspect: &str) {
        self.list.retain(|condition| condition.type_ != aspect);
    }

    /// Keeps the order in which aspects came, and the time where nothing but the message changed.
    fn set(&mut self, aspect: &str, status: &str, reason: &str, message: String) {
        let mut said = Condition {
            type_: aspect.to_owned(),
            status: status.to_owned(),
            observed_generation: self.generation,
            last_transition_time: Some(Time(whole_second(self.now))),
            severity: None,
            reason: Some(reason.to_owned()),
            message: Some(message),
        };
        match self.list.iter_mut().find(|condition| condition.type_ == aspect) {
            Some(old) => {
                if old.status == said.status && old.reason == said.reason && old.last_transition_time.is_some() {
                    said.last_transition_time = old.last_transition_time.take();
                }
                *old = said;
            }
            None => self.list.push(said),
        }
    }
}

/// Returns `time` as the API keeps it: to the second.
pub fn whole_second(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// Returns what was said of `aspect`.
pub fn find<'a>(conditions: &'a [Condition], aspect: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == aspect)
}

/// Whether it was said that `aspect` is as it should be.
pub fn is_true(conditions: &[Condition], aspect: &str) -> bool {
    find(conditions, aspect).is_some_and(|condition| condition.status == TRUE)
}

/// Whether it was said that `aspect` is not as it should be.
pub fn is_false(conditions: &[Condition], aspect: &str) -> bool {
    find(conditions, aspect).is_some_and(|condition| condition.status == FALSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_a_condition_changes_only_where_something_else_is_said() {
        let mut list = Vec::new();
        let at = |second| Timestamp::from_second(second).unwrap();
        Conditions::new(&mut list, Some(1), at(10)).is("A", "Fine", "all is well");
        Conditions::new(&mut list, Some(1), at(11)).is_not("B", "Bad", "it is not");
        let before = list.clone();
        Conditions::new(&mut list, Some(1), at(20)).is("A", "Fine", "all is well");
        assert_eq!(list, before);
        Conditions::new(&mut list, Some(1), at(20)).is("A", "Fine", "all is very well");
        assert_eq!(list[0].last_transition_time, Some(Time(at(10))));
        Conditions::new(&mut list, Some(2), at(20)).is_unknown("A", "Fine", "who knows");
        assert_eq!((list[0].status.as_str(), &list[0].last_transition_time), (UNKNOWN, &Some(Time(at(20)))));
        assert!(is_false(&list, "B") && !is_true(&list, "B") && find(&list, "C").is_none());
        Conditions::new(&mut list, Some(2), at(20)).forget("A");
        assert_eq!(list.len(), 1);
    }
}

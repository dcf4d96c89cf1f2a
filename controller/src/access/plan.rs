//! Decides when a pod serves a repository that is a volume, and when it ends. Pure.

use std::net::IpAddr;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::plan::until;

/// How long a pod may take to run. Its image may have to be pulled, and its volume attached.
const START: SignedDuration = SignedDuration::from_mins(2);
/// When to see again whether nobody uses the repository any more, where nothing tells.
const USED: Duration = Duration::from_secs(10);
/// When to see again whether a pod runs, where nothing tells.
const STARTS: Duration = Duration::from_secs(10);
/// How long the store may be behind what was made.
const BEHIND: SignedDuration = SignedDuration::from_secs(30);

/// Why no pod serves the repository. For the user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The API server does not take the Job, or the volume is none.
    #[error("the Job whose pod serves the volume cannot be made: {0}")]
    Refused(String),
    /// Its pod does not run.
    #[error("the pod that serves the volume did not start within {min} min: {0}", min = START.as_mins())]
    NotStarted(String),
    /// It ended before it was told to.
    #[error("the pod that serves the volume ended: {0}")]
    Ended(String),
}

/// How far a run is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The store does not have its Job.
    NoJob,
    /// Its pod does not run yet: why, as far as Kubernetes says.
    Starting(String),
    /// Its pod runs.
    At(IpAddr),
    /// It is over: why, as far as Kubernetes says.
    Ended(String),
}

/// What a plan is made from.
#[derive(Clone, Debug)]
pub struct Observed {
    /// Whether there is something to read.
    pub is_due: bool,
    /// Whether a Job or a session works on the Repository. A volume may be one that a single pod, or the pods of one node, mount.
    pub is_used: bool,
    /// The run, if there is one: when it was made, and how far it is.
    pub run: Option<(Timestamp, Seen)>,
}

/// What is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing, until something changes.
    Rest,
    /// Nothing yet.
    Wait(Duration),
    /// A run begins.
    Start,
    /// The repository is read.
    Look(IpAddr),
    /// The run ends. What is due is done later.
    Stop,
    /// The run ends, and the repository could not be read.
    Fail(Problem),
}

/// Decides what is done.
pub fn plan(observed: &Observed, now: Timestamp) -> Step {
    let Observed { is_due, is_used, run } = observed;
    let Some((made, seen)) = run else {
        return match (is_due, is_used) {
            (false, _) => Step::Rest,
            (true, true) => Step::Wait(USED),
            (true, false) => Step::Start,
        };
    };
    if !is_due || *is_used {
        return Step::Stop;
    }
    let age = now.duration_since(*made).abs();
    match seen {
        Seen::At(address) => Step::Look(*address),
        Seen::Ended(why) => Step::Fail(Problem::Ended(why.clone())),
        // Somebody deleted it.
        Seen::NoJob if age > BEHIND => Step::Stop,
        Seen::NoJob => Step::Wait(STARTS),
        Seen::Starting(why) if age > START => Step::Fail(Problem::NotStarted(why.clone())),
        Seen::Starting(_) => {
            let end = made.checked_add(START + SignedDuration::from_secs(1)).map_or(STARTS, |end| until(end, now));
            Step::Wait(end.min(STARTS))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_when_a_pod_serves_a_repository() {
        let at = |second: i64| Timestamp::from_second(1000 + second).unwrap();
        let address: IpAddr = "10.1.2.3".parse().unwrap();
        let starting = || Seen::Starting("no node has room".to_owned());
        let wait = |seconds| Step::Wait(Duration::from_secs(seconds));
        for (what, is_due, is_used, seen, age, expected) in [
            ("nothing to read", false, false, None, 0, Step::Rest),
            ("nothing to read, and used", false, true, None, 0, Step::Rest),
            ("something to read", true, false, None, 0, Step::Start),
            ("a backup runs", true, true, None, 0, wait(10)),
            ("just made", true, false, Some(Seen::NoJob), 1, wait(10)),
            ("deleted by somebody", true, false, Some(Seen::NoJob), 31, Step::Stop),
            ("it starts", true, false, Some(starting()), 5, wait(10)),
            ("it is to start soon", true, false, Some(starting()), 118, wait(3)),
            (
                "it does not start",
                true,
                false,
                Some(starting()),
                121,
                Step::Fail(Problem::NotStarted("no node has room".to_owned())),
            ),
            ("it runs", true, false, Some(Seen::At(address)), 5, Step::Look(address)),
            ("it runs for long", true, false, Some(Seen::At(address)), 500, Step::Look(address)),
            ("the clock was set back", true, false, Some(Seen::At(address)), -500, Step::Look(address)),
            (
                "it ended",
                true,
                false,
                Some(Seen::Ended("OOMKilled".to_owned())),
                5,
                Step::Fail(Problem::Ended("OOMKilled".to_owned())),
            ),
            ("all is read", false, false, Some(Seen::At(address)), 5, Step::Stop),
            ("all is read, and it ended", false, false, Some(Seen::Ended("x".to_owned())), 5, Step::Stop),
            ("nothing is to be read any more", false, false, Some(starting()), 5, Step::Stop),
            ("a backup begins", true, true, Some(Seen::At(address)), 5, Step::Stop),
            ("a backup begins while it starts", true, true, Some(starting()), 5, Step::Stop),
        ] {
            let observed = Observed { is_due, is_used, run: seen.map(|seen| (at(0), seen)) };
            assert_eq!(plan(&observed, at(age)), expected, "{what}");
        }
    }

    #[test]
    fn test_problems_say_what_it_is() {
        let problem = Problem::NotStarted("0/1 nodes are available".to_owned()).to_string();
        assert_eq!(problem, "the pod that serves the volume did not start within 2 min: 0/1 nodes are available");
    }
}

//! Decides when a repository is listed. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::plan::until;
use crate::schedule;

/// How long is waited after a list that failed, at first; twice as long each time, and up to a quarter more, so that the repositories of
/// a store do not come back to it together.
const RETRY: Duration = Duration::from_secs(30);
/// The longest such wait.
const RETRY_LIMIT: Duration = Duration::from_mins(10);

/// What makes a new list worth its cost: it changes with what is in the repository, or with how it is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// Which object it is.
    pub uid: String,
    /// The generation of its spec.
    pub generation: Option<i64>,
    /// The version of its Secret.
    pub secret: Option<String>,
    /// When the last backup was, and how many snapshots there were then.
    pub backups: (Option<Timestamp>, Option<i64>),
    /// Of what objects are made, beside the snapshots.
    pub made_of: String,
    /// The last Job that forgot snapshots and is done.
    pub job: Option<String>,
}

impl Stamp {
    /// Whether `other` leads to the same repository by the same way.
    pub fn reaches_the_same(&self, other: &Self) -> bool {
        (&self.uid, self.generation, &self.secret) == (&other.uid, other.generation, &other.secret)
    }
}

/// How the last list went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Last {
    /// When it was.
    pub at: Timestamp,
    /// What it was made for.
    pub stamp: Stamp,
    /// How many have failed since one succeeded.
    pub failures: u32,
}

/// How often repositories are listed where nothing says that they changed.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// The interval.
    pub interval: Duration,
}

/// Returns how long it is to the next list; zero means now.
pub fn wait(last: Option<&Last>, stamp: &Stamp, timing: Timing, now: Timestamp) -> Duration {
    let Some(last) = last else { return Duration::ZERO };
    if last.stamp != *stamp {
        return Duration::ZERO;
    }
    let pause = match last.failures {
        0 => timing.interval + schedule::jitter(&stamp.uid, timing.interval / 5),
        failures => {
            let pause = RETRY * 2_u32.pow(failures.min(10) - 1);
            let pause = pause.min(timing.interval.clamp(RETRY, RETRY_LIMIT));
            pause + schedule::jitter(&stamp.uid, pause / 4)
        }
    };
    let pause = SignedDuration::try_from(pause).unwrap_or(SignedDuration::MAX);
    match last.at.checked_add(pause) {
        // A clock that was set back does not put a list off.
        Ok(next) if next > now && last.at <= now => until(next, now),
        _ => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_when_a_repository_is_listed() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let timing = Timing { interval: Duration::from_secs(600) };
        let stamp = Stamp { uid: "u".to_owned(), generation: Some(1), ..Stamp::default() };
        let other = Stamp { backups: (Some(at(5)), Some(3)), ..stamp.clone() };
        let last = |failures| Last { at: at(1000), stamp: stamp.clone(), failures };
        let jitter = schedule::jitter("u", Duration::from_secs(120)).as_secs();
        let spread = |seconds| schedule::jitter("u", Duration::from_secs(seconds) / 4).as_secs();
        assert_eq!(wait(None, &stamp, timing, at(0)), Duration::ZERO);
        for (what, failures, stamp, now, seconds) in [
            ("just listed", 0, &stamp, 1000, 600 + jitter),
            ("half way", 0, &stamp, 1300, 300 + jitter),
            ("due", 0, &stamp, 1600 + i64::try_from(jitter).unwrap(), 0),
            ("another backup", 0, &other, 1000, 0),
            ("the clock was set back", 0, &stamp, 900, 0),
            ("failed", 1, &stamp, 1000, 30 + spread(30)),
            ("failed again", 2, &stamp, 1010, 50 + spread(60)),
            ("failed for long", 40, &stamp, 1000, 600 + spread(600)),
            ("failed, and something changed", 3, &other, 1000, 0),
        ] {
            assert_eq!(wait(Some(&last(failures)), stamp, timing, at(now)).as_secs(), seconds, "{what}");
        }
        // The interval bounds the pause both ways.
        for (interval, seconds) in [(2, 30 + spread(30)), (300, 300 + spread(300)), (86_400, 600 + spread(600))] {
            let timing = Timing { interval: Duration::from_secs(interval) };
            assert_eq!(wait(Some(&last(9)), &stamp, timing, at(1000)).as_secs(), seconds, "{interval}");
        }
    }
}

//! Whether a run is due now, and when the next one is.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest as _, Sha256};

use super::Schedule;

/// What decides when a configuration's sessions are made.
#[derive(Clone, Debug)]
pub struct Timing {
    /// Its line.
    pub schedule: Schedule,
    /// How long after the times of the line. Always the same for a configuration.
    pub jitter: Duration,
    /// How late a run may begin; a later one is left out. Without it none is.
    pub starting_deadline: Option<Duration>,
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// The time of the run that has to begin now.
    pub run: Option<Timestamp>,
    /// Whether runs were left out because they are too late.
    pub missed: bool,
    /// When the next one is.
    pub next: Option<Timestamp>,
}

impl Timing {
    /// Decides by the time that was announced last, `announced`, what is due `now`.
    ///
    /// However many runs were missed, one is made up for, the last. A clock that was set back makes at most a run more, never a long
    /// silence: what was announced for far ahead is announced anew.
    pub fn due(&self, announced: Option<Timestamp>, now: Timestamp) -> Due {
        let quiet = |next| Due { run: None, missed: false, next };
        let interval = self.schedule.interval();
        let Some(announced) = announced else { return quiet(self.next_after(now)) };
        if announced > now {
            // For an interval, what was announced counts from the last run.
            let keep = interval.is_some_and(|interval| announced.duration_since(now) <= interval);
            return quiet(if keep { Some(announced) } else { self.next_after(now) });
        }
        let run = match interval {
            Some(_) => Some(self.schedule.last_within(announced, now).unwrap_or(announced)),
            None if self.names(announced) => self.last_until(announced, now),
            // The line was changed since: its first run is one of the new line.
            None => return quiet(self.next_after(now)),
        };
        let next = match interval {
            Some(_) => run.and_then(|run| self.schedule.next_after(run)),
            None => self.next_after(now),
        };
        let late = |run: Timestamp| {
            let late = now.duration_since(run);
            self.starting_deadline
                .is_some_and(|deadline| late > SignedDuration::try_from(deadline).unwrap_or(SignedDuration::MAX))
        };
        Due { run: run.filter(|&run| !late(run)), missed: run.is_some_and(late), next }
    }

    fn shift(&self) -> SignedDuration {
        // An interval needs none: it counts from when the configuration was made.
        if self.schedule.interval().is_some() {
            SignedDuration::ZERO
        } else {
            SignedDuration::from_secs(self.jitter.as_secs().cast_signed())
        }
    }

    fn next_after(&self, now: Timestamp) -> Option<Timestamp> {
        let next = self.schedule.next_after(now.checked_sub(self.shift()).ok()?)?;
        next.checked_add(self.shift()).ok()
    }

    /// Whether the line has a run at `time`.
    fn names(&self, time: Timestamp) -> bool {
        let before = time.checked_sub(SignedDuration::from_secs(1));
        before.is_ok_and(|before| self.next_after(before) == Some(time))
    }

    fn last_until(&self, first: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let shifted = |time: Timestamp| time.checked_sub(self.shift()).ok();
        let before = first.checked_sub(SignedDuration::from_secs(1)).ok()?;
        let last = self.schedule.last_within(shifted(before)?, shifted(now)?)?;
        last.checked_add(self.shift()).ok()
    }
}

/// Returns how long after its times a configuration runs: whole seconds below `bound`, by its uid, so always the same.
pub fn jitter(uid: &str, bound: Duration) -> Duration {
    let digest = Sha256::digest(uid.as_bytes());
    let mut number = [0; 8];
    number.copy_from_slice(&digest[..8]);
    Duration::from_secs(u64::from_be_bytes(number).checked_rem(bound.as_secs()).unwrap_or(0))
}

//! When a backup is due: cron lines as Stash takes them, a stable jitter, and the rule for runs that were missed.
//!
//! Pure: the time is an argument. What a line means is what robfig/cron v3's standard parser makes of it, since that is what CronJobs
//! and so Stash use: a line names the minutes of a clock on a wall. A minute that the clock skips when summer time begins has no run,
//! one that it shows twice when summer time ends has two.

mod cron;
mod due;
mod fields;
#[cfg(test)]
mod tests;

pub use cron::{Schedule, ScheduleError};
pub use due::{Due, Timing, jitter};

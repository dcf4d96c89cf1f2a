//! A cron line: its zone, its fields or its interval, and the times that it names.

use std::time::Duration;

use jiff::civil::{Date, Time};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan as _};

use super::fields::Fields;
use crate::go_duration::{self, DurationError};

/// How far ahead a line is followed. A 29th of February on a given weekday comes back within 40 years.
const DAYS_AHEAD: usize = 366 * 41;

/// What is wrong with a cron line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// It is neither five fields nor a descriptor.
    #[error("it has {found} fields instead of five (minute hour day month weekday)")]
    FieldCount {
        /// How many fields there are.
        found: usize,
    },
    /// A field cannot be read.
    #[error("the {field} {text:?} cannot be read: {problem}")]
    Field {
        /// Which field.
        field: &'static str,
        /// The part of it.
        text: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// It begins with `@`, and is none of those that are known.
    #[error(
        "{0:?} is unknown: there are @yearly, @annually, @monthly, @weekly, @daily, @midnight, @hourly and @every 1h30m"
    )]
    Descriptor(String),
    /// The interval of `@every` cannot be read.
    #[error("the interval of @every cannot be read: {0}")]
    Every(#[from] DurationError),
    /// The time zone is in no database.
    #[error("the time zone {0:?} is unknown")]
    Zone(String),
}

/// A cron line, read.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    zone: TimeZone,
    when: When,
}

#[derive(Clone, Debug, PartialEq)]
enum When {
    Fields(Fields),
    /// `@every`: so long after the last run. At least a second, and whole ones.
    Every(SignedDuration),
}

impl Schedule {
    /// Reads a line. Without a prefix `TZ=` or `CRON_TZ=` its clock shows UTC.
    ///
    /// # Errors
    ///
    /// The line cannot be read; the error says which part.
    pub fn parse(text: &str) -> Result<Self, ScheduleError> {
        let text = text.trim();
        let prefixed = text.strip_prefix("CRON_TZ=").or_else(|| text.strip_prefix("TZ="));
        let (zone, line) = match prefixed {
            Some(rest) => {
                let (name, line) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
                let zone = TimeZone::get(name).map_err(|_| ScheduleError::Zone(name.to_owned()))?;
                (zone, line.trim())
            }
            None => (TimeZone::UTC, text),
        };
        let when = if line.starts_with('@') { parse_descriptor(line)? } else { When::Fields(Fields::parse(line)?) };
        Ok(Self { zone, when })
    }

    /// Returns the interval of an `@every`.
    pub(super) fn interval(&self) -> Option<SignedDuration> {
        match self.when {
            When::Every(interval) => Some(interval),
            When::Fields(_) => None,
        }
    }

    /// Returns the first time after `after`. There is none where fields contradict each other, as in a 30th of February.
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        let fields = match &self.when {
            When::Every(interval) => return whole_second(after).checked_add(*interval).ok(),
            When::Fields(fields) => fields,
        };
        let first = self.date_of(after);
        // A time may lie on the day before: clocks went back over midnight.
        let days = first.yesterday().ok().into_iter().chain(first.series(1.day())).take(DAYS_AHEAD);
        days.filter(|&date| fields.names_day(date))
            .find_map(|date| self.times_of(fields, date).find(|&time| time > after))
    }

    /// Returns the last time that is after `after` and not after `until`. For `@every`, `after` is when it last ran.
    pub fn last_within(&self, after: Timestamp, until: Timestamp) -> Option<Timestamp> {
        if until <= after {
            return None;
        }
        let fields = match &self.when {
            When::Every(interval) => {
                let after = whole_second(after);
                let runs = until.duration_since(after).as_secs() / interval.as_secs();
                let since = interval.as_secs().checked_mul(runs).filter(|_| runs > 0)?;
                return after.checked_add(SignedDuration::from_secs(since)).ok();
            }
            When::Fields(fields) => fields,
        };
        let (first, last) = (self.date_of(after), self.date_of(until));
        let (first, last) = (first.yesterday().unwrap_or(first), last.tomorrow().unwrap_or(last));
        let days = last.series(-1.day()).take_while(|&date| date >= first).take(DAYS_AHEAD);
        days.filter(|&date| fields.names_day(date))
            .find_map(|date| self.times_of(fields, date).filter(|&time| time > after && time <= until).last())
    }

    fn date_of(&self, time: Timestamp) -> Date {
        self.zone.to_datetime(time).date()
    }

    /// Returns the times of a day in order.
    fn times_of(&self, fields: &Fields, date: Date) -> Box<dyn Iterator<Item = Timestamp> + '_> {
        let civil = |(hour, minute)| Some(date.to_datetime(Time::new(hour, minute, 0, 0).ok()?));
        if let Some(offset) = self.only_offset(date) {
            let times: Vec<Timestamp> =
                fields.times().filter_map(civil).filter_map(|t| offset.to_timestamp(t).ok()).collect();
            return Box::new(times.into_iter());
        }
        let mut times: Vec<Timestamp> = Vec::new();
        for datetime in fields.times().filter_map(civil) {
            use jiff::tz::AmbiguousOffset::{Fold, Gap, Unambiguous};
            let offsets = match self.zone.to_ambiguous_timestamp(datetime).offset() {
                Unambiguous { offset } => [Some(offset), None],
                Fold { before, after } => [Some(before), Some(after)],
                Gap { .. } => [None, None],
            };
            times.extend(offsets.into_iter().flatten().filter_map(|offset| offset.to_timestamp(datetime).ok()));
        }
        times.sort_unstable();
        Box::new(times.into_iter())
    }

    /// Returns the offset of a whole day; none if the clock is set within it, or close to it.
    fn only_offset(&self, date: Date) -> Option<jiff::tz::Offset> {
        let utc = TimeZone::UTC.to_timestamp(date.to_datetime(Time::midnight())).ok()?;
        // Offsets are below 26 hours.
        let from = utc.checked_sub(SignedDuration::from_hours(27)).ok()?;
        let until = utc.checked_add(SignedDuration::from_hours(51)).ok()?;
        let transition = self.zone.following(from).next();
        transition.is_none_or(|transition| transition.timestamp() > until).then(|| self.zone.to_offset(utc))
    }
}

fn parse_descriptor(line: &str) -> Result<When, ScheduleError> {
    let fields = match line {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        _ => {
            let interval = line.strip_prefix("@every").filter(|rest| rest.starts_with(char::is_whitespace));
            let interval = interval.ok_or_else(|| ScheduleError::Descriptor(line.to_owned()))?;
            let interval = go_duration::parse(interval.trim())?.max(Duration::from_secs(1));
            return Ok(When::Every(SignedDuration::from_secs(i64::try_from(interval.as_secs()).unwrap_or(i64::MAX))));
        }
    };
    Fields::parse(fields).map(When::Fields)
}

fn whole_second(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

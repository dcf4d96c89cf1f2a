//! Which snapshots forget keeps: restic's policy, pure.
//!
//! Snapshots are looked at from the newest to the oldest. Each counted rule (`--keep-daily 7`) keeps the newest of each of
//! the last N days that have any, and the oldest of all if it has counts left; each rule of time (`--keep-within-daily 1m`)
//! keeps the newest of each day within a month of the newest snapshot, and the oldest of all if it is within that month. A
//! snapshot stays that any rule keeps. Days, weeks (ISO 8601), months and years are those of the clock that the snapshot's
//! writer saw. Source: restic 0.17, `doc/060_forget.rst`; before 0.16 it did not keep the oldest.
//!
//! `rustic_core`'s own policy differs (weeks around New Year, minutes), so this is ours.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use jiff::{Span, Zoned};
use serde::Serialize;

use super::backup::GroupBy;
use super::snapshots::SnapshotJson;

#[cfg(test)]
mod tests;

/// How many a counted rule keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Count {
    /// The rule is not given.
    #[default]
    None,
    /// The last N, at least 1.
    Last(u32),
    /// All.
    Unlimited,
}

impl FromStr for Count {
    type Err = String;

    /// Parses restic's counts: a number, `unlimited`, or -1 which older versions of restic had for it.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "unlimited" | "-1" => Ok(Self::Unlimited),
            "0" => Ok(Self::None),
            _ => text.parse().map(Self::Last).map_err(|_| format!("`{text}` is not a number or `unlimited`")),
        }
    }
}

impl Count {
    fn has_some(self) -> bool {
        self != Self::None
    }

    fn take(&mut self) {
        *self = match *self {
            Self::Last(n) if n > 1 => Self::Last(n - 1),
            Self::Last(_) | Self::None => Self::None,
            Self::Unlimited => Self::Unlimited,
        }
    }

    /// restic's number in JSON.
    fn number(self) -> i64 {
        match self {
            Self::None => 0,
            Self::Last(n) => n.into(),
            Self::Unlimited => -1,
        }
    }
}

/// restic's durations: years, months, days and hours, as `1y5m7d2h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Within {
    years: u16,
    months: u16,
    days: u32,
    hours: u32,
}

impl FromStr for Within {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a duration like 1y5m7d2h");
        let mut within = Self::default();
        let mut rest = text;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
            let (number, unit) = rest.split_at(digits);
            let short = || number.parse::<u16>().map_err(|_| wrong());
            let long = || number.parse::<u32>().ok().filter(|n| *n <= 1_000_000).ok_or_else(wrong);
            match unit.as_bytes().first() {
                Some(b'y') => within.years = short()?,
                Some(b'm') => within.months = short()?,
                Some(b'd') => within.days = long()?,
                Some(b'h') => within.hours = long()?,
                _ => return Err(wrong()),
            }
            rest = &unit[1..];
        }
        Ok(within)
    }
}

impl fmt::Display for Within {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [(u32::from(self.years), 'y'), (self.months.into(), 'm'), (self.days, 'd'), (self.hours, 'h')];
        parts.iter().filter(|(n, _)| *n != 0).try_for_each(|(n, unit)| write!(f, "{n}{unit}"))
    }
}

impl Within {
    fn is_zero(self) -> bool {
        self == Self::default()
    }

    /// The moment so long before `end`; the beginning of time where that cannot be said.
    fn before(self, end: &Zoned) -> Zoned {
        // As Go's AddDate: the calendar first, a day that a month does not have runs over into the next.
        let first = end.date().first_of_month();
        let months = Span::new().years(self.years).months(self.months);
        let shifted = first
            .checked_sub(months)
            .and_then(|date| date.checked_add(Span::new().days(i64::from(end.day()) - 1)))
            .and_then(|date| date.checked_sub(Span::new().days(self.days)))
            .and_then(|date| date.to_datetime(end.time()).to_zoned(end.time_zone().clone()))
            .and_then(|time| time.checked_sub(Span::new().hours(self.hours)));
        shifted.unwrap_or_else(|_| jiff::Timestamp::MIN.to_zoned(end.time_zone().clone()))
    }
}

/// The rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// The last N snapshots.
    pub last: Count,
    /// The last of each of N hours.
    pub hourly: Count,
    /// The last of each of N days.
    pub daily: Count,
    /// The last of each of N weeks.
    pub weekly: Count,
    /// The last of each of N months.
    pub monthly: Count,
    /// The last of each of N years.
    pub yearly: Count,
    /// All so long before the newest.
    pub within: Within,
    /// The last of each hour so long before the newest.
    pub within_hourly: Within,
    /// The last of each day so long before the newest.
    pub within_daily: Within,
    /// The last of each week so long before the newest.
    pub within_weekly: Within,
    /// The last of each month so long before the newest.
    pub within_monthly: Within,
    /// The last of each year so long before the newest.
    pub within_yearly: Within,
    /// Those that have all tags of one of the lists.
    pub tags: Vec<Vec<String>>,
}

/// What a rule's snapshots have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bucket {
    Each,
    Hour,
    Day,
    Week,
    Month,
    Year,
}

impl Bucket {
    /// Returns a value that two snapshots share if they are of one bucket.
    fn of(self, time: &Zoned, nr: usize) -> (i64, i64, i64) {
        let (year, month, day) = (i64::from(time.year()), i64::from(time.month()), i64::from(time.day()));
        match self {
            Self::Each => (i64::try_from(nr).unwrap_or(i64::MAX), 0, 0),
            Self::Hour => (year, month * 100 + day, time.hour().into()),
            Self::Day => (year, month, day),
            Self::Week => {
                let week = time.date().iso_week_date();
                (week.year().into(), week.week().into(), 0)
            }
            Self::Month => (year, month, 0),
            Self::Year => (year, 0, 0),
        }
    }
}

/// What is left of the counted rules after a snapshot, as restic prints it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Counters {
    #[serde(skip_serializing_if = "is_zero")]
    last: i64,
    #[serde(skip_serializing_if = "is_zero")]
    hourly: i64,
    #[serde(skip_serializing_if = "is_zero")]
    daily: i64,
    #[serde(skip_serializing_if = "is_zero")]
    weekly: i64,
    #[serde(skip_serializing_if = "is_zero")]
    monthly: i64,
    #[serde(skip_serializing_if = "is_zero")]
    yearly: i64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(n: &i64) -> bool {
    *n == 0
}

/// A snapshot that stays, and why.
#[derive(Debug, Clone)]
pub struct Kept {
    /// Which.
    pub snapshot: SnapshotJson,
    /// restic's names of the rules that keep it.
    pub matches: Vec<String>,
    /// What is left of the counted rules.
    pub counters: Counters,
}

/// What becomes of a group's snapshots, both newest first.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Those that stay.
    pub keep: Vec<Kept>,
    /// Those that go.
    pub remove: Vec<SnapshotJson>,
}

impl Policy {
    /// Returns whether there is no rule: then everything stays.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Applies the rules to the snapshots of a group. `now` bounds what counts as the newest: a snapshot from the future
    /// does not make others old.
    #[must_use]
    pub fn apply(&self, mut snapshots: Vec<SnapshotJson>, now: &Zoned) -> Outcome {
        snapshots.sort_by(|a, b| b.time.cmp(&a.time).then(a.id.cmp(&b.id)));
        let mut counted = [
            (self.last, Bucket::Each, "last snapshot", None),
            (self.hourly, Bucket::Hour, "hourly snapshot", None),
            (self.daily, Bucket::Day, "daily snapshot", None),
            (self.weekly, Bucket::Week, "weekly snapshot", None),
            (self.monthly, Bucket::Month, "monthly snapshot", None),
            (self.yearly, Bucket::Year, "yearly snapshot", None),
        ];
        let newest = snapshots.iter().map(|snapshot| &snapshot.time).find(|time| *time < now).cloned();
        let since =
            |within: Within| (!within.is_zero()).then_some(newest.as_ref()).flatten().map(|end| within.before(end));
        let within = since(self.within);
        let mut timed = [
            (self.within_hourly, Bucket::Hour, "hourly within", None),
            (self.within_daily, Bucket::Day, "daily within", None),
            (self.within_weekly, Bucket::Week, "weekly within", None),
            (self.within_monthly, Bucket::Month, "monthly within", None),
            (self.within_yearly, Bucket::Year, "yearly within", None),
        ]
        .map(|(within, bucket, name, last)| (since(within), within, bucket, name, last));

        let count = snapshots.len();
        let mut outcome = Outcome::default();
        for (nr, snapshot) in snapshots.into_iter().enumerate() {
            let mut matches = Vec::new();
            if snapshot.is_protected(now) {
                matches.push("protected from removal".to_owned());
            }
            if self.is_empty() {
                matches.push("policy is empty".to_owned());
            }
            for list in &self.tags {
                if has_tags(&snapshot, list) {
                    matches.push(format!("has tags [{}]", list.join(", ")));
                }
            }
            if within.as_ref().is_some_and(|since| snapshot.time > *since) {
                matches.push(format!("within {}", self.within));
            }
            for (left, bucket, name, last) in &mut counted {
                let value = bucket.of(&snapshot.time, nr);
                let is_next = *last != Some(value);
                if left.has_some() && (is_next || nr + 1 == count) {
                    matches.push(if is_next { (*name).to_owned() } else { format!("oldest {name}") });
                    *last = Some(value);
                    left.take();
                }
            }
            for (since, within, bucket, name, last) in &mut timed {
                let value = bucket.of(&snapshot.time, nr);
                let is_next = *last != Some(value);
                if since.as_ref().is_some_and(|since| snapshot.time > *since) && (is_next || nr + 1 == count) {
                    matches.push(format!("{}{name} {within}", if is_next { "" } else { "oldest " }));
                    *last = Some(value);
                }
            }
            if matches.is_empty() {
                outcome.remove.push(snapshot);
            } else {
                let [last, hourly, daily, weekly, monthly, yearly] = counted.map(|(left, ..)| left.number());
                let counters = Counters { last, hourly, daily, weekly, monthly, yearly };
                outcome.keep.push(Kept { snapshot, matches, counters });
            }
        }
        outcome
    }
}

/// Returns whether a snapshot has all these tags; an empty one stands for having none.
#[must_use]
pub fn has_tags(snapshot: &SnapshotJson, tags: &[String]) -> bool {
    let own = snapshot.tags();
    tags.iter().all(|tag| if tag.is_empty() { own.is_empty() } else { own.contains(&tag.as_str()) })
}

/// What the snapshots of a group have in common; what they need not is empty.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct GroupKey {
    /// The host.
    pub hostname: String,
    /// The paths, sorted.
    pub paths: Vec<String>,
    /// The tags, sorted.
    pub tags: Vec<String>,
}

/// Divides snapshots into groups.
#[must_use]
pub fn group(snapshots: Vec<SnapshotJson>, by: GroupBy) -> BTreeMap<GroupKey, Vec<SnapshotJson>> {
    let sorted = |texts: Vec<&str>| {
        let mut texts: Vec<String> = texts.into_iter().map(str::to_owned).collect();
        texts.sort();
        texts
    };
    let mut groups: BTreeMap<GroupKey, Vec<SnapshotJson>> = BTreeMap::new();
    for snapshot in snapshots {
        let key = GroupKey {
            hostname: if by.host { snapshot.hostname().to_owned() } else { String::new() },
            paths: if by.paths { sorted(snapshot.paths()) } else { Vec::new() },
            tags: if by.tags { sorted(snapshot.tags()) } else { Vec::new() },
        };
        groups.entry(key).or_default().push(snapshot);
    }
    groups
}

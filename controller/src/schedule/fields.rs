//! The five fields of a cron line: sets of numbers, and which days, hours and minutes they name.

use jiff::civil::Date;

use super::ScheduleError;

/// What a field counts, and the numbers that it may name.
#[derive(Debug)]
struct Kind {
    name: &'static str,
    min: u32,
    max: u32,
    names: &'static [&'static str],
}

const MINUTE: Kind = Kind { name: "minute", min: 0, max: 59, names: &[] };
const HOUR: Kind = Kind { name: "hour", min: 0, max: 23, names: &[] };
const DAY: Kind = Kind { name: "day of the month", min: 1, max: 31, names: &[] };
const MONTH: Kind = Kind {
    name: "month",
    min: 1,
    max: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
};
const WEEKDAY: Kind =
    Kind { name: "day of the week", min: 0, max: 6, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] };

/// A set of numbers below 64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Set {
    bits: u64,
    /// Whether `*` or `?` stood in the field, without a step. It decides how the two fields of days go together.
    star: bool,
}

impl Set {
    fn has(self, number: i8) -> bool {
        u32::try_from(number).is_ok_and(|number| self.bits & (1_u64 << number) != 0)
    }
}

/// The five fields of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fields {
    minutes: Set,
    hours: Set,
    days: Set,
    months: Set,
    weekdays: Set,
}

impl Fields {
    pub(super) fn parse(text: &str) -> Result<Self, ScheduleError> {
        let fields: Vec<&str> = text.split_whitespace().collect();
        let &[minutes, hours, days, months, weekdays] = fields.as_slice() else {
            return Err(ScheduleError::FieldCount { found: fields.len() });
        };
        Ok(Self {
            minutes: parse_field(minutes, &MINUTE)?,
            hours: parse_field(hours, &HOUR)?,
            days: parse_field(days, &DAY)?,
            months: parse_field(months, &MONTH)?,
            weekdays: parse_field(weekdays, &WEEKDAY)?,
        })
    }

    /// Whether something is due on `date`.
    ///
    /// With both fields of days restricted, a day that one of them names is enough; that is the rule of all crons.
    pub(super) fn names_day(&self, date: Date) -> bool {
        if !self.months.has(date.month()) {
            return false;
        }
        let day = self.days.has(date.day());
        let weekday = self.weekdays.has(date.weekday().to_sunday_zero_offset());
        if self.days.star || self.weekdays.star { day && weekday } else { day || weekday }
    }

    /// Returns the hours and minutes of a day that are named, in order.
    pub(super) fn times(&self) -> impl DoubleEndedIterator<Item = (i8, i8)> + '_ {
        let hours = (0..24).filter(move |&hour| self.hours.has(hour));
        hours.flat_map(move |hour| {
            (0..60).filter(move |&minute| self.minutes.has(minute)).map(move |minute| (hour, minute))
        })
    }
}

fn parse_field(text: &str, kind: &Kind) -> Result<Set, ScheduleError> {
    let mut set = Set::default();
    for range in text.split(',').filter(|range| !range.is_empty()) {
        let range = parse_range(range, kind)?;
        set.bits |= range.bits;
        set.star |= range.star;
    }
    if set.bits == 0 {
        return Err(ScheduleError::Field { field: kind.name, text: text.to_owned(), problem: "it names nothing" });
    }
    Ok(set)
}

/// Reads `*`, `5`, `1-5`, or one of these with a step: `*/15`, `5/15`, `1-5/2`.
fn parse_range(text: &str, kind: &Kind) -> Result<Set, ScheduleError> {
    let error = |problem| ScheduleError::Field { field: kind.name, text: text.to_owned(), problem };
    let (range, step) = match text.split_once('/') {
        Some((range, step)) => (range, Some(step)),
        None => (text, None),
    };
    let (low, high) = match range.split_once('-') {
        Some((low, high)) => (low, Some(high)),
        None => (range, None),
    };
    let number =
        |text: &str| parse_number(text, kind).ok_or_else(|| error("it has something that is no number or name"));
    let star = low == "*" || low == "?";
    let (start, end) = match high {
        _ if star => (kind.min, kind.max),
        Some(high) => (number(low)?, number(high)?),
        // Of a single number with a step, the range goes on to the end.
        None if step.is_some() => (number(low)?, kind.max),
        None => (number(low)?, number(low)?),
    };
    let step = match step {
        Some(step) => parse_number(step, &MINUTE).ok_or_else(|| error("its step is no number"))?,
        None => 1,
    };
    if step == 0 {
        return Err(error("its step is 0"));
    }
    if start < kind.min || end > kind.max {
        return Err(error("it is out of range"));
    }
    if start > end {
        return Err(error("it ends before it begins"));
    }
    let steps = (start..=end).step_by(step as usize);
    Ok(Set { bits: steps.fold(0, |bits, number| bits | (1 << number)), star: star && step == 1 })
}

fn parse_number(text: &str, kind: &Kind) -> Option<u32> {
    if let Some(position) = kind.names.iter().position(|name| text.eq_ignore_ascii_case(name)) {
        return u32::try_from(position).ok().map(|position| position + kind.min);
    }
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

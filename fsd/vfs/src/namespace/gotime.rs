//! Times by Go's layouts, as restic's `--time-template` takes them: a sample that shows how the moment
//! `Mon Jan 2 15:04:05 -0700 MST 2006` is to be written.
//!
//! Source: the documentation of Go's package `time` (constants and `Time.Format`). Every element that `Format` knows is
//! here; what is no element is copied.

use std::fmt::Write as _;

use jiff::Zoned;
use jiff::tz::TimeZone;

/// A layout, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeLayout(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Element(Element),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pad {
    None,
    Zero,
    Space,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Element {
    LongMonth,
    Month,
    MonthNumber(Pad),
    LongWeekday,
    Weekday,
    Day(Pad),
    YearDay(Pad),
    Hour,
    Hour12(Pad),
    Minute(Pad),
    Second(Pad),
    LongYear,
    Year,
    UpperPm,
    LowerPm,
    ZoneName,
    Offset { z: bool, colon: bool, parts: u8 },
    Fraction { separator: char, digits: usize, trim: bool },
}

/// The elements that begin with a fixed text, a longer text before its own beginning.
const FIXED: &[(&str, Element)] = &[
    ("January", Element::LongMonth),
    ("Monday", Element::LongWeekday),
    ("MST", Element::ZoneName),
    ("002", Element::YearDay(Pad::Zero)),
    ("01", Element::MonthNumber(Pad::Zero)),
    ("02", Element::Day(Pad::Zero)),
    ("03", Element::Hour12(Pad::Zero)),
    ("04", Element::Minute(Pad::Zero)),
    ("05", Element::Second(Pad::Zero)),
    ("06", Element::Year),
    ("15", Element::Hour),
    ("1", Element::MonthNumber(Pad::None)),
    ("2006", Element::LongYear),
    ("2", Element::Day(Pad::None)),
    ("__2", Element::YearDay(Pad::Space)),
    ("3", Element::Hour12(Pad::None)),
    ("4", Element::Minute(Pad::None)),
    ("5", Element::Second(Pad::None)),
    ("PM", Element::UpperPm),
    ("pm", Element::LowerPm),
    ("-070000", Element::Offset { z: false, colon: false, parts: 3 }),
    ("-07:00:00", Element::Offset { z: false, colon: true, parts: 3 }),
    ("-0700", Element::Offset { z: false, colon: false, parts: 2 }),
    ("-07:00", Element::Offset { z: false, colon: true, parts: 2 }),
    ("-07", Element::Offset { z: false, colon: false, parts: 1 }),
    ("Z070000", Element::Offset { z: true, colon: false, parts: 3 }),
    ("Z07:00:00", Element::Offset { z: true, colon: true, parts: 3 }),
    ("Z0700", Element::Offset { z: true, colon: false, parts: 2 }),
    ("Z07:00", Element::Offset { z: true, colon: true, parts: 2 }),
    ("Z07", Element::Offset { z: true, colon: false, parts: 1 }),
];

/// Finds the element that `layout` begins with, and the length of its text.
fn element(layout: &str) -> Option<(Element, usize)> {
    for (text, element) in FIXED {
        if layout.starts_with(text) {
            return Some((*element, text.len()));
        }
    }
    // `Jan` and `Mon` count unless the word goes on ("January" went before; "Month" is just a word).
    for (text, element) in [("Jan", Element::Month), ("Mon", Element::Weekday)] {
        if let Some(rest) = layout.strip_prefix(text) {
            return (!rest.starts_with(|c: char| c.is_ascii_lowercase())).then_some((element, text.len()));
        }
    }
    // `_2` is a day, but `_2006` is an underscore before a year.
    if layout.starts_with("_2") && !layout.starts_with("_2006") {
        return Some((Element::Day(Pad::Space), 2));
    }
    // A separator and a run of 0 or of 9 is a fraction if no other digit follows.
    let separator = layout.chars().next().filter(|c| matches!(c, '.' | ','))?;
    let digit = layout[1..].chars().next().filter(|c| matches!(c, '0' | '9'))?;
    let digits = layout[1..].chars().take_while(|c| *c == digit).count();
    if layout[1 + digits..].starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    Some((Element::Fraction { separator, digits, trim: digit == '9' }, 1 + digits))
}

impl TimeLayout {
    /// Takes a layout apart. Every text is one.
    #[must_use]
    pub fn parse(layout: &str) -> Self {
        let mut pieces = Vec::new();
        let mut text = String::new();
        let mut rest = layout;
        while let Some(first) = rest.chars().next() {
            if let Some((element, len)) = element(rest) {
                if !text.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut text)));
                }
                pieces.push(Piece::Element(element));
                rest = &rest[len..];
            } else {
                text.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
        if !text.is_empty() {
            pieces.push(Piece::Text(text));
        }
        Self(pieces)
    }

    /// Writes a time.
    #[must_use]
    pub fn format(&self, time: &Zoned) -> String {
        let mut out = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Element(element) => element.write(&mut out, time),
            }
        }
        out
    }
}

fn padded(out: &mut String, value: i16, pad: Pad, width: usize) {
    // Writing to a string cannot fail.
    let _ok = match pad {
        Pad::None => write!(out, "{value}"),
        Pad::Zero => write!(out, "{value:0width$}"),
        Pad::Space => write!(out, "{value:width$}"),
    };
}

impl Element {
    fn write(self, out: &mut String, time: &Zoned) {
        match self {
            Self::LongMonth => out.push_str(MONTHS[usize::from(time.month().unsigned_abs() - 1) % 12]),
            Self::Month => out.push_str(&MONTHS[usize::from(time.month().unsigned_abs() - 1) % 12][..3]),
            Self::MonthNumber(pad) => padded(out, time.month().into(), pad, 2),
            Self::LongWeekday => out.push_str(weekday(time)),
            Self::Weekday => out.push_str(&weekday(time)[..3]),
            Self::Day(pad) => padded(out, time.day().into(), pad, 2),
            Self::YearDay(pad) => padded(out, time.day_of_year(), pad, 3),
            Self::Hour => padded(out, time.hour().into(), Pad::Zero, 2),
            Self::Hour12(pad) => padded(out, (i16::from(time.hour()) + 11) % 12 + 1, pad, 2),
            Self::Minute(pad) => padded(out, time.minute().into(), pad, 2),
            Self::Second(pad) => padded(out, time.second().into(), pad, 2),
            Self::LongYear => {
                if time.year() < 0 {
                    out.push('-');
                }
                padded(out, time.year().abs(), Pad::Zero, 4);
            }
            Self::Year => padded(out, time.year().rem_euclid(100), Pad::Zero, 2),
            Self::UpperPm => out.push_str(if time.hour() >= 12 { "PM" } else { "AM" }),
            Self::LowerPm => out.push_str(if time.hour() >= 12 { "pm" } else { "am" }),
            Self::ZoneName => zone_name(out, time),
            Self::Offset { z, colon, parts } => offset(out, time.offset().seconds(), z, colon, parts),
            Self::Fraction { separator, digits, trim } => {
                let nanos = format!("{:09}", time.subsec_nanosecond());
                let mut fraction: String = nanos.chars().chain(std::iter::repeat('0')).take(digits).collect();
                if trim {
                    fraction.truncate(fraction.trim_end_matches('0').len());
                }
                if !fraction.is_empty() {
                    out.push(separator);
                    out.push_str(&fraction);
                }
            }
        }
    }
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

fn weekday(time: &Zoned) -> &'static str {
    const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
    DAYS[usize::from(time.weekday().to_monday_zero_offset().unsigned_abs()) % 7]
}

fn offset(out: &mut String, seconds: i32, z: bool, colon: bool, parts: u8) {
    if z && seconds == 0 {
        out.push('Z');
        return;
    }
    let amount = seconds.unsigned_abs();
    out.push(if seconds < 0 { '-' } else { '+' });
    for (part, value) in [amount / 3_600, amount / 60 % 60, amount % 60].into_iter().take(parts.into()).enumerate() {
        if part > 0 && colon {
            out.push(':');
        }
        // Writing to a string cannot fail.
        let _ok = write!(out, "{value:02}");
    }
}

/// Go knows a zone's name where the offset is that of the local zone at that time, and `UTC`; else it writes the offset.
fn zone_name(out: &mut String, time: &Zoned) {
    let zone = TimeZone::system();
    let local = zone.to_offset_info(time.timestamp());
    if local.offset() == time.offset() && local.abbreviation().starts_with(|c: char| c.is_ascii_alphabetic()) {
        out.push_str(local.abbreviation());
    } else if time.offset().is_zero() {
        out.push_str("UTC");
    } else {
        offset(out, time.offset().seconds(), false, false, 2);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `date -d @1158157504` is 2006-09-13; 23:05:04.1203 at +07:30 is a moment that tells every element from another.
    fn moment(text: &str) -> Zoned {
        text.parse().unwrap()
    }

    #[test]
    fn test_elements() {
        let time = moment("2009-02-04T21:00:57.012345600+07:30[+07:30]");
        for (layout, expected) in [
            ("2006-01-02T15:04:05Z07:00", "2009-02-04T21:00:57+07:30"),
            ("Mon Jan _2 15:04:05 2006", "Wed Feb  4 21:00:57 2009"),
            ("Monday, 02-Jan-06 15:04:05", "Wednesday, 04-Feb-09 21:00:57"),
            ("January 2 3:4:5 PM pm", "February 4 9:0:57 PM pm"),
            ("03.04", "09.00"),
            ("1/2/06", "2/4/09"),
            ("002 __2", "035  35"),
            ("_2006 _2", "_2009  4"),
            ("-07 -0700 -07:00 -070000 -07:00:00", "+07 +0730 +07:30 +073000 +07:30:00"),
            ("Z07 Z0700 Z07:00 Z070000 Z07:00:00", "+07 +0730 +07:30 +073000 +07:30:00"),
            ("05.000", "57.012"),
            ("05.000000000", "57.012345600"),
            ("05.999999999", "57.0123456"),
            ("05,999", "57,012"),
            ("05.9", "57"),
            // Another digit follows the zeros, so it is no fraction: a dot, two zeros, and the month.
            ("05.0001", "57.0002"),
            ("Month Januaries Janx", "Month Januaries Janx"),
            ("MST", "+0730"),
            ("2006/01/02", "2009/02/04"),
            ("übung 2006", "übung 2009"),
            ("", ""),
        ] {
            assert_eq!(TimeLayout::parse(layout).format(&time), expected, "{layout}");
        }
    }

    #[test]
    fn test_midnight_noon_and_utc() {
        let at = |text: &str, layout: &str| TimeLayout::parse(layout).format(&moment(text));
        assert_eq!(at("2024-02-29T00:00:00+00:00[UTC]", "3PM Z07:00 Z0700 -07:00 MST"), "12AM Z Z +00:00 UTC");
        assert_eq!(at("2024-02-29T12:00:00-03:30[-03:30]", "03pm Z07:00 -0700 002"), "12pm -03:30 -0330 060");
    }

    proptest! {
        #[test]
        fn test_any_layout_writes_any_time(
            layout in r"(Jan|January|Mon|Monday|MST|PM|pm|__2|_2|[-Z]0?7?0?0?:?|[.,][09]{1,12}|[0-9]{1,4}|\PC){0,12}",
            seconds in -377_705_023_201_i64..=253_402_207_200, nanos in 0..1_000_000_000, offset in -93_599..=93_599,
        ) {
            let zone = jiff::tz::Offset::from_seconds(offset).unwrap().to_time_zone();
            let time = jiff::Timestamp::new(seconds, nanos).unwrap().to_zoned(zone);
            prop_assert!(TimeLayout::parse(&layout).format(&time).len() <= 64 * (layout.len() + 1));
        }

        #[test]
        fn test_what_is_no_element_is_copied(layout in "[a-eA-H /%:é]*") {
            let time = moment("2009-02-04T21:00:57.012345600+07:30[+07:30]");
            prop_assert_eq!(TimeLayout::parse(&layout).format(&time), layout);
        }
    }
}

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use super::{Due, Schedule, ScheduleError, Timing, jitter};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn next(line: &str, after: &str) -> Option<Timestamp> {
    Schedule::parse(line).unwrap().next_after(at(after))
}

#[test]
fn test_lines_name_the_times_that_robfig_finds() {
    for (line, after, expected) in [
        // Minutes, hours, steps, lists, ranges, names.
        ("*/15 * * * *", "2026-07-09T14:45:00Z", "2026-07-09T15:00:00Z"),
        ("*/15 * * * *", "2026-07-09T14:59:59.5Z", "2026-07-09T15:00:00Z"),
        ("20-35/15 * * * *", "2026-07-09T14:45:00Z", "2026-07-09T15:20:00Z"),
        ("5/20 * * * *", "2026-07-09T14:26:00Z", "2026-07-09T14:45:00Z"),
        ("*/35 20-23 * * *", "2026-07-09T23:35:51Z", "2026-07-10T20:00:00Z"),
        ("0,30,,45 8 ? * *", "2026-07-09T08:30:00Z", "2026-07-09T08:45:00Z"),
        ("0 0 * Feb Mon-fri", "2026-07-09T23:35:00Z", "2027-02-01T00:00:00Z"),
        ("0 0 9 Apr-Oct ?", "2026-07-09T23:35:00Z", "2026-08-09T00:00:00Z"),
        ("0 0 */5 Apr,Aug,Oct Mon", "2026-07-09T23:35:00Z", "2026-08-01T00:00:00Z"),
        ("  0\t0  1 1 *  ", "2026-07-09T23:35:00Z", "2027-01-01T00:00:00Z"),
        // Two restricted fields of days: one is enough. A star in one: both count. A star with a step restricts.
        ("0 0 13 * Fri", "2026-07-09T00:00:00Z", "2026-07-10T00:00:00Z"),
        ("0 0 13 * *", "2026-07-09T00:00:00Z", "2026-07-13T00:00:00Z"),
        ("0 0 ? * Fri", "2026-07-11T00:00:00Z", "2026-07-17T00:00:00Z"),
        ("0 0 */10 * Sun", "2026-07-09T00:00:00Z", "2026-07-11T00:00:00Z"),
        ("0 0 */1 * Sun", "2026-07-09T00:00:00Z", "2026-07-12T00:00:00Z"),
        ("0 0 29 2 ?", "2026-07-09T00:00:00Z", "2028-02-29T00:00:00Z"),
        // Descriptors.
        ("@hourly", "2026-07-09T14:45:00Z", "2026-07-09T15:00:00Z"),
        ("@daily", "2026-07-09T14:45:00Z", "2026-07-10T00:00:00Z"),
        ("@midnight", "2026-07-09T00:00:00Z", "2026-07-10T00:00:00Z"),
        ("@weekly", "2026-07-09T00:00:00Z", "2026-07-12T00:00:00Z"),
        ("@monthly", "2026-07-09T00:00:00Z", "2026-08-01T00:00:00Z"),
        ("@yearly", "2026-07-09T00:00:00Z", "2027-01-01T00:00:00Z"),
        ("@annually", "2026-07-09T00:00:00Z", "2027-01-01T00:00:00Z"),
        ("@every 1h30m", "2026-07-09T14:45:07.9Z", "2026-07-09T16:15:07Z"),
        ("@every 1ms", "2026-07-09T14:45:07Z", "2026-07-09T14:45:08Z"),
        ("@every 2.9s", "2026-07-09T14:45:07Z", "2026-07-09T14:45:09Z"),
        // Zones.
        ("TZ=Asia/Kolkata 0 9 * * *", "2026-07-09T00:00:00Z", "2026-07-09T03:30:00Z"),
        ("CRON_TZ=Europe/Vienna  30 4 * * *", "2026-01-09T03:30:00Z", "2026-01-10T03:30:00Z"),
        ("CRON_TZ=Pacific/Auckland @daily", "2026-07-09T00:00:00Z", "2026-07-09T12:00:00Z"),
    ] {
        assert_eq!(next(line, after), Some(at(expected)), "{line:?} after {after}");
    }
    for line in ["0 0 30 2 *", "0 0 31 4,6,9,11 *"] {
        assert_eq!(next(line, "2026-07-09T00:00:00Z"), None, "{line}");
    }
}

#[test]
fn test_clocks_that_are_set_skip_a_minute_or_show_it_twice() {
    for (line, after, expected) in [
        // Spring in New York: 02:00 to 03:00 is skipped.
        ("TZ=America/New_York 30 2 11 Mar ?", "2012-03-11T00:00:00-05:00", "2013-03-11T02:30:00-04:00"),
        ("TZ=America/New_York 0 * * * ?", "2012-03-11T01:00:00-05:00", "2012-03-11T03:00:00-04:00"),
        ("TZ=America/New_York 0 2 * * ?", "2012-03-11T00:00:00-05:00", "2012-03-12T02:00:00-04:00"),
        ("TZ=America/New_York 59 1 * * ?", "2012-03-11T00:00:00-05:00", "2012-03-11T01:59:00-05:00"),
        // Autumn: 01:00 to 02:00 comes twice.
        ("TZ=America/New_York 30 1 * * ?", "2012-11-04T00:00:00-04:00", "2012-11-04T01:30:00-04:00"),
        ("TZ=America/New_York 30 1 * * ?", "2012-11-04T01:45:00-04:00", "2012-11-04T01:30:00-05:00"),
        ("TZ=America/New_York 30 1 * * ?", "2012-11-04T01:30:00-05:00", "2012-11-05T01:30:00-05:00"),
        ("TZ=America/New_York 0 2 * * ?", "2012-11-04T00:00:00-04:00", "2012-11-04T02:00:00-05:00"),
        // Midnight itself is skipped, comes twice, or a whole day is missing.
        ("TZ=America/Sao_Paulo 0 0 * * *", "2018-11-03T00:00:00-03:00", "2018-11-05T00:00:00-02:00"),
        ("TZ=America/Sao_Paulo 30 23 * * *", "2018-02-17T23:30:00-02:00", "2018-02-17T23:30:00-03:00"),
        ("TZ=Pacific/Apia 0 12 30 12 *", "2011-12-01T00:00:00Z", "2012-12-29T22:00:00Z"),
        // By half an hour, on Lord Howe Island.
        ("TZ=Australia/Lord_Howe 15 2 * * *", "2026-10-03T15:00:00Z", "2026-10-04T15:15:00Z"),
    ] {
        assert_eq!(next(line, after), Some(at(expected)), "{line:?} after {after}");
    }
}

#[test]
fn test_lines_that_cannot_be_read_say_why() {
    let field = |field, text: &str, problem| ScheduleError::Field { field, text: text.to_owned(), problem };
    for (line, expected) in [
        ("", ScheduleError::FieldCount { found: 0 }),
        ("* * * *", ScheduleError::FieldCount { found: 4 }),
        ("0 0 * * * *", ScheduleError::FieldCount { found: 6 }),
        ("TZ=UTC", ScheduleError::FieldCount { found: 0 }),
        ("TZ=Not/Aplace * * * * *", ScheduleError::Zone("Not/Aplace".to_owned())),
        ("60 * * * *", field("minute", "60", "it is out of range")),
        ("* 24 * * *", field("hour", "24", "it is out of range")),
        ("* * 0 * *", field("day of the month", "0", "it is out of range")),
        ("* * * 13 *", field("month", "13", "it is out of range")),
        ("* * * * 7", field("day of the week", "7", "it is out of range")),
        ("5-2 * * * *", field("minute", "5-2", "it ends before it begins")),
        ("*/0 * * * *", field("minute", "*/0", "its step is 0")),
        ("*/x * * * *", field("minute", "*/x", "its step is no number")),
        ("*/2/3 * * * *", field("minute", "*/2/3", "its step is no number")),
        ("1-2-3 * * * *", field("minute", "1-2-3", "it has something that is no number or name")),
        ("jan * * * *", field("minute", "jan", "it has something that is no number or name")),
        ("99999999999 * * * *", field("minute", "99999999999", "it has something that is no number or name")),
        (", * * * *", field("minute", ",", "it names nothing")),
        ("@reboot", ScheduleError::Descriptor("@reboot".to_owned())),
        ("@everyday", ScheduleError::Descriptor("@everyday".to_owned())),
    ] {
        assert_eq!(Schedule::parse(line), Err(expected), "{line:?}");
    }
    for line in ["@every", "@every ", "@every 5", "@every -5m", "@every 1h 5m", "@every 99999999h"] {
        assert!(Schedule::parse(line).is_err(), "{line:?}");
    }
}

fn timing(line: &str, jitter_seconds: u64, deadline: Option<u64>) -> Timing {
    Timing {
        schedule: Schedule::parse(line).unwrap(),
        jitter: Duration::from_secs(jitter_seconds),
        starting_deadline: deadline.map(Duration::from_secs),
    }
}

#[test]
fn test_what_is_due() {
    let hourly = timing("0 * * * *", 0, None);
    let shifted = timing("0 * * * *", 90, None);
    let strict = timing("0 * * * *", 0, Some(600));
    let every = timing("@every 1h", 90, None);
    for (what, timing, announced, now, run, missed, next) in [
        ("new", &hourly, None, "10:30:00", None, false, "11:00:00"),
        ("early", &hourly, Some("11:00:00"), "10:59:59", None, false, "11:00:00"),
        ("on time", &hourly, Some("11:00:00"), "11:00:00", Some("11:00:00"), false, "12:00:00"),
        ("late", &hourly, Some("11:00:00"), "11:59:59", Some("11:00:00"), false, "12:00:00"),
        ("many missed", &hourly, Some("04:00:00"), "11:10:00", Some("11:00:00"), false, "12:00:00"),
        ("within the deadline", &strict, Some("04:00:00"), "11:10:00", Some("11:00:00"), false, "12:00:00"),
        ("too late", &strict, Some("04:00:00"), "11:10:01", None, true, "12:00:00"),
        ("line changed", &hourly, Some("10:17:00"), "10:30:00", None, false, "11:00:00"),
        ("line changed before", &hourly, Some("10:47:00"), "10:30:00", None, false, "11:00:00"),
        ("clock set back", &hourly, Some("15:00:00"), "10:30:00", None, false, "11:00:00"),
        ("shifted, early", &shifted, Some("11:01:30"), "11:01:29", None, false, "11:01:30"),
        ("shifted, on time", &shifted, Some("11:01:30"), "11:01:30", Some("11:01:30"), false, "12:01:30"),
        ("shifted, missed", &shifted, Some("08:01:30"), "12:01:29", Some("11:01:30"), false, "12:01:30"),
        ("shifted, new", &shifted, None, "11:01:00", None, false, "11:01:30"),
        ("interval, new", &every, None, "10:30:05", None, false, "11:30:05"),
        ("interval, early", &every, Some("11:30:05"), "11:00:00", None, false, "11:30:05"),
        ("interval, on time", &every, Some("11:30:05"), "11:30:06", Some("11:30:05"), false, "12:30:05"),
        ("interval, missed", &every, Some("04:30:05"), "11:40:00", Some("11:30:05"), false, "12:30:05"),
        ("interval, shortened", &every, Some("15:00:00"), "10:30:00", None, false, "11:30:00"),
    ] {
        let time = |text: &str| at(&format!("2026-07-09T{text}Z"));
        let expected = Due { run: run.map(time), missed, next: Some(time(next)) };
        assert_eq!(timing.due(announced.map(time), time(now)), expected, "{what}");
    }
}

#[test]
fn test_jitter_is_stable_and_below_its_bound() {
    let bound = Duration::from_secs(30);
    let uids: Vec<String> = (0..1000).map(|n| format!("00000000-0000-4000-8000-{n:012}")).collect();
    let mut counts = [0; 30];
    for uid in &uids {
        let shift = jitter(uid, bound);
        assert_eq!(shift, jitter(uid, bound));
        counts[usize::try_from(shift.as_secs()).unwrap()] += 1;
    }
    assert!(counts.iter().all(|&count| (10..70).contains(&count)), "{counts:?}");
    assert_eq!(jitter(&uids[0], Duration::ZERO), Duration::ZERO);
}

/// A field as the model has it: its text, the numbers that it names, and whether it is a plain star.
#[derive(Clone, Debug)]
struct Field {
    text: String,
    numbers: Vec<i8>,
    star: bool,
}

fn field(min: i8, max: i8) -> impl Strategy<Value = Field> {
    let all = (min..=max).collect::<Vec<_>>();
    let star = Just(Field { text: "*".to_owned(), numbers: all.clone(), star: true });
    let mark = Just(Field { text: "?".to_owned(), numbers: all, star: true });
    let step = (2..=9_usize).prop_map(move |step| Field {
        text: format!("*/{step}"),
        numbers: (min..=max).step_by(step).collect(),
        star: false,
    });
    let range = (min..=max, min..=max, 1..4_usize).prop_map(|(a, b, step)| Field {
        text: format!("{}-{}/{step}", a.min(b), a.max(b)),
        numbers: (a.min(b)..=a.max(b)).step_by(step).collect(),
        star: false,
    });
    let list = prop::collection::vec(min..=max, 1..4).prop_map(|numbers| Field {
        text: numbers.iter().map(i8::to_string).collect::<Vec<_>>().join(","),
        numbers,
        star: false,
    });
    prop_oneof![2 => star, 1 => mark, 1 => step, 1 => range, 2 => list]
}

const ZONES: [&str; 7] = [
    "UTC",
    "Europe/Vienna",
    "America/New_York",
    "America/Sao_Paulo",
    "Australia/Lord_Howe",
    "Asia/Kolkata",
    "Pacific/Apia",
];

/// Moments shortly before clocks are set, and a quiet one.
const STARTS: [&str; 8] = [
    "2012-03-10T12:00:00Z",
    "2012-11-03T20:00:00Z",
    "2018-02-16T12:00:00Z",
    "2018-11-03T12:00:00Z",
    "2026-03-28T12:00:00Z",
    "2026-04-04T06:00:00Z",
    "2011-12-29T12:00:00Z",
    "2026-07-09T12:00:00Z",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Against a model that looks at each minute of three days: the clock on the wall there shows a time that the line names.
    #[test]
    fn test_times_are_those_of_a_walk_minute_by_minute(
        fields in (field(0, 59), field(0, 23), field(1, 31), field(1, 12), field(0, 6)),
        zone in prop::sample::select(&ZONES[..]),
        start in prop::sample::select(&STARTS[..]),
        seconds in 0..86_400_i64,
    ) {
        let (minutes, hours, days, months, weekdays) = fields;
        let parts = [&minutes, &hours, &days, &months, &weekdays].map(|field| field.text.as_str());
        let line = format!("CRON_TZ={zone} {}", parts.join(" "));
        let schedule = Schedule::parse(&line).unwrap();
        let tz = TimeZone::get(zone).unwrap();
        let start = at(start).checked_add(SignedDuration::from_secs(seconds)).unwrap();
        let first = start.as_second() - start.as_second().rem_euclid(60);
        let walked: Vec<Timestamp> = (0..3 * 1440)
            .map(|minute| Timestamp::from_second(first + minute * 60).unwrap())
            .filter(|&time| time > start)
            .filter(|&time| {
                let clock = tz.to_datetime(time);
                let day = days.numbers.contains(&clock.day());
                let weekday = weekdays.numbers.contains(&clock.weekday().to_sunday_zero_offset());
                let named = if days.star || weekdays.star { day && weekday } else { day || weekday };
                named
                    && months.numbers.contains(&clock.month())
                    && hours.numbers.contains(&clock.hour())
                    && minutes.numbers.contains(&clock.minute())
            })
            .collect();
        let end = Timestamp::from_second(first + (3 * 1440 - 1) * 60).unwrap();
        let mut found = Vec::new();
        let mut time = start;
        while let Some(next) = schedule.next_after(time).filter(|&next| next <= end && found.len() < 5000) {
            found.push(next);
            time = next;
        }
        prop_assert_eq!(&found, &walked, "{}", line);
        prop_assert_eq!(schedule.last_within(start, end), walked.last().copied(), "{}", line);
        if let [first, .., last] = walked[..] {
            let before = last.checked_sub(SignedDuration::from_secs(1)).unwrap();
            prop_assert_eq!(schedule.last_within(start, before), walked.iter().rev().nth(1).copied());
            prop_assert_eq!(schedule.last_within(first, first), None);
        }
    }

    #[test]
    fn test_no_line_panics(line in "(TZ=)?[-*/,?@0-9a-z ]{0,30}", seconds in -9_000_000_000_i64..9_000_000_000) {
        if let Ok(schedule) = Schedule::parse(&line) {
            let time = Timestamp::from_second(seconds).unwrap();
            let _next = schedule.next_after(time);
            let _last = schedule.last_within(time, Timestamp::MAX);
        }
    }

    /// Whatever is announced and whatever the clock shows: a run is never in the future, and the next one always is.
    #[test]
    fn test_due_is_sane(
        line in prop::sample::select(&["* * * * *", "0 3 * * *", "@every 7m", "CRON_TZ=Europe/Vienna 30 2 * * *"][..]),
        announced in prop::option::of(1_700_000_000..1_800_000_000_i64),
        now in 1_700_000_000..1_800_000_000_i64,
        shift in 0..3600_u64,
        deadline in prop::option::of(0..100_000_u64),
    ) {
        let timing = timing(line, shift, deadline);
        let now = Timestamp::from_second(now).unwrap();
        let due = timing.due(announced.map(|time| Timestamp::from_second(time).unwrap()), now);
        prop_assert!(due.run.is_none_or(|run| run <= now));
        prop_assert!(due.next.is_some_and(|next| next > now));
        prop_assert!(!(due.missed && due.run.is_some()));
        // What was announced for the future is not run twice: asking again gives the same.
        let again = timing.due(due.next, now);
        prop_assert_eq!(again, Due { run: None, missed: false, next: due.next });
    }
}

//! Times as RFC 3339 writes them, in Go's form: `2006-01-02T15:04:05.999999999+07:00`.

use super::tree::Timestamp;

/// Reads a time and its offset from UTC in seconds. Digits below the nanosecond are cut off.
///
/// Trees hold three of them for each entry, hence no general parser.
pub(crate) fn parse_rfc3339(text: &[u8]) -> Option<(Timestamp, i32)> {
    let (head, rest) = text.split_first_chunk::<19>()?;
    let separators = [head[4], head[7], head[10], head[13], head[16]];
    if separators != *b"--T::" {
        return None;
    }
    let year = two(head, 0)? * 100 + two(head, 2)?;
    let (month, day) = (two(head, 5)?, two(head, 8)?);
    let (hour, minute, second) = (two(head, 11)?, two(head, 14)?, two(head, 17)?);
    if !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let (nanos, rest) = fraction(rest)?;
    let offset = offset(rest)?;
    let secs = days_from_civil(year, month, day) * 86_400 + i64::from(hour * 3_600 + minute * 60 + second);
    Some((Timestamp { secs: secs - i64::from(offset), nanos }, offset))
}

/// Reads two digits.
#[inline]
fn two(text: &[u8; 19], at: usize) -> Option<u32> {
    let (tens, ones) = (text[at].wrapping_sub(b'0'), text[at + 1].wrapping_sub(b'0'));
    (tens < 10 && ones < 10).then(|| u32::from(tens) * 10 + u32::from(ones))
}

/// Reads `.` and digits, if there are any, as nanoseconds.
#[inline]
fn fraction(text: &[u8]) -> Option<(u32, &[u8])> {
    let Some(digits) = text.strip_prefix(b".") else {
        return Some((0, text));
    };
    let len = digits.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(digits.len());
    if len == 0 {
        return None;
    }
    let zeros = std::iter::repeat(&b'0');
    let nanos = digits[..len].iter().chain(zeros).take(9).fold(0, |nanos, digit| nanos * 10 + u32::from(digit - b'0'));
    Some((nanos, &digits[len..]))
}

/// Reads `Z` or `+07:00`.
#[inline]
fn offset(text: &[u8]) -> Option<i32> {
    if text == b"Z" {
        return Some(0);
    }
    let [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] = *text else {
        return None;
    };
    let number = |tens: u8, ones: u8| {
        let digits = tens.is_ascii_digit() && ones.is_ascii_digit();
        digits.then(|| i32::from(tens - b'0') * 10 + i32::from(ones - b'0'))
    };
    let (hours, minutes) = (number(h1, h2)?, number(m1, m2)?);
    if hours > 24 || minutes > 59 {
        return None;
    }
    let seconds = hours * 3_600 + minutes * 60;
    Some(if sign == b'-' { -seconds } else { seconds })
}

fn days_in_month(year: u32, month: u32) -> u32 {
    match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 in the Gregorian calendar. Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
fn days_from_civil(year: u32, month: u32, day: u32) -> i64 {
    let year = i64::from(year) - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let shifted_month = i64::from((month + 9) % 12);
    let day_of_year = (153 * shifted_month + 2) / 5 + i64::from(day) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn test_times() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", Some((0, 0, 0))),
            ("2026-11-22T19:52:21.623533528Z", Some((1_795_377_141, 623_533_528, 0))),
            ("2026-11-22T19:52:21.5+01:30", Some((1_795_371_741, 500_000_000, 5_400))),
            ("2026-11-22T19:52:21-00:30", Some((1_795_378_941, 0, -1_800))),
            ("1969-12-31T23:59:59.000000001Z", Some((-1, 1, 0))),
            ("0001-01-01T00:00:00Z", Some((-62_135_596_800, 0, 0))),
            ("0000-02-29T00:00:00Z", Some((-62_162_121_600, 0, 0))),
            ("9999-12-31T23:59:59.999999999Z", Some((253_402_300_799, 999_999_999, 0))),
            ("2000-02-29T00:00:00Z", Some((951_782_400, 0, 0))),
            ("2026-11-22T19:52:21.1234567899Z", Some((1_795_377_141, 123_456_789, 0))),
            ("1900-02-29T00:00:00Z", None),
            ("2026-13-22T19:52:21Z", None),
            ("2026-00-22T19:52:21Z", None),
            ("2026-11-31T19:52:21Z", None),
            ("2026-11-00T19:52:21Z", None),
            ("2026-11-22T24:52:21Z", None),
            ("2026-11-22T19:60:21Z", None),
            ("2026-11-22T19:52:60Z", None),
            ("2026-11-22T19:52:21", None),
            ("2026-11-22T19:52:21.Z", None),
            ("2026-11-22T19:52:21z", None),
            ("2026-11-22T19:52:21+25:00", None),
            ("2026-11-22T19:52:21+1:00", None),
            ("2026-11-22T19:52:21+01:00x", None),
            ("2026-11-22 19:52:21Z", None),
            ("20x6-11-22T19:52:21Z", None),
            ("-026-11-22T19:52:21Z", None),
            ("", None),
        ] {
            let parsed = parse_rfc3339(text.as_bytes()).map(|(time, offset)| (time.secs, time.nanos, offset));
            assert_eq!(parsed, expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn prop_equals_jiff(secs in -62_135_596_800_i64..253_402_207_200, nanos in 0..1_000_000_000_i32) {
            let time = jiff::Timestamp::new(secs, nanos).unwrap();
            // The sign of the fraction follows that of the seconds there.
            let expected = Timestamp {
                secs: time.as_nanosecond().div_euclid(1_000_000_000).try_into().unwrap(),
                nanos: time.as_nanosecond().rem_euclid(1_000_000_000).try_into().unwrap(),
            };
            prop_assert_eq!(parse_rfc3339(time.to_string().as_bytes()), Some((expected, 0)));
        }

        #[test]
        fn prop_any_bytes_end(bytes: Vec<u8>, text in "[0-9TZ:.+-]{15,40}") {
            let _ = parse_rfc3339(&bytes);
            let _ = parse_rfc3339(text.as_bytes());
        }
    }
}

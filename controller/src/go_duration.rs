//! Durations as Go writes and reads them, which is how the API does.

use std::time::Duration;

/// What is wrong with the text of a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// It has no numbers with units, or something else as well.
    #[error("{0:?} is no duration: numbers with units are, as 30s, 2m or 1h30m")]
    Malformed(String),
    /// It is before zero.
    #[error("{0:?} is negative")]
    Negative(String),
    /// It is longer than Go can count: 292 years.
    #[error("{0:?} is too long")]
    TooLong(String),
}

const SECOND: u128 = 1_000_000_000;

/// Reads a duration, as `1h30m`.
///
/// # Errors
///
/// The text is none, or it is negative or too long.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let malformed = || DurationError::Malformed(text.to_owned());
    if text.starts_with('-') {
        return Err(DurationError::Negative(text.to_owned()));
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(malformed());
    }
    let mut nanoseconds: u128 = 0;
    while !rest.is_empty() {
        let (whole, after) = digits(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => digits(after),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(malformed());
        }
        let end = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let unit = unit_nanoseconds(unit).ok_or_else(malformed)?;
        let part = scaled(whole, fraction, unit).ok_or_else(|| DurationError::TooLong(text.to_owned()))?;
        nanoseconds = nanoseconds.saturating_add(part);
        rest = after;
    }
    match u64::try_from(nanoseconds) {
        Ok(nanoseconds) if i64::try_from(nanoseconds).is_ok() => Ok(Duration::from_nanos(nanoseconds)),
        _ => Err(DurationError::TooLong(text.to_owned())),
    }
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

fn unit_nanoseconds(unit: &str) -> Option<u128> {
    Some(match unit {
        "ns" => 1,
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => SECOND,
        "m" => 60 * SECOND,
        "h" => 3_600 * SECOND,
        _ => return None,
    })
}

/// Returns `whole.fraction` of `unit`, cut to nanoseconds; nothing if it has no room.
fn scaled(whole: &str, fraction: &str, unit: u128) -> Option<u128> {
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    // More digits than nanoseconds of an hour has say nothing.
    let fraction = &fraction[..fraction.len().min(15)];
    let numerator: u128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let denominator = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    whole.checked_mul(unit)?.checked_add(numerator * unit / denominator)
}

/// Writes a duration, as `1h30m0s`, `1.5s` or `250ms`.
pub fn format(duration: Duration) -> String {
    let nanoseconds = duration.as_nanos();
    if nanoseconds == 0 {
        return "0s".to_owned();
    }
    if nanoseconds < SECOND {
        let (unit, name) = match nanoseconds {
            1_000_000.. => (1_000_000, "ms"),
            1_000.. => (1_000, "\u{b5}s"),
            _ => (1, "ns"),
        };
        return format!("{}{name}", decimal(nanoseconds, unit));
    }
    let (minutes, rest) = (nanoseconds / (60 * SECOND), nanoseconds % (60 * SECOND));
    let seconds = decimal(rest, SECOND);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// Writes a duration to the second, halves up, as Go rounds it.
pub fn format_rounded(duration: Duration) -> String {
    format(Duration::from_secs(duration.as_secs() + u64::from(duration.subsec_millis() >= 500)))
}

fn decimal(number: u128, unit: u128) -> String {
    let (whole, rest) = (number / unit, number % unit);
    if rest == 0 {
        return whole.to_string();
    }
    let width = unit.ilog10() as usize;
    format!("{whole}.{}", format!("{rest:0width$}").trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn test_texts_are_read_as_go_reads_them() {
        for (text, nanoseconds) in [
            ("0", 0),
            ("+5s", 5_000_000_000_u64),
            ("1h30m", 5_400_000_000_000),
            ("1.5h", 5_400_000_000_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("2m3.25s", 123_250_000_000),
            ("1\u{b5}s", 1_000),
            ("7us9ns", 7_009),
            ("0.9ns", 0),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_nanos(nanoseconds)), "{text}");
        }
        for text in ["", "+", "5", "s", ".s", "1d", "1h ", " 1h", "1h-1m", "1,5s", "1h30"] {
            assert_eq!(parse(text), Err(DurationError::Malformed(text.to_owned())), "{text}");
        }
        assert_eq!(parse("-1s"), Err(DurationError::Negative("-1s".to_owned())));
        for text in ["9999999999h", "99999999999999999999999999999999999999999h"] {
            assert_eq!(parse(text), Err(DurationError::TooLong(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn test_durations_are_written_as_go_writes_them() {
        for (nanoseconds, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1\u{b5}s"),
            (2_200_000, "2.2ms"),
            (3_300_000_000, "3.3s"),
            (245_000_000_000, "4m5s"),
            (245_001_000_000, "4m5.001s"),
            (18_367_001_000_000, "5h6m7.001s"),
            (3_600_000_000_000, "1h0m0s"),
        ] {
            assert_eq!(format(Duration::from_nanos(nanoseconds)), text);
        }
        assert_eq!(format_rounded(Duration::from_millis(61_500)), "1m2s");
        assert_eq!(format_rounded(Duration::from_millis(499)), "0s");
    }

    proptest! {
        #[test]
        fn test_what_is_written_is_read_again(nanoseconds in 0..i64::MAX.unsigned_abs()) {
            let duration = Duration::from_nanos(nanoseconds);
            prop_assert_eq!(parse(&format(duration)), Ok(duration));
        }

        #[test]
        fn test_no_text_panics(text in "[-+.0-9nuµmsh ]{0,40}") {
            let _outcome = parse(&text);
        }
    }
}

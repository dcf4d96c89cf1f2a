//! Sizes and durations as restic's flags have them.

use std::time::Duration;

/// Parses a size: a number with `k`, `M`, `G` or `T` (powers of 1024), perhaps followed by `B` or `iB`.
///
/// Source: restic, `internal/ui/format.go`, `ParseBytes`.
///
/// # Errors
/// It is not one.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let unit = unit.trim_end_matches(['b', 'B']).trim_end_matches('i').to_ascii_lowercase();
    let shift = match unit.as_str() {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(format!("`{text}` is not a size like 500M or 2G")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("`{text}` is not a size like 500M or 2G"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("`{text}` is too large"))
}

/// Parses a duration in Go's syntax without signs: `1h30m`, `90s`, `1.5s`, `300ms`; a bare number is seconds.
///
/// # Errors
/// It is not one.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration like 30s, 5m or 1h30m");
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let split = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(split);
        let end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, next) = tail.split_at(end);
        let scale = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86400.0,
            _ => return Err(wrong()),
        };
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let part = Duration::try_from_secs_f64(number * scale).map_err(|_| wrong())?;
        total = total.checked_add(part).ok_or_else(wrong)?;
        rest = next;
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn test_parse_bytes() {
        let table = [
            ("0", Some(0)),
            ("1023", Some(1023)),
            ("1k", Some(1024)),
            ("2M", Some(2 << 20)),
            ("2MiB", Some(2 << 20)),
            ("3gb", Some(3 << 30)),
            ("1T", Some(1 << 40)),
            ("", None),
            ("G", None),
            ("1x", None),
            ("-1", None),
            ("99999999999T", None),
        ];
        for (text, want) in table {
            assert_eq!(parse_bytes(text).ok(), want, "{text}");
        }
    }

    #[test]
    fn test_parse_duration() {
        let table = [
            ("30", Some(30_000)),
            ("30s", Some(30_000)),
            ("1h30m", Some(5_400_000)),
            ("1.5s", Some(1_500)),
            ("300ms", Some(300)),
            ("1d", Some(86_400_000)),
            ("", None),
            ("s", None),
            ("1y", None),
            ("1.2.3s", None),
            ("-1s", None),
        ];
        for (text, want) in table {
            assert_eq!(parse_duration(text).ok().map(|d| d.as_millis()), want, "{text}");
        }
    }

    proptest! {
        #[test]
        fn test_any_text_is_a_size_or_none(text in r"[0-9]{0,25}[kKmMgGtTiIbB. -]{0,3}|\PC*") {
            let _ = parse_bytes(&text);
        }

        #[test]
        fn test_sizes_are_powers_of_1024(number in 0_u64..1 << 20, unit in 0_usize..5) {
            let text = format!("{number}{}", ["", "k", "M", "GiB", "tb"][unit]);
            prop_assert_eq!(parse_bytes(&text), Ok(number << (10 * unit)));
        }

        #[test]
        fn test_any_text_is_a_duration_or_none(text in r"([0-9]{1,25}(\.[0-9]{0,25})?(ms|s|m|h|d)){0,4}|\PC*") {
            let _ = parse_duration(&text);
        }

        #[test]
        fn test_parts_of_a_duration_are_added(hours in 0_u64..1000, minutes in 0_u64..1000, millis in 0_u64..100_000) {
            let total = Duration::from_secs(hours * 3600 + minutes * 60) + Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&format!("{hours}h{minutes}m{millis}ms")), Ok(total));
        }
    }
}

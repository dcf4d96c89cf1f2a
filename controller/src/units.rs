//! Sizes and times as restic, and so Stash, writes them.

use std::time::Duration;

/// Writes a number of bytes, as `1.234 MiB` or `56 B`.
pub fn size(bytes: u64) -> String {
    const UNITS: [(u32, &str); 4] = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    match UNITS.iter().find(|(shift, _)| bytes > 1 << shift) {
        // Three digits: what a float loses beyond 2^53 is not seen.
        #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
        Some((shift, unit)) => format!("{:.3} {unit}", bytes as f64 / (1_u64 << shift) as f64),
        None => format!("{bytes} B"),
    }
}

/// Writes a time, as `m:ss` or `h:mm:ss`.
pub fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

/// Reads what [`size`] wrote. What is none is nothing.
pub fn bytes(text: &str) -> Option<f64> {
    let (number, unit) = text.split_once(' ')?;
    let factor = match unit {
        "B" => 1.0,
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        "GiB" => 1024.0 * 1024.0 * 1024.0,
        "TiB" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    number.parse::<f64>().ok().map(|number| number * factor)
}

/// Reads what [`clock`] wrote, in seconds. What is none is nothing.
pub fn seconds(text: &str) -> Option<f64> {
    text.split(':').try_fold(0.0, |sum, part| Some(sum * 60.0 + f64::from(part.parse::<u32>().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_sizes_and_times_are_written_as_restic_does() {
        for (bytes, text) in [
            (0, "0 B"),
            (1024, "1024 B"),
            (1025, "1.001 KiB"),
            (1 << 20, "1024.000 KiB"),
            (5_452_595, "5.200 MiB"),
            (3 << 30, "3.000 GiB"),
            (u64::MAX, "16777216.000 TiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        for (seconds, text) in [(0, "0:00"), (61, "1:01"), (3600, "1:00:00"), (100_000, "27:46:40")] {
            assert_eq!(clock(Duration::from_secs(seconds)), text);
        }
        for (text, expected) in [
            ("0 B", Some(0.0)),
            ("1.500 KiB", Some(1536.0)),
            ("3.000 GiB", Some(3_221_225_472.0)),
            ("x MiB", None),
            ("7", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
        for (text, expected) in [("1:01", Some(61.0)), ("27:46:40", Some(100_000.0)), ("", None), ("1:-1", None)] {
            assert_eq!(seconds(text), expected, "{text}");
        }
    }
}

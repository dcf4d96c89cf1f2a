//! Sizes and durations, as a person writes and reads them.

use std::time::Duration;

pub(super) use stash_proto::units::{parse_bytes, parse_duration};

/// Shows a size as restic does: `1.234 GiB`.
///
/// Source: restic, `internal/ui/format.go`, `FormatBytes`.
pub(super) fn format_bytes(bytes: u64) -> String {
    let (shift, unit) = match bytes {
        b if b >= 1 << 40 => (40, "TiB"),
        b if b >= 1 << 30 => (30, "GiB"),
        b if b >= 1 << 20 => (20, "MiB"),
        b if b >= 1 << 10 => (10, "KiB"),
        _ => return format!("{bytes} B"),
    };
    // Three digits after the point, rounded as Go's %.3f does.
    let thousandths = ((u128::from(bytes) * 1000) + (1 << (shift - 1))) >> shift;
    format!("{}.{:03} {unit}", thousandths / 1000, thousandths % 1000)
}

/// Shows a duration as `1:02:03` or `2:03`.
///
/// Source: restic, `internal/ui/format.go`, `FormatDuration`.
pub(super) fn format_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_format() {
        let table = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.000 KiB"),
            (1536, "1.500 KiB"),
            ((1 << 20) - 1, "1023.999 KiB"),
            (u64::MAX, "16777216.000 TiB"),
        ];
        for (bytes, want) in table {
            assert_eq!(format_bytes(bytes), want);
        }
        assert_eq!(format_duration(Duration::from_secs(59)), "0:59");
        assert_eq!(format_duration(Duration::from_secs(3723)), "1:02:03");
    }
}

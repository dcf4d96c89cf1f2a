//! When a daemon that ended is started again. Pure: the time is an argument.

use std::time::{Duration, Instant};

/// A daemon that ran so long was well; the next one starts at once.
const WELL: Duration = Duration::from_secs(1);
/// The pause after the second end in a row, doubled with each further one.
const FIRST: Duration = Duration::from_millis(100);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(10);

/// Counts ends in a row.
#[derive(Debug, Default)]
pub struct Restarts {
    in_a_row: u32,
}

impl Restarts {
    /// Returns when to start a daemon again that was started at `started` and ended at `ended`.
    pub fn after(&mut self, started: Instant, ended: Instant) -> Instant {
        if ended.saturating_duration_since(started) >= WELL {
            self.in_a_row = 0;
        }
        let pause = match self.in_a_row {
            0 => Duration::ZERO,
            // 2^10 times the first pause is beyond the longest.
            more => (FIRST * 2_u32.pow((more - 1).min(10))).min(LONGEST),
        };
        self.in_a_row = self.in_a_row.saturating_add(1);
        ended + pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_pauses_grow_and_are_forgotten() {
        let mut restarts = Restarts::default();
        let start = Instant::now();
        let soon = start + Duration::from_millis(900);
        let mut pause = |ended: Instant| restarts.after(start, ended).duration_since(ended).as_millis();
        let pauses: Vec<u128> = (0..12).map(|_| pause(soon)).collect();
        assert_eq!(pauses, [0, 100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000, 10_000, 10_000]);
        assert_eq!(pause(start + Duration::from_secs(11)), 0, "it was well for a while");
        assert_eq!(pause(soon), 100);
    }
}

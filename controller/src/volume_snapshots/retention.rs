//! Which of several snapshots of a claim are kept. Pure.

use std::collections::BTreeSet;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use stash_crds::retention::RetentionPolicy;

/// Returns which of the snapshots taken at `times` are kept under `policy`: for each place in `times`, whether it is.
///
/// The rules are restic's: of each hour, day, week, month and year the newest counts, in UTC, for so many of them that have one. A policy
/// without any of these rules keeps everything.
pub fn kept(times: &[Timestamp], policy: &RetentionPolicy) -> Vec<bool> {
    let count = |number: Option<i64>| usize::try_from(number.unwrap_or(0)).unwrap_or(0);
    let mut newest_first: Vec<usize> = (0..times.len()).collect();
    newest_first.sort_by_key(|&place| std::cmp::Reverse(times[place]));
    /// Of how many periods, and in which one a time is.
    type Rule = (usize, fn(Timestamp) -> String);
    let rules: [Rule; 6] = [
        (count(policy.keep_last), |time| time.as_nanosecond().to_string()),
        (count(policy.keep_hourly), |time| shown(time, "%Y-%m-%d %H")),
        (count(policy.keep_daily), |time| shown(time, "%Y-%m-%d")),
        (count(policy.keep_weekly), |time| shown(time, "%G-%V")),
        (count(policy.keep_monthly), |time| shown(time, "%Y-%m")),
        (count(policy.keep_yearly), |time| shown(time, "%Y")),
    ];
    if rules.iter().all(|(count, _)| *count == 0) {
        return vec![true; times.len()];
    }
    let mut kept = vec![false; times.len()];
    for (index, (count, period)) in rules.into_iter().enumerate() {
        let mut seen = BTreeSet::new();
        for &place in &newest_first {
            // Two of the same moment are two, for the last so many.
            let period = if index == 0 { place.to_string() } else { period(times[place]) };
            if seen.len() < count && seen.insert(period) {
                kept[place] = true;
            }
        }
    }
    kept
}

fn shown(time: Timestamp, format: &str) -> String {
    time.to_zoned(TimeZone::UTC).strftime(format).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn which(times: &[&str], policy: Value) -> String {
        let times: Vec<Timestamp> = times.iter().map(|time| time.parse().unwrap()).collect();
        let mut policy = policy;
        policy["name"] = json!("p");
        policy["prune"] = json!(true);
        let kept = kept(&times, &serde_json::from_value(policy).unwrap());
        kept.iter().map(|&kept| if kept { 'k' } else { '-' }).collect()
    }

    #[test]
    fn test_rules_are_those_of_restic() {
        let times = [
            "2025-12-30T10:00:00Z",
            "2026-01-01T00:30:00Z",
            "2026-01-02T09:10:00Z",
            "2026-01-02T09:50:00Z",
            "2026-01-02T11:00:00Z",
            "2026-02-01T00:00:00Z",
        ];
        for (policy, expected) in [
            (json!({}), "kkkkkk"),
            (json!({"keepLast": 2}), "----kk"),
            (json!({"keepLast": 99}), "kkkkkk"),
            (json!({"keepHourly": 3}), "---kkk"),
            (json!({"keepDaily": 2}), "----kk"),
            (json!({"keepDaily": 3}), "-k--kk"),
            (json!({"keepWeekly": 2}), "----kk"),
            (json!({"keepWeekly": 9}), "----kk"),
            (json!({"keepMonthly": 3}), "k---kk"),
            (json!({"keepYearly": 2}), "k----k"),
            (json!({"keepLast": 1, "keepYearly": 2}), "k----k"),
            (json!({"keepLast": -1, "keepDaily": 1}), "-----k"),
        ] {
            assert_eq!(which(&times, policy.clone()), expected, "{policy}");
        }
        assert_eq!(which(&["2026-01-01T00:00:00Z"; 3], json!({"keepLast": 2})), "kk-");
        assert_eq!(which(&[], json!({"keepLast": 2})), "");
    }
}

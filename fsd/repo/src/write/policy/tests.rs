use proptest::prelude::*;
use serde_json::{Map, Value};

use super::*;
use crate::id::{Id, SnapshotId, TreeId};

fn snapshot(time: &str, tags: &[&str]) -> SnapshotJson {
    let json = serde_json::json!({
        "time": time, "tree": "00".repeat(32), "hostname": "h", "paths": ["/a"], "tags": tags,
    });
    SnapshotJson::parse(SnapshotId(Id::hash(time.as_bytes())), json.to_string().as_bytes()).unwrap()
}

fn kept(policy: &Policy, times: &[&str]) -> Vec<String> {
    let now: Zoned = "2030-01-01T00:00:00+00:00[UTC]".parse().unwrap();
    let outcome = policy.apply(times.iter().map(|time| snapshot(time, &[])).collect(), &now);
    assert_eq!(outcome.keep.len() + outcome.remove.len(), times.len());
    outcome.keep.iter().map(|kept| kept.snapshot.fields["time"].as_str().unwrap()[..16].to_owned()).collect()
}

const TIMES: &[&str] = &[
    "2020-12-27T10:00:00Z",
    "2020-12-31T09:00:00Z",
    "2020-12-31T09:30:00Z",
    "2021-01-01T00:10:00Z",
    "2021-01-03T12:00:00Z",
    "2021-01-04T12:00:00Z",
    "2021-02-28T23:00:00Z",
    "2021-02-28T23:59:00Z",
];

#[test]
fn test_no_rule_keeps_all() {
    assert_eq!(kept(&Policy::default(), TIMES).len(), TIMES.len());
}

#[test]
fn test_counted_rules() {
    let policy = Policy { last: Count::Last(2), ..Policy::default() };
    assert_eq!(kept(&policy, TIMES), ["2021-02-28T23:59", "2021-02-28T23:00"]);
    let policy = Policy { daily: Count::Last(3), ..Policy::default() };
    assert_eq!(kept(&policy, TIMES), ["2021-02-28T23:59", "2021-01-04T12:00", "2021-01-03T12:00"]);
    // The 31st of December to the 3rd of January is one ISO week, of 2020.
    let policy = Policy { weekly: Count::Unlimited, ..Policy::default() };
    assert_eq!(kept(&policy, TIMES), ["2021-02-28T23:59", "2021-01-04T12:00", "2021-01-03T12:00", "2020-12-27T10:00"]);
    // The oldest stays while counts are left.
    let policy = Policy { yearly: Count::Last(10), ..Policy::default() };
    assert_eq!(kept(&policy, TIMES), ["2021-02-28T23:59", "2020-12-31T09:30", "2020-12-27T10:00"]);
    let policy = Policy { hourly: Count::Last(2), ..Policy::default() };
    assert_eq!(kept(&policy, TIMES), ["2021-02-28T23:59", "2021-01-04T12:00"]);
}

#[test]
fn test_rules_of_time_count_from_the_newest() {
    let within = |text: &str| text.parse().unwrap();
    let policy = Policy { within: within("59m2d"), ..Policy::default() };
    assert_eq!(kept(&policy, TIMES).len(), TIMES.len());
    let policy = Policy { within: within("1h"), ..Policy::default() };
    assert_eq!(kept(&policy, TIMES), ["2021-02-28T23:59", "2021-02-28T23:00"]);
    let policy = Policy { within_daily: within("2m"), ..Policy::default() };
    assert_eq!(
        kept(&policy, TIMES),
        ["2021-02-28T23:59", "2021-01-04T12:00", "2021-01-03T12:00", "2021-01-01T00:10", "2020-12-31T09:30"]
    );
}

#[test]
fn test_why_the_oldest_stays() {
    let now: Zoned = "2030-01-01T00:00:00+00:00[UTC]".parse().unwrap();
    let oldest = |policy: Policy, times: &[&str]| {
        let outcome = policy.apply(times.iter().map(|time| snapshot(time, &[])).collect(), &now);
        outcome.keep.last().unwrap().matches.clone()
    };
    let yearly = |n| Policy { yearly: Count::Last(n), ..Policy::default() };
    assert_eq!(oldest(yearly(3), TIMES), ["oldest yearly snapshot"]);
    // The first of its year is no filler.
    assert_eq!(oldest(yearly(3), &TIMES[2..]), ["yearly snapshot"]);
    let within = |text: &str| Policy { within_yearly: text.parse().unwrap(), ..Policy::default() };
    assert_eq!(oldest(within("1y"), TIMES), ["oldest yearly within 1y"]);
    // It is too old: what stays last is the newest of its year.
    assert_eq!(oldest(within("2m"), TIMES), ["yearly within 2m"]);
}

#[test]
fn test_tags_and_protection_keep() {
    let now: Zoned = "2030-01-01T00:00:00+00:00[UTC]".parse().unwrap();
    let policy = Policy { last: Count::Last(1), tags: vec![vec!["a".to_owned(), "b".to_owned()]], ..Policy::default() };
    let mut protected = snapshot("2020-01-01T00:00:00Z", &[]);
    protected.fields.insert("delete".to_owned(), "Never".into());
    let snapshots = vec![
        snapshot("2022-01-01T00:00:00Z", &[]),
        snapshot("2021-01-01T00:00:00Z", &["a"]),
        snapshot("2020-06-01T00:00:00Z", &["b", "c", "a"]),
        protected,
    ];
    let outcome = policy.apply(snapshots, &now);
    let reasons: Vec<_> = outcome.keep.iter().map(|kept| kept.matches.join("; ")).collect();
    assert_eq!(reasons, ["last snapshot", "has tags [a, b]", "protected from removal"]);
    assert_eq!(outcome.remove.len(), 1);
}

#[test]
fn test_durations_and_counts_parse_as_restics() {
    for (text, shown) in [
        ("1y5m7d2h", Some("1y5m7d2h")),
        ("2h1d", Some("1d2h")),
        ("", Some("")),
        ("5", None),
        ("1w", None),
        ("-1d", None),
    ] {
        assert_eq!(text.parse::<Within>().ok().map(|within| within.to_string()).as_deref(), shown, "{text}");
    }
    for (text, count) in [
        ("0", Some(Count::None)),
        ("7", Some(Count::Last(7))),
        ("unlimited", Some(Count::Unlimited)),
        ("-1", Some(Count::Unlimited)),
        ("x", None),
        ("-2", None),
    ] {
        assert_eq!(text.parse::<Count>().ok(), count, "{text}");
    }
}

#[test]
fn test_groups_by_what_is_asked_for() {
    let make = |host: &str, path: &str| {
        let mut fields = Map::new();
        fields.insert("hostname".into(), host.into());
        fields.insert("paths".into(), Value::from(vec![path]));
        let time = "2020-01-01T00:00:00+00:00[UTC]".parse().unwrap();
        SnapshotJson { id: SnapshotId::default(), time, tree: TreeId::default(), fields }
    };
    let all = vec![make("a", "/x"), make("a", "/y"), make("b", "/x")];
    let count = |host, paths| group(all.clone(), GroupBy { host, paths, tags: false }).len();
    assert_eq!((count(true, true), count(true, false), count(false, true), count(false, false)), (3, 2, 2, 1));
}

proptest! {
    /// No rule keeps fewer snapshots than another with a smaller count, and the newest always stays.
    #[test]
    fn test_more_counts_keep_more(minutes in proptest::collection::btree_set(0_i64..3_000_000, 1..40), n in 1_u32..10) {
        let snapshots: Vec<_> = minutes
            .iter()
            .map(|minute| snapshot(&jiff::Timestamp::from_second(minute * 60).unwrap().to_string(), &[]))
            .collect();
        let now: Zoned = "2030-01-01T00:00:00+00:00[UTC]".parse().unwrap();
        let ids = |n| {
            let policy = Policy { daily: Count::Last(n), weekly: Count::Last(n), ..Policy::default() };
            let outcome = policy.apply(snapshots.clone(), &now);
            outcome.keep.iter().map(|kept| kept.snapshot.id).collect::<std::collections::BTreeSet<_>>()
        };
        prop_assert!(ids(n).is_subset(&ids(n + 1)));
        prop_assert!(ids(n).contains(&snapshots.last().unwrap().id));
    }
}

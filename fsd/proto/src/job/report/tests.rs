use proptest::prelude::*;

use super::*;
use crate::job::REPORT_LIMIT_BYTES;

fn report(outcome: Outcome, error: Option<JobError>) -> JobReport {
    let (started, finished) = ("2026-01-02T03:04:05Z".to_owned(), "2026-01-02T03:05:05Z".to_owned());
    JobReport { error, outcome, ..JobReport::new(started, finished, 60.5) }
}

fn snapshot(path: &str) -> SnapshotReport {
    SnapshotReport {
        id: "0123456789abcdef".repeat(4),
        path: path.to_owned(),
        total_bytes: u64::MAX,
        uploaded_bytes: 1 << 40,
        processing_seconds: 1234.567,
        files: FileCounts { total: 1_000_000, new: 1, modified: 2, unmodified: 999_997 },
    }
}

#[test]
fn test_a_small_report_is_whole() {
    let outcome = BackupOutcome {
        initialized: true,
        snapshots: (0..8).map(|n| snapshot(&format!("/data/{n}"))).collect(),
        omitted_snapshots: 0,
        unreadable: Unreadable { count: 2, names: vec!["open /data/a: denied".to_owned(), "b".to_owned()] },
    };
    let whole = report(Outcome::Backup(outcome), Some(JobError::new(ErrorCode::PartlyRead, "two")));
    assert_eq!(JobReport::parse(&whole.to_message()).unwrap(), whole);
}

#[test]
fn test_what_does_not_fit_is_cut_to_counts() {
    let outcome = BackupOutcome {
        snapshots: (0..1000).map(|n| snapshot(&format!("/data/{n}"))).collect(),
        unreadable: Unreadable { count: 70_000, names: vec!["x".repeat(5000); 100] },
        ..BackupOutcome::default()
    };
    let cut = report(Outcome::Backup(outcome), Some(JobError::new(ErrorCode::Disrupted, "y".repeat(9000))));
    let message = cut.to_message();
    assert!(message.len() <= REPORT_LIMIT_BYTES);
    let read = JobReport::parse(&message).unwrap();
    let Outcome::Backup(backup) = read.outcome else { panic!("it is a backup") };
    assert_eq!(backup.snapshots[0], snapshot("/data/0"));
    assert!(backup.snapshots.len() > 5, "{message}");
    assert_eq!(backup.snapshots.len() as u64 + backup.omitted_snapshots, 1000);
    assert_eq!((backup.unreadable.count, backup.unreadable.names.len()), (70_000, 0));
    assert!(read.error.is_some_and(|error| error.code == ErrorCode::Disrupted && error.message.ends_with('…')));
}

#[test]
fn test_fields_of_later_and_earlier_releases_are_no_errors() {
    let read = JobReport::parse(r#"{"version":9,"error":{"code":"odd"},"new":1,"outcome":{"maintain":{"new":{}}}}"#);
    let read = read.unwrap();
    assert_eq!(read.error.map(|error| error.code), Some(ErrorCode::Unknown));
    assert_eq!(read.outcome, Outcome::Maintain(MaintainOutcome::default()));
    assert!(JobReport::parse("standard_init_linux.go: exec format error").is_err());
}

fn text() -> impl Strategy<Value = String> {
    // Control characters take six bytes each in JSON.
    prop_oneof![r"\PC{0,40}", "[\u{0}-\u{1f}\"\\\\]{0,600}", "[a-z/]{0,3000}", "[é…😀]{0,900}"]
}

fn step<T: std::fmt::Debug>(done: impl Strategy<Value = T>) -> impl Strategy<Value = Option<Step<T>>> {
    let failed = text().prop_map(|message| Step::Failed(JobError::new(ErrorCode::Locked, message)));
    proptest::option::of(prop_oneof![done.prop_map(Step::Done), failed])
}

fn backup() -> impl Strategy<Value = BackupOutcome> {
    let snapshots = proptest::collection::vec(text().prop_map(|path| snapshot(&path)), 0..40);
    (any::<bool>(), snapshots, any::<u64>(), proptest::collection::vec(text(), 0..20)).prop_map(
        |(initialized, snapshots, count, names)| BackupOutcome {
            initialized,
            snapshots,
            omitted_snapshots: 0,
            unreadable: Unreadable { count, names },
        },
    )
}

fn maintain() -> impl Strategy<Value = MaintainOutcome> {
    let counts = || any::<(u64, u64, u64)>();
    let forgotten = counts().prop_map(|(kept, removed, _)| Forgotten { kept, removed });
    let pruned = counts().prop_map(|(removed_packs, marked_packs, removed_bytes)| Pruned {
        removed_packs,
        marked_packs,
        removed_bytes,
    });
    let checked = (any::<u64>(), proptest::collection::vec(text(), 0..20)).prop_map(|(problems, first)| Checked {
        integrity: problems == 0,
        problems,
        first,
    });
    let stats =
        (any::<u64>(), any::<u64>(), proptest::option::of(text())).prop_map(|(total_bytes, snapshots, time)| Stats {
            total_bytes,
            snapshots,
            first_snapshot: time.clone(),
            last_snapshot: time,
        });
    let wiped = any::<u64>().prop_map(|removed| Wiped { removed });
    (step(forgotten.clone()), step(forgotten), step(pruned), step(checked), step(stats), step(wiped)).prop_map(
        |(forget_snapshots, forget, prune, check, stats, wipe_out)| MaintainOutcome {
            initialized: true,
            forget_snapshots,
            forget,
            prune,
            check,
            stats,
            wipe_out,
        },
    )
}

proptest! {
    #[test]
    fn test_any_report_fits_and_keeps_its_numbers(
        outcome in prop_oneof![
            Just(Outcome::Nothing), backup().prop_map(Outcome::Backup), maintain().prop_map(Outcome::Maintain)
        ],
        message in proptest::option::of(text()),
    ) {
        let whole = report(outcome, message.map(|message| JobError::new(ErrorCode::Internal, message)));
        let message = whole.to_message();
        prop_assert!(message.len() <= REPORT_LIMIT_BYTES, "{} bytes", message.len());
        let read = JobReport::parse(&message).unwrap();
        prop_assert_eq!(read.error.map(|error| error.code), whole.error.as_ref().map(|error| error.code));
        match (&read.outcome, &whole.outcome) {
            (Outcome::Backup(read), Outcome::Backup(whole)) => {
                let kept = read.snapshots.len();
                prop_assert_eq!(&read.snapshots[..], &whole.snapshots[..kept]);
                prop_assert_eq!(kept as u64 + read.omitted_snapshots, whole.snapshots.len() as u64);
                prop_assert_eq!(read.unreadable.count, whole.unreadable.count);
            }
            (Outcome::Maintain(read), Outcome::Maintain(whole)) => {
                prop_assert_eq!(matches!(read.forget, Some(Step::Done(_))), matches!(whole.forget, Some(Step::Done(_))));
                if let (Some(Step::Done(read)), Some(Step::Done(whole))) = (&read.check, &whole.check) {
                    prop_assert_eq!((read.integrity, read.problems), (whole.integrity, whole.problems));
                }
                if let (Some(Step::Done(read)), Some(Step::Done(whole))) = (&read.stats, &whole.stats) {
                    prop_assert_eq!((read.total_bytes, read.snapshots), (whole.total_bytes, whole.snapshots));
                }
            }
            (read, whole) => prop_assert_eq!(read, whole),
        }
    }
}

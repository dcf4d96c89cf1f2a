//! Retention, prune, check and counts.

use std::fs;

use stash_proto::job::{ErrorCode, Forgotten, MaintainTask, Retention, Step};
use stash_tests::fixture::pattern;
use stash_tests::restic::Restic;

use super::{Files, sources};

fn everything(retention: Retention) -> MaintainTask {
    MaintainTask { forget: Some(retention), check: true, stats: true, ..MaintainTask::default() }
}

fn done<T: std::fmt::Debug>(step: &Option<Step<T>>) -> &T {
    match step {
        Some(Step::Done(done)) => done,
        other => panic!("{other:?}"),
    }
}

#[test]
fn test_a_policy_is_applied_to_each_host_and_path() {
    let (_folder, one, two) = sources();
    let restic = Restic::init_with_ours("2");
    for round in 0..3 {
        fs::write(one.join("file-0"), pattern(1 << 20, round)).unwrap();
        Files::backup(&restic, &[&one, &two]).run().backup();
    }
    let packs = restic.files("data").len();
    let retention = Retention { keep_last: 1, prune: true, ..Retention::default() };
    let dry = Files::maintain(&restic, everything(Retention { dry_run: true, ..retention.clone() })).run();
    assert_eq!(*done(&dry.maintain().forget), Forgotten { kept: 2, removed: 4 });
    assert_eq!((restic.snapshots().len(), restic.files("data").len()), (6, packs));

    let ended = Files::maintain(&restic, everything(retention.clone())).run();
    assert_eq!(ended.code, 0, "{}", ended.said);
    let outcome = ended.maintain();
    assert_eq!(*done(&outcome.forget), Forgotten { kept: 2, removed: 4 });
    // Packs stay for those who read: they are marked, and a run after 23 hours removes them.
    let pruned = done(&outcome.prune);
    assert!(pruned.marked_packs > 0 && pruned.removed_packs == 0, "{pruned:?}");
    assert!(restic.files("data").len() >= packs);
    let checked = done(&outcome.check);
    assert!(checked.integrity && checked.problems == 0 && checked.first.is_empty(), "{checked:?}");
    let stats = done(&outcome.stats);
    let theirs: serde_json::Value =
        serde_json::from_str(&restic.run(["stats", "--json", "--mode", "raw-data", "--no-lock"])).unwrap();
    assert_eq!(serde_json::json!(stats.total_bytes), theirs["total_size"]);
    let snapshots = restic.snapshots();
    assert_eq!(stats.snapshots, 2);
    assert_eq!(stats.first_snapshot.as_deref(), snapshots[0]["time"].as_str());
    assert_eq!(stats.last_snapshot.as_deref(), snapshots[1]["time"].as_str());
    assert!(restic.files("locks").is_empty());
    restic.check_all();

    // Nothing to forget, but something that waits to be removed.
    let ended = Files::maintain(&restic, everything(retention)).run();
    assert_eq!(*done(&ended.maintain().forget), Forgotten { kept: 2, removed: 0 });
    assert!(done(&ended.maintain().prune).marked_packs > 0);
}

#[test]
fn test_a_policy_without_rules_removes_nothing() {
    let (_folder, one, _) = sources();
    let restic = Restic::init_with_ours("2");
    for _ in 0..2 {
        Files::backup(&restic, &[&one]).run().backup();
    }
    let ended = Files::maintain(&restic, everything(Retention { prune: true, ..Retention::default() })).run();
    assert_eq!(*done(&ended.maintain().forget), Forgotten { kept: 2, removed: 0 });
    assert_eq!(restic.snapshots().len(), 2);
}

#[test]
fn test_a_repository_is_made_and_counted() {
    let restic = Restic::init_with_ours("2");
    fs::remove_dir_all(restic.path()).unwrap();
    let ended = Files::maintain(&restic, MaintainTask { initialize: true, ..everything(Retention::default()) }).run();
    assert_eq!(ended.code, 0, "{}", ended.said);
    assert!(ended.maintain().initialized);
    let stats = done(&ended.maintain().stats);
    assert_eq!((stats.total_bytes, stats.snapshots, &stats.first_snapshot), (0, 0, &None));
    restic.check_all();
    let ended = Files::maintain(&restic, MaintainTask { initialize: true, ..MaintainTask::default() }).run();
    assert!(!ended.maintain().initialized && ended.maintain().stats.is_none());
}

/// Damage is what the check is for: the job itself is a success.
#[test]
fn test_damage_is_reported_and_other_steps_stand_for_themselves() {
    let (_folder, one, _) = sources();
    let restic = Restic::init_with_ours("2");
    Files::backup(&restic, &[&one]).run().backup();
    for pack in restic.files("data") {
        fs::remove_file(restic.path().join("data").join(&pack[..2]).join(pack)).unwrap();
    }
    let check = MaintainTask { check: true, ..MaintainTask::default() };
    let ended = Files::maintain(&restic, check).run();
    assert_eq!(ended.code, 0, "{}", ended.said);
    let checked = done(&ended.maintain().check);
    assert!(!checked.integrity && checked.problems > 0 && !checked.first.is_empty(), "{checked:?}");

    let ended = Files::maintain(&restic, everything(Retention { keep_last: 1, ..Retention::default() })).run();
    let outcome = ended.maintain();
    assert_eq!(*done(&outcome.forget), Forgotten { kept: 1, removed: 0 });
    assert!(!done(&outcome.check).integrity);
    assert!(matches!(&outcome.stats, Some(Step::Failed(error)) if error.code == ErrorCode::Damaged), "{outcome:?}");
    assert_eq!(ended.error(), Some(ErrorCode::Damaged));
}

/// What `kubectl delete snapshot` comes to.
#[test]
fn test_snapshots_are_forgotten_by_their_ids() {
    let (_folder, one, two) = sources();
    let restic = Restic::init_with_ours("2");
    Files::backup(&restic, &[&one, &two]).run().backup();
    fs::write(one.join("file-0"), pattern(1 << 20, 7)).unwrap();
    Files::backup(&restic, &[&one]).run().backup();
    let ids = restic.files("snapshots");
    let task = MaintainTask {
        // One that is not there does not matter.
        forget_snapshots: vec![ids[0].clone(), ids[2].clone(), "ab".repeat(32)],
        ..MaintainTask::default()
    };
    let ended = Files::maintain(&restic, task.clone()).run();
    assert_eq!(ended.code, 0, "{}", ended.said);
    assert_eq!(*done(&ended.maintain().forget_snapshots), Forgotten { kept: 0, removed: 2 });
    assert!(ended.maintain().forget.is_none() && ended.maintain().prune.is_some());
    assert_eq!(restic.files("snapshots"), [ids[1].clone()]);
    assert!(restic.files("locks").is_empty());
    restic.check_all();
    let again = Files::maintain(&restic, task).run();
    assert_eq!(*done(&again.maintain().forget_snapshots), Forgotten::default());
    assert!(again.maintain().prune.is_none(), "nothing went");
}

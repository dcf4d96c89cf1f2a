//! The controller is killed at random moments of backups: none is stuck, none is run twice, and nothing is left over.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::RngExt as _;
use serde_json::{Value, json};
use stash_tests::fixture::rounds;

use stash_tests::shop::{Shop, World, backed_up, maintained};

/// Until when after its beginning a backup is killed at: a little longer than one takes.
const MOMENTS_MILLIS: u64 = 2500;

/// Ends each Job some time after it could start, until told to stop.
fn play(shop: &Shop<'_>, stop: &AtomicBool) {
    let mut played = BTreeSet::new();
    while !stop.load(Ordering::Relaxed) {
        let secrets = shop.list("secrets");
        for job in shop.list("jobs") {
            let name = job["metadata"]["name"].as_str().unwrap();
            // A pod waits for its Secret.
            let starts = secrets.iter().any(|secret| secret["metadata"]["name"] == name);
            if starts && played.insert(name.to_owned()) {
                shop.end(&job, &if name.starts_with("stash-backup-") { backed_up() } else { maintained() }, 0);
            }
        }
        std::thread::park_timeout(Duration::from_millis(100));
    }
}

#[test]
fn soak_a_controller_that_is_killed_leaves_nothing_stuck_and_runs_nothing_twice() {
    let world = World::start();
    let shop = world.shop();
    let mut controller = Some(world.controller(&["--jitter=0s"]));
    shop.ready(json!({"backupHistoryLimit": 1000, "timeOut": "2m"}));
    let (stop, rounds) = (AtomicBool::new(false), rounds());
    std::thread::scope(|scope| {
        let player = scope.spawn(|| play(&shop, &stop));
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for round in 0..rounds {
                let session = format!("k{round}");
                shop.trigger(&session);
                let moment = rand::rng().random_range(0..MOMENTS_MILLIS);
                std::thread::park_timeout(Duration::from_millis(moment));
                controller.take().expect("it runs").kill();
                controller = Some(world.controller(&["--jitter=0s"]));
                let done = shop.wait_for_phase(&session, "Succeeded");
                assert_eq!(
                    done["status"]["targets"][0]["stats"].as_array().unwrap().len(),
                    1,
                    "killed after {moment} ms"
                );
            }
        }));
        stop.store(true, Ordering::Relaxed);
        player.join().unwrap();
        if let Err(panic) = ended {
            std::panic::resume_unwind(panic);
        }
    });
    nothing_is_left_over(&shop, rounds);
    assert!(controller.take().expect("it runs").stop());
}

/// Each session has one Job for its host and one for the repository, each Job one Secret, and there is nothing else.
fn nothing_is_left_over(shop: &Shop<'_>, rounds: usize) {
    let names = |kind: &str| -> BTreeSet<String> {
        let named = |object: &Value| object["metadata"]["name"].as_str().unwrap().to_owned();
        shop.list(kind).iter().map(named).filter(|name| name != "s3").collect()
    };
    let expected: BTreeSet<String> = (0..rounds)
        .flat_map(|round| [format!("stash-backup-k{round}-0"), format!("stash-maintenance-k{round}")])
        .collect();
    assert_eq!(names("jobs"), expected);
    assert_eq!(names("secrets"), expected);
    assert_eq!(names("backupsessions").len(), rounds);
}

//! Several controllers, and Stash's own beside ours.

use std::time::{Duration, Instant};

use serde_json::json;
use stash_tests::cluster::wait_until;
use stash_tests::controller::Controller;

use stash_tests::shop::World;

fn acts(controller: &Controller) -> bool {
    controller.log().contains("acting")
}

#[test]
fn test_one_of_several_controllers_acts_and_none_beside_stash() {
    let world = World::start();
    one_acts_and_another_takes_over(&world);
    two_that_act_run_nothing_twice(&world);
    none_acts_beside_stash(&world);
}

fn one_acts_and_another_takes_over(world: &World) {
    let first = world.controller_named("first", &["--identity=a"]);
    wait_until("the first to act", || acts(&first).then_some(()));
    let second = world.controller_named("second", &["--identity=b"]);
    let holder = || {
        let lease = world.kubectl().run(&["get", "lease", "stash-controller", "-o", "jsonpath={.spec.holderIdentity}"]);
        lease.trim().to_owned()
    };
    assert_eq!((holder().as_str(), acts(&second)), ("a", false));
    // Who comes back under its name goes on at once.
    first.kill();
    let started = Instant::now();
    let first = world.controller_again("again", &["--identity=a"]);
    wait_until("the first to act again", || acts(&first).then_some(()));
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert!(!acts(&second));
    // Who stops gives it back; who is killed is waited for.
    assert!(first.stop());
    wait_until("the second to act", || acts(&second).then_some(()));
    assert_eq!(holder(), "b");
    second.kill();
    let third = world.controller_named("third", &["--identity=c"]);
    wait_until("the third to act", || acts(&third).then_some(()));
    assert_eq!(holder(), "c");
    assert!(third.stop());
}

/// Two that each believe to be the one, as for a moment when a Lease is lost.
fn two_that_act_run_nothing_twice(world: &World) {
    let both = ["one", "two"].map(|name| world.controller_named(name, &["--jitter=0s", &format!("--lease={name}")]));
    let shop = world.shop();
    shop.ready(json!({"backupHistoryLimit": 10}));
    for round in 0..3 {
        let session = format!("both-{round}");
        shop.trigger(&session);
        let done = shop.play(&session);
        assert_eq!(done["status"]["targets"][0]["stats"].as_array().unwrap().len(), 1);
    }
    assert_eq!((shop.list("jobs").len(), shop.list("backupsessions").len()), (6, 3));
    for controller in both {
        assert!(acts(&controller) && controller.stop());
    }
}

fn none_acts_beside_stash(world: &World) {
    world.kubectl().apply(&json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": "v1alpha1.admission.stash.appscode.com"},
        "spec": {
            "group": "admission.stash.appscode.com", "version": "v1alpha1", "groupPriorityMinimum": 1000, "versionPriority": 15,
            "insecureSkipTLSVerify": true, "service": {"name": "stash", "namespace": "stash"}
        }
    }));
    let controller = world.controller_named("beside", &[]);
    wait_until("the controller to say why it does nothing", || {
        controller.log().contains("Stash's operator is installed").then_some(())
    });
    assert!(!acts(&controller));
    world.kubectl().run(&["delete", "apiservice", "v1alpha1.admission.stash.appscode.com"]);
    wait_until("the controller to act", || acts(&controller).then_some(()));
    assert!(controller.stop());
}

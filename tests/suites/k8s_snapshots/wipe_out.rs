//! A Repository whose `wipeOut` is set: its data goes with it, in a Job, and nothing holds the deletion for ever.

use serde_json::{Value, json};
use stash_proto::job::{ErrorCode, JobError, JobReport};
use stash_repo::backend::{ConnectOptions, Location, connect};
use stash_repo::{FileKind, Id};
use stash_tests::cluster::wait_until;

use super::{BUCKET, Shop, World, text};

const ASPECT: &str = "DataWipedOut";

/// Whether there is a repository at a shop's address.
fn is_there(shop: &Shop<'_>) -> bool {
    let options = ConnectOptions { environment: shop.world.minio.environment(), ..ConnectOptions::default() };
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let backend = connect(&Location::parse(&shop.address()).unwrap(), &options).await.unwrap();
        backend.read_full(FileKind::Config, &Id::default(), 1 << 20).await.is_ok()
    })
}

fn object(shop: &Shop<'_>, name: &str) -> Option<Value> {
    shop.list("repositories").into_iter().find(|object| object["metadata"]["name"] == name)
}

/// Makes a Repository that takes its data with it, and waits until the controller holds it.
fn make(shop: &Shop<'_>, name: &str) {
    let endpoint = format!("http://{}", shop.world.minio.address());
    shop.repository_of(name, &endpoint, BUCKET, &shop.prefix, &json!({"wipeOut": true}));
    wait_until("the finalizer", || (object(shop, name)?["metadata"]["finalizers"] == json!(["stash"])).then_some(()));
}

fn delete(shop: &Shop<'_>, name: &str) {
    shop.namespace.run(&["delete", "repository", name, "--wait=false"]);
}

fn wait_until_gone(shop: &Shop<'_>, name: &str) {
    wait_until("the Repository to go", || object(shop, name).is_none().then_some(()));
}

/// A shop with a repository of one snapshot, and a Repository `r` that takes it with it.
fn filled(world: &World) -> Shop<'_> {
    let shop = world.shop();
    shop.restic(&["init"]);
    shop.backup("host-0", &[]);
    make(&shop, "r");
    shop
}

#[test]
fn test_data_goes_with_its_repository_and_with_nothing_else() {
    let world = World::start();
    let controller = world.controller();
    the_data_goes_in_a_job(&world);
    a_deletion_waits_and_is_let_go(&world);
    a_job_that_failed_is_tried_again(&world);
    others_of_the_same_data_keep_it(&world);
    a_namespace_takes_nothing_with_it(&world);
    a_definition_takes_nothing_with_it(&world);
    let log = controller.log();
    assert!(!log.contains(super::PASSWORD) && !log.contains("panic"), "{log}");
    assert!(controller.stop());
}

fn the_data_goes_in_a_job(world: &World) {
    let (shop, other) = (filled(world), filled(world));
    shop.wait_until_mirrored();
    // Whoever takes it back has an object that nothing holds.
    other.namespace.run(&["patch", "repository", "r", "--type=merge", "-p", r#"{"spec": {"wipeOut": false}}"#]);
    wait_until("no finalizer", || object(&other, "r")?["metadata"]["finalizers"].is_null().then_some(()));

    delete(&shop, "r");
    let job = shop.wait_for_job();
    assert!(text(&job["metadata"]["name"]).starts_with("stash-wipe-r-"), "{job}");
    let owner = &job["metadata"]["ownerReferences"][0];
    // A deletion in the foreground would take the Job before it is done.
    assert!(owner["kind"] == "Repository" && owner["blockOwnerDeletion"] != true, "{owner}");
    let (spec, keys) = shop.told(&job);
    assert_eq!(spec["task"], json!({"maintain": {"wipeOut": true}}));
    let keys: Vec<_> = keys.into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "RESTIC_PASSWORD"]);
    shop.wait_for_reason("r", ASPECT, "WipingOut");
    assert!(is_there(&shop) && shop.list("snapshots").len() == 1);
    shop.end(&job, &shop.run(&job), true);
    wait_until_gone(&shop, "r");
    assert!(!is_there(&shop) && is_there(&other));
    shop.wait_for_event(ASPECT);
    shop.wait_until_empty();
    shop.wait_for_no_job();
}

fn a_deletion_waits_and_is_let_go(world: &World) {
    let shop = filled(world);
    shop.namespace.run(&["delete", "secret", "s3"]);
    delete(&shop, "r");
    let said = shop.wait_for_reason("r", ASPECT, "WipeOutWaits");
    assert!(said.contains("does not exist") && said.contains("stash.appscode.com/keep-data"), "{said}");
    shop.wait_for_event("WipeOutWaits");
    shop.namespace.run(&["annotate", "repository", "r", "stash.appscode.com/keep-data=true"]);
    wait_until_gone(&shop, "r");
    assert!(is_there(&shop) && shop.jobs().is_empty());

    // The Secret comes: it is gone on with at once.
    make(&shop, "r");
    delete(&shop, "r");
    shop.wait_for_reason("r", ASPECT, "WipeOutWaits");
    shop.secret(super::PASSWORD);
    let job = shop.wait_for_job();
    shop.end(&job, &shop.run(&job), true);
    wait_until_gone(&shop, "r");
    assert!(!is_there(&shop));
}

fn a_job_that_failed_is_tried_again(world: &World) {
    let shop = filled(world);
    delete(&shop, "r");
    let job = shop.wait_for_job();
    let time = "2026-01-01T00:00:00Z".to_owned();
    let error = JobError::new(ErrorCode::Unreachable, "no answer from the store");
    let report = JobReport { error: Some(error), ..JobReport::new(time.clone(), time, 1.0) };
    shop.end(&job, &report.to_message(), false);
    let said = shop.wait_for_reason("r", ASPECT, "WipeOutFailed");
    assert!(said.contains("no answer from the store") && said.contains("spec.wipeOut"), "{said}");
    // A Secret that is changed is worth a try at once. The Job's own goes with the Job, which is the garbage collector's work.
    shop.namespace.run(&["delete", "secret", job["metadata"]["name"].as_str().unwrap()]);
    shop.secret_with(json!({"RESTIC_PASSWORD": super::PASSWORD, "note": "touched"}));
    let again = wait_until("another Job", || {
        shop.jobs().into_iter().find(|other| other["metadata"]["uid"] != job["metadata"]["uid"])
    });
    shop.end(&again, &report.to_message(), false);
    // Whoever takes it back need not wait.
    shop.namespace.run(&["patch", "repository", "r", "--type=merge", "-p", r#"{"spec": {"wipeOut": false}}"#]);
    wait_until_gone(&shop, "r");
    assert!(is_there(&shop));
}

fn others_of_the_same_data_keep_it(world: &World) {
    let shop = filled(world);
    make(&shop, "same");
    delete(&shop, "r");
    wait_until_gone(&shop, "r");
    assert!(is_there(&shop) && shop.jobs().is_empty());
    let said = shop.wait_for_event("DataKept");
    assert!(said.contains("/same"), "{said}");
    delete(&shop, "same");
    let job = shop.wait_for_job();
    shop.end(&job, &shop.run(&job), true);
    wait_until_gone(&shop, "same");
    assert!(!is_there(&shop));
}

fn a_namespace_takes_nothing_with_it(world: &World) {
    let shop = filled(world);
    world.kubectl().run(&["delete", "namespace", shop.namespace.name(), "--wait=false"]);
    delete(&shop, "r");
    wait_until_gone(&shop, "r");
    assert!(is_there(&shop) && shop.jobs().is_empty());
}

fn a_definition_takes_nothing_with_it(world: &World) {
    let shop = filled(world);
    world.kubectl().run(&["delete", "crd", "repositories.stash.appscode.com", "--timeout=300s"]);
    assert!(is_there(&shop) && shop.jobs().is_empty());
    world.define();
}

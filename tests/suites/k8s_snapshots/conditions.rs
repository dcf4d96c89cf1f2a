//! Why a Repository does not work: each class of failure as a condition and an event, within seconds, and mended by itself.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stash_repo::backend::{ConnectOptions, Location, connect};
use stash_repo::{FileKind, Id};
use stash_tests::servers::Toxiproxy;

use super::{BUCKET, PASSWORD, Shop, World};

const OPENED: &str = "BackendRepositoryInitialized";
const FOUND: &str = "BackendRepositoryFound";
/// How soon a change of a Repository or of its Secret shows: before the controller would look again by itself, which is after 30 s. A store
/// that refuses connections is asked for up to 9 s.
const SOON: Duration = Duration::from_secs(25);

/// Removes the config of a shop's repository, or puts something else in its place.
fn replace_config(shop: &Shop<'_>, prefix: &str, content: Option<&'static str>) {
    let options = ConnectOptions { environment: shop.world.minio.environment(), ..ConnectOptions::default() };
    let address = Location::parse(&shop.world.minio.repository(BUCKET, prefix)).unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let backend = connect(&address, &options).await.unwrap();
        match content {
            Some(content) => backend.write(FileKind::Config, &Id::default(), content.into()).await.unwrap(),
            None => backend.remove(FileKind::Config, &Id::default()).await.unwrap(),
        }
    });
}

/// Does something, and waits until the Repository says so; returns its words.
fn soon(shop: &Shop<'_>, reason: &str, act: impl FnOnce()) -> String {
    let started = Instant::now();
    act();
    let message = shop.wait_for_reason("r", OPENED, reason);
    println!("{reason} after {:.1} s: {message}", started.elapsed().as_secs_f64());
    assert!(started.elapsed() < SOON, "{reason} took {:?}", started.elapsed());
    message
}

#[test]
fn test_a_repository_says_why_it_does_not_open() {
    let (world, toxiproxy) = (World::start(), Toxiproxy::start());
    let controller = world.controller();
    let shop = world.shop();
    let proxy = toxiproxy.proxy(world.minio.address());
    let endpoint = format!("http://{}", proxy.address());
    let repository = |bucket: &str, prefix: &str| shop.repository_of("r", &endpoint, bucket, prefix, &json!({}));
    let status = || shop.condition("r", OPENED).map(|said| said["status"].clone());
    let mended = || soon(&shop, FOUND, || shop.secret(PASSWORD));

    // Before the first backup nothing is wrong, and nobody is warned.
    let said = soon(&shop, "BackendRepositoryNotMadeYet", || repository(BUCKET, &shop.prefix));
    assert!(said.contains("the first backup makes it"), "{said}");
    assert_eq!((status(), shop.events().as_str()), (Some(json!("Unknown")), ""));
    soon(&shop, FOUND, || drop(shop.restic(&["init"])));
    assert_eq!(status(), Some(json!("True")));

    let said = soon(&shop, "BackendWrongPassword", || shop.secret("falsches wort"));
    assert!(said.contains("RESTIC_PASSWORD of Secret"), "{said}");
    assert_eq!(status(), Some(json!("False")));
    mended();
    let wrong = json!({"RESTIC_PASSWORD": PASSWORD, "AWS_SECRET_ACCESS_KEY": "falscher-schluessel"});
    soon(&shop, "BackendAccessDenied", || shop.secret_with(wrong));
    mended();
    // What another condition says is not said twice.
    let said = soon(&shop, "BackendRepositoryNotTried", || shop.secret_with(json!({"RESTIC_PASSWORD": ""})));
    assert!(said.contains("BackendSecretFound"), "{said}");
    shop.wait_for_reason("r", "BackendSecretFound", "BackendSecretKeyMissing");
    mended();
    soon(&shop, "BackendRepositoryNotTried", || drop(shop.namespace.run(&["delete", "secret", "s3"])));
    shop.wait_for_reason("r", "BackendSecretFound", "BackendSecretNotAvailable");
    mended();

    let said = soon(&shop, "BackendBucketMissing", || repository("nobucket", &shop.prefix));
    assert!(said.contains("Make the bucket"), "{said}");
    soon(&shop, FOUND, || repository(BUCKET, &shop.prefix));
    replace_config(&shop, "other", Some("no config"));
    soon(&shop, "NotARepository", || repository(BUCKET, "other"));
    soon(&shop, "BackendRepositoryNotTried", || {
        shop.repository_of("r", "http://169.254.169.254", BUCKET, &shop.prefix, &json!({}));
    });
    shop.wait_for_reason("r", "ValidationPassed", "ResourceValidationFailed");
    soon(&shop, FOUND, || repository(BUCKET, &shop.prefix));

    // A store that is away, also one that takes connections and says nothing; nothing of the objects changes meanwhile.
    let said = soon(&shop, "BackendUnreachable", || proxy.set_enabled(false));
    assert!(said.contains("tried again"), "{said}");
    proxy.set_enabled(true);
    mended_by_itself(&shop);
    proxy.add("timeout", json!({ "timeout": 0 }));
    shop.wait_for_reason("r", OPENED, "BackendUnreachable");
    proxy.remove("timeout");
    // Whoever touches the Secret need not wait.
    soon(&shop, FOUND, || shop.secret_with(json!({"RESTIC_PASSWORD": PASSWORD, "note": "touched"})));

    // A repository that was there and is gone is missed.
    let said = soon(&shop, "BackendRepositoryMissing", || replace_config(&shop, &shop.prefix, None));
    assert!(said.contains("next backup"), "{said}");
    nothing_leaks(&shop);
    let log = controller.log();
    assert!(!log.contains(PASSWORD) && !log.contains("panic"), "{log}");
    assert!(controller.stop());
}

/// The pause after a failure is half a minute and a bit.
fn mended_by_itself(shop: &Shop<'_>) {
    shop.wait_for_reason("r", OPENED, FOUND);
}

/// Each transition is told once, and nothing holds a secret or what a server answered.
fn nothing_leaks(shop: &Shop<'_>) {
    let events: Vec<Value> = shop.list("events");
    let told = |reason: &str| events.iter().filter(|event| event["reason"] == reason).collect::<Vec<_>>();
    for reason in ["BackendWrongPassword", "BackendAccessDenied", "BackendBucketMissing", "NotARepository"] {
        let told = told(reason);
        assert_eq!(told.len(), 1, "{reason}: {told:?}");
        assert!(told[0]["series"].is_null() && told[0]["type"] == "Warning", "{told:?}");
    }
    assert!(told("BackendRepositoryNotTried").is_empty() && told("BackendRepositoryNotMadeYet").is_empty());
    let all = format!("{events:?} {:?}", shop.list("repositories"));
    let keys = shop.world.minio.environment();
    for secret in [PASSWORD, "falsches wort", "falscher-schluessel", keys["AWS_SECRET_ACCESS_KEY"].as_str()] {
        assert!(!all.contains(secret), "{secret}: {all}");
    }
    for answer in ["<Error>", "<Code>", "SignatureDoesNotMatch", "NoSuchBucket", "RequestId"] {
        assert!(!all.contains(answer), "{answer}: {all}");
    }
}

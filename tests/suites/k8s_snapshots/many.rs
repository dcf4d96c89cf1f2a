//! Repositories of many snapshots: what they cost, names that collide, and deletions of many at once.

use std::collections::HashMap;
use std::fs;

use futures::StreamExt as _;
use serde_json::{Value, json};
use stash_proto::job::FORGET_LIMIT;
use stash_repo::backend::{ConnectOptions, Location, connect};
use stash_repo::{FileKind, Id};
use stash_tests::cluster::wait_until;
use stash_tests::forge::{self, Forge};

use super::{Shop, World, text};

/// How many there are; a soak has ten times as many.
fn count() -> usize {
    if std::env::var_os("STASH_FS_ROUNDS").is_some() { 10_000 } else { 1_000 }
}

/// A snapshot file of a forged repository, sealed.
fn sealed(number: u32) -> Vec<u8> {
    let json = json!({
        "time": format!("2026-01-01T00:00:{:02}Z", number % 60), "tree": "02".repeat(32), "paths": ["/data"],
        "hostname": format!("host-{}", number % 7), "username": "root",
    });
    let mut nonce = [7; 16];
    nonce[..4].copy_from_slice(&number.to_le_bytes());
    Forge::master_key().seal(nonce, json.to_string().as_bytes())
}

/// Puts files into the repository of a shop.
fn put(shop: &Shop<'_>, files: Vec<(FileKind, Id, Vec<u8>)>) {
    let options = ConnectOptions { environment: shop.world.minio.environment(), ..ConnectOptions::default() };
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let backend = connect(&Location::parse(&shop.address()).unwrap(), &options).await.unwrap();
        let writes = files.into_iter().map(|(kind, id, bytes)| {
            let backend = backend.clone();
            async move { backend.write(kind, &id, bytes.into()).await.unwrap() }
        });
        futures::stream::iter(writes).buffer_unordered(16).collect::<Vec<()>>().await;
    });
}

/// Puts an empty repository that anybody can write snapshots of.
fn found(shop: &Shop<'_>) {
    let folder = tempfile::tempdir().unwrap();
    drop(Forge::create(folder.path()));
    let mut files = vec![(FileKind::Config, Id::default(), fs::read(folder.path().join("config")).unwrap())];
    for entry in fs::read_dir(folder.path().join("keys")).unwrap() {
        let path = entry.unwrap().path();
        files.push((
            FileKind::Key,
            path.file_name().unwrap().to_str().unwrap().parse().unwrap(),
            fs::read(&path).unwrap(),
        ));
    }
    put(shop, files);
    shop.secret(forge::PASSWORD);
}

fn snapshots(numbers: impl IntoIterator<Item = u32>) -> Vec<(FileKind, Id, Vec<u8>)> {
    let files = numbers.into_iter().map(sealed);
    files.map(|bytes| (FileKind::Snapshot, Id::hash(&bytes), bytes)).collect()
}

/// How many requests the server has had that write Snapshots, by verb.
fn writes(world: &World) -> HashMap<String, u64> {
    let metrics = world.kubectl().run(&["get", "--raw", "/metrics"]);
    let mut writes = HashMap::new();
    for line in metrics.lines().filter(|line| line.starts_with("apiserver_request_total{")) {
        let field = |name: &str| {
            line.split(&format!("{name}=\"")).nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default()
        };
        if field("resource") == "snapshots" && ["APPLY", "PATCH", "DELETE", "PUT", "POST"].contains(&field("verb")) {
            // Large numbers are written as floats.
            let number: f64 = line.rsplit(' ').next().unwrap().parse().unwrap();
            *writes.entry(field("verb").to_owned()).or_default() += format!("{number:.0}").parse::<u64>().unwrap();
        }
    }
    writes
}

#[test]
fn test_many_snapshots_cost_one_request_each_and_many_deletions_wait() {
    let world = World::start();
    let shop = world.shop();
    found(&shop);
    let number = count();
    put(&shop, snapshots(0..u32::try_from(number).unwrap()));
    let controller = world.controller();
    let began = std::time::Instant::now();
    shop.repository();
    let names = wait_until("all objects", || {
        let names = shop.namespace.run(&["get", "snapshots", "-o", "name"]);
        (names.lines().count() == number).then_some(names)
    });
    println!("{number} snapshots in {:.1} s", began.elapsed().as_secs_f64());
    let made = writes(&world);
    let applied = made.get("APPLY").or_else(|| made.get("PATCH")).copied().unwrap_or_default();
    assert!((number as u64..number as u64 + 64).contains(&applied), "{made:?}");

    // One more, and the next look: what is there costs nothing.
    put(&shop, snapshots([u32::MAX]));
    wait_until("one more", || {
        let names = shop.namespace.run(&["get", "snapshots", "-o", "name"]);
        (names.lines().count() == number + 1).then_some(())
    });
    let after = writes(&world);
    assert!(after.values().sum::<u64>() <= made.values().sum::<u64>() + 2, "{made:?} {after:?}");

    many_deletions_wait(&shop, &names);
    assert!(controller.stop());
}

fn many_deletions_wait(shop: &Shop<'_>, names: &str) {
    let names: Vec<&str> = names.lines().map(|name| name.rsplit('/').next().unwrap()).collect();
    let deleted = || {
        let all = shop.list("snapshots");
        all.into_iter().filter(|object| !object["metadata"]["deletionTimestamp"].is_null()).count()
    };
    shop.delete(&names[..21]);
    let said = shop.wait_for_event("ForgetWaits");
    assert!(said.contains("21 Snapshots") && said.contains("stash.appscode.com/confirm-forget"), "{said}");
    assert!(shop.jobs().is_empty());
    // It was a mistake: all is as before.
    let before: Vec<Value> = shop.list("snapshots");
    let say = |value: &str| {
        shop.namespace.run(&["annotate", "repository", "r", &format!("stash.appscode.com/confirm-forget={value}")])
    };
    say("false");
    wait_until("the objects to come back", || {
        (deleted() == 0 && shop.list("snapshots").len() == before.len()).then_some(())
    });
    let annotations = || shop.namespace.get("repository/r")["metadata"]["annotations"].clone();
    wait_until("the answer to be taken back", || {
        annotations().get("stash.appscode.com/confirm-forget").is_none().then_some(())
    });
    assert!(shop.jobs().is_empty());
    // It is meant.
    shop.delete(&["--all"]);
    say("true");
    let job = shop.wait_for_job();
    let (spec, _) = shop.told(&job);
    let told = spec["task"]["maintain"]["forgetSnapshots"].as_array().unwrap().clone();
    assert_eq!(told.len(), before.len().min(FORGET_LIMIT));
    let ids: Vec<String> = before.iter().map(|object| text(&object["status"]["snapshotID"])).collect();
    assert!(told.iter().all(|id| ids.contains(&text(id))));
    assert_eq!(shop.jobs().len(), 1);
}

/// Two snapshots whose ids begin with the same eight digits.
fn twins() -> [u32; 2] {
    let mut seen: HashMap<String, u32> = HashMap::new();
    for number in 0.. {
        let short = Id::hash(&sealed(number)).short();
        if let Some(first) = seen.insert(short, number) {
            return [first, number];
        }
    }
    unreachable!("there are more numbers than ids of eight digits")
}

#[test]
fn test_names_that_collide_stay_as_they_are() {
    let world = World::start();
    let shop = world.shop();
    found(&shop);
    let twins = snapshots(twins());
    let (one, two) = (twins[0].1.to_hex(), twins[1].1.to_hex());
    let short = format!("r-{}", &one[..8]);
    let names = || -> HashMap<String, String> {
        let objects = shop.list("snapshots").into_iter();
        objects.map(|object| (text(&object["status"]["snapshotID"]), text(&object["metadata"]["name"]))).collect()
    };
    put(&shop, vec![twins[1].clone()]);
    let controller = world.controller();
    shop.repository();
    wait_until("the first", || (names().len() == 1).then_some(()));
    put(&shop, vec![twins[0].clone()]);
    let both = wait_until("the second", || Some(names()).filter(|names| names.len() == 2));
    assert_eq!(both, HashMap::from([(two.clone(), short.clone()), (one.clone(), format!("r-{one}"))]));
    // A controller that starts anew finds them, and does not rename.
    assert!(controller.stop());
    let controller = world.controller();
    shop.namespace.run(&["label", "repository", "r", "team=b", "--overwrite"]);
    wait_until("both to be made anew", || {
        (shop.namespace.run(&["get", "snapshots", "-l", "team=b", "-o", "name"]).lines().count() == 2).then_some(())
    });
    assert_eq!(names(), both);
    assert!(controller.stop());
}

use serde_json::{Value, json};

use super::*;

fn id(first: &str) -> String {
    format!("{first}{}", "0".repeat(64 - first.len()))
}

fn snapshot(first: &str, host: &str, paths: &[&str], second: u32) -> Snapshot {
    serde_json::from_value(json!({
        "metadata": {"name": format!("repo-{first}"), "namespace": "shop"},
        "status": {
            "tree": "", "paths": paths, "hostname": host, "username": "", "repository": "repo",
            "snapshotID": id(first), "snapshotTime": format!("2026-01-01T00:00:{second:02}Z")
        }
    }))
    .unwrap()
}

#[test]
fn test_what_speaks_against_volumes() {
    let s3 = json!({"storageSecretName": "keys", "s3": {"endpoint": "s3", "bucket": "b"}});
    let local = json!({"storageSecretName": "keys", "local": {"mountPath": "/r", "emptyDir": {}}});
    let root = json!({"container": {"securityContext": {"runAsUser": 0}}});
    let other = json!({"pod": {"securityContext": {"runAsUser": 1000}}});
    let resources = json!({"container": {"nice": {"adjustment": 5}}, "pod": {"securityContext": {"fsGroup": 5}}});
    for (namespace, backend, runtime, args, expected) in [
        ("shop", &s3, json!({}), json!([]), None),
        ("shop", &s3, resources, json!(["--delete", "--overwrite=if-changed", "--quiet"]), None),
        ("storage", &s3, json!({}), json!([]), Some("the Repository is in another namespace")),
        ("shop", &local, json!({}), json!([]), Some("the backend is a volume")),
        ("shop", &json!({"s3": {}}), json!({}), json!([]), Some("the Repository names no Secret")),
        ("shop", &s3, root, json!([]), Some("spec.runtimeSettings")),
        ("shop", &s3, other, json!([]), Some("spec.runtimeSettings")),
        ("shop", &s3, json!({}), json!(["--tag=nightly"]), Some("spec.target.args")),
        ("shop", &s3, json!({}), json!(["--limit-download=100"]), Some("spec.target.args")),
    ] {
        let repository: Repository = serde_json::from_value(
            json!({"metadata": {"name": "repo", "namespace": namespace}, "spec": {"backend": backend}}),
        )
        .unwrap();
        let session: RestoreSession = serde_json::from_value(json!({
            "metadata": {"name": "r", "namespace": "shop"}, "spec": {"target": {"args": args}, "runtimeSettings": runtime}
        }))
        .unwrap();
        let found = objection(&session, &repository);
        let fits = found.is_some() == expected.is_some() && found.unwrap_or("").starts_with(expected.unwrap_or(""));
        assert!(fits, "{args} {runtime} {backend}: {found:?}");
    }
}

#[test]
fn test_which_snapshots_a_job_mounts() {
    let objects = [
        snapshot("aa01", "host-0", &["/data"], 1),
        snapshot("aa02", "host-0", &["/data"], 2),
        snapshot("bb03", "host-1", &["/data", "/logs"], 3),
        snapshot("cc04", "host-2", &["/data"], 4),
        snapshot("cc05", "host-2", &["/data"], 4),
        snapshot("dd06", "host-3", &["data"], 5),
    ];
    let all: BTreeSet<String> = ["aa01", "aa02", "bb03", "cc04", "cc05", "dd06"].map(id).into();
    let more: BTreeSet<String> = all.iter().cloned().chain([id("ee")]).collect();
    let fewer: BTreeSet<String> = all.iter().skip(1).cloned().collect();
    let named = |name: &str| json!({"snapshot": name});
    let latest = |host: &str, path: &str| json!({"latest": {"host": host, "path": path}});
    type Expected = Result<&'static [&'static str], &'static str>;
    let table: [(Value, Option<&BTreeSet<String>>, Expected); 16] = [
        (json!([latest("host-0", "/data/")]), Some(&all), Ok(&["aa02"])),
        (json!([latest("host-1", "/logs"), latest("host-1", "/data")]), Some(&all), Ok(&["bb03", "bb03"])),
        (json!([named("aa01"), named("BB"), named(&id("aa02"))]), None, Ok(&["aa01", "bb03", "aa02"])),
        (json!([named("aa01")]), Some(&all), Ok(&["aa01"])),
        (json!([named("aa")]), None, Err("there is not just one Snapshot")),
        (json!([named("ff00")]), None, Err("there is not just one Snapshot")),
        (json!([named("latest")]), None, Err("it is not known what")),
        (json!([named("latest")]), Some(&all), Err("a path of a snapshot is not absolute")),
        (json!([latest("host-0", "/data")]), None, Err("it is not known what")),
        // Somebody backed up a moment ago, or forgot.
        (json!([latest("host-0", "/data")]), Some(&more), Err("the Snapshots are not just")),
        (json!([latest("host-0", "/data")]), Some(&fewer), Err("the Snapshots are not just")),
        (json!([latest("host-0", "/data/db")]), Some(&all), Err("there is no such")),
        (json!([latest("host-7", "/data")]), Some(&all), Err("there is no such")),
        (json!([latest("host-2", "/data")]), Some(&all), Err("two Snapshots")),
        (json!([latest("host-3", "data")]), Some(&all), Err("a path of a snapshot is not absolute")),
        (json!([named("aa01"), latest("host-7", "/data")]), Some(&all), Err("there is no such")),
    ];
    for (sources, listed, expected) in table {
        let sources: Vec<RestoreSource> = serde_json::from_value(sources).unwrap();
        let chosen = choose(&sources, "repo", &objects, listed);
        match (chosen, expected) {
            (Ok(chosen), Ok(expected)) => {
                let ids: Vec<String> = chosen.into_iter().map(|snapshot| snapshot.id).collect();
                assert_eq!(ids, expected.iter().map(|first| id(first)).collect::<Vec<_>>(), "{sources:?}");
            }
            (Err(why), Err(words)) => assert!(why.starts_with(words), "{sources:?}: {why}"),
            (chosen, expected) => panic!("{sources:?}: {chosen:?}, not {expected:?}"),
        }
    }
    let other = choose(&[RestoreSource::Snapshot("aa01".to_owned())], "other", &objects, None);
    assert!(other.is_err(), "it is of another Repository");
}

#[test]
fn test_too_much_for_volumes_is_read_with_credentials() {
    let objects: Vec<Snapshot> =
        (0..VOLUMES_LIMIT + 1).map(|n| snapshot(&format!("{n:04}"), "host-0", &["/data"], 1)).collect();
    let sources: Vec<RestoreSource> =
        (0..VOLUMES_LIMIT + 1).map(|n| RestoreSource::Snapshot(format!("{n:04}"))).collect();
    assert!(choose(&sources[1..], "repo", &objects, None).is_ok());
    assert!(choose(&sources, "repo", &objects, None).unwrap_err().contains("more than 16"));
    let long = "/".to_owned() + &"x".repeat(PATHS_LIMIT_BYTES);
    let objects = [snapshot("aa01", "host-0", &[long.as_str()], 1)];
    let source = [RestoreSource::Snapshot("aa01".to_owned())];
    assert!(choose(&source, "repo", &objects, None).unwrap_err().contains("more paths"));
}

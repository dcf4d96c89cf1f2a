use serde_json::{Value, json};

use super::*;

fn session(strategy: &str, more: Value, target: Value) -> RestoreSession {
    let mut spec = json!({
        "repository": {"name": "repo"}, "strategy": strategy,
        "target": {
            "volumeClaimTemplates": [template("data-${POD_ORDINAL}")], "rules": [{"paths": ["/data"]}],
            "volumeMounts": [{"name": "data", "mountPath": "/data"}]
        }
    });
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    for (key, value) in target.as_object().unwrap() {
        spec["target"][key] = value.clone();
    }
    serde_json::from_value(json!({"metadata": {"name": "r", "namespace": "shop", "uid": "u"}, "spec": spec})).unwrap()
}

fn template(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": "db"}}, "spec": {
        "accessModes": ["ReadWriteOnce"], "storageClassName": "fast", "volumeName": "x", "resources": {"requests": {"storage": "5Gi"}}
    }})
}

fn snapshot(name: &str, id: &str, host: &str, day: u32, paths: &[&str]) -> Snapshot {
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "shop"}, "spec": {},
        "status": {
            "tree": "t", "username": "root", "repository": "repo", "hostname": host, "paths": paths,
            "snapshotID": id.repeat(64 / id.len()), "snapshotTime": format!("2026-01-{day:02}T00:00:00Z"),
        }
    }))
    .unwrap()
}

fn known() -> Vec<Snapshot> {
    let mut all = vec![
        snapshot("repo-old", "0a1b", "host-0", 1, &["/data"]),
        snapshot("repo-new", "0a1c", "host-0", 2, &["/data"]),
        snapshot("repo-logs", "11aa", "host-0", 3, &["/logs"]),
        snapshot("repo-other", "22bb", "host-1", 4, &["/data", "/logs"]),
        snapshot("repo-gone", "33cc", "host-0", 5, &["/data"]),
        snapshot("elsewhere", "44dd", "host-0", 6, &["/data"]),
    ];
    all[4].metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-06T00:00:00Z")).unwrap();
    all[5].status.as_mut().unwrap().repository = "another".to_owned();
    all
}

fn made(session: &RestoreSession, host: &str) -> Result<Vec<Value>, String> {
    let made = claims(session, host, Some(0), "stash-snapshot", &known())?;
    Ok(made.into_iter().map(|claim| serde_json::to_value(claim).unwrap()).collect())
}

#[test]
fn test_a_claim_shows_the_snapshot() {
    let made_by = "shop/r/u";
    let claim = made(&session("Attach", json!({}), json!({})), "host-0").unwrap().remove(0);
    assert_eq!(
        claim["spec"],
        json!({
            "accessModes": ["ReadOnlyMany"], "storageClassName": "stash-snapshot", "resources": {"requests": {"storage": "5Gi"}},
            "dataSourceRef": {"apiGroup": "repositories.stash.appscode.com", "kind": "Snapshot", "name": "repo-new"}
        })
    );
    assert_eq!(
        claim["metadata"],
        json!({
            "name": "data-0", "namespace": "shop", "labels": {"app": "db"},
            "annotations": {
                "stash.appscode.com/restored-by": made_by,
                "fs.stash.appscode.com/mode": "ro", "fs.stash.appscode.com/path": "/data"
            }
        })
    );
    let overlay = json!({"overlay": {"scratchSize": "2Gi"}});
    let claim = made(&session("Overlay", overlay, json!({})), "host-0").unwrap().remove(0);
    assert_eq!(claim["spec"]["accessModes"], json!(["ReadWriteOnce"]));
    let annotations = &claim["metadata"]["annotations"];
    assert_eq!(
        (&annotations["fs.stash.appscode.com/mode"], &annotations["fs.stash.appscode.com/scratchSize"]),
        (&json!("overlay"), &json!("2Gi"))
    );
    // Modes that several nodes would need, and no size.
    let bare = json!([{"metadata": {"name": "data-0"}, "spec": {"accessModes": ["ReadWriteMany"]}}]);
    let claim =
        made(&session("Overlay", json!({}), json!({"volumeClaimTemplates": bare})), "host-0").unwrap().remove(0);
    assert_eq!(claim["spec"]["accessModes"], json!(["ReadWriteOnce"]));
    assert_eq!(claim["spec"]["resources"], json!({"requests": {"storage": "1Gi"}}));
}

#[test]
fn test_which_snapshot_a_claim_shows() {
    let one = |rule: Value| json!({"rules": [rule]});
    let logs = json!({
        "rules": [{"paths": ["/data", "/logs"]}],
        "volumeClaimTemplates": [template("data-0"), template("logs-0")],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "logs", "mountPath": "/logs"}]
    });
    let unmounted = |paths: Value| json!({"rules": [{"paths": paths}], "volumeMounts": []});
    for (target, expected) in [
        (one(json!({"paths": ["/data"]})), Ok(vec![("repo-new", Some("/data"))])),
        (one(json!({"paths": ["/data/"]})), Ok(vec![("repo-new", Some("/data"))])),
        (one(json!({"paths": ["/data/sub"]})), Ok(vec![("repo-new", Some("/data"))])),
        (one(json!({"sourceHost": "host-1", "paths": ["/data"]})), Ok(vec![("repo-other", Some("/data"))])),
        (one(json!({"snapshots": ["latest"]})), Ok(vec![("repo-other", Some("/data"))])),
        (one(json!({"snapshots": ["0a1b"]})), Ok(vec![("repo-old", Some("/data"))])),
        (logs, Ok(vec![("repo-new", Some("/data")), ("repo-logs", Some("/logs"))])),
        (unmounted(json!(["/logs"])), Ok(vec![("repo-logs", Some("/logs"))])),
        (unmounted(json!(["/data", "/logs"])), Err("data-0: its paths are in several snapshots")),
        (one(json!({"snapshots": ["0a1"]})), Err("data-0: there are several Snapshots whose id begins with 0a1")),
        (one(json!({"snapshots": ["ffff"]})), Err("data-0: there is no Snapshot whose id begins with ffff")),
        (one(json!({"snapshots": ["33cc"]})), Err("data-0: there is no Snapshot whose id begins with 33cc")),
        (one(json!({"paths": ["/other"]})), Err("data-0: no path of the rule is for /data")),
        (
            one(json!({"sourceHost": "host-9", "paths": ["/data"]})),
            Err("data-0: there is no snapshot of /data of the host"),
        ),
        (one(json!({"targetHosts": ["host-9"], "paths": ["/data"]})), Err("no rule is for host-0")),
    ] {
        let found = made(&session("Attach", json!({}), target.clone()), "host-0");
        let found = found.map(|all| {
            let shown = |claim: &Value| {
                let path = claim["metadata"]["annotations"]["fs.stash.appscode.com/path"].as_str().map(str::to_owned);
                (claim["spec"]["dataSourceRef"]["name"].as_str().unwrap().to_owned(), path)
            };
            all.iter().map(shown).collect::<Vec<_>>()
        });
        match (found, expected) {
            (Ok(found), Ok(expected)) => {
                let expected: Vec<(String, Option<String>)> =
                    expected.into_iter().map(|(name, path)| (name.to_owned(), path.map(str::to_owned))).collect();
                assert_eq!(found, expected, "{target}");
            }
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{target}: {found}"),
            (found, expected) => panic!("{target}: {found:?}, not {expected:?}"),
        }
    }
}

#[test]
fn test_what_only_copying_can_do_is_named() {
    for (strategy, more, target, expected) in [
        ("Attach", json!({}), json!({}), ""),
        ("Overlay", json!({"overlay": {"scratchSize": "1Gi"}}), json!({}), ""),
        ("Copy", json!({}), json!({"args": ["--tag=a"], "volumeClaimTemplates": []}), ""),
        ("Attach", json!({}), json!({"volumeClaimTemplates": []}), "spec.strategy: Attach makes claims"),
        (
            "Attach",
            json!({"repository": {"name": "repo", "namespace": "b"}}),
            json!({}),
            "spec.repository.namespace must be shop",
        ),
        ("Attach", json!({"repository": {"name": "repo", "namespace": "shop"}}), json!({}), ""),
        (
            "Overlay",
            json!({"overlay": {"storageClassName": "fast"}}),
            json!({}),
            "spec.overlay.storageClassName is not supported",
        ),
        ("Attach", json!({}), json!({"args": ["--tag=a"]}), "spec.target.args: nothing is copied"),
        (
            "Attach",
            json!({}),
            json!({"rules": [{"paths": ["/data"], "exclude": ["a"]}]}),
            "spec.target.rules[0]: include and exclude",
        ),
        (
            "Attach",
            json!({}),
            json!({"rules": [{"snapshots": ["0a1b", "0a1c"]}]}),
            "spec.target.rules[0]: a volume shows one",
        ),
        (
            "Attach",
            json!({}),
            json!({"volumeMounts": [{"name": "data", "mountPath": "/data", "subPath": "a"}]}),
            "spec.target.volumeMounts: subPath of data",
        ),
    ] {
        let found = problems(&session(strategy, more.clone(), target.clone()));
        assert_eq!(found.len(), usize::from(!expected.is_empty()), "{more} {target}: {found:?}");
        assert!(found.iter().all(|problem| problem.starts_with(expected)), "{more} {target}: {found:?}");
    }
}

#[test]
fn test_a_host_is_restored_when_its_claims_are_bound() {
    let claim = |phase: &str| -> Option<PersistentVolumeClaim> {
        Some(serde_json::from_value(json!({"metadata": {"name": "data-0"}, "status": {"phase": phase}})).unwrap())
    };
    let bound = Work::Reported(HostOutcome { duration: Some("2s".to_owned()), ..HostOutcome::default() });
    let lost = Some("PersistentVolumeClaim data-0 has lost its volume".to_owned());
    let lost = Work::Reported(HostOutcome { error: lost, duration: Some("2s".to_owned()), ..HostOutcome::default() });
    for (claims, expected, waits) in [
        (vec![claim("Bound"), claim("Bound")], bound, 0),
        (vec![claim("Bound"), claim("Pending")], Work::Running, 1),
        (vec![claim("Bound"), None], Work::Absent, 0),
        (vec![claim("Pending"), claim("Lost")], lost, 2),
    ] {
        assert_eq!(work(&claims, "2s".to_owned()), expected);
        assert_eq!(waiting(&claims).count(), waits);
    }
}

#[test]
fn test_the_newest_warning_says_why_a_claim_waits() {
    let claim: PersistentVolumeClaim = serde_json::from_value(json!({"metadata": {"name": "data-0"}})).unwrap();
    let event = |second: u32, note: &str| -> Event {
        serde_json::from_value(
            json!({"metadata": {}, "eventTime": format!("2026-01-01T00:00:{second:02}.000000Z"), "note": note}),
        )
        .unwrap()
    };
    assert_eq!(why(&claim, &[]), "PersistentVolumeClaim data-0 is not bound yet.");
    let warnings = [event(1, "first"), event(3, "no\nright."), event(2, "second")];
    assert_eq!(why(&claim, &warnings), "PersistentVolumeClaim data-0 is not bound: no right.");
}

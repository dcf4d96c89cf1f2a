use serde_json::{Value, json};

use super::*;

fn pod(changes: impl FnOnce(&mut Value)) -> Pod {
    let mut pod = json!({
        "metadata": {"name": "pod", "namespace": "shop", "uid": "u-1"},
        "spec": {
            "nodeName": "node-1", "serviceAccountName": "reader", "containers": [{"name": "c"}],
            "volumes": [{"name": "data", "csi": {"driver": DRIVER}}, {"name": "other", "csi": {"driver": "other"}}],
        },
    });
    changes(&mut pod);
    serde_json::from_value(pod).unwrap()
}

fn claimed() -> PodInfo {
    PodInfo {
        namespace: "shop".to_owned(),
        name: "pod".to_owned(),
        uid: "u-1".to_owned(),
        service_account: "reader".to_owned(),
        ephemeral: true,
    }
}

const PLACE: PodVolume<'static> = PodVolume { uid: "u-1", volume: "data", leaf: "mount" };

#[test]
fn test_the_pod_is_the_one_that_the_api_server_knows() {
    let of = |found: Option<&Pod>, claimed: &PodInfo, place: Option<&PodVolume<'_>>| {
        account(claimed, found, place, "node-1").map(|account| account.user()).map_err(|error| error.to_string())
    };
    let there = pod(|_| ());
    let user = "system:serviceaccount:shop:reader".to_owned();
    assert_eq!(of(Some(&there), &claimed(), Some(&PLACE)), Ok(user.clone()));
    // A claim's volume is named by its PersistentVolume, which no pod has in its spec.
    let claim = PodInfo { ephemeral: false, ..claimed() };
    assert_eq!(of(Some(&there), &claim, Some(&PodVolume { volume: "pv-1", ..PLACE })), Ok(user));
    let plain = pod(|pod| pod["spec"]["serviceAccountName"] = Value::Null);
    let default = PodInfo { service_account: "default".to_owned(), ..claimed() };
    assert_eq!(of(Some(&plain), &default, Some(&PLACE)), Ok("system:serviceaccount:shop:default".to_owned()));

    let elsewhere = pod(|pod| pod["spec"]["nodeName"] = json!("node-2"));
    let unbound = pod(|pod| pod["spec"]["nodeName"] = Value::Null);
    let newer = pod(|pod| pod["metadata"]["uid"] = json!("u-2"));
    let other_account = PodInfo { service_account: "admin".to_owned(), ..claimed() };
    for (found, claimed, place, reason) in [
        (Some(&there), claimed(), None, "the target is no volume of a pod"),
        (
            Some(&there),
            claimed(),
            Some(PodVolume { uid: "u-2", ..PLACE }),
            "its uid is not that of the target's folder",
        ),
        (None, claimed(), Some(PLACE), "there is none"),
        (Some(&newer), claimed(), Some(PLACE), "there is another one with this name"),
        (Some(&elsewhere), claimed(), Some(PLACE), "it is not on this node"),
        (Some(&unbound), claimed(), Some(PLACE), "it is not on this node"),
        (Some(&there), other_account, Some(PLACE), "it has another service account"),
        (Some(&there), claimed(), Some(PodVolume { volume: "other", ..PLACE }), "it has no such volume of this driver"),
        (Some(&there), claimed(), Some(PodVolume { volume: "none", ..PLACE }), "it has no such volume of this driver"),
    ] {
        let error = of(found, &claimed, place.as_ref()).unwrap_err();
        assert!(error.starts_with("the pod shop/pod is not the one that this volume is for: "), "{error}");
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn test_the_usage_policy_decides_and_a_stranger_learns_nothing() {
    let repository = |policy: Value| -> Repository {
        serde_json::from_value(json!({
            "metadata": {"name": "repo", "namespace": "storage"}, "spec": {"backend": {}, "usagePolicy": policy},
        }))
        .unwrap()
    };
    let all = repository(json!({"allowedNamespaces": {"from": "All"}}));
    let same = repository(json!({"allowedNamespaces": {"from": "Same"}}));
    let none = repository(Value::Null);
    let by_label =
        repository(json!({"allowedNamespaces": {"from": "Selector", "selector": {"matchLabels": {"team": "a"}}}}));
    let not_b = json!({"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["b"]}]});
    let not_b = repository(json!({"allowedNamespaces": {"from": "Selector", "selector": not_b}}));
    let team = |team: &str| BTreeMap::from([("team".to_owned(), team.to_owned())]);
    let ask = |repository: Option<&Repository>, namespace: &str, labels: Option<&BTreeMap<String, String>>| {
        policy(repository, "storage", "repo", namespace, labels).map(|_| ()).map_err(|error| error.to_string())
    };
    for (repository, namespace, labels, expected) in [
        (Some(&all), "shop", Some(team("a")), true),
        (Some(&same), "shop", Some(team("a")), false),
        (Some(&same), "storage", Some(team("a")), true),
        (Some(&none), "shop", Some(team("a")), false),
        (Some(&none), "storage", Some(BTreeMap::new()), true),
        (Some(&by_label), "shop", Some(team("a")), true),
        (Some(&by_label), "shop", Some(team("b")), false),
        (Some(&by_label), "storage", Some(team("b")), false),
        (Some(&not_b), "shop", Some(team("a")), true),
        // Of a namespace that is not there nothing is known.
        (Some(&not_b), "shop", None, false),
        (Some(&all), "shop", None, false),
        (None, "shop", Some(team("a")), false),
    ] {
        assert_eq!(ask(repository, namespace, labels.as_ref()).is_ok(), expected, "{namespace} {labels:?}");
    }
    assert_eq!(ask(None, "shop", Some(&team("a"))), ask(Some(&same), "shop", Some(&team("a"))));
}

#[test]
fn test_files_belong_to_the_pods_own_user_and_group() {
    let pod = pod(|pod| {
        pod["spec"]["securityContext"] = json!({"runAsUser": 1000, "fsGroup": 2000, "runAsGroup": 3000});
        pod["spec"]["containers"][0]["securityContext"] = json!({"runAsUser": 1001});
        pod["spec"]["initContainers"] = json!([{"name": "i", "securityContext": {"runAsUser": 1002}}]);
    });
    for (uid, gid, expected) in [
        (None, None, ""),
        (Some(1000), Some(2000), ""),
        (Some(1001), None, ""),
        (Some(1002), None, ""),
        (Some(0), None, "the attribute uid is 0, which is not the pod's own: runAsUser is 1000, 1001, 1002"),
        (
            Some(1000),
            Some(3000),
            "the attribute gid is 3000, which is not the pod's own: securityContext.fsGroup is 2000",
        ),
    ] {
        let found = ownership(&pod, Ownership { uid, gid });
        assert_eq!(found.err().map(|error| error.to_string()).unwrap_or_default(), expected);
    }
    let plain = super::tests::pod(|_| ());
    let error = ownership(&plain, Ownership { uid: Some(0), gid: None }).unwrap_err().to_string();
    assert!(error.ends_with("runAsUser is not set"), "{error}");
}

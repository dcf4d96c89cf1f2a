use serde_json::{Value, json};

use super::*;

fn read<T: serde::de::DeserializeOwned>(object: Value) -> T {
    serde_json::from_value(object).unwrap()
}

fn pod(status: Value) -> Pod {
    read(json!({"metadata": {"name": "p"}, "status": status}))
}

fn container(state: Value) -> Value {
    json!([{"name": "copy", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state}])
}

fn ended(code: i32, message: &str) -> Value {
    container(json!({"terminated": {"exitCode": code, "reason": "Error", "message": message}}))
}

fn warning(minute: u32, note: &str) -> Event {
    read(json!({"metadata": {}, "eventTime": format!("2026-01-01T00:{minute:02}:00.000000Z"), "note": note}))
}

#[test]
fn test_what_is_told_of_a_copy() {
    let waits = |text: &str| Some(Hindrance::Waits(text.to_owned()));
    let failed = |text: &str| Some(Hindrance::Failed(text.to_owned()));
    let waiting = |reason: &str| container(json!({"waiting": {"reason": reason, "message": "why"}}));
    let report = json!({
        "error": {"code": "partly-restored", "message": "1 entry"},
        "outcome": {"restore": {"failed": {"count": 1, "names": ["/a: no\nroom"]}}}
    });
    let unscheduled = json!([{"type": "PodScheduled", "status": "False", "message": "0/1 nodes"}]);
    let events = || vec![warning(1, "older"), warning(2, "rpc error: code = PermissionDenied desc = usagePolicy")];
    for (pod, events, seconds, expected) in [
        (None, vec![], 60, None),
        (None, events(), 9, None),
        (None, vec![warning(1, "forbidden: quota")], 10, waits("forbidden: quota")),
        (Some(pod(json!({"phase": "Pending"}))), events(), 10, waits("usagePolicy")),
        (Some(pod(json!({"phase": "Pending"}))), events(), 9, None),
        (Some(pod(json!({"phase": "Running"}))), events(), 60, None),
        (Some(pod(json!({"phase": "Succeeded"}))), events(), 60, None),
        (
            Some(pod(json!({"phase": "Pending", "conditions": unscheduled}))),
            vec![],
            60,
            waits("no node takes it: 0/1 nodes"),
        ),
        (
            Some(pod(json!({"phase": "Pending", "containerStatuses": waiting("ErrImagePull")}))),
            vec![],
            60,
            waits("ErrImagePull: why"),
        ),
        (Some(pod(json!({"phase": "Pending", "containerStatuses": waiting("ContainerCreating")}))), vec![], 60, None),
        (
            Some(pod(json!({"phase": "Failed", "containerStatuses": ended(3, &report.to_string())}))),
            vec![],
            0,
            failed("1 entry; /a: no room"),
        ),
        (
            Some(pod(json!({"phase": "Failed", "containerStatuses": ended(137, "a secret")}))),
            vec![],
            0,
            failed("its pod left no report (Error, exit code 137)"),
        ),
        (
            Some(pod(json!({"phase": "Failed", "reason": "Evicted"}))),
            vec![],
            0,
            failed("its pod left no report (Evicted)"),
        ),
    ] {
        let now: Timestamp = "2026-01-01T00:10:00Z".parse().unwrap();
        let since = now - SignedDuration::from_secs(seconds);
        assert_eq!(hindrance(pod.as_ref(), &events, Some(since), now), expected, "{pod:?}");
    }
}

#[test]
fn test_what_was_done_is_told_by_the_newest_pod() {
    let report = json!({
        "durationSeconds": 1.25, "outcome": {"restore": {"restored": 3, "unchanged": 1, "restoredBytes": 10, "unchangedBytes": 2}}
    });
    let mut first = pod(json!({"containerStatuses": ended(1, "{}")}));
    let mut second = pod(json!({"containerStatuses": ended(0, &report.to_string())}));
    for (pod, time) in [(&mut first, "2026-01-01T00:00:00Z"), (&mut second, "2026-01-01T00:00:01Z")] {
        pod.metadata.creation_timestamp = Some(read(json!(time)));
    }
    assert_eq!(done(Some(&first)), None);
    assert_eq!(done(newest(&[second, first])), Some("4 entries with 12 bytes in 1.2 s".to_owned()));
    assert_eq!(done(None), None);
}

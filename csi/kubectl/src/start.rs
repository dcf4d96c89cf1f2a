//! Waits until a pod runs, and tells why it does not: at once where waiting helps nothing.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{Api, ListParams};
use stash_fs::cli::output::show_name;
use stash_fs::cli::{CliError, CliResult};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::cluster::{Cluster, ask};
use crate::pod::CONTAINER;

/// How often the pod is looked at.
const LOOK: Duration = Duration::from_millis(300);

/// Reasons of a container that no waiting heals.
const FINAL_REASONS: [&str; 6] = [
    "CreateContainerConfigError",
    "CreateContainerError",
    "ErrImageNeverPull",
    "ImagePullBackOff",
    "InvalidImageName",
    "RunContainerError",
];
/// Codes of the CSI driver that no waiting heals (docs/csi.md).
const FINAL_CODES: [&str; 5] =
    ["FailedPrecondition", "InvalidArgument", "NotFound", "PermissionDenied", "Unauthenticated"];

/// How a pod that is to run stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It runs.
    Running,
    /// It may yet run; what hinders it, if that is known.
    Waiting(Option<String>),
    /// It will not run, and why.
    Lost(String),
}

/// Judges a pod by itself and by its events.
pub fn judge(pod: &Pod, events: &[Event]) -> Verdict {
    let status = pod.status.clone().unwrap_or_default();
    if pod.metadata.deletion_timestamp.is_some() {
        return Verdict::Lost("somebody deletes it".to_owned());
    }
    if let Some(phase @ ("Failed" | "Succeeded")) = status.phase.as_deref() {
        let why = [status.reason, status.message].into_iter().flatten().collect::<Vec<_>>().join(": ");
        return Verdict::Lost(if why.is_empty() { format!("it ended ({phase})") } else { why });
    }
    let containers = status.container_statuses.unwrap_or_default();
    let state = containers.into_iter().find(|one| one.name == CONTAINER).and_then(|one| one.state).unwrap_or_default();
    if state.running.is_some() {
        return Verdict::Running;
    }
    if let Some(ended) = state.terminated {
        let why = ended.message.or(ended.reason).unwrap_or_default();
        return Verdict::Lost(format!("its container ended with {}: {}", ended.exit_code, show_name(why.as_bytes())));
    }
    let mut hindrance = None;
    for condition in status.conditions.unwrap_or_default() {
        if condition.type_ == "PodScheduled" && condition.status == "False" {
            let why = condition.message.or(condition.reason).unwrap_or_default();
            hindrance = Some(format!("no node takes it: {why}"));
        }
    }
    for event in events.iter().filter(|event| event.type_.as_deref() == Some("Warning")) {
        let (reason, message) =
            (event.reason.as_deref().unwrap_or_default(), event.message.as_deref().unwrap_or_default());
        let said = format!("{reason}: {}", without_wrapping(message));
        if reason == "FailedMount" && FINAL_CODES.iter().any(|code| message.contains(&format!("code = {code} "))) {
            return Verdict::Lost(said);
        }
        if reason != "FailedScheduling" {
            hindrance = Some(said);
        }
    }
    if let Some(waiting) = state.waiting {
        let reason = waiting.reason.unwrap_or_default();
        let said = match waiting.message.filter(|message| !message.is_empty()) {
            Some(message) => format!("{reason}: {message}"),
            None => reason.clone(),
        };
        if FINAL_REASONS.contains(&reason.as_str()) {
            return Verdict::Lost(said);
        }
        if !matches!(reason.as_str(), "" | "ContainerCreating" | "PodInitializing") {
            hindrance = Some(said);
        }
    }
    Verdict::Waiting(hindrance)
}

/// Takes the words of kubelet and gRPC away that stand before those of the driver.
fn without_wrapping(message: &str) -> &str {
    message.split_once("desc = ").map_or(message, |(_, own)| own).trim()
}

/// Waits until the pod runs.
///
/// # Errors
///
/// It will not, or does not within `timeout`; why.
pub(crate) async fn wait(cluster: &Cluster, pods: &Api<Pod>, name: &str, timeout: Duration) -> CliResult<()> {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let deadline = Instant::now() + timeout;
    let mut said = None;
    let mut sees_events = true;
    loop {
        looks.tick().await;
        let pod = ask(&format!("get pod {}/{name}", cluster.namespace), pods.get(name)).await?;
        let events = match pod.metadata.uid.as_deref().filter(|_| sees_events) {
            Some(uid) => events(cluster, uid).await,
            None => Some(Vec::new()),
        };
        // Who may not see events is told less.
        sees_events = events.is_some();
        match judge(&pod, &events.unwrap_or_default()) {
            Verdict::Running => return Ok(()),
            Verdict::Lost(why) => return Err(lost(name, &why)),
            Verdict::Waiting(hindrance) => {
                if Instant::now() >= deadline {
                    let hindrance = hindrance.unwrap_or_else(|| "nothing is said why".to_owned());
                    let why = format!("not within {} s: {hindrance}", timeout.as_secs());
                    return Err(lost(name, &why));
                }
                if hindrance != said {
                    if let Some(hindrance) = &hindrance {
                        eprintln!("kubectl stash: pod {name} waits: {}", show_name(hindrance.as_bytes()));
                    }
                    said = hindrance;
                }
            }
        }
    }
}

/// Lists the events of a pod; `None` if that cannot be.
async fn events(cluster: &Cluster, uid: &str) -> Option<Vec<Event>> {
    let api = Api::<Event>::namespaced(cluster.client.clone(), &cluster.namespace);
    let of_pod = ListParams::default().fields(&format!("involvedObject.uid={uid}"));
    Some(ask("list events", api.list(&of_pod)).await.ok()?.items)
}

fn lost(name: &str, why: &str) -> CliError {
    let hint = if why.contains("not found in the list of registered CSI drivers") {
        "the node has no CSI driver of stash-fs: is the chart installed with node.enabled?"
    } else if why.contains("ImagePull") || why.contains("InvalidImageName") {
        "--image names another image, which the nodes can pull"
    } else if why.starts_with("not within") {
        "--start-timeout waits longer"
    } else {
        "docs/csi.md says what each refusal means; --local reads the store from here"
    };
    CliError::failure(format!("the pod {name} does not run: {}", show_name(why.as_bytes()))).hint(hint)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn verdict(status: Value, events: Value) -> Verdict {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "status": status})).unwrap();
        let of = |mut event: Value| {
            event["metadata"] = json!({"name": "e"});
            event["involvedObject"] = json!({});
            serde_json::from_value::<Event>(event).unwrap()
        };
        judge(&pod, &events.as_array().unwrap().iter().cloned().map(of).collect::<Vec<_>>())
    }

    fn waiting(reason: &str, message: &str) -> Value {
        json!({"phase": "Pending", "containerStatuses": [{"name": "browse", "image": "", "imageID": "", "ready": false,
            "restartCount": 0, "state": {"waiting": {"reason": reason, "message": message}}}]})
    }

    fn mount(message: &str) -> Value {
        json!([{"type": "Warning", "reason": "FailedMount", "message": message}])
    }

    #[test]
    fn test_what_is_said_of_a_pod_that_does_not_run() {
        let lost = |why: &str| Verdict::Lost(why.to_owned());
        let hindered = |why: &str| Verdict::Waiting(Some(why.to_owned()));
        let running = json!({"phase": "Running", "containerStatuses": [{"name": "browse", "image": "", "imageID": "",
            "ready": true, "restartCount": 0, "state": {"running": {}}}]});
        let ended = json!({"phase": "Running", "containerStatuses": [{"name": "browse", "image": "", "imageID": "",
            "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": 127, "reason": "Error"}}}]});
        let unscheduled = json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
            "reason": "Unschedulable", "message": "0/1 nodes are available"}]});
        let denied =
            "MountVolume.SetUp failed for volume \"snapshot\" : rpc error: code = PermissionDenied desc = may not";
        let away =
            "MountVolume.SetUp failed for volume \"snapshot\" : rpc error: code = Unavailable desc = the store is away";
        let none = "MountVolume.SetUp failed: driver name fs.stash.appscode.com not found in the list of registered CSI drivers";
        for (status, events, expected) in [
            (json!({}), json!([]), Verdict::Waiting(None)),
            (running.clone(), json!([]), Verdict::Running),
            // What hindered it hinders it no more.
            (running, mount(away), Verdict::Running),
            (ended, json!([]), lost("its container ended with 127: Error")),
            (
                json!({"phase": "Failed", "reason": "Evicted", "message": "low on memory"}),
                json!([]),
                lost("Evicted: low on memory"),
            ),
            (json!({"phase": "Succeeded"}), json!([]), lost("it ended (Succeeded)")),
            (waiting("ContainerCreating", ""), json!([]), Verdict::Waiting(None)),
            (waiting("ContainerCreating", ""), mount(denied), lost("FailedMount: may not")),
            (waiting("ContainerCreating", ""), mount(away), hindered("FailedMount: the store is away")),
            (waiting("ContainerCreating", ""), mount(none), hindered(&format!("FailedMount: {none}"))),
            (waiting("ErrImagePull", "no such image"), json!([]), hindered("ErrImagePull: no such image")),
            (waiting("ImagePullBackOff", ""), json!([]), lost("ImagePullBackOff")),
            (waiting("CreateContainerConfigError", "root"), json!([]), lost("CreateContainerConfigError: root")),
            (unscheduled, json!([]), hindered("no node takes it: 0/1 nodes are available")),
            (
                waiting("ContainerCreating", ""),
                json!([{"type": "Normal", "reason": "Pulling", "message": "x"}]),
                Verdict::Waiting(None),
            ),
        ] {
            assert_eq!(verdict(status.clone(), events), expected, "{status}");
        }
    }

    #[test]
    fn test_the_next_step_fits_what_happened() {
        for (why, words) in [
            ("not within 60 s: FailedMount: x not found in the list of registered CSI drivers", "node.enabled"),
            ("ImagePullBackOff", "--image"),
            ("not within 60 s: nothing is said why", "--start-timeout"),
            ("FailedMount: may not", "docs/csi.md"),
        ] {
            assert!(lost("p", why).hint.unwrap().contains(words), "{why}");
        }
    }
}

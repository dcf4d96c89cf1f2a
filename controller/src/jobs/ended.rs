//! What became of a Job, as Kubernetes tells it. Pure.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;

/// How far a Job is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It is not done.
    No,
    /// It is done, and its pod left this message.
    Message(String),
    /// It is done, and its pod left none: why, as far as Kubernetes says.
    Silent(String),
    /// Its pod was taken away before it was done.
    Disrupted(String),
}

/// Tells how far `job` is, of which `pods` are.
///
/// A Job whose pod left a message is done, whatever the Job's own status says: that comes later, and is not needed.
pub fn ended(job: &Job, pods: &[&Pod]) -> Ended {
    if let Some(message) = pods.iter().find_map(|pod| message(pod)) {
        return Ended::Message(message);
    }
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let is = |kind: &str| conditions.iter().find(|condition| condition.type_ == kind && condition.status == "True");
    let Some(condition) = is("Failed").or_else(|| is("Complete")) else { return Ended::No };
    for pod in pods {
        let status = pod.status.clone().unwrap_or_default();
        let disruption =
            status.conditions.iter().flatten().find(|c| c.type_ == "DisruptionTarget" && c.status == "True");
        if let Some(disruption) = disruption {
            return Ended::Disrupted(disruption.reason.clone().unwrap_or_else(|| "its pod was taken away".to_owned()));
        }
        if let Some(reason) = status.reason.filter(|reason| !reason.is_empty()) {
            return Ended::Disrupted(reason);
        }
        if let Some(terminated) = terminated(pod) {
            let reason = terminated.reason.as_deref().unwrap_or("it ended");
            return Ended::Silent(format!("{reason}, exit code {}", terminated.exit_code));
        }
    }
    if pods.is_empty() {
        return Ended::Disrupted("its pod is gone".to_owned());
    }
    Ended::Silent(condition.reason.clone().unwrap_or_else(|| "no reason is known".to_owned()))
}

/// Whether a Job says of itself that it is done.
pub fn is_done(job: &Job) -> bool {
    let status = job.status.as_ref();
    status.is_some_and(|status| status.completion_time.is_some() || status.failed.unwrap_or(0) > 0)
}

fn terminated(pod: &Pod) -> Option<&k8s_openapi::api::core::v1::ContainerStateTerminated> {
    let mut statuses = pod.status.as_ref()?.container_statuses.as_ref()?.iter();
    statuses.find_map(|status| status.state.as_ref()?.terminated.as_ref())
}

fn message(pod: &Pod) -> Option<String> {
    terminated(pod)?.message.clone().filter(|message| !message.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn test_what_became_of_a_job() {
        let terminated = |state: Value| {
            json!({"containerStatuses": [
                {"name": "stash", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": {"terminated": state}}
            ]})
        };
        let failed = Some(("Failed", "BackoffLimitExceeded"));
        let disrupted =
            json!({"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}]});
        for (condition, pods, expected) in [
            (None, vec![], Ended::No),
            (None, vec![json!({"phase": "Running"})], Ended::No),
            (None, vec![terminated(json!({"exitCode": 0, "message": "{}"}))], Ended::Message("{}".to_owned())),
            (failed, vec![terminated(json!({"exitCode": 3, "message": "{}"}))], Ended::Message("{}".to_owned())),
            (None, vec![terminated(json!({"exitCode": 1}))], Ended::No),
            (
                failed,
                vec![terminated(json!({"exitCode": 137, "reason": "OOMKilled"}))],
                Ended::Silent("OOMKilled, exit code 137".to_owned()),
            ),
            (
                Some(("Complete", "")),
                vec![terminated(json!({"exitCode": 0, "reason": "Completed"}))],
                Ended::Silent("Completed, exit code 0".to_owned()),
            ),
            (failed, vec![disrupted], Ended::Disrupted("EvictionByEvictionAPI".to_owned())),
            (failed, vec![json!({"reason": "Evicted"})], Ended::Disrupted("Evicted".to_owned())),
            (failed, vec![], Ended::Disrupted("its pod is gone".to_owned())),
            (failed, vec![json!({})], Ended::Silent("BackoffLimitExceeded".to_owned())),
        ] {
            let conditions: Vec<Value> = condition
                .iter()
                .map(|(kind, reason)| json!({"type": kind, "status": "True", "reason": reason}))
                .collect();
            let job: Job = serde_json::from_value(json!({"status": {"conditions": conditions}})).unwrap();
            let pods: Vec<Pod> =
                pods.iter().map(|status| serde_json::from_value(json!({"status": status})).unwrap()).collect();
            assert_eq!(ended(&job, &pods.iter().collect::<Vec<_>>()), expected, "{condition:?} {pods:?}");
        }
    }
}

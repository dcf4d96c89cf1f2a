//! Why a copy does not go on, as far as anybody says. Pure.

use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStateWaiting, Pod};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use stash_proto::job::{JobReport, Outcome};

/// How long a pod may take to start before it is asked why: volumes are made and mounted meanwhile.
pub const PATIENCE: SignedDuration = SignedDuration::from_secs(10);

/// What is told of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hindrance {
    /// A pod of it failed.
    Failed(String),
    /// It does not start.
    Waits(String),
}

/// Returns the pod that counts: the newest.
pub fn newest(pods: &[Pod]) -> Option<&Pod> {
    pods.iter().max_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0))
}

/// Judges a copy by its newest pod, and by the warnings about that, or about the Job where there is no pod. `since` is when it began.
pub fn hindrance(pod: Option<&Pod>, warnings: &[Event], since: Option<Timestamp>, now: Timestamp) -> Option<Hindrance> {
    let status = pod.and_then(|pod| pod.status.clone()).unwrap_or_default();
    match status.phase.as_deref() {
        Some("Failed") => return Some(Hindrance::Failed(pod.map(failure).unwrap_or_default())),
        Some("Running" | "Succeeded") => return None,
        _ => {}
    }
    if since.is_none_or(|since| now.duration_since(since) < PATIENCE) {
        return None;
    }
    let states = status.container_statuses.into_iter().flatten().filter_map(|one| one.state?.waiting);
    let waiting = states.filter_map(waits).next();
    let scheduling = status.conditions.into_iter().flatten();
    let scheduling = scheduling.filter(|one| one.type_ == "PodScheduled" && one.status == "False");
    let scheduling = scheduling.filter_map(|one| one.message.or(one.reason)).next();
    let warned = warnings.iter().max_by_key(|event| time(event)).and_then(|event| event.note.as_deref());
    let said = waiting.or_else(|| scheduling.map(|why| format!("no node takes it: {why}")));
    let said = said.or_else(|| warned.map(|note| without_wrapping(note).to_owned()));
    said.map(|said| Hindrance::Waits(text(&said)))
}

fn waits(state: ContainerStateWaiting) -> Option<String> {
    let reason = state.reason.unwrap_or_default();
    if matches!(reason.as_str(), "" | "ContainerCreating" | "PodInitializing") {
        return None;
    }
    Some(match state.message.filter(|message| !message.is_empty()) {
        Some(message) => format!("{reason}: {message}"),
        None => reason,
    })
}

/// Returns why a pod failed: what its report says, else what Kubernetes does.
pub fn failure(pod: &Pod) -> String {
    let status = pod.status.clone().unwrap_or_default();
    let ended = terminated(pod);
    let report = ended.as_ref().and_then(|ended| JobReport::parse(ended.message.as_deref()?).ok());
    if let Some(error) = report.as_ref().and_then(|report| report.error.as_ref()) {
        let names = match report.as_ref().map(|report| &report.outcome) {
            Some(Outcome::Restore(restored)) => restored.failed.names.as_slice(),
            _ => &[],
        };
        let said: Vec<String> = [&error.message].into_iter().chain(names).map(|part| text(part)).collect();
        return said.join("; ");
    }
    // What a pod says that is no report is shown to nobody: it may be anything.
    let why = match ended {
        Some(ended) => format!("{}, exit code {}", ended.reason.as_deref().unwrap_or("it ended"), ended.exit_code),
        None => status.reason.unwrap_or_else(|| "no reason is known".to_owned()),
    };
    format!("its pod left no report ({})", text(&why))
}

/// Returns what a copy that ended well did, as people read it.
pub fn done(pod: Option<&Pod>) -> Option<String> {
    let report = JobReport::parse(terminated(pod?)?.message.as_deref()?).ok()?;
    match report.outcome {
        Outcome::Restore(restored) => Some(format!(
            "{} entries with {} bytes in {:.1} s",
            restored.restored + restored.unchanged,
            restored.restored_bytes + restored.unchanged_bytes,
            report.duration_seconds
        )),
        Outcome::Nothing | Outcome::Backup(_) | Outcome::Maintain(_) => None,
    }
}

fn terminated(pod: &Pod) -> Option<ContainerStateTerminated> {
    let mut statuses = pod.status.as_ref()?.container_statuses.as_ref()?.iter();
    statuses.find_map(|one| one.state.as_ref()?.terminated.clone())
}

fn time(event: &Event) -> Option<Timestamp> {
    let last = event.series.as_ref().map(|series| series.last_observed_time.0);
    last.or_else(|| event.event_time.as_ref().map(|time| time.0))
        .or_else(|| event.deprecated_last_timestamp.as_ref().map(|time| time.0))
}

/// Takes the words of kubelet and gRPC away that stand before those of the driver.
fn without_wrapping(note: &str) -> &str {
    note.split_once("desc = ").map_or(note, |(_, own)| own).trim()
}

/// It is somebody else's text.
fn text(text: &str) -> String {
    text.chars().take(500).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests;

//! The taint of a node on which the driver is not ready yet. Who makes nodes may give it to new ones, so that no pod with a volume of ours
//! is put there before kubelet knows the driver; this takes it off.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Taint;
use tokio::sync::watch;

use crate::cluster::Cluster;
use crate::register::Outcome;

/// The key of the taint. The chart's policy knows it too.
pub const NOT_READY: &str = "fs.stash.appscode.com/agent-not-ready";
/// The first and the longest pause after a try that failed.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Returns the taints that are left without ours; none if it is not among them.
pub fn without(taints: &[Taint]) -> Option<Vec<Taint>> {
    let left: Vec<Taint> = taints.iter().filter(|taint| taint.key != NOT_READY).cloned().collect();
    (left.len() < taints.len()).then_some(left)
}

#[expect(clippy::disallowed_methods, reason = "a retry's backoff")]
async fn rest(pause: Duration) {
    tokio::time::sleep(pause).await;
}

/// Takes the taint off `node` as soon as kubelet took the driver, whose volumes the scheduler then counts.
pub async fn lift(cluster: Arc<dyn Cluster>, node: String, mut outcome: watch::Receiver<Outcome>) {
    if outcome.wait_for(|outcome| *outcome == Outcome::Registered).await.is_err() {
        return;
    }
    let mut pause = PAUSES.0;
    loop {
        match cluster.lift_taint(&node).await {
            Ok(true) => return tracing::info!(node, "took the taint off: the driver is ready"),
            Ok(false) => return,
            Err(error) => tracing::warn!(node, %error, "the taint {NOT_READY} was not taken off; it is tried again"),
        }
        rest(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_ours_is_taken_off_and_no_other() {
        let taint =
            |key: &str, effect: &str| Taint { key: key.to_owned(), effect: effect.to_owned(), ..Taint::default() };
        let other = taint("node.kubernetes.io/not-ready", "NoSchedule");
        let (ours, again) = (taint(NOT_READY, "NoSchedule"), taint(NOT_READY, "NoExecute"));
        for (found, left) in [
            (vec![], None),
            (vec![other.clone()], None),
            (vec![ours.clone()], Some(vec![])),
            (vec![ours, other.clone(), again], Some(vec![other])),
        ] {
            assert_eq!(without(&found), left);
        }
    }
}

//! What the report of a Job that restored says, as the status has it. Pure.

use stash_proto::job::{ErrorCode, JobReport, Outcome};

use crate::backup_session::outcome::Work;
use crate::backup_session::report::{duration, said, text};
use crate::go_duration;

/// What the Job of a host did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostOutcome {
    /// What went wrong, if it did; what was not restored is named.
    pub error: Option<String>,
    /// How long it took, as Go writes it.
    pub duration: Option<String>,
    /// Whether it cannot be told how it will end.
    pub is_unknown: bool,
}

/// Reads the report of a Job that restored a host.
pub fn host(message: &str) -> Work<HostOutcome> {
    // What a pod says is shown to nobody: it may be anything.
    let Ok(report) = JobReport::parse(message) else {
        return Work::Silent("what its pod left is no report".to_owned());
    };
    let restored = match report.outcome {
        Outcome::Restore(restored) => restored,
        Outcome::Nothing | Outcome::Backup(_) | Outcome::Maintain(_) => Default::default(),
    };
    if let Some(error) = report.error.as_ref().filter(|error| error.code == ErrorCode::Disrupted) {
        return Work::Disrupted(said(error));
    }
    Work::Reported(HostOutcome {
        error: report.error.as_ref().map(|error| {
            let names = restored.failed.names.iter().map(|name| text(name));
            [said(error)].into_iter().chain(names).collect::<Vec<String>>().join("; ")
        }),
        duration: Some(go_duration::format(duration(report.duration_seconds))),
        is_unknown: false,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn test_reports_of_hosts() {
        let well = json!({"durationSeconds": 1.5, "outcome": {"restore": {"restored": 3}}}).to_string();
        assert_eq!(
            host(&well),
            Work::Reported(HostOutcome { duration: Some("1.5s".to_owned()), ..HostOutcome::default() })
        );
        let failed = json!({"count": 1, "names": ["/data/a: no\nroom"]});
        let partly = json!({"error": {"code": "partly-restored", "message": "1 entry"}, "outcome": {"restore": {"failed": failed}}});
        let Work::Reported(outcome) = host(&partly.to_string()) else { panic!("it is a report") };
        assert_eq!(outcome.error.as_deref(), Some("1 entry; /data/a: no room"));
        let stopped = json!({"error": {"code": "disrupted", "message": "told to stop"}}).to_string();
        assert_eq!(host(&stopped), Work::Disrupted("told to stop".to_owned()));
        assert!(matches!(host("Killed"), Work::Silent(_)));
    }
}

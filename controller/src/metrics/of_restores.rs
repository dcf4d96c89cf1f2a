//! The figures of restores that Stash pushes, under both families of its names: read from the objects when somebody asks. Pure.

use kube::ResourceExt as _;
use stash_crds::RestoreSession;
use stash_crds::restore_session::{HostRestorePhase, RestorePhase};

use super::exposition::{Exposition, Labels};
use super::of_stash::{both, truth};
use crate::go_duration;
use crate::restore_session::phase::is_final;
use crate::stores::restored_from;

/// Collects the figures of a restore that is over. Of one that failed only that is said.
pub(super) fn restore(session: &RestoreSession, all: &mut Exposition) {
    let Some(status) = session.status.as_ref().filter(|status| is_final(status.phase.as_ref())) else { return };
    let labels: Labels<'_> = vec![
        ("invoker_kind", "RestoreSession".to_owned()),
        ("invoker_name", session.name_any()),
        ("namespace", session.namespace().unwrap_or_default()),
        ("driver", session.spec.driver.to_string()),
        ("repository", restored_from(session).map(|reference| reference.name).unwrap_or_default()),
    ];
    let success = status.phase == Some(RestorePhase::Succeeded);
    let seconds =
        |text: Option<&str>| text.and_then(|text| go_duration::parse(text).ok()).map(|took| took.as_secs_f64());
    let help = "Whether the restore succeeded.";
    both(all, "restoresession_success", "restore_session_success", help, &labels, truth(success));
    if success {
        if let Some(took) = seconds(status.session_duration.as_deref()) {
            let help = "How long the restore took.";
            both(all, "restoresession_duration_seconds", "restore_session_duration_seconds", help, &labels, took);
        }
        let help = "How many targets the restore had.";
        both(all, "restoresession_target_count_total", "restore_target_count_total", help, &labels, 1.0);
    }
    let reference = session.spec.target.as_ref().and_then(|target| target.reference.clone()).unwrap_or_default();
    let version = reference.api_version.unwrap_or_default();
    let mut labels = labels;
    labels.extend([
        ("kind", reference.kind.unwrap_or_default()),
        ("group", version.split_once('/').map_or("", |(group, _)| group).to_owned()),
        ("name", reference.name.unwrap_or_default()),
    ]);
    let help = "Whether the target was restored.";
    both(all, "restoresession_target_success", "restore_target_success", help, &labels, truth(success));
    if success {
        let (help, hosts) = ("How many hosts the target has.", f64::from(status.total_hosts.unwrap_or(0)));
        both(all, "restoresession_target_host_count_total", "restore_target_host_count_total", help, &labels, hosts);
    }
    for stats in &status.stats {
        let mut labels = labels.clone();
        labels.push(("hostname", stats.hostname.clone().unwrap_or_default()));
        let success = stats.phase == Some(HostRestorePhase::Succeeded);
        let help = "Whether the host was restored.";
        both(all, "restoresession_host_restore_success", "restore_host_restore_success", help, &labels, truth(success));
        if let Some(took) = seconds(stats.duration.as_deref()).filter(|_| success) {
            let (new, old) = ("restoresession_host_restore_duration_seconds", "restore_host_restore_duration_seconds");
            both(all, new, old, "How long the restore of the host took.", &labels, took);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn text(status: Value) -> String {
        let target = json!({"ref": {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db"}});
        let session = serde_json::from_value(json!({
            "metadata": {"name": "r", "namespace": "shop"}, "status": status,
            "spec": {"driver": "Restic", "repository": {"name": "repo"}, "target": target}
        }))
        .unwrap();
        let (mut all, mut text) = (Exposition::default(), String::new());
        restore(&session, &mut all);
        all.write(&mut text);
        text
    }

    #[test]
    fn test_figures_of_a_restore_have_both_of_stashs_names() {
        let stats = json!([{"hostname": "host-0", "phase": "Succeeded", "duration": "1.5s"}]);
        let said = text(json!({"phase": "Succeeded", "totalHosts": 1, "sessionDuration": "1m5s", "stats": stats}));
        let session = "invoker_kind=\"RestoreSession\",invoker_name=\"r\",namespace=\"shop\",driver=\"Restic\",repository=\"repo\"";
        let target = format!("{session},kind=\"StatefulSet\",group=\"apps\",name=\"db\"");
        let host = format!("{target},hostname=\"host-0\"");
        for (new, old, labels, value) in [
            ("restoresession_success", "restore_session_success", session, "1"),
            ("restoresession_duration_seconds", "restore_session_duration_seconds", session, "65"),
            ("restoresession_target_count_total", "restore_target_count_total", session, "1"),
            ("restoresession_target_success", "restore_target_success", &target, "1"),
            ("restoresession_target_host_count_total", "restore_target_host_count_total", &target, "1"),
            ("restoresession_host_restore_success", "restore_host_restore_success", &host, "1"),
            ("restoresession_host_restore_duration_seconds", "restore_host_restore_duration_seconds", &host, "1.5"),
        ] {
            assert!(said.contains(&format!("stash_appscode_com_{new}{{{labels}}} {value}\n")), "{new}: {said}");
            assert!(said.contains(&format!("stash_{old}{{{labels}}} {value}\n")), "{old}: {said}");
        }
    }

    #[test]
    fn test_of_a_failure_only_that_is_said_and_of_one_that_runs_nothing() {
        let stats = json!([{"hostname": "host-0", "phase": "Failed", "duration": "1.5s"}]);
        let said = text(json!({"phase": "Failed", "totalHosts": 1, "sessionDuration": "5s", "stats": stats}));
        assert!(
            said.contains("stash_restore_session_success{") && said.contains("stash_restore_host_restore_success{")
        );
        assert!(!said.contains("duration") && !said.contains("count"), "{said}");
        assert_eq!(text(json!({"phase": "Running", "totalHosts": 1})), "");
    }
}

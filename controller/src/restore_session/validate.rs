//! What a RestoreSession asks for that cannot be done: found before anything runs, and named. Pure.

use kube::ResourceExt as _;
use stash_crds::RestoreSession;
use stash_crds::restore_session::RestoreStrategy;
use stash_crds::target::{Driver, Rule};
use stash_proto::job::args::parse_restore;
use stash_proto::job::{JobSpec, JobTask, RepositoryAccess, RestoreTask, VERSION};

use super::{attach, claims, rules, snapshotter};
use crate::backup_configuration::validate::{self, Target, TargetKind};
use crate::hooks::Point;
use crate::hooks::call::acts_on_pods;
use crate::repository::backend::AddressRule;
use crate::{go_duration, hooks};

/// What is restored into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Claims that are made from templates.
    Claims,
    /// The claims of something that is there.
    Target(Target),
}

/// Returns what is restored into. Where there are templates, the target is only a name.
///
/// # Errors
///
/// A sentence for the user: which field asks for what cannot be done.
pub fn destination(session: &RestoreSession) -> Result<Destination, String> {
    let target = session.spec.target.as_ref();
    if target.is_some_and(|target| !target.volume_claim_templates.is_empty()) {
        return Ok(Destination::Claims);
    }
    let Some(reference) = target.and_then(|target| target.reference.as_ref()) else {
        return Err("spec.target: a ref or volumeClaimTemplates say what is restored into; restores without are not supported yet".to_owned());
    };
    let own = session.namespace().unwrap_or_default();
    validate::named(reference, &own, "restored in").map(Destination::Target)
}

/// Returns what is asked for and cannot be done, a sentence each.
pub fn problems(session: &RestoreSession, addresses: &AddressRule) -> Vec<String> {
    let spec = &session.spec;
    let mut problems = Vec::new();
    match &spec.driver {
        Driver::Restic | Driver::VolumeSnapshotter => {}
        other => problems.push(format!("spec.driver: {other} is not known; Restic and VolumeSnapshotter are")),
    }
    match &spec.strategy {
        None | Some(RestoreStrategy::Copy | RestoreStrategy::Attach | RestoreStrategy::Overlay) => {}
        Some(other) => problems.push(format!("spec.strategy: {other} is not known; Copy, Attach and Overlay are")),
    }
    let destination = destination(session);
    if let Err(problem) = &destination
        && !snapshotter::is_wanted(session)
    {
        problems.push(problem.clone());
    }
    let task = spec.task.as_ref().and_then(|task| task.name.as_deref()).unwrap_or_default();
    if !task.is_empty() && task != "pvc-restore" {
        problems.push(format!("spec.task.name: the task {task} is not supported yet"));
    }
    if spec.interim_volume_template.is_some() {
        problems.push("spec.interimVolumeTemplate is not supported yet".to_owned());
    }
    problems.extend(hooks::restore_problems(session, addresses));
    if destination == Ok(Destination::Claims) {
        let acts = |point: &Point| point.restore_hook(session).is_some_and(acts_on_pods);
        for point in [Point::PreRestore, Point::PostRestore].into_iter().filter(acts) {
            problems
                .push(format!("spec.hooks.{}: claims of volumeClaimTemplates have no pod to act on", point.field()));
        }
    }
    problems.extend(claims::problems(session));
    if snapshotter::is_wanted(session) {
        // No file is read, so rules and mounts say nothing.
        problems.extend(snapshotter::problems(session));
    } else {
        problems.extend(attach::problems(session));
        problems.extend(mount_problems(session, destination.ok().as_ref()));
        problems.extend(rule_problems(session));
    }
    if let Some(Err(problem)) = spec.time_out.as_deref().map(go_duration::parse) {
        problems.push(format!("spec.timeOut: {problem}"));
    }
    problems
}

fn mount_problems(session: &RestoreSession, destination: Option<&Destination>) -> Vec<String> {
    let place = "spec.target.volumeMounts";
    let target = session.spec.target.clone().unwrap_or_default();
    let is_claim = matches!(destination, Some(Destination::Target(Target { kind: TargetKind::Claim, .. })));
    let mut problems = Vec::new();
    // A claim that is the snapshot begins where the rule or the snapshot says, if no mount says it.
    if target.volume_mounts.is_empty() && destination.is_some() && !is_claim && !attach::is_wanted(session) {
        problems.push(format!("{place} say where the volumes were mounted when they were backed up: there are none"));
    }
    problems.extend(validate::mount_problems(&target.volume_mounts));
    if destination == Some(&Destination::Claims) && problems.is_empty() {
        let made = claims::claims(session, Some(0)).and_then(|made| claims::mounts(&target, &made, Some(0)));
        problems.extend(made.err());
    }
    problems
}

fn rule_problems(session: &RestoreSession) -> Vec<String> {
    let field = rules::field(session);
    let args = session.spec.target.as_ref().map(|target| target.args.clone()).unwrap_or_default();
    if let Err(refused) = parse_restore(&args) {
        return vec![format!("spec.target.args: {refused}")];
    }
    let rules = rules::rules(session);
    if rules.is_empty() {
        return vec![format!("{field}: there is no rule that says what is restored")];
    }
    let mut problems = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        if let Err(problem) = taken(rule, &args) {
            problems.push(format!("{field}[{index}]: {problem}"));
        }
    }
    problems
}

/// Whether a Job would take a rule.
fn taken(rule: &Rule, args: &[String]) -> Result<(), String> {
    match (rule.snapshots.is_empty(), rule.paths.is_empty()) {
        (true, true) => return Err("it names neither snapshots nor paths, so nothing would be restored".to_owned()),
        (false, false) => return Err("it names snapshots or paths, not both".to_owned()),
        _ => {}
    }
    let task = RestoreTask {
        sources: rules::sources(rule, "host-0"),
        include: rule.include.clone(),
        exclude: rule.exclude.clone(),
        args: args.to_vec(),
        mounts: vec!["/".to_owned()],
        ..RestoreTask::default()
    };
    let repository = RepositoryAccess { address: "/".to_owned(), ..RepositoryAccess::default() };
    let spec = JobSpec { version: VERSION, repository, dead_hosts: Vec::new(), task: JobTask::Restore(task) };
    spec.check().map_err(|error| error.to_string().trim_start_matches("task.restore.").to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn session(spec: Value) -> RestoreSession {
        serde_json::from_value(json!({"metadata": {"name": "r", "namespace": "shop"}, "spec": spec})).unwrap()
    }

    fn with(more: Value, target: Value) -> Value {
        let mut spec = json!({"target": {
            "ref": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": "data"}, "rules": [{"paths": ["/stash-data"]}]
        }});
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        for (key, value) in target.as_object().unwrap() {
            spec["target"][key] = value.clone();
        }
        spec
    }

    #[test]
    fn test_what_cannot_be_done_is_named() {
        let template = json!([{"metadata": {"name": "data-${POD_ORDINAL}"}, "spec": {}}]);
        let mounts = json!([{"name": "data", "mountPath": "/data"}]);
        let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"});
        let exec = json!({"preRestore": {"exec": {"command": ["true"]}}});
        for (spec, expected) in [
            (with(json!({}), json!({})), ""),
            (
                with(
                    json!({"task": {"name": "pvc-restore"}, "timeOut": "1h", "strategy": "Copy", "hooks": exec}),
                    json!({}),
                ),
                "",
            ),
            (with(json!({"rules": [{"snapshots": ["0a1b2c3d"]}]}), json!({"rules": []})), ""),
            (with(json!({}), json!({"ref": deployment, "volumeMounts": mounts})), ""),
            (with(json!({}), json!({"ref": null, "volumeClaimTemplates": template, "volumeMounts": mounts})), ""),
            (with(json!({"driver": "VolumeSnapshotter"}), json!({})), "spec.target.volumeClaimTemplates: the driver"),
            (with(json!({"driver": "Rsync"}), json!({})), "spec.driver: Rsync is not known"),
            (with(json!({"strategy": "Attach"}), json!({})), "spec.strategy: Attach makes claims"),
            (with(json!({"strategy": "Overlay"}), json!({})), "spec.strategy: Overlay makes claims"),
            (with(json!({"strategy": "Instant"}), json!({})), "spec.strategy: Instant is not known"),
            (with(json!({"strategy": "Attach"}), json!({"ref": null, "volumeClaimTemplates": template})), ""),
            (with(json!({}), json!({"ref": null})), "spec.target: a ref or volumeClaimTemplates"),
            (
                with(json!({}), json!({"ref": {"apiVersion": "batch/v1", "kind": "CronJob", "name": "a"}})),
                "spec.target.ref: batch/v1 CronJob",
            ),
            (
                with(
                    json!({}),
                    json!({"ref": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": "a", "namespace": "b"}}),
                ),
                "spec.target.ref.namespace must be shop: a PersistentVolumeClaim is restored in",
            ),
            (with(json!({"task": {"name": "postgres-restore-14.0"}}), json!({})), "spec.task.name: the task postgres"),
            (with(json!({"interimVolumeTemplate": {}}), json!({})), "spec.interimVolumeTemplate"),
            (with(json!({"hooks": {"preRestore": {"exec": {}}}}), json!({})), "spec.hooks.preRestore: exec.command"),
            (
                with(
                    json!({"hooks": {"postRestore": {"exec": {"command": ["a"]}, "executionPolicy": "Now"}}}),
                    json!({}),
                ),
                "spec.hooks.postRestore.executionPolicy: Now",
            ),
            (
                with(json!({"hooks": exec}), json!({"volumeClaimTemplates": template, "volumeMounts": mounts})),
                "spec.hooks.preRestore: claims of",
            ),
            (with(json!({}), json!({"ref": deployment})), "spec.target.volumeMounts say where"),
            (
                with(json!({}), json!({"volumeMounts": [{"name": "a", "mountPath": "/a/../b"}]})),
                "spec.target.volumeMounts: the mountPath",
            ),
            (
                with(json!({}), json!({"volumeMounts": [{"name": "a", "mountPath": "/a", "subPathExpr": "$(X)"}]})),
                "spec.target.volumeMounts: subPathExpr",
            ),
            (
                with(
                    json!({}),
                    json!({"volumeClaimTemplates": template, "volumeMounts": [{"name": "x", "mountPath": "/x"}]}),
                ),
                "spec.target.volumeMounts: no volumeClaimTemplate",
            ),
            (with(json!({}), json!({"rules": []})), "spec.target.rules: there is no rule"),
            (with(json!({}), json!({"rules": [{"targetHosts": ["a"]}]})), "spec.target.rules[0]: it names neither"),
            (
                with(json!({}), json!({"rules": [{"paths": ["/a"], "snapshots": ["latest"]}]})),
                "spec.target.rules[0]: it names snapshots or",
            ),
            (with(json!({"rules": [{"paths": ["a"]}]}), json!({})), "spec.rules[0]: sources: the latest snapshot"),
            (
                with(json!({}), json!({"rules": [{"snapshots": ["first"]}]})),
                "spec.target.rules[0]: sources: `first` is no id",
            ),
            (
                with(json!({}), json!({"rules": [{"paths": ["/a"], "include": ["a"], "exclude": ["b"]}]})),
                "spec.target.rules[0]: include: include and",
            ),
            (with(json!({}), json!({"args": ["--target=/"]})), "spec.target.args: --target: "),
            (with(json!({"timeOut": "soon"}), json!({})), "spec.timeOut: "),
        ] {
            let found = problems(&session(spec.clone()), &AddressRule::default());
            assert_eq!(found.len(), usize::from(!expected.is_empty()), "{spec}: {found:?}");
            assert!(found.iter().all(|problem| problem.starts_with(expected)), "{spec}: {found:?}");
        }
    }
}

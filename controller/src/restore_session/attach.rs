//! Restores without a copy: the claims of `volumeClaimTemplates` become volumes of the snapshot itself, which the CSI driver mounts. With
//! `Attach` they are read-only on any number of nodes, with `Overlay` each pod may write to its own. Pure.
//!
//! No Job runs: a host is restored when its claims are bound, which the driver's provisioner sees to.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, TypedObjectReference, VolumeResourceRequirements,
};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt as _;
use stash_crds::restore_session::RestoreStrategy;
use stash_crds::snapshot::SnapshotStatus;
use stash_crds::target::Rule;
use stash_crds::{RestoreSession, Snapshot, names as labels};

use super::claims;
use super::report::HostOutcome;
use super::rules;
use crate::backup_session::outcome::Work;
use crate::backup_session::report::text;
use crate::jobs::Source;

/// The driver reads an attribute of a claim's volume from an annotation of the claim: this, and the attribute's name.
const ATTRIBUTE: &str = "fs.stash.appscode.com";
/// The modes that a claim of an overlay may have: what is written is of one node.
const WRITERS: [&str; 2] = ["ReadWriteOnce", "ReadWriteOncePod"];

/// Returns whether the claims of a session are volumes of the snapshot itself.
pub fn is_wanted(session: &RestoreSession) -> bool {
    matches!(session.spec.strategy, Some(RestoreStrategy::Attach | RestoreStrategy::Overlay))
}

fn is_overlay(session: &RestoreSession) -> bool {
    session.spec.strategy == Some(RestoreStrategy::Overlay)
}

/// Returns what a session asks for that only copying can do, a sentence each.
pub fn problems(session: &RestoreSession) -> Vec<String> {
    let Some(strategy) = session.spec.strategy.as_ref().filter(|_| is_wanted(session)) else { return Vec::new() };
    let target = session.spec.target.clone().unwrap_or_default();
    let own = session.namespace().unwrap_or_default();
    let mut problems = Vec::new();
    if target.volume_claim_templates.is_empty() {
        problems.push(format!(
            "spec.strategy: {strategy} makes claims: spec.target.volumeClaimTemplates say which; Copy restores into what is there"
        ));
    }
    let repository = session.spec.repository.clone().unwrap_or_default();
    if repository.namespace.is_some_and(|namespace| !namespace.is_empty() && namespace != own) {
        problems.push(format!(
            "spec.repository.namespace must be {own} with the strategy {strategy}: a claim can name a Snapshot of its own namespace only"
        ));
    }
    let overlay = session.spec.overlay.clone().unwrap_or_default();
    if overlay.storage_class_name.is_some_and(|name| !name.is_empty()) {
        problems
            .push("spec.overlay.storageClassName is not supported yet: changes are kept on the node's disk".to_owned());
    }
    if !target.args.is_empty() {
        problems.push(format!("spec.target.args: nothing is copied with the strategy {strategy}, so they say nothing"));
    }
    for wanted in target.volume_mounts.iter().filter(|wanted| wanted.sub_path.is_some()) {
        problems.push(format!(
            "spec.target.volumeMounts: subPath of {} is not possible with the strategy {strategy}: a volume begins with a folder of the snapshot",
            wanted.name
        ));
    }
    for (index, rule) in rules::rules(session).iter().enumerate() {
        let place = format!("{}[{index}]", rules::field(session));
        if !rule.include.is_empty() || !rule.exclude.is_empty() {
            problems.push(format!("{place}: include and exclude choose what is copied: with the strategy {strategy} the volume is the snapshot"));
        }
        if rule.snapshots.len() > 1 {
            problems.push(format!("{place}: a volume shows one snapshot; Copy restores several"));
        }
    }
    problems
}

/// A snapshot, by its object.
type Known<'a> = (&'a str, &'a SnapshotStatus);

/// Makes the claims of a host. `snapshots` are those of the Repository, `class` is the StorageClass of the driver.
///
/// # Errors
///
/// A sentence for the user: there is no such snapshot, or a claim would be of several.
pub fn claims(
    session: &RestoreSession,
    host: &str,
    ordinal: Option<usize>,
    class: &str,
    snapshots: &[Snapshot],
) -> Result<Vec<PersistentVolumeClaim>, String> {
    let target = session.spec.target.clone().unwrap_or_default();
    let repository = session.spec.repository.clone().unwrap_or_default().name;
    let rule = rules::of(session, host).ok_or_else(|| format!("no rule is for {host}"))?;
    let templates = claims::claims(session, ordinal)?;
    let mounts = claims::mounts(&target, &templates, ordinal)?;
    // What is being deleted is being forgotten.
    let there = snapshots.iter().filter(|one| one.metadata.deletion_timestamp.is_none());
    let known: Vec<Known<'_>> = there
        .filter_map(|one| Some((one.metadata.name.as_deref()?, one.status.as_ref()?)))
        .filter(|(_, status)| status.repository == repository)
        .collect();
    let made = templates.into_iter().map(|template| {
        let source = Source::Claim(template.name_any());
        let mount = mounts.iter().find(|mount| mount.source == source).map(|mount| mount.path.as_str());
        // Without a mount the one path of the rule is the volume's root.
        let folder = mount.or_else(|| rule.paths.first().filter(|_| rule.paths.len() == 1).map(String::as_str));
        let snapshot = choose(rule, host, folder, &known)
            .map_err(|why| format!("PersistentVolumeClaim {}: {why}", template.name_any()))?;
        Ok(attached(session, template, class, snapshot, folder))
    });
    made.collect()
}

/// Whether `folder` is `path`, or lies below it.
fn is_within(folder: &str, path: &str) -> bool {
    let (folder, path) = (folder.trim_end_matches('/'), path.trim_end_matches('/'));
    folder == path || folder.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'))
}

/// Chooses the snapshot of which a claim shows `folder`.
fn choose<'a>(rule: &Rule, host: &str, folder: Option<&str>, known: &[Known<'a>]) -> Result<&'a str, String> {
    let latest = |fits: &dyn Fn(&SnapshotStatus) -> bool| {
        let fitting = known.iter().filter(|(_, status)| fits(status));
        fitting
            .max_by_key(|(name, status)| (status.snapshot_time.as_ref().map(|time| time.0), *name))
            .map(|(name, _)| *name)
    };
    match rule.snapshots.first().map(String::as_str) {
        Some("latest") => latest(&|_| true).ok_or_else(|| "the Repository has no snapshot".to_owned()),
        Some(id) => {
            let begins = |status: &SnapshotStatus| status.snapshot_id.as_deref().is_some_and(|own| own.starts_with(id));
            let mut found = known.iter().filter(|(_, status)| begins(status)).map(|(name, _)| *name);
            match (found.next(), found.next()) {
                (Some(only), None) => Ok(only),
                (None, _) => Err(format!("there is no Snapshot whose id begins with {id}")),
                _ => Err(format!("there are several Snapshots whose id begins with {id}: give more digits")),
            }
        }
        None => {
            let source = rule.source_host.as_deref().filter(|source| !source.is_empty()).unwrap_or(host);
            let concerns =
                |path: &&String| folder.is_none_or(|folder| is_within(folder, path) || is_within(path, folder));
            let mut chosen = None;
            for path in rule.paths.iter().filter(concerns) {
                let fits = |status: &SnapshotStatus| {
                    status.hostname == source && status.paths.iter().any(|backed_up| is_within(path, backed_up))
                };
                let found =
                    latest(&fits).ok_or_else(|| format!("there is no snapshot of {path} of the host {source}"))?;
                if chosen.is_some_and(|chosen| chosen != found) {
                    return Err(
                        "its paths are in several snapshots; a volume shows one, Copy restores several".to_owned()
                    );
                }
                chosen = Some(found);
            }
            chosen.ok_or_else(|| format!("no path of the rule is for {}", folder.unwrap_or("/")))
        }
    }
}

/// Makes a template's claim one that shows a snapshot.
fn attached(
    session: &RestoreSession,
    template: PersistentVolumeClaim,
    class: &str,
    snapshot: &str,
    folder: Option<&str>,
) -> PersistentVolumeClaim {
    let overlay = is_overlay(session);
    let scratch = session.spec.overlay.clone().unwrap_or_default().scratch_size.filter(|_| overlay);
    let attributes = [
        ("mode", Some(if overlay { "overlay" } else { "ro" }.to_owned())),
        ("scratchSize", scratch.map(|size| size.0)),
        ("path", folder.map(str::to_owned)),
    ];
    let asked = template.spec.unwrap_or_default();
    let writers: Vec<String> =
        asked.access_modes.iter().flatten().filter(|mode| WRITERS.contains(&mode.as_str())).cloned().collect();
    let modes = match (overlay, writers.is_empty()) {
        (false, _) => vec!["ReadOnlyMany".to_owned()],
        (true, true) => vec![WRITERS[0].to_owned()],
        (true, false) => writers,
    };
    let requests = asked.resources.and_then(|resources| resources.requests).filter(|requests| !requests.is_empty());
    // A claim needs a size. That of the snapshot is what it is.
    let requests = requests.unwrap_or_else(|| BTreeMap::from([("storage".to_owned(), Quantity("1Gi".to_owned()))]));
    let mut metadata = template.metadata;
    let annotations = metadata.annotations.get_or_insert_default();
    let given = attributes.into_iter().filter_map(|(name, value)| Some((format!("{ATTRIBUTE}/{name}"), value?)));
    annotations.extend(given);
    let source = TypedObjectReference {
        api_group: Some(labels::SNAPSHOT_GROUP.to_owned()),
        kind: "Snapshot".to_owned(),
        name: snapshot.to_owned(),
        namespace: None,
    };
    PersistentVolumeClaim {
        metadata,
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(modes),
            data_source_ref: Some(source),
            resources: Some(VolumeResourceRequirements { limits: None, requests: Some(requests) }),
            storage_class_name: Some(class.to_owned()),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }
}

/// Returns how far a host is, by its claims: none where one is not there. `took` is how long it is since the first was made.
pub fn work(claims: &[Option<PersistentVolumeClaim>], took: String) -> Work<HostOutcome> {
    if claims.iter().any(Option::is_none) {
        return Work::Absent;
    }
    let phase = |claim: &PersistentVolumeClaim| claim.status.as_ref().and_then(|status| status.phase.clone());
    if let Some(lost) = claims.iter().flatten().find(|claim| phase(claim).as_deref() == Some("Lost")) {
        let error = Some(format!("PersistentVolumeClaim {} has lost its volume", lost.name_any()));
        return Work::Reported(HostOutcome { error, duration: Some(took), ..HostOutcome::default() });
    }
    if claims.iter().flatten().all(|claim| phase(claim).as_deref() == Some("Bound")) {
        return Work::Reported(HostOutcome { duration: Some(took), ..HostOutcome::default() });
    }
    Work::Running
}

/// Returns the claims that are not bound.
pub fn waiting(claims: &[Option<PersistentVolumeClaim>]) -> impl Iterator<Item = &PersistentVolumeClaim> {
    let is_bound = |claim: &&PersistentVolumeClaim| {
        claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound")
    };
    claims.iter().flatten().filter(move |claim| !is_bound(claim))
}

/// Says that a claim is not bound, and what its newest warning is.
pub fn why(claim: &PersistentVolumeClaim, warnings: &[Event]) -> String {
    let time = |event: &Event| {
        let last = event.series.as_ref().map(|series| series.last_observed_time.0);
        last.or_else(|| event.event_time.as_ref().map(|time| time.0))
            .or_else(|| event.deprecated_last_timestamp.as_ref().map(|time| time.0))
    };
    let name = claim.name_any();
    match warnings.iter().max_by_key(|event| time(event)).and_then(|event| event.note.as_deref()) {
        // It is somebody else's text.
        Some(note) => format!("PersistentVolumeClaim {name} is not bound: {}.", text(note).trim_end_matches('.')),
        None => format!("PersistentVolumeClaim {name} is not bound yet."),
    }
}

#[cfg(test)]
mod tests;

//! Gathers what a restore's plan is made from: from the stores, and from the API server where a store may be behind.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use stash_crds::{Repository, RestoreSession};

use super::at_start::{self, Way};
use super::phase::is_final;
use super::plan::{Host, Observed};
use super::report::{self, HostOutcome};
use super::validate::{Destination, destination};
use super::{attach, claims, snapshotter};
use crate::backup_configuration::plan::TargetState;
use crate::backup_configuration::validate::{Target, TargetKind};
use crate::backup_session::outcome::Work;
use crate::backup_session::plan::Hooks;
use crate::context::Context;
use crate::errors::ReconcileError;
use crate::go_duration;
use crate::hooks::Point;
use crate::jobs::{self, Ended, ended};
use crate::names;
use crate::parts::parts_of;
use crate::progress;
use crate::secrets::Known;
use crate::stores::{as_ref_of, restored_from};
use crate::workload::Workload;

/// What was gathered.
#[derive(Debug)]
pub struct Seen {
    /// The Repository that the session names.
    pub repository: Option<Arc<Repository>>,
    secret: Known,
    namespace_labels: BTreeMap<String, String>,
    target: TargetState,
    rival: Option<String>,
    hosts: Vec<Host>,
    jobs: BTreeMap<String, Work<HostOutcome>>,
    without_secret: BTreeSet<String>,
    secret_again: Option<Timestamp>,
    waits: BTreeMap<String, String>,
    way: Way,
    is_injected: bool,
    elections: BTreeMap<String, String>,
    progress: Option<String>,
    hooks: Hooks,
}

/// Gathers what is known about a restore.
///
/// # Errors
///
/// The API server did not tell, or a Job has the name of one of ours.
pub async fn observe(session: &RestoreSession, context: &Context) -> Result<Seen, ReconcileError> {
    let stores = &context.stores;
    let namespace = session.namespace().unwrap_or_default();
    let repository = restored_from(session).and_then(|reference| stores.repositories.get(&reference));
    let secret = repository.as_ref().map_or(Known::Absent, |repository| stores.secret_of(repository));
    let labels = stores.namespaces.get(&as_ref_of(&namespace, None));
    let status = session.status.clone().unwrap_or_default();
    let is_over = is_final(status.phase.as_ref()) || session.metadata.deletion_timestamp.is_some();
    let Restored { state: target, hosts, workload } =
        if is_over { Restored::of(TargetState::Found, Vec::new()) } else { look_up(session, context).await? };
    let (mut jobs, mut waits) = (BTreeMap::new(), BTreeMap::new());
    let way = way(session, context);
    let (mut is_injected, mut elections, mut pods_at_work) = (true, BTreeMap::new(), Vec::new());
    if let Way::AtStart(orders) = &way {
        if status.total_hosts.is_some() && !is_over {
            let pods = match &workload {
                Some(workload) => workload.pods(&namespace, &context.client).await?,
                None => Vec::new(),
            };
            is_injected = workload.is_some_and(|workload| at_start::is_injected(&workload, &orders.session));
            let looked = at_start::look(orders, &hosts, &pods);
            pods_at_work = looked.at_work;
            (jobs, waits, elections) = (looked.work, looked.waits, looked.elections);
        }
    } else if status.total_hosts.is_some() && !is_over {
        for host in hosts.iter().filter(|_| snapshotter::is_by_claims(session)) {
            let (work, why) = attached(session, host, context).await?;
            jobs.insert(host.job.clone(), work);
            waits.extend(why.map(|why| (host.name.clone(), why)));
        }
        for host in hosts.iter().filter(|_| !snapshotter::is_by_claims(session)) {
            let work = work(session, &host.job, context).await?;
            if work == Work::Running {
                pods_at_work.extend(pods_of(&host.job, &namespace, context));
            }
            jobs.insert(host.job.clone(), work);
        }
    }
    let progress = progress::text(&progress::ask(&pods_at_work).await);
    let has_jobs = !matches!(way, Way::AtStart(_));
    let at_work = jobs.iter().filter(|(_, work)| has_jobs && **work == Work::Running).map(|(job, _)| job.clone());
    let (without_secret, secret_again) =
        jobs::due(at_work, |job| jobs::secret_due(&as_ref_of(job, Some(&namespace)), context));
    let uid = session.metadata.uid.as_deref().unwrap_or_default();
    let of_hook = |point| context.hooks.progress(uid, point);
    Ok(Seen {
        without_secret,
        secret_again,
        secret,
        namespace_labels: labels.map(|namespace| namespace.labels().clone()).unwrap_or_default(),
        hooks: Hooks { pre: of_hook(Point::PreRestore), post: of_hook(Point::PostRestore) },
        rival: if status.total_hosts.is_none() && !is_over { rival(session, context) } else { None },
        repository,
        target,
        hosts,
        jobs,
        waits,
        way,
        is_injected,
        elections,
        progress,
    })
}

impl Seen {
    /// Returns it as the plan takes it.
    pub fn observed<'a>(&'a self, session: &'a RestoreSession, context: &'a Context) -> Observed<'a> {
        Observed {
            session,
            repository: self.repository.as_deref(),
            secret: self.secret.clone(),
            namespace_labels: &self.namespace_labels,
            target: self.target,
            rival: self.rival.clone(),
            hosts: self.hosts.clone(),
            parts_are_written: parts_of(session).is_some(),
            without_secret: self.without_secret.clone(),
            secret_again: self.secret_again,
            jobs: self.jobs.clone(),
            waits: self.waits.clone(),
            way: self.way.clone(),
            is_injected: self.is_injected,
            elections: self.elections.clone(),
            progress: self.progress.clone(),
            hooks: self.hooks.clone(),
            addresses: &context.options.addresses,
        }
    }
}

/// Returns how the hosts of a session are restored.
fn way(session: &RestoreSession, context: &Context) -> Way {
    let begun = session.status.as_ref().is_some_and(|status| status.total_hosts.is_some());
    match at_start::decided(session) {
        Way::Undecided if begun || snapshotter::is_by_claims(session) || !context.options.restore_at_start => Way::Jobs,
        Way::Undecided if !matches!(destination(session), Ok(Destination::Target(target)) if at_start::key_of(target.kind).is_some()) => {
            Way::Jobs
        }
        way => way,
    }
}

/// Returns the name of another session that restores the same target and goes first: it has begun, or it is older and was not looked
/// at yet.
fn rival(session: &RestoreSession, context: &Context) -> Option<String> {
    let own = destination(session).ok().filter(|own| *own != Destination::Claims)?;
    let age = |session: &RestoreSession| {
        (session.metadata.creation_timestamp.as_ref().map(|time| time.0), session.metadata.name.clone())
    };
    let goes_first = |other: &RestoreSession| {
        let status = other.status.clone().unwrap_or_default();
        let is_other = other.namespace() == session.namespace() && other.metadata.uid != session.metadata.uid;
        let first = status.total_hosts.is_some() || (status.phase.is_none() && age(other) < age(session));
        is_other
            && first
            && !is_final(status.phase.as_ref())
            && other.metadata.deletion_timestamp.is_none()
            && destination(other).as_ref() == Ok(&own)
    };
    context.stores.restores.find(goes_first).map(|other| other.name_any())
}

/// What is restored into.
struct Restored {
    state: TargetState,
    hosts: Vec<Host>,
    workload: Option<Workload>,
}

impl Restored {
    fn of(state: TargetState, hosts: Vec<Host>) -> Self {
        Self { state, hosts, workload: None }
    }
}

/// Looks up what is restored into: how many hosts there are is decided when the session begins.
async fn look_up(session: &RestoreSession, context: &Context) -> Result<Restored, ReconcileError> {
    let target = session.spec.target.clone().unwrap_or_default();
    let (name, alias) = (session.name_any(), target.alias.as_deref());
    let one = || Host { name: names::host(alias), job: names::restore_job(&name, None), ..Host::default() };
    let replica = |ordinal| Host {
        name: names::replica_host(alias, ordinal),
        job: names::restore_job(&name, Some(ordinal)),
        ordinal: Some(ordinal),
        part: None,
    };
    let wanted = match destination(session) {
        Ok(Destination::Claims) if snapshotter::is_wanted(session) => {
            return Ok(Restored::of(TargetState::Found, snapshotter::hosts(session)));
        }
        Ok(Destination::Claims) => {
            let hosts = match target.replicas {
                Some(replicas) => (0..usize::try_from(replicas).unwrap_or(0)).map(replica).collect(),
                None => vec![one()],
            };
            return Ok(Restored::of(TargetState::Found, hosts));
        }
        Ok(Destination::Target(wanted)) => wanted,
        // What it is was said; nothing is looked up.
        Err(_) => return Ok(Restored::of(TargetState::Found, vec![one()])),
    };
    let namespace = session.namespace().unwrap_or_default();
    let begun = session.status.as_ref().and_then(|status| status.total_hosts);
    if wanted.kind == TargetKind::Claim {
        let exists = begun.is_some() || claim_exists(&wanted, &namespace, context).await?;
        return Ok(Restored::of(if exists { TargetState::Found } else { TargetState::Missing }, vec![one()]));
    }
    let found = Workload::find(&wanted, &namespace, &context.client).await?;
    let state = if found.is_some() || begun.is_some() { TargetState::Found } else { TargetState::Missing };
    let unknown = Workload::default();
    let workload = found.as_ref().unwrap_or(&unknown);
    let hosts = match wanted.kind {
        TargetKind::StatefulSet => {
            let replicas = begun.or(target.replicas).or(workload.replicas).unwrap_or(0);
            workload.ordinals(replicas).map(replica).collect()
        }
        TargetKind::DaemonSet => {
            let nodes = match parts_of(session) {
                Some(nodes) => nodes,
                None => {
                    let pods = workload.pods(&namespace, &context.client).await?;
                    let nodes = pods.iter().filter_map(|pod| pod.spec.as_ref()?.node_name.clone());
                    nodes.collect::<BTreeSet<String>>().into_iter().collect()
                }
            };
            let host = |node: String| Host {
                name: names::node_host(alias, &node),
                job: names::restore_node_job(&name, &node),
                ordinal: None,
                part: Some(node),
            };
            nodes.into_iter().map(host).collect()
        }
        _ => vec![one()],
    };
    Ok(Restored { state, hosts, workload: found })
}

async fn claim_exists(target: &Target, namespace: &str, context: &Context) -> Result<bool, ReconcileError> {
    let name = &target.name;
    if context.stores.claims.get(&as_ref_of(name, Some(namespace))).is_some() {
        return Ok(true);
    }
    let found = context.api::<PersistentVolumeClaim>(namespace).get_opt(name).await;
    let found = found.map_err(|error| ReconcileError::of(format!("look up PersistentVolumeClaim {name}"), error))?;
    Ok(found.is_some())
}

/// Returns the addresses of the pods of a Job that run.
fn pods_of(job: &str, namespace: &str, context: &Context) -> Vec<IpAddr> {
    let is_of_job = |pod: &Pod| {
        let named = pod.labels().get("batch.kubernetes.io/job-name").is_some_and(|name| name == job);
        named && pod.namespace().as_deref() == Some(namespace)
    };
    context.stores.pods.state_filter(is_of_job).iter().filter_map(|pod| at_start::address(pod)).collect()
}

/// Returns how far the Job of a host is.
async fn work(session: &RestoreSession, name: &str, context: &Context) -> Result<Work<HostOutcome>, ReconcileError> {
    let Some(job) = locate(session, name, context).await? else { return Ok(Work::Absent) };
    if !is_owned(&job, session) {
        return Err(ReconcileError::Foreign { kind: "Job", name: name.to_owned() });
    }
    if job.metadata.deletion_timestamp.is_some() {
        return Ok(Work::Absent);
    }
    let namespace = session.namespace().unwrap_or_default();
    let owns = |pod: &Pod| pod.owner_references().iter().any(|owner| Some(&owner.uid) == job.metadata.uid.as_ref());
    let stored = context.stores.pods.state_filter(owns);
    let mut state = ended_for_good(&job, &stored.iter().map(|pod| &**pod).collect::<Vec<_>>());
    if !matches!(state, Ended::No | Ended::Message(_)) {
        // The Job is done. What its pod left may not have been seen yet.
        let ours = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={name}"));
        let pods = context.api::<Pod>(&namespace).list(&ours).await;
        let pods = pods.map_err(|error| ReconcileError::of(format!("list the pods of Job {name}"), error))?;
        state = ended_for_good(&job, &pods.items.iter().filter(|pod| owns(pod)).collect::<Vec<_>>());
    }
    Ok(match state {
        Ended::No => Work::Running,
        Ended::Message(message) => report::host(&message),
        Ended::Silent(why) => Work::Silent(why),
        Ended::Disrupted(why) => Work::Disrupted(why),
    })
}

/// Returns how far a host is whose claims are the snapshot itself, and why it waits.
async fn attached(
    session: &RestoreSession,
    host: &Host,
    context: &Context,
) -> Result<(Work<HostOutcome>, Option<String>), ReconcileError> {
    // What cannot be made was refused before.
    let wanted = snapshotter::of_host(session, host).unwrap_or_default();
    let namespace = session.namespace().unwrap_or_default();
    let mut found = Vec::new();
    for claim in &wanted {
        let name = claim.name_any();
        let there = context.api::<PersistentVolumeClaim>(&namespace).get_opt(&name).await;
        let there =
            there.map_err(|error| ReconcileError::of(format!("look up PersistentVolumeClaim {name}"), error))?;
        found.push(there.filter(|claim| claims::is_made_by(claim, session)));
    }
    let made = found.iter().flatten().filter_map(|claim| claim.metadata.creation_timestamp.as_ref().map(|time| time.0));
    let now = context.now();
    let took = Duration::try_from(now.duration_since(made.min().unwrap_or(now))).unwrap_or_default();
    let work = attach::work(&found, go_duration::format_rounded(took));
    let Some(waits) = attach::waiting(&found).next().filter(|_| work == Work::Running) else { return Ok((work, None)) };
    if snapshotter::is_wanted(session) {
        let class = waits.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref()).unwrap_or_default();
        let found = if class.is_empty() { None } else { storage_class(class, context).await? };
        let work = snapshotter::waits(waits, found.as_ref(), took);
        if work != Work::Running {
            return Ok((work, None));
        }
    }
    let uid = waits.metadata.uid.as_deref().unwrap_or_default();
    let fields = ListParams::default().fields(&format!("regarding.uid={uid},type=Warning"));
    let events = context.api::<Event>(&namespace).list(&fields).await;
    let what = || format!("list the events of PersistentVolumeClaim {}", waits.name_any());
    let events = events.map_err(|error| ReconcileError::of(what(), error))?;
    let why = attach::why(waits, &events.items);
    Ok((work, Some(why)))
}

async fn storage_class(name: &str, context: &Context) -> Result<Option<StorageClass>, ReconcileError> {
    let found = Api::<StorageClass>::all(context.client.clone()).get_opt(name).await;
    found.map_err(|error| ReconcileError::of(format!("look up StorageClass {name}"), error))
}

/// As [`ended`], but a pod that was taken away is followed by another while the Job is not done.
fn ended_for_good(job: &Job, pods: &[&Pod]) -> Ended {
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let is_done =
        conditions.iter().any(|said| matches!(said.type_.as_str(), "Failed" | "Complete") && said.status == "True");
    let stays = |pod: &&&Pod| {
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        !conditions.iter().any(|said| said.type_ == "DisruptionTarget" && said.status == "True")
    };
    if is_done {
        // Of several, the one that ended it is the last.
        let mut pods = pods.to_vec();
        pods.sort_by_key(|pod| std::cmp::Reverse(pod.metadata.creation_timestamp.as_ref().map(|time| time.0)));
        return ended(job, &pods);
    }
    ended(job, &pods.iter().filter(stays).copied().collect::<Vec<_>>())
}

/// Finds a Job of a session by its name.
pub(crate) async fn locate(
    session: &RestoreSession,
    name: &str,
    context: &Context,
) -> Result<Option<Arc<Job>>, ReconcileError> {
    let namespace = session.namespace().unwrap_or_default();
    if let Some(job) = context.stores.jobs.get(&as_ref_of(name, Some(&namespace))) {
        return Ok(Some(job));
    }
    // The watch may not have seen it yet; that it is gone has to be certain.
    let found = context.api::<Job>(&namespace).get_opt(name).await;
    let found = found.map_err(|error| ReconcileError::of(format!("look up Job {name}"), error))?;
    Ok(found.map(Arc::new))
}

/// Whether a Job is of `session`.
pub(super) fn is_owned(job: &Job, session: &RestoreSession) -> bool {
    session.metadata.uid.as_deref().is_some_and(|uid| jobs::is_owned_by(job, uid))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn test_a_pod_that_was_taken_away_is_followed_by_another() {
        let pod = |second: u32, message: &str, taken: bool| -> Pod {
            let conditions = if taken { json!([{"type": "DisruptionTarget", "status": "True"}]) } else { json!([]) };
            let state = json!({"terminated": {"exitCode": 1, "message": message}});
            let statuses = json!([{"name": "stash", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state}]);
            serde_json::from_value(json!({
                "metadata": {"name": "p", "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z")},
                "status": {"conditions": conditions, "containerStatuses": statuses}
            }))
            .unwrap()
        };
        let job = |conditions: Value| -> Job {
            serde_json::from_value(json!({"status": {"conditions": conditions}})).unwrap()
        };
        let (first, second) = (pod(1, "stopped", true), pod(2, "done", false));
        let running = job(json!([]));
        assert_eq!(ended_for_good(&running, &[&first]), Ended::No);
        assert_eq!(ended_for_good(&running, &[&first, &second]), Ended::Message("done".to_owned()));
        let complete = job(json!([{"type": "Complete", "status": "True"}]));
        assert_eq!(ended_for_good(&complete, &[&first, &second]), Ended::Message("done".to_owned()));
        let failed = job(json!([{"type": "Failed", "status": "True"}]));
        assert_eq!(ended_for_good(&failed, &[&first]), Ended::Message("stopped".to_owned()));
    }
}

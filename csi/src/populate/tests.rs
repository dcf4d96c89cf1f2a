use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const UID: &str = "0-1";

fn now() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().unwrap()
}

fn read<T: serde::de::DeserializeOwned>(object: Value) -> T {
    serde_json::from_value(object).unwrap()
}

fn claim() -> Value {
    json!({
        "metadata": {"name": "data", "namespace": "shop", "uid": UID, "creationTimestamp": "2026-01-01T11:59:00Z"},
        "spec": {
            "storageClassName": "fast", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
            "dataSourceRef": {"apiGroup": "repositories.stash.appscode.com", "kind": "Snapshot", "name": "repo-1"}
        },
        "status": {"phase": "Pending"}
    })
}

fn class() -> Value {
    json!({"metadata": {"name": "fast"}, "provisioner": "ebs.csi.aws.com"})
}

fn prime() -> Value {
    json!({
        "metadata": {"name": "stash-populate-0-1", "namespace": "shop", "uid": "0-2", "ownerReferences": owner(UID)},
        "spec": {"volumeName": "pv-1"}, "status": {"phase": "Bound"}
    })
}

fn job() -> Value {
    json!({"metadata": {
        "name": "stash-populate-0-1", "namespace": "shop", "uid": "0-3", "ownerReferences": owner(UID), "annotations": {PRIME: "0-2"}
    }})
}

fn volume(holder: &str) -> Value {
    json!({"metadata": {"name": "pv-1"}, "spec": {"claimRef": {"namespace": "shop", "uid": holder}}})
}

fn owner(uid: &str) -> Value {
    json!([{"apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": "data", "uid": uid}])
}

/// Returns `object` with `more` over it; null takes away.
fn with(mut object: Value, more: Value) -> Value {
    fn merge(object: &mut Value, more: Value) {
        match (object, more) {
            (Value::Object(object), Value::Object(more)) => {
                for (key, value) in more {
                    merge(object.entry(key).or_insert(Value::Null), value);
                }
            }
            (object, more) => *object = more,
        }
    }
    merge(&mut object, more);
    object
}

fn seen(claim: Value, class: Value, prime: Value, job: Value, volume: Value) -> Observed {
    Observed {
        claim: read(claim),
        class: read(class),
        prime: read(prime),
        job: read(job),
        volume: read(volume),
        now: now(),
    }
}

fn ends(kind: &str, at: &str) -> Value {
    json!({"status": {"conditions": [{"type": kind, "status": "True", "lastTransitionTime": at}]}})
}

const NONE: Value = Value::Null;
const GOES: &str = "2026-01-01T11:59:59Z";

#[test]
fn test_what_a_claim_must_be() {
    let selected = json!({"metadata": {"annotations": {SELECTED_NODE: "node-1"}}});
    let spec = |more: Value| with(claim(), json!({"spec": more}));
    let of = |more: Value| with(class(), more);
    let waits = of(json!({"volumeBindingMode": "WaitForFirstConsumer"}));
    let refuse = Plan::Refuse;
    let own = of(json!({"provisioner": DRIVER}));
    let fast = || "fast".to_owned();
    for (claim, class, expected) in [
        (claim(), class(), Plan::MakePrime),
        (spec(json!({"accessModes": ["ReadOnlyMany", "ReadWriteMany"]})), class(), Plan::MakePrime),
        (with(claim(), json!({"metadata": {"deletionTimestamp": GOES}})), class(), Plan::Leave),
        (spec(json!({"dataSourceRef": null})), class(), Plan::Leave),
        (
            spec(json!({"dataSourceRef": {"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot"}})),
            class(),
            Plan::Leave,
        ),
        (claim(), own, Plan::Leave),
        (claim(), waits.clone(), Plan::Wait),
        (with(claim(), json!({"metadata": {"annotations": {SELECTED_NODE: ""}}})), waits.clone(), Plan::Wait),
        (with(claim(), selected), waits, Plan::MakePrime),
        (spec(json!({"storageClassName": null})), NONE, Plan::Wait),
        (spec(json!({"storageClassName": ""})), NONE, refuse(Refusal::NoClass)),
        (claim(), NONE, refuse(Refusal::ClassGone(fast()))),
        (claim(), of(json!({"provisioner": NO_PROVISIONER})), refuse(Refusal::Static(fast()))),
        (spec(json!({"volumeMode": "Block"})), class(), refuse(Refusal::Block)),
        (spec(json!({"accessModes": ["ReadOnlyMany"]})), class(), refuse(Refusal::ReadOnly)),
    ] {
        let seen = seen(claim, class, NONE, NONE, NONE);
        assert_eq!(plan(&seen), expected, "{seen:?}");
    }
}

#[test]
fn test_what_is_next() {
    let goes = |object: Value| with(object, json!({"metadata": {"deletionTimestamp": GOES}}));
    let foreign = |object: Value| with(object, json!({"metadata": {"ownerReferences": owner("0-9")}}));
    let complete = || with(job(), ends("Complete", GOES));
    let failed = |at: &str| with(job(), ends("Failed", at));
    let of_other = with(complete(), json!({"metadata": {"annotations": {PRIME: "0-8"}}}));
    let bound = || with(claim(), json!({"spec": {"volumeName": "pv-1"}, "status": {"phase": "Bound"}}));
    let unbound_prime = || with(prime(), json!({"spec": {"volumeName": null}, "status": {"phase": "Pending"}}));
    let lost = with(prime(), json!({"status": {"phase": "Lost"}}));
    let filled = with(volume(UID), json!({"metadata": {"annotations": {POPULATED_FROM: "shop/repo-1@0a"}}}));
    let taken = |kind| Plan::Refuse(Refusal::Taken { kind, name: "stash-populate-0-1".to_owned() });
    let bypassed = || Refusal::Bypassed("pv-1".to_owned());
    let other_volume = with(prime(), json!({"spec": {"volumeName": "pv-2"}}));
    let old = with(bound(), json!({"metadata": {"creationTimestamp": "2025-01-01T00:00:00Z"}}));
    let own = with(volume(UID), json!({"spec": {"csi": {"driver": DRIVER, "volumeHandle": "v"}}}));
    for (what, claim, prime, job, volume, expected) in [
        ("the prime claim is there", claim(), unbound_prime(), NONE, NONE, Plan::MakeJob),
        ("the Job waits for its volume", claim(), unbound_prime(), job(), NONE, Plan::Watch),
        ("the Job works", claim(), prime(), job(), volume("0-2"), Plan::Watch),
        ("it failed", claim(), prime(), failed(GOES), volume("0-2"), Plan::Failed(Duration::from_secs(299))),
        ("a while ago", claim(), prime(), failed("2026-01-01T11:55:00Z"), volume("0-2"), Plan::DeleteJob),
        (
            "by another clock",
            claim(),
            prime(),
            failed("9999-12-30T00:00:00Z"),
            volume("0-2"),
            Plan::Failed(Duration::from_secs(300)),
        ),
        ("it goes", claim(), prime(), goes(failed(GOES)), volume("0-2"), Plan::Wait),
        ("all is copied", claim(), prime(), complete(), volume("0-2"), Plan::Rebind),
        ("its volume is not seen", claim(), prime(), complete(), NONE, Plan::Watch),
        (
            "its volume is another's",
            claim(),
            prime(),
            complete(),
            volume("0-7"),
            Plan::Refuse(Refusal::Anothers("pv-1".to_owned())),
        ),
        ("another prime claim was filled", claim(), prime(), of_other, volume("0-2"), Plan::DeleteJob),
        ("it was given", claim(), prime(), complete(), volume(UID), Plan::Wait),
        ("and the prime claim lost it", claim(), lost.clone(), complete(), volume(UID), Plan::Wait),
        ("the volume is gone", claim(), lost, complete(), NONE, Plan::Abandon(Refusal::Lost)),
        ("the prime claim goes", claim(), goes(prime()), complete(), volume("0-2"), Plan::DeleteJob),
        ("without a Job", claim(), goes(prime()), NONE, volume("0-2"), Plan::Wait),
        ("the prime claim is gone", claim(), NONE, complete(), NONE, Plan::MakePrime),
        ("it is another's", claim(), foreign(prime()), NONE, NONE, taken("PersistentVolumeClaim")),
        ("the Job is", claim(), prime(), foreign(complete()), volume("0-2"), taken("Job")),
        (
            "the volume is named, not bound",
            with(bound(), json!({"status": {"phase": "Pending"}})),
            prime(),
            complete(),
            volume(UID),
            Plan::Wait,
        ),
        ("bound", bound(), prime(), complete(), filled.clone(), Plan::Finish),
        ("the Job is gone", bound(), prime(), NONE, filled.clone(), Plan::Finish),
        ("the prime claim too", bound(), NONE, NONE, filled.clone(), Plan::Leave),
        ("only the Job is left", bound(), NONE, complete(), filled.clone(), Plan::Finish),
        ("both go", bound(), goes(prime()), goes(complete()), filled.clone(), Plan::Wait),
        ("what is left is another's", bound(), foreign(prime()), foreign(job()), filled.clone(), Plan::Leave),
        ("somebody did not wait", bound(), other_volume, job(), volume(UID), Plan::Abandon(bypassed())),
        (
            "another prime claim was made meanwhile",
            bound(),
            with(prime(), json!({"spec": {"volumeName": "pv-2"}})),
            job(),
            filled.clone(),
            Plan::Finish,
        ),
        ("for the prime claim's volume", bound(), unbound_prime(), NONE, volume(UID), Plan::Abandon(bypassed())),
        ("not even for that", bound(), NONE, NONE, volume(UID), Plan::Refuse(bypassed())),
        ("long ago", old, NONE, NONE, volume(UID), Plan::Leave),
        ("our own driver", bound(), NONE, NONE, own, Plan::Leave),
    ] {
        assert_eq!(plan(&seen(claim, class(), prime, job, volume)), expected, "{what}");
    }
}

/// A cluster that does what Kubernetes does, in any order.
struct World {
    claim: PersistentVolumeClaim,
    prime: Option<PersistentVolumeClaim>,
    job: Option<Job>,
    volumes: Vec<PersistentVolume>,
    /// The volumes that hold all.
    filled: Vec<String>,
    uids: u32,
    now: Timestamp,
}

impl World {
    fn new() -> Self {
        let claim = read(claim());
        Self { claim, prime: None, job: None, volumes: Vec::new(), filled: Vec::new(), uids: 0, now: now() }
    }

    fn uid(&mut self) -> Option<String> {
        self.uids += 1;
        Some(format!("made-{}", self.uids))
    }

    /// Does what the plan says; killed in the middle, only the first half of it.
    fn step(&mut self, killed: bool) -> Plan {
        let wanted = volume_name(&self.claim).or_else(|| volume_name(self.prime.as_ref()?));
        let volume = self.volumes.iter().find(|volume| volume.metadata.name.as_deref() == wanted).cloned();
        let seen = Observed {
            claim: self.claim.clone(),
            class: read(class()),
            prime: self.prime.clone(),
            job: self.job.clone(),
            volume: volume.clone(),
            now: self.now,
        };
        let planned = plan(&seen);
        match &planned {
            Plan::MakePrime => {
                let mut prime = objects::prime(&self.claim, &[("snapshot".to_owned(), "0a".repeat(32))].into());
                prime.metadata.uid = self.uid();
                self.prime = Some(prime);
            }
            Plan::MakeJob => {
                let mut job = objects::job(&self.claim, self.prime.as_ref().unwrap(), None, "stash-fs");
                job.metadata.uid = self.uid();
                self.job = Some(job);
            }
            Plan::DeleteJob => self.job = None,
            Plan::Rebind => {
                let patch = objects::rebind(&self.claim, self.prime.as_ref().unwrap(), &volume.unwrap());
                let volume = self
                    .volumes
                    .iter_mut()
                    .find(|volume| volume.metadata.name == seen.volume.as_ref().unwrap().metadata.name);
                let volume = volume.unwrap();
                volume.spec.as_mut().unwrap().claim_ref = read(patch["spec"]["claimRef"].clone());
                volume.metadata.annotations = read(patch["metadata"]["annotations"].clone());
            }
            Plan::Finish | Plan::Abandon(_) => {
                self.job = None;
                if !killed {
                    self.delete_prime();
                }
            }
            Plan::Leave | Plan::Wait | Plan::Refuse(_) | Plan::Watch | Plan::Failed(_) => {}
        }
        self.check();
        planned
    }

    fn is_running(&self) -> bool {
        self.job.as_ref().is_some_and(|job| matches!(ended(job), Ended::No))
    }

    fn delete_prime(&mut self) {
        if self.is_running() {
            // Its pod protects it.
            let goes = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(self.now);
            self.prime.as_mut().into_iter().for_each(|prime| prime.metadata.deletion_timestamp = Some(goes.clone()));
        } else if let Some(prime) = self.prime.take() {
            let holder =
                |volume: &PersistentVolume| volume.spec.as_ref().unwrap().claim_ref.as_ref().unwrap().uid.clone();
            self.volumes.retain(|volume| holder(volume) != prime.metadata.uid);
        }
    }

    fn end_job(&mut self, kind: &str) {
        let time = self.now.to_string();
        if let Some(job) = &mut self.job {
            job.status = read(ends(kind, &time)["status"].clone());
        }
    }

    /// What the cluster, or somebody in it, does.
    fn happen(&mut self, what: u8) {
        let has_volume = self.prime.as_ref().is_some_and(|prime| volume_name(prime).is_some());
        let goes = self.prime.as_ref().is_some_and(|prime| prime.metadata.deletion_timestamp.is_some());
        match what % 10 {
            0..=2 => drop(self.step(what >= 128)),
            3 if !has_volume && !goes => {
                let name = self.uid().unwrap();
                let Some(prime) = &mut self.prime else { return };
                prime.spec.as_mut().unwrap().volume_name = Some(name.clone());
                prime.status = read(json!({"phase": "Bound"}));
                let holder = prime.metadata.uid.clone();
                self.volumes.push(read(json!({"metadata": {"name": name}, "spec": {"claimRef": {"uid": holder}}})));
            }
            4 if has_volume && self.is_running() => {
                let name = volume_name(self.prime.as_ref().unwrap()).unwrap().to_owned();
                self.filled.push(name);
                self.end_job("Complete");
            }
            5 if self.is_running() => self.end_job("Failed"),
            6 => {
                let uid = self.claim.metadata.uid.clone();
                let given =
                    |volume: &&PersistentVolume| volume.spec.as_ref().unwrap().claim_ref.as_ref().unwrap().uid == uid;
                let Some(name) = self.volumes.iter().find(given).and_then(|volume| volume.metadata.name.clone()) else {
                    return;
                };
                self.claim.spec.as_mut().unwrap().volume_name = Some(name.clone());
                self.claim.status = read(json!({"phase": "Bound"}));
                if let Some(prime) = self.prime.as_mut().filter(|prime| volume_name(prime) == Some(&name)) {
                    prime.status = read(json!({"phase": "Lost"}));
                }
            }
            7 => self.delete_prime(),
            8 => self.job = None,
            9 => self.now += SignedDuration::from_secs(200),
            _ => {}
        }
        if goes && !self.is_running() {
            self.delete_prime();
        }
        self.check();
    }

    /// The claim has no volume, or one that is there and holds all.
    fn check(&self) {
        if let Some(name) = volume_name(&self.claim) {
            assert!(self.filled.iter().any(|filled| filled == name), "{name} is bound and holds nothing");
            let is_there = self.volumes.iter().any(|volume| volume.metadata.name.as_deref() == Some(name));
            assert!(is_there, "{name} is bound and gone");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    /// Whoever is killed, deletes, or fails, and when: nothing is bound but what is whole, and in the end it is.
    #[test]
    fn test_whatever_happens_a_claim_is_bound_last(happens in proptest::collection::vec(any::<u8>(), 0..60)) {
        let mut world = World::new();
        happens.iter().for_each(|what| world.happen(*what));
        // From here on only what has to happen does.
        for _ in 0..12 {
            for what in [0, 3, 4, 0, 6, 0, 9, 9, 0] {
                world.happen(what);
            }
        }
        prop_assert_eq!(world.step(false), Plan::Leave);
        prop_assert!(volume_name(&world.claim).is_some() && world.prime.is_none() && world.job.is_none());
        let of_claim = |volume: &&PersistentVolume| volume.metadata.name.as_deref() == volume_name(&world.claim);
        prop_assert_eq!(world.volumes.iter().filter(of_claim).count(), 1);
    }
}

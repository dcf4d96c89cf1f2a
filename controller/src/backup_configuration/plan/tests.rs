use serde_json::{Value, json};

use super::*;

fn at(text: &str) -> Timestamp {
    format!("2026-07-09T{text}Z").parse().unwrap()
}

fn configuration(spec: &Value, status: &Value) -> BackupConfiguration {
    let mut whole = json!({
        "repository": {"name": "r"}, "schedule": "0 * * * *",
        "target": {"ref": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": "data"}}
    });
    for (key, value) in spec.as_object().unwrap() {
        whole[key] = value.clone();
    }
    serde_json::from_value(json!({
        "apiVersion": "stash.appscode.com/v1beta1", "kind": "BackupConfiguration",
        "metadata": {"name": "nightly", "namespace": "shop", "uid": "u", "generation": 2, "labels": {"team": "a"}},
        "spec": whole, "status": status
    }))
    .unwrap()
}

fn repository(more: &Value) -> Repository {
    let mut whole = json!({
        "apiVersion": "stash.appscode.com/v1alpha1", "kind": "Repository", "metadata": {"name": "r", "namespace": "shop"},
        "spec": {"backend": {"storageSecretName": "s"}}
    });
    for (key, value) in more.as_object().unwrap() {
        whole[key] = value.clone();
    }
    serde_json::from_value(whole).unwrap()
}

struct World {
    configuration: BackupConfiguration,
    repository: Option<Repository>,
    secret: Known,
    target: TargetState,
    last_success: Option<Timestamp>,
}

impl World {
    fn new(spec: &Value, status: &Value) -> Self {
        Self {
            configuration: configuration(spec, status),
            repository: Some(repository(&json!({}))),
            secret: Known::Version("1".to_owned()),
            target: TargetState::Found,
            last_success: None,
        }
    }

    fn observed(&self) -> Observed<'_> {
        static NONE: (BTreeMap<String, String>, AddressRule) =
            (BTreeMap::new(), AddressRule { allowed: Vec::new(), api_servers: Vec::new() });
        Observed {
            configuration: &self.configuration,
            repository: self.repository.as_ref(),
            secret: self.secret.clone(),
            namespace_labels: &NONE.0,
            target: self.target,
            jitter: Duration::ZERO,
            last_success: self.last_success,
            addresses: &NONE.1,
        }
    }

    fn plan(&self, now: &str) -> Plan {
        plan(&self.observed(), at(now))
    }
}

fn said(plan: &Plan) -> Vec<(&str, &str, &str)> {
    let conditions = plan.status.conditions.iter();
    conditions.map(|c| (c.type_.as_str(), c.status.as_str(), c.reason.as_deref().unwrap_or_default())).collect()
}

const GOOD: [(&str, &str, &str); 5] = [
    ("RepositoryFound", "True", "RepositoryAvailable"),
    ("BackendSecretFound", "True", "BackendSecretAvailable"),
    ("ValidationPassed", "True", "ResourceValidationPassed"),
    ("BackupTargetFound", "True", "TargetAvailable"),
    ("CronJobCreated", "True", "CronJobCreationSucceeded"),
];

#[test]
fn test_all_is_well() {
    let plan = World::new(&json!({}), &json!({})).plan("10:30:00");
    assert_eq!(said(&plan), GOOD);
    assert_eq!(plan.status.phase, Some(InvokerPhase::Ready));
    assert_eq!((plan.status.observed_generation, plan.session.clone()), (Some(2), None));
    assert_eq!(plan.status.next_backup_time, Some(Time(at("11:00:00"))));
    assert_eq!(plan.requeue, Some(Duration::from_secs(30 * 60)));
    assert_eq!(plan.notices, []);
    let messages: Vec<_> = plan.status.conditions.iter().map(|c| c.message.as_deref().unwrap_or_default()).collect();
    assert_eq!(
        messages[..4],
        [
            "Repository shop/r exist.",
            "Backend Secret shop/s exist.",
            "Successfully validated.",
            "Backup target PersistentVolumeClaim shop/data found."
        ]
    );
}

#[test]
fn test_a_secret_that_was_not_looked_at_is_not_missing() {
    let said_before = |status: &str| {
        let reason = if status == "True" { "BackendSecretAvailable" } else { "BackendSecretKeyMissing" };
        json!({"status": {"conditions": [{"type": "BackendSecretFound", "status": status, "reason": reason, "message": "m"}]}})
    };
    for (what, secret, before, waits, expected) in [
        ("new", Known::NotYet, None, true, None),
        ("after a restart", Known::NotYet, Some("True"), false, Some(("True", "BackendSecretAvailable"))),
        ("after a restart, bad", Known::NotYet, Some("False"), false, Some(("False", "BackendSecretKeyMissing"))),
        ("no right", Known::Unknown, None, false, Some(("Unknown", "UnableToCheckBackendSecretAvailability"))),
        ("no right now", Known::Unknown, Some("True"), false, Some(("True", "BackendSecretAvailable"))),
        ("none", Known::Absent, Some("True"), false, Some(("False", "BackendSecretNotAvailable"))),
    ] {
        let mut world = World::new(&json!({}), &json!({}));
        world.secret = secret;
        world.repository = Some(repository(&before.map_or_else(|| json!({}), said_before)));
        assert_eq!(super::waits(&world.observed()), waits, "{what}");
        let plan = world.plan("10:30:00");
        if let Some((status, reason)) = expected {
            assert_eq!(said(&plan)[1], ("BackendSecretFound", status, reason), "{what}");
        }
        let is_ready = expected.is_some_and(|(status, _)| status == "True");
        assert_eq!(plan.status.phase == Some(InvokerPhase::Ready), is_ready, "{what}");
    }
    // What is deleted is let go at once, and without a Repository there is nothing to wait for.
    let mut world = World::new(&json!({}), &json!({}));
    world.secret = Known::NotYet;
    world.configuration.metadata.deletion_timestamp = Some(Time(at("01:00:00")));
    assert!(!waits(&world.observed()));
    world.configuration.metadata.deletion_timestamp = None;
    assert!(waits(&world.observed()));
    world.repository = None;
    assert!(!waits(&world.observed()));
}

/// One change to a world.
type Change = fn(&mut World);

#[test]
fn test_what_is_missing_is_said_in_order() {
    use InvokerPhase::{Invalid, NotReady, Ready};
    let bad = |index: usize, status, reason| {
        let mut said = GOOD[..=index].to_vec();
        said[index] = (GOOD[index].0, status, reason);
        said
    };
    let all_but = |index: usize, status, reason| {
        let mut said = GOOD.to_vec();
        said[index] = (GOOD[index].0, status, reason);
        said
    };
    let deleted: Change = |world| {
        world.repository.as_mut().unwrap().metadata.deletion_timestamp = Some(Time(at("01:00:00")));
    };
    type Said = Vec<(&'static str, &'static str, &'static str)>;
    let cases: [(&str, Change, Said, InvokerPhase); 11] = [
        ("repository", |w| w.repository = None, bad(0, "False", "RepositoryNotAvailable"), NotReady),
        ("repository goes", deleted, bad(0, "False", "RepositoryNotAvailable"), NotReady),
        ("secret", |w| w.secret = Known::Absent, bad(1, "False", "BackendSecretNotAvailable"), NotReady),
        (
            "key",
            |w| {
                w.repository = Some(repository(&json!({"status": {"conditions": [
                    {"type": "BackendSecretFound", "status": "False", "reason": "BackendSecretKeyMissing", "message": "lacks"}
                ]}})));
            },
            all_but(1, "False", "BackendSecretKeyMissing"),
            NotReady,
        ),
        (
            "address",
            |w| {
                w.repository = Some(repository(&json!({"status": {"conditions": [
                    {"type": "ValidationPassed", "status": "False", "reason": "ResourceValidationFailed", "message": "refused"}
                ]}})));
            },
            all_but(2, "False", "ResourceValidationFailed"),
            Invalid,
        ),
        (
            "policy",
            |w| w.repository = Some(repository(&json!({"metadata": {"name": "r", "namespace": "storage"}}))),
            all_but(2, "False", "ResourceValidationFailed"),
            Invalid,
        ),
        (
            "hooks",
            |w| {
                let hook = json!({"tcpSocket": {"port": 1, "host": "127.0.0.1"}});
                w.configuration = configuration(&json!({"hooks": {"preBackup": hook}}), &json!({}));
            },
            all_but(2, "False", "ResourceValidationFailed"),
            Invalid,
        ),
        ("target", |w| w.target = TargetState::Missing, bad(3, "False", "TargetNotAvailable"), NotReady),
        (
            "kind of target",
            |w| w.configuration = configuration(&json!({"target": {"ref": {"kind": "Cow", "name": "a"}}}), &json!({})),
            vec![GOOD[0], GOOD[1], (GOOD[2].0, "False", "ResourceValidationFailed"), GOOD[4]],
            Invalid,
        ),
        (
            "schedule",
            |w| w.configuration = configuration(&json!({"schedule": "99 * * * *"}), &json!({})),
            all_but(4, "False", "CronJobCreationFailed"),
            NotReady,
        ),
        (
            "no schedule",
            |w| w.configuration = configuration(&json!({"schedule": null}), &json!({})),
            GOOD.to_vec(),
            Ready,
        ),
    ];
    for (what, change, expected, phase) in cases {
        let mut world = World::new(&json!({}), &json!({}));
        change(&mut world);
        let plan = world.plan("10:30:00");
        assert_eq!(said(&plan), expected, "{what}");
        assert_eq!(plan.status.phase, Some(phase), "{what}");
        assert_eq!(plan.session, None, "{what}");
    }
}

#[test]
fn test_sessions_begin_when_they_are_due() {
    let announced = |time: &str| json!({"nextBackupTime": at(time).to_string()});
    for (what, spec, status, now, session, next) in [
        ("early", json!({}), announced("11:00:00"), "10:59:59", None, Some("11:00:00")),
        ("due", json!({}), announced("11:00:00"), "11:00:00", Some("11:00:00"), Some("12:00:00")),
        ("missed", json!({}), announced("03:00:00"), "11:20:00", Some("11:00:00"), Some("12:00:00")),
        ("paused", json!({"paused": true}), announced("11:00:00"), "11:00:00", None, None),
        ("no schedule", json!({"schedule": ""}), announced("11:00:00"), "11:00:00", None, None),
        ("cannot", json!({"hooks": {"preBackup": {}}}), announced("09:00:00"), "11:00:00", None, Some("09:00:00")),
        ("cannot yet", json!({"hooks": {"preBackup": {}}}), announced("11:00:00"), "10:00:00", None, Some("11:00:00")),
        ("cannot read", json!({"schedule": "x"}), announced("11:00:00"), "11:00:00", None, None),
    ] {
        let plan = World::new(&spec, &status).plan(now);
        let expected = session.map(|time| format!("nightly-{}", at(time).as_second()));
        assert_eq!(plan.session.as_ref().map(|session| session.name.clone()), expected, "{what}");
        assert_eq!(plan.status.next_backup_time.map(|time| time.0), next.map(at), "{what}");
    }
}

#[test]
fn test_a_session_is_made_as_stash_makes_it() {
    let status = json!({"nextBackupTime": at("11:00:00").to_string()});
    for (retry, left) in [(json!(null), 0), (json!({}), 1), (json!({"maxRetry": 3}), 3), (json!({"maxRetry": -1}), 0)] {
        let session = World::new(&json!({"retryConfig": retry}), &status).plan("11:00:00").session.unwrap();
        assert_eq!(session.retry_left, left);
        assert_eq!(session.labels["stash.appscode.com/invoker-name"], "nightly");
        assert_eq!(session.labels["team"], "a");
    }
}

#[test]
fn test_annotations_move_sessions() {
    let mut world = World::new(&json!({}), &json!({"nextBackupTime": at("09:00:00").to_string()}));
    let annotate = |world: &mut World, key: &str, value: &str| {
        world.configuration.metadata.annotations.get_or_insert_default().insert(key.to_owned(), value.to_owned());
    };
    annotate(&mut world, STARTING_DEADLINE_ANNOTATION, "10m");
    let plan = world.plan("11:10:01");
    assert_eq!((plan.session, plan.notices.len()), (None, 1));
    assert!(world.plan("11:10:00").session.is_some());
    annotate(&mut world, JITTER_ANNOTATION, "30m");
    let shift = jitter("u", Duration::from_secs(1800));
    world.configuration.status = None;
    let next = world.plan("10:59:59").status.next_backup_time.unwrap().0;
    let shift = jiff::SignedDuration::try_from(shift).unwrap();
    assert_eq!(next, at("11:00:00").checked_add(shift).unwrap());
    annotate(&mut world, JITTER_ANNOTATION, "soon");
    assert_eq!(said(&world.plan("10:59:59"))[4].1, "False");
}

#[test]
fn test_nothing_new_is_no_change() {
    let mut world = World::new(&json!({}), &json!({}));
    let first = world.plan("10:30:00");
    world.configuration.status = Some(first.status.clone());
    let again = world.plan("10:31:00");
    assert_eq!((&again.status, &again.notices), (&first.status, &Vec::new()));
    world.repository = None;
    let worse = world.plan("10:32:00");
    assert_eq!(worse.notices, [Notice::warning("RepositoryNotAvailable", "Repository shop/r does not exist.")]);
    assert_eq!(worse.requeue, Some(LOOK_AGAIN));
}

#[test]
fn test_deletion_is_never_held_up() {
    let mut world = World::new(&json!({}), &json!({"nextBackupTime": at("09:00:00").to_string()}));
    world.configuration.metadata.deletion_timestamp = Some(Time(at("10:00:00")));
    let plan = world.plan("11:00:00");
    assert_eq!((plan.session, plan.release, plan.requeue), (None, false, None));
    world.configuration.metadata.finalizers = Some(vec!["stash.appscode.com".to_owned()]);
    assert!(world.plan("11:00:00").release);
}

#[test]
fn test_the_last_success_is_remembered() {
    let mut world = World::new(&json!({}), &json!({"lastBackupTime": "2026-07-09T01:00:00Z"}));
    for (last_success, expected) in
        [(None, "01:00:00"), (Some(at("00:30:00")), "01:00:00"), (Some(at("02:00:00.7")), "02:00:00")]
    {
        world.last_success = last_success;
        assert_eq!(world.plan("03:00:00").status.last_backup_time, Some(Time(at(expected))));
    }
}

use serde_json::{Value, json};
use stash_crds::backup_session::{BackupTargetPhase, HostBackupPhase, SnapshotStats};

use super::*;
use crate::backup_session::outcome::{Forgotten, Measured, Step};
use crate::conditions::find;

mod hooks;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn time(second: i64) -> Value {
    json!(at(second).to_string())
}

/// A session made at second 0, and its world. What a plan writes down is read by the next.
struct World {
    session: BackupSession,
    invoker: Option<BackupConfiguration>,
    siblings: Vec<BackupSession>,
    rivals: Vec<BackupSession>,
    load: Load,
    job: Work<HostOutcome>,
    upkeep: Work<Upkeep>,
    busy: bool,
    beside: bool,
    without_secret: Vec<&'static str>,
    secret_again: Option<i64>,
    node: Option<String>,
    backend: BackendState,
    /// The Job of a second host, if the target has one.
    second: Option<Work<HostOutcome>>,
    hooks: Hooks,
    /// What the last step told.
    told: Vec<Notice>,
}

fn session(name: &str, second: i64, status: Value) -> BackupSession {
    serde_json::from_value(json!({
        "apiVersion": "stash.appscode.com/v1beta1", "kind": "BackupSession",
        "metadata": {"name": name, "namespace": "shop", "uid": name, "generation": 1, "creationTimestamp": time(second)},
        "spec": {"invoker": {"kind": "BackupConfiguration", "name": "nightly"}, "retryLeft": 1},
        "status": status
    }))
    .unwrap()
}

impl World {
    fn new(spec: Value) -> Self {
        let mut whole =
            json!({"target": {"ref": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": "data"}}});
        for (key, value) in spec.as_object().unwrap() {
            whole[key] = value.clone();
        }
        let invoker = serde_json::from_value(json!({
            "metadata": {"name": "nightly", "namespace": "shop", "generation": 1}, "spec": whole,
            "status": {"phase": "Ready", "observedGeneration": 1}
        }))
        .unwrap();
        Self {
            session: session("nightly-1", 0, json!({})),
            invoker: Some(invoker),
            siblings: Vec::new(),
            rivals: Vec::new(),
            load: Load::default(),
            job: Work::Absent,
            upkeep: Work::Absent,
            busy: false,
            beside: false,
            without_secret: Vec::new(),
            secret_again: None,
            node: None,
            backend: BackendState::Known,
            second: None,
            hooks: Hooks::default(),
            told: Vec::new(),
        }
    }

    fn plan(&self, second: i64) -> Plan {
        let host = Host {
            name: "host-0".to_owned(),
            job: "stash-backup-nightly-1-0".to_owned(),
            ordinal: None,
            part: self.node.clone(),
        };
        let other = Host { name: "host-1".to_owned(), job: "stash-backup-nightly-1-0-1".to_owned(), ..host.clone() };
        let mut jobs = BTreeMap::from([(host.job.clone(), self.job.clone())]);
        jobs.extend(self.second.clone().map(|work| (other.job.clone(), work)));
        let hosts = [host].into_iter().chain(self.second.iter().map(|_| other.clone())).collect();
        let observed = Observed {
            session: &self.session,
            invoker: self.invoker.as_ref(),
            siblings: self.siblings.iter().collect(),
            rivals: self.rivals.iter().collect(),
            load: self.load,
            jobs,
            hosts,
            upkeep: self.upkeep.clone(),
            hooks: self.hooks.clone(),
            repository_is_busy: self.busy,
            has_first_backup_time: false,
            parts_are_written: false,
            beside: self.beside,
            without_secret: self.without_secret.iter().map(|&job| job.to_owned()).collect(),
            secret_again: self.secret_again.map(at),
            backend: self.backend,
        };
        plan(&observed, at(second))
    }

    /// Plans and writes the status down.
    fn step(&mut self, second: i64) -> Plan {
        let plan = self.plan(second);
        self.told = notices(&self.session.status.take().unwrap_or_default(), &plan.status);
        self.session.status = Some(plan.status.clone());
        plan
    }

    fn started(spec: Value) -> Self {
        let mut world = Self::new(spec);
        world.step(1);
        world.job = Work::Running;
        world
    }

    fn backed_up(spec: Value) -> Self {
        let mut world = Self::started(spec);
        world.job = Work::Reported(success());
        world
    }
}

fn success() -> HostOutcome {
    HostOutcome {
        repository: Some(Ok(())),
        duration: Some("1.5s".to_owned()),
        snapshots: vec![SnapshotStats { name: Some("ab".repeat(32)), ..SnapshotStats::default() }],
        ..HostOutcome::default()
    }
}

fn failure(why: &str) -> HostOutcome {
    HostOutcome { repository: Some(Ok(())), error: Some(why.to_owned()), ..HostOutcome::default() }
}

fn looked_after() -> Upkeep {
    Upkeep {
        forget: Some(Ok(Forgotten { kept: 5, removed: 2 })),
        check: Some(Ok(true)),
        stats: Some(Ok(Measured { bytes: 1_572_864, snapshots: 5, first: None })),
    }
}

fn phase_of(plan: &Plan) -> &str {
    plan.status.phase.as_ref().map(BackupSessionPhase::as_str).unwrap_or_default()
}

fn said(plan: &Plan) -> Vec<(&str, &str)> {
    plan.status.conditions.iter().map(|c| (c.type_.as_str(), c.status.as_str())).collect()
}

#[test]
fn test_a_session_from_its_beginning_to_its_end() {
    let mut world = World::new(json!({"timeOut": "1h", "backupHistoryLimit": 2}));
    world.siblings = vec![
        session("old-1", -300, json!({"phase": "Succeeded"})),
        session("old-2", -200, json!({"phase": "Failed"})),
        session("old-3", -100, json!({"phase": "Skipped"})),
    ];
    let begun = world.step(1);
    assert_eq!(phase_of(&begun), "Running");
    assert!(matches!(&begun.actions[..], [Action::StartBackup(host)] if host.name == "host-0"));
    let target = &begun.status.targets[0];
    assert_eq!((target.total_hosts, target.phase.clone()), (Some(1), Some(BackupTargetPhase::Running)));
    assert_eq!(target.reference.as_ref().unwrap().namespace.as_deref(), Some("shop"));
    assert_eq!(target.pre_backup_actions, ["InitializeBackendRepository"]);
    assert_eq!(
        target.post_backup_actions,
        ["ApplyRetentionPolicy", "VerifyRepositoryIntegrity", "SendRepositoryMetrics"]
    );
    assert_eq!(target.conditions[0].reason.as_deref(), Some("SuccessfullyEnsuredBackupExecutor"));
    assert_eq!(begun.status.session_deadline, Some(Time(at(3600))));

    world.job = Work::Running;
    let waiting = world.step(30);
    assert_eq!((phase_of(&waiting), &waiting.actions[..]), ("Running", &[][..]));
    assert_eq!(waiting.requeue, Some(Duration::from_secs(3570)));

    world.job = Work::Reported(success());
    let backed_up = world.step(60);
    assert_eq!((phase_of(&backed_up), &backed_up.actions[..]), ("Running", &[Action::StartUpkeep][..]));
    let stats = &backed_up.status.targets[0].stats[0];
    assert_eq!((stats.hostname.as_deref(), stats.phase.clone()), (Some("host-0"), Some(HostBackupPhase::Succeeded)));
    assert_eq!(stats.duration.as_deref(), Some("1.5s"));
    assert_eq!(said(&backed_up), [("BackendRepositoryInitialized", "True")]);

    world.upkeep = Work::Running;
    assert_eq!(world.step(70).actions, []);

    world.upkeep = Work::Reported(looked_after());
    let done = world.step(83);
    assert_eq!(phase_of(&done), "Succeeded");
    assert_eq!(done.status.session_duration.as_deref(), Some("1m23s"));
    assert_eq!(
        said(&done),
        [
            ("BackendRepositoryInitialized", "True"),
            ("RetentionPolicyApplied", "True"),
            ("RepositoryIntegrityVerified", "True"),
            ("RepositoryMetricsPushed", "True"),
            ("BackupHistoryCleaned", "True"),
            ("MetricsPushed", "True"),
        ]
    );
    let figures = Figures {
        first_backup_time: Some(Time(at(0))),
        last_backup_time: Some(Time(at(0))),
        integrity: Some(true),
        total_size: Some("1.500 MiB".to_owned()),
        snapshot_count: Some(5),
        snapshots_removed_on_last_cleanup: Some(2),
    };
    let old = vec!["old-2".to_owned(), "old-1".to_owned()];
    assert_eq!(done.actions, [Action::WriteFigures(figures), Action::DeleteSessions(old)]);
    assert_eq!(done.requeue, None);

    // Once it is done nothing moves it.
    world.job = Work::Absent;
    let still = world.step(99_999);
    assert_eq!((still.status, still.actions), (done.status, Vec::new()));
}

#[test]
fn test_a_plan_that_was_not_written_down_is_made_again() {
    let world = World::new(json!({}));
    assert_eq!(world.plan(1).actions, world.plan(9).actions);
    let mut world = World::backed_up(json!({}));
    assert_eq!(world.plan(60).actions, [Action::StartUpkeep]);
    world.step(61);
    assert_eq!(world.plan(62).actions, [Action::StartUpkeep]);
}

/// One change to a world.
type Change = fn(&mut World);

#[test]
fn test_sessions_that_do_not_begin() {
    let running = || session("other", -5, json!({"phase": "Running"}));
    let cases: [(&str, Change, &str, Option<u64>); 16] = [
        ("no invoker", |w| w.invoker = None, "Skipped", None),
        ("invoker not seen", |w| w.invoker.as_mut().unwrap().metadata.generation = Some(2), "Pending", Some(1)),
        ("invoker new", |w| w.invoker.as_mut().unwrap().status = None, "Pending", Some(1)),
        (
            "invoker not ready",
            |w| w.invoker.as_mut().unwrap().status.as_mut().unwrap().phase = Some(InvokerPhase::NotReady),
            "Skipped",
            None,
        ),
        ("paused", |w| w.invoker.as_mut().unwrap().spec.paused = true, "Running", None),
        ("sibling done", |w| w.siblings = vec![session("s", -5, json!({"phase": "Failed"}))], "Running", None),
        ("older sibling waits", |w| w.siblings = vec![session("s", -5, json!({}))], "Pending", Some(5)),
        (
            "sibling of the same second waits",
            |w| w.siblings = vec![session("a", 0, json!({"phase": "Pending"}))],
            "Pending",
            Some(5),
        ),
        ("younger sibling waits", |w| w.siblings = vec![session("s", 5, json!({}))], "Running", None),
        (
            "older sibling goes",
            |w| {
                w.siblings = vec![session("s", -5, json!({}))];
                w.siblings[0].metadata.deletion_timestamp = Some(Time(at(0)));
            },
            "Running",
            None,
        ),
        ("sibling runs", |w| w.siblings = vec![session("s", -5, json!({"phase": "Running"}))], "Skipped", None),
        ("older rival", |w| w.rivals = vec![session("s", -5, json!({}))], "Pending", Some(5)),
        ("younger rival", |w| w.rivals = vec![session("s", 5, json!({}))], "Running", None),
        ("rival runs", |w| w.rivals = vec![session("s", 5, json!({"phase": "Running"}))], "Pending", Some(5)),
        ("no place", |w| w.load = Load { ahead: 3, limit: Some(3) }, "Pending", Some(5)),
        ("a place", |w| w.load = Load { ahead: 2, limit: Some(3) }, "Running", None),
    ];
    for (what, change, phase, seconds) in cases {
        let mut world = World::new(json!({}));
        change(&mut world);
        let plan = world.plan(1);
        assert_eq!((phase_of(&plan), plan.requeue.map(|wait| wait.as_secs())), (phase, seconds), "{what}");
        assert_eq!(
            plan.actions.iter().any(|action| matches!(action, Action::StartBackup(_))),
            phase == "Running",
            "{what}"
        );
    }
    let mut world = World::new(json!({}));
    world.siblings = vec![running(), session("skipped", -9, json!({"phase": "Skipped"}))];
    let plan = world.plan(1);
    assert_eq!(said(&plan), [("BackupSkipped", "True"), ("BackupHistoryCleaned", "True")]);
    assert_eq!(plan.actions, [Action::DeleteSessions(vec!["skipped".to_owned()])]);
    let message = find(&plan.status.conditions, aspects::BACKUP_SKIPPED).unwrap().message.clone().unwrap();
    assert!(message.contains("BackupSession other of the same invoker is running"), "{message}");
}

#[test]
fn test_backups_that_fail() {
    for (job, error, disrupted) in [
        (Work::Reported(failure("the disk is full")), "the disk is full", false),
        (
            Work::Silent("OOMKilled, exit code 137".to_owned()),
            "the Job ended without a report: OOMKilled, exit code 137",
            false,
        ),
        (Work::Disrupted("EvictionByEvictionAPI".to_owned()), "EvictionByEvictionAPI", true),
        (Work::Absent, "the Job was deleted", true),
    ] {
        let mut world = World::started(json!({}));
        world.job = job;
        let plan = world.step(60);
        assert_eq!(phase_of(&plan), "Failed", "{error}");
        let target = &plan.status.targets[0];
        assert_eq!(
            (target.stats[0].error.as_deref(), target.stats[0].phase.clone()),
            (Some(error), Some(HostBackupPhase::Failed))
        );
        assert_eq!(is_true(&target.conditions, aspects::BACKUP_DISRUPTED), disrupted, "{error}");
        // Nothing is forgotten after a failure.
        assert!(!plan.actions.contains(&Action::StartUpkeep));
        assert!(is_true(&plan.status.conditions, aspects::METRICS_PUSHED));
    }
    let mut world = World::started(json!({}));
    world.job = Work::Reported(HostOutcome {
        repository: Some(Err("access denied".to_owned())),
        error: Some("access denied".to_owned()),
        ..HostOutcome::default()
    });
    let plan = world.step(60);
    assert_eq!(said(&plan)[0], ("BackendRepositoryInitialized", "False"));
    assert_eq!(world.told[0].reason, "FailedToInitializeBackendRepository");
}

#[test]
fn test_a_host_waits_for_a_place_on_its_node() {
    let why = "on node one 2 backups run, as many as may";
    let postpone = |world: &mut World, mut plan: Plan, second: i64| {
        host_waits(&mut plan, why, at(second));
        assert_eq!(plan.requeue, Some(WAIT));
        world.session.status = Some(plan.status);
    };
    let said = |plan: &Plan| {
        let said = find(&plan.status.targets[0].conditions, aspects::BACKUP_EXECUTOR_ENSURED).unwrap();
        (said.status.clone(), said.last_transition_time.as_ref().unwrap().0)
    };
    let mut world = World::new(json!({"timeOut": "1h"}));
    world.second = Some(Work::Absent);
    let begun = world.plan(1);
    assert_eq!(begun.actions.len(), 2);
    postpone(&mut world, begun, 1);
    let told = notices(&BackupSessionStatus::default(), world.session.status.as_ref().unwrap());
    let waits = told.iter().find(|notice| notice.reason == WAITING_FOR_NODE).unwrap();
    assert!(!waits.warning && waits.message.contains(why), "{waits:?}");
    // One is at work; the other is asked for again, and nothing that is told changes.
    world.job = Work::Running;
    let again = world.plan(6);
    assert!(matches!(&again.actions[..], [Action::StartBackup(host)] if host.name == "host-1"), "{:?}", again.actions);
    assert_eq!((said(&again), again.requeue), (("Unknown".to_owned(), at(1)), Some(WAIT)));
    assert_eq!(Some(&again.status), world.session.status.as_ref());
    // It is there: from now on a Job that is gone was deleted.
    world.second = Some(Work::Running);
    assert_eq!(said(&world.step(11)).0, "True");
    world.second = Some(Work::Absent);
    let gone = world.plan(12);
    assert!(is_true(&gone.status.targets[0].conditions, aspects::BACKUP_DISRUPTED));
    // A first host that waits does not end what it has done.
    let mut world = World::new(json!({"timeOut": "1h"}));
    world.second = Some(Work::Running);
    let begun = world.plan(1);
    postpone(&mut world, begun, 1);
    world.second = Some(Work::Reported(success()));
    let half = world.step(10);
    assert_eq!((phase_of(&half), half.status.targets[0].stats.len()), ("Running", 1));
    // The deadline ends the waiting.
    let late = world.plan(3601);
    assert!(is_true(&late.status.conditions, aspects::DEADLINE_EXCEEDED));
    assert_eq!((phase_of(&late), late.status.targets[0].stats.len()), ("Failed", 2));
}

#[test]
fn test_a_session_without_its_configuration_is_ended() {
    let mut world = World::started(json!({}));
    world.invoker = None;
    let plan = world.step(60);
    assert_eq!(phase_of(&plan), "Failed");
    assert_eq!(plan.actions, [Action::StopJobs(vec!["stash-backup-nightly-1-0".to_owned()])]);
    assert!(is_true(&plan.status.targets[0].conditions, aspects::BACKUP_DISRUPTED));

    let mut world = World::backed_up(json!({}));
    world.step(60);
    world.invoker = None;
    let plan = world.step(61);
    assert_eq!((phase_of(&plan), &plan.actions[..]), ("Succeeded", &[][..]));
}

#[test]
fn test_each_step_of_upkeep_is_said_on_its_own() {
    fn broken<T>() -> Step<T> {
        Err("it is broken".to_owned())
    }
    let all = looked_after();
    for (upkeep, phase, false_ones, integrity) in [
        (Work::Reported(Upkeep { check: Some(Ok(false)), ..all.clone() }), "Succeeded", vec![], Some(false)),
        (
            Work::Reported(Upkeep { check: Some(broken()), ..all.clone() }),
            "Failed",
            vec!["RepositoryIntegrityVerified"],
            None,
        ),
        (
            Work::Reported(Upkeep { forget: Some(broken()), ..all.clone() }),
            "Failed",
            vec!["RetentionPolicyApplied"],
            Some(true),
        ),
        (
            Work::Reported(Upkeep { stats: Some(Err("x".to_owned())), ..all }),
            "Failed",
            vec!["RepositoryMetricsPushed"],
            Some(true),
        ),
        (Work::Silent("OOMKilled".to_owned()), "Failed", vec!["RetentionPolicyApplied"], None),
    ] {
        let mut world = World::backed_up(json!({}));
        world.step(60);
        world.upkeep = upkeep;
        let plan = world.step(70);
        assert_eq!(phase_of(&plan), phase);
        let said: Vec<&str> =
            said(&plan).into_iter().filter(|(_, status)| *status == "False").map(|(aspect, _)| aspect).collect();
        assert_eq!(said, false_ones);
        assert_eq!(
            plan.status.targets[0].phase,
            Some(BackupTargetPhase::Succeeded),
            "the data is safe, and that is said"
        );
        let Action::WriteFigures(figures) = &plan.actions[0] else { panic!("{:?}", plan.actions) };
        assert_eq!(figures.integrity, integrity);
    }
}

#[test]
fn test_one_looks_after_a_repository_at_a_time() {
    let mut world = World::backed_up(json!({}));
    world.busy = true;
    let plan = world.step(60);
    assert_eq!((&plan.actions[..], plan.requeue), (&[][..], Some(WAIT)));
    world.busy = false;
    assert_eq!(world.step(65).actions, [Action::StartUpkeep]);
}

#[test]
fn test_what_takes_too_long_is_ended() {
    let mut world = World::started(json!({"timeOut": "1m30s"}));
    assert_eq!(world.step(90).actions, []);
    let plan = world.step(91);
    assert_eq!(phase_of(&plan), "Failed");
    assert_eq!(plan.actions, [Action::StopJobs(vec!["stash-backup-nightly-1-0".to_owned()])]);
    let condition = find(&plan.status.conditions, aspects::DEADLINE_EXCEEDED).unwrap();
    assert_eq!(condition.message.as_deref(), Some("Failed to complete backup within 1m30s."));
    assert_eq!(condition.reason.as_deref(), Some("FailedToCompleteWithinDeadline"));

    // While the repository is looked after, the same; the data is safe, and said to be.
    let mut world = World::backed_up(json!({"timeOut": "1m30s"}));
    world.step(60);
    world.upkeep = Work::Running;
    let plan = world.step(91);
    assert_eq!(plan.actions, [Action::StopJobs(vec!["stash-maintenance-nightly-1".to_owned()])]);
    assert_eq!((phase_of(&plan), plan.status.targets[0].phase.clone()), ("Failed", Some(BackupTargetPhase::Succeeded)));

    // A report that came in time counts, though it is read late.
    let mut world = World::backed_up(json!({"timeOut": "1m30s"}));
    world.step(60);
    world.upkeep = Work::Reported(looked_after());
    assert_eq!(phase_of(&world.step(500)), "Succeeded");
}

#[test]
fn test_a_failed_session_is_tried_again() {
    let mut world = World::started(json!({"retryConfig": {"maxRetry": 1, "delay": "2m"}}));
    world.job = Work::Reported(failure("x"));
    assert_eq!(phase_of(&world.step(60)), "Failed");
    let waiting = world.step(60);
    assert_eq!(
        (waiting.status.next_retry.clone(), waiting.requeue),
        (Some(Time(at(180))), Some(Duration::from_secs(120)))
    );
    assert_eq!(world.step(179).requeue, Some(Duration::from_secs(1)));
    let again = world.step(180);
    let name = format!("nightly-{}", at(180).as_second());
    assert_eq!(again.actions, [Action::CreateRetry { name, retry_left: 0 }]);
    assert_eq!((again.status.retried, phase_of(&again)), (Some(true), "Failed"));
    assert_eq!(world.step(999).actions, []);
}

#[test]
fn test_a_retry_is_made_once() {
    let mut world = World::started(json!({}));
    world.job = Work::Reported(failure("x"));
    world.step(60);
    world.step(61);
    let name = format!("nightly-{}", at(61).as_second());
    let retry_of = |uid: &str| {
        let mut retry = session(&name, 62, json!({}));
        retry.metadata.annotations = Some([(RETRY_OF_ANNOTATION.to_owned(), uid.to_owned())].into());
        retry
    };
    // It was made, and its status was not written: only that is done.
    world.siblings = vec![retry_of("nightly-1")];
    let plan = world.plan(62);
    assert_eq!((&plan.actions[..], plan.status.retried), (&[][..], Some(true)));
    // One that tries another session again takes the name only.
    world.siblings = vec![retry_of("nightly-0")];
    let name = format!("nightly-{}", at(62).as_second());
    let plan = world.plan(62);
    assert_eq!(plan.actions, [Action::CreateRetry { name, retry_left: 0 }]);
    // Without a uid nothing is known.
    world.session.metadata.uid = None;
    world.siblings = vec![session("s", 62, json!({}))];
    assert!(matches!(&world.plan(62).actions[..], [Action::CreateRetry { .. }]));
}

#[test]
fn test_a_session_is_not_tried_again_for_ever() {
    let failed = |retry_left: i32, spec: Value| {
        let mut world = World::started(spec);
        world.session.spec.retry_left = Some(retry_left);
        world.job = Work::Reported(failure("x"));
        world.step(60);
        world
    };
    assert_eq!(failed(0, json!({})).plan(61).status.next_retry, None);
    let mut gone = failed(1, json!({}));
    gone.invoker = None;
    assert_eq!(gone.plan(61).status.next_retry, None);
    // Without a delay at once; a name that is taken is not taken again.
    let mut at_once = failed(1, json!({}));
    at_once.step(61);
    at_once.siblings = vec![session(&format!("nightly-{}", at(61).as_second()), 61, json!({}))];
    let name = format!("nightly-{}", at(62).as_second());
    assert_eq!(at_once.step(62).actions, [Action::CreateRetry { name, retry_left: 0 }]);
}

#[test]
fn test_what_cannot_be_started_fails_and_says_so() {
    let mut world = World::new(json!({}));
    let mut plan = world.plan(1);
    executor_failed(&mut plan, "no such claim", at(1));
    assert_eq!(plan.status.targets[0].phase, Some(BackupTargetPhase::Failed));
    world.session.status = Some(plan.status);
    world.job = Work::Running;
    let closed = world.step(2);
    assert_eq!(phase_of(&closed), "Failed");
    assert_eq!(closed.actions, [Action::StopJobs(vec!["stash-backup-nightly-1-0".to_owned()])]);
    assert!(find(&closed.status.targets[0].conditions, aspects::BACKUP_DISRUPTED).is_none());
    let mut plan = world.plan(3);
    history_failed(&mut plan, "forbidden", at(3));
    assert_eq!(phase_of(&plan), "Failed");
}

#[test]
fn test_a_session_that_goes_is_left_alone() {
    let mut world = World::new(json!({}));
    world.session.metadata.deletion_timestamp = Some(Time(at(1)));
    assert_eq!(world.plan(2).actions, []);
}

#[test]
fn test_a_pod_that_leaves_is_not_held_up() {
    let mut world = World::started(json!({}));
    world.beside = true;
    let plan = world.step(2);
    assert_eq!(plan.requeue, Some(LOOK_AT_PODS));
    world.job = Work::Left("pod db-0 left its node".to_owned());
    let plan = world.step(3);
    assert!(plan.actions.contains(&Action::StopJobs(vec!["stash-backup-nightly-1-0".to_owned()])), "{plan:?}");
    assert_eq!(plan.status.phase, Some(BackupSessionPhase::Failed));
    let disrupted = find(&plan.status.targets[0].conditions, "BackupDisrupted").unwrap();
    assert_eq!(disrupted.message.as_deref(), Some("Backup of host-0 was disrupted: pod db-0 left its node."));
}

#[test]
fn test_the_nodes_of_a_daemon_set_are_written_down_before_anything_is_made() {
    let mut world = World::new(json!({}));
    world.node = Some("node-1".to_owned());
    let plan = world.plan(1);
    assert_eq!(plan.actions[0], Action::WriteParts(vec!["node-1".to_owned()]));
    assert!(matches!(plan.actions[1], Action::StartBackup(_)));
}

#[test]
fn test_a_host_that_cannot_be_backed_up_leaves_the_others() {
    let mut world = World::started(json!({}));
    let mut plan = world.step(2);
    host_failed(&mut plan, "host-0", "the claim is gone");
    assert_eq!(plan.status.targets[0].stats[0].error.as_deref(), Some("the claim is gone"));
    assert_eq!(plan.status.targets[0].phase, Some(BackupTargetPhase::Failed));
}

fn started_hosts(plan: &Plan) -> Vec<&str> {
    let started = plan.actions.iter().filter_map(|action| match action {
        Action::StartBackup(host) => Some(host.name.as_str()),
        _ => None,
    });
    started.collect()
}

#[test]
fn test_one_host_makes_the_repository_and_the_others_wait() {
    let begin = |backend| {
        let mut world = World::new(json!({}));
        (world.backend, world.second) = (backend, Some(Work::Absent));
        let plan = world.step(1);
        (world, plan)
    };
    let (_, plan) = begin(BackendState::Known);
    assert_eq!(started_hosts(&plan), ["host-0", "host-1"]);
    let (_, plan) = begin(BackendState::BeingMade);
    assert_eq!((started_hosts(&plan), plan.status.targets.len()), (vec![], 0));

    let (mut world, plan) = begin(BackendState::Unknown);
    assert_eq!(started_hosts(&plan), ["host-0"]);
    assert_eq!(find(&plan.status.conditions, "BackendRepositoryInitialized").unwrap().status, "Unknown");
    world.job = Work::Running;
    let plan = world.step(2);
    assert!(plan.actions.is_empty() && plan.status.targets[0].stats.is_empty(), "{plan:?}");
    world.job = Work::Reported(success());
    // Stopped before it was written down, it is decided again.
    assert_eq!(started_hosts(&world.plan(3)), ["host-1"]);
    assert_eq!(started_hosts(&world.step(3)), ["host-1"]);
    world.second = Some(Work::Running);
    assert!(world.step(4).actions.is_empty());
    world.second = Some(Work::Reported(success()));
    assert_eq!(world.step(5).actions, [Action::StartUpkeep]);

    for (work, expected) in [
        (Work::Reported(HostOutcome { repository: Some(Err("denied".to_owned())), ..failure("denied") }), "False"),
        (Work::Silent("OOMKilled".to_owned()), "Unknown"),
    ] {
        let (mut world, _) = begin(BackendState::Unknown);
        world.job = work;
        let plan = world.step(2);
        assert_eq!(find(&plan.status.conditions, "BackendRepositoryInitialized").unwrap().status, expected);
        let errors: Vec<_> = plan.status.targets[0].stats.iter().map(|stats| stats.error.clone().unwrap()).collect();
        assert_eq!(errors[1], "the backup of host-0 ended and left no repository");
        assert_eq!(plan.status.phase, Some(BackupSessionPhase::Failed));
    }
}

#[test]
fn test_volume_snapshots_have_no_repository() {
    let mut world = World::new(json!({"driver": "VolumeSnapshotter"}));
    (world.node, world.second, world.backend) = (Some("data".to_owned()), Some(Work::Absent), BackendState::Unknown);
    let plan = world.step(1);
    assert_eq!(plan.actions[0], Action::WriteParts(vec!["data".to_owned(), "data".to_owned()]));
    assert_eq!(started_hosts(&plan), ["host-0", "host-1"]);
    assert!(
        plan.status.targets[0].pre_backup_actions.is_empty() && plan.status.targets[0].post_backup_actions.is_empty()
    );
    world.job = Work::Reported(HostOutcome::default());
    world.second = Some(Work::Running);
    assert_eq!(world.step(2).status.phase, Some(BackupSessionPhase::Running));
    world.second = Some(Work::Reported(HostOutcome::default()));
    let mut plan = world.step(3);
    assert_eq!(plan.actions, [Action::RetainVolumeSnapshots]);
    assert_eq!(plan.status.phase, Some(BackupSessionPhase::Succeeded));
    let said: Vec<_> = plan.status.conditions.iter().map(|condition| condition.type_.as_str()).collect();
    assert_eq!(said, ["RetentionPolicyApplied", "BackupHistoryCleaned", "MetricsPushed"]);
    retention_failed(&mut plan, "forbidden", at(3));
    assert_eq!(plan.status.phase, Some(BackupSessionPhase::Failed));
}

#[test]
fn test_a_job_without_its_secret_gets_it() {
    let mut world = World::started(json!({}));
    world.without_secret = vec!["stash-backup-nightly-1-0"];
    let plan = world.step(2);
    assert_eq!(started_hosts(&plan), ["host-0"]);
    // It is looked whether that was it.
    assert_eq!(plan.requeue, Some(Duration::from_secs(2)));
    world.without_secret.clear();
    world.secret_again = Some(8);
    let plan = world.step(3);
    assert!(plan.actions.is_empty());
    assert_eq!(plan.requeue, Some(Duration::from_secs(5)));
    world.secret_again = None;
    assert!(world.step(3).actions.is_empty());
    world.job = Work::Reported(success());
    assert_eq!(world.step(4).actions, [Action::StartUpkeep]);
    // Stopped between the Job and its Secret.
    world.upkeep = Work::Running;
    world.without_secret = vec!["stash-maintenance-nightly-1"];
    assert_eq!(world.step(5).actions, [Action::StartUpkeep]);
    world.without_secret.clear();
    assert!(world.step(6).actions.is_empty());
}

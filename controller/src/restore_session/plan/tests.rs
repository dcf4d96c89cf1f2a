use serde_json::{Value, json};
use stash_crds::restore_session::RestorePhase;

use super::*;
use crate::hooks::perform::Outcome;
use crate::hooks::runner::Progress;
use crate::hooks::{STARTED, STARTED_AGAIN};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

/// A session made at second 0, and its world. What a plan writes down is read by the next.
struct World {
    session: RestoreSession,
    repository: Option<Repository>,
    secret: Known,
    target: TargetState,
    rival: Option<String>,
    hosts: Vec<Host>,
    parts_are_written: bool,
    jobs: BTreeMap<String, Work<HostOutcome>>,
    without_secret: BTreeSet<String>,
    waits: BTreeMap<String, String>,
    way: Way,
    is_injected: bool,
    elections: BTreeMap<String, String>,
    progress: Option<String>,
    hooks: Hooks,
    told: Vec<Notice>,
}

fn host(name: &str) -> Host {
    Host { name: name.to_owned(), job: format!("stash-restore-r-0-{name}"), ..Host::default() }
}

fn repository(more: Value) -> Repository {
    let mut object = json!({
        "metadata": {"name": "repo", "namespace": "shop"}, "spec": {"backend": {"storageSecretName": "s3", "s3": {"bucket": "b"}}}
    });
    for (key, value) in more.as_object().unwrap() {
        object[key] = value.clone();
    }
    serde_json::from_value(object).unwrap()
}

impl World {
    fn new(more: Value) -> Self {
        let reference = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": "data"});
        let mut spec = json!({
            "driver": "Restic", "repository": {"name": "repo"},
            "target": {"ref": reference, "rules": [{"paths": ["/stash-data"]}]}
        });
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        let session = json!({
            "metadata": {"name": "r", "namespace": "shop", "uid": "u", "generation": 1, "creationTimestamp": at(0).to_string()},
            "spec": spec
        });
        Self {
            session: serde_json::from_value(session).unwrap(),
            repository: Some(repository(json!({}))),
            secret: Known::Version("1".to_owned()),
            target: TargetState::Found,
            rival: None,
            hosts: vec![host("host-0")],
            parts_are_written: false,
            jobs: BTreeMap::new(),
            without_secret: BTreeSet::new(),
            waits: BTreeMap::new(),
            way: Way::Jobs,
            is_injected: true,
            elections: BTreeMap::new(),
            progress: None,
            hooks: Hooks::default(),
            told: Vec::new(),
        }
    }

    fn plan(&self, second: i64) -> Plan {
        let observed = Observed {
            session: &self.session,
            repository: self.repository.as_ref(),
            secret: self.secret.clone(),
            secret_again: None,
            namespace_labels: &BTreeMap::new(),
            target: self.target,
            rival: self.rival.clone(),
            hosts: self.hosts.clone(),
            parts_are_written: self.parts_are_written,
            without_secret: self.without_secret.clone(),
            jobs: self.jobs.clone(),
            waits: self.waits.clone(),
            way: self.way.clone(),
            is_injected: self.is_injected,
            elections: self.elections.clone(),
            progress: self.progress.clone(),
            hooks: self.hooks.clone(),
            addresses: &AddressRule::default(),
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

    fn begun(more: Value) -> Self {
        let mut world = Self::new(more);
        world.step(1);
        world.set(Work::Running);
        world
    }

    /// Says of all Jobs how far they are.
    fn set(&mut self, work: Work<HostOutcome>) {
        self.jobs = self.hosts.iter().map(|host| (host.job.clone(), work.clone())).collect();
    }
}

fn well() -> Work<HostOutcome> {
    Work::Reported(HostOutcome { duration: Some("1.5s".to_owned()), ..HostOutcome::default() })
}

fn failing(why: &str) -> Work<HostOutcome> {
    Work::Reported(HostOutcome {
        error: Some(why.to_owned()),
        duration: Some("2s".to_owned()),
        ..HostOutcome::default()
    })
}

fn phase_of(plan: &Plan) -> &str {
    plan.status.phase.as_ref().map(|phase| phase.as_str()).unwrap_or_default()
}

fn said(plan: &Plan) -> Vec<String> {
    plan.status.conditions.iter().map(|c| format!("{}={}", c.type_, c.status)).collect()
}

fn message(plan: &Plan, aspect: &str) -> String {
    let said = plan.status.conditions.iter().find(|said| said.type_ == aspect);
    said.and_then(|said| said.message.clone()).unwrap_or_default()
}

#[test]
fn test_a_restore_from_its_beginning_to_its_end() {
    let mut world = World::new(json!({"timeOut": "1h"}));
    let begun = world.step(1);
    assert_eq!(phase_of(&begun), "Running");
    assert_eq!(begun.actions, [Action::StartRestore(host("host-0"))]);
    let all = [
        "RepositoryFound=True",
        "BackendSecretFound=True",
        "ValidationPassed=True",
        "RestoreTargetFound=True",
        "RestoreExecutorEnsured=True",
    ];
    assert_eq!(said(&begun), all);
    assert_eq!((begun.status.total_hosts, begun.status.stats.len()), (Some(1), 0));
    assert_eq!(begun.status.session_deadline, Some(Time(at(3601))));
    // How far it is is asked for; the deadline comes later.
    assert_eq!(begun.requeue, Some(Duration::from_secs(10)));

    world.set(Work::Running);
    let waiting = world.step(30);
    assert_eq!((phase_of(&waiting), &waiting.actions[..]), ("Running", &[][..]));
    world.without_secret.insert(host("host-0").job);
    assert_eq!(world.step(31).actions, [Action::StartRestore(host("host-0"))]);

    world.set(well());
    let done = world.step(65);
    assert_eq!((phase_of(&done), &done.actions[..], done.requeue), ("Succeeded", &[][..], None));
    assert_eq!(said(&done)[4..], ["RestoreExecutorEnsured=True", "MetricsPushed=True"]);
    let stats = &done.status.stats[0];
    assert_eq!(
        (stats.hostname.as_deref(), stats.duration.as_deref(), &stats.error),
        (Some("host-0"), Some("1.5s"), &None)
    );
    assert_eq!(done.status.session_duration.as_deref(), Some("1m5s"));
    assert_eq!(world.told, [Notice::normal("Host Restore Succeeded", "Successfully restored host-0.")]);
    // It stays as it is, whatever happens.
    world.set(Work::Absent);
    world.repository = None;
    assert_eq!(world.plan(90), Plan { requeue: None, ..done });
}

#[test]
fn test_what_is_missing_is_waited_for() {
    let mut world = World::new(json!({}));
    world.repository = None;
    (world.secret, world.target) = (Known::Absent, TargetState::Missing);
    let waiting = world.step(1);
    assert_eq!((phase_of(&waiting), said(&waiting)), ("Pending", vec!["RepositoryFound=False".to_owned()]));
    assert_eq!((waiting.requeue, waiting.actions.len()), (Some(WAIT), 0));
    world.repository = Some(repository(json!({})));
    assert_eq!(said(&world.step(2))[1], "BackendSecretFound=False");
    world.secret = Known::Version("1".to_owned());
    let waiting = world.step(3);
    assert_eq!((phase_of(&waiting), said(&waiting)[3].as_str()), ("Pending", "RestoreTargetFound=False"));
    assert_eq!(
        message(&waiting, "RestoreTargetFound"),
        "Restore target PersistentVolumeClaim shop/data does not exist."
    );
    world.target = TargetState::Found;
    assert_eq!(world.step(4).actions, [Action::StartRestore(host("host-0"))]);
}

#[test]
fn test_what_is_not_possible_is_invalid_until_it_is() {
    let mut world = World::new(json!({"strategy": "Attach"}));
    let refused = world.step(1);
    assert_eq!((phase_of(&refused), refused.actions.len()), ("Invalid", 0));
    assert!(message(&refused, "ValidationPassed").starts_with("spec.strategy: Attach"));
    // What others say may change.
    let mut world = World::new(json!({}));
    let policy = json!({"backend": {"storageSecretName": "s3", "s3": {"bucket": "b"}}, "usagePolicy": {}});
    world.repository = Some(repository(json!({ "spec": policy })));
    let refused = world.step(1);
    assert_eq!((phase_of(&refused), refused.requeue), ("Invalid", Some(WAIT)));
    assert!(message(&refused, "ValidationPassed").contains("spec.usagePolicy"));
    world.repository = Some(repository(json!({})));
    assert_eq!(phase_of(&world.step(2)), "Running");
    let mut empty = World::new(json!({"target": {
        "ref": {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db"}, "rules": [{"paths": ["/data"]}],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}]
    }}));
    empty.hosts.clear();
    assert!(
        message(&empty.step(1), "ValidationPassed")
            .starts_with("StatefulSet db has no hosts to restore; spec.target.replicas")
    );
}

#[test]
fn test_restores_of_one_target_go_one_after_the_other() {
    let mut world = World::new(json!({}));
    world.rival = Some("other".to_owned());
    let waiting = world.step(1);
    assert_eq!((phase_of(&waiting), waiting.actions.len(), waiting.requeue), ("Pending", 0, Some(WAIT)));
    assert_eq!(said(&waiting).last().map(String::as_str), Some("RestoreExecutorEnsured=Unknown"));
    assert!(world.told.iter().all(|notice| !notice.warning), "{:?}", world.told);
    world.rival = None;
    let begun = world.step(6);
    assert_eq!((phase_of(&begun), begun.actions.len()), ("Running", 1));
    // Who has begun goes on, whatever others do.
    world.set(well());
    world.rival = Some("other".to_owned());
    assert_eq!(phase_of(&world.step(7)), "Succeeded");
}

#[test]
fn test_each_host_has_its_own_end() {
    let mut world = World::new(json!({}));
    world.hosts = ["host-0", "host-1", "host-2", "host-3"].map(host).into();
    assert_eq!(world.step(1).actions.len(), 4);
    let jobs = [well(), failing("the store is full"), Work::Disrupted("Evicted".to_owned()), Work::Running];
    world.jobs = world.hosts.iter().map(|host| host.job.clone()).zip(jobs).collect();
    let running = world.step(5);
    assert_eq!((phase_of(&running), running.status.stats.len()), ("Running", 3));
    assert_eq!(world.told.iter().filter(|notice| notice.warning).count(), 2);
    world.jobs.insert(host("host-3").job, Work::Silent("OOMKilled, exit code 137".to_owned()));
    let failed = world.step(9);
    assert_eq!(phase_of(&failed), "Failed");
    let errors: Vec<&str> = failed.status.stats.iter().map(|stats| stats.error.as_deref().unwrap_or("")).collect();
    assert_eq!(errors[..2], ["", "the store is full"]);
    assert!(errors[2].starts_with("the Job was disrupted: Evicted"), "{errors:?}");
    assert_eq!(errors[3], "the Job ended without a report: OOMKilled, exit code 137");
    let mut gone = World::begun(json!({}));
    gone.set(Work::Absent);
    assert_eq!(gone.step(5).status.stats[0].error.as_deref(), Some("the Job was deleted"));
}

#[test]
fn test_hosts_without_a_rule_are_left_and_named() {
    let rules = json!([{"targetHosts": ["host-1"], "paths": ["/data"]}]);
    let mut world = World::new(json!({ "rules": rules }));
    world.hosts = vec![host("host-0"), host("host-1")];
    let begun = world.step(1);
    assert_eq!(begun.actions, [Action::MakeClaims(host("host-0")), Action::StartRestore(host("host-1"))]);
    assert!(message(&begun, "RestoreExecutorEnsured").ends_with("No rule is for host-0: nothing is restored there."));
    assert_eq!(begun.status.stats.len(), 1);
    world.set(well());
    assert_eq!((phase_of(&world.step(2)), world.session.status.as_ref().unwrap().stats.len()), ("Succeeded", 2));
    // Nothing at all to do is done at once.
    let mut none = World::new(json!({"rules": [{"targetHosts": ["other"], "paths": ["/data"]}]}));
    assert_eq!(none.step(1).requeue, Some(Duration::from_millis(1)));
    assert_eq!(phase_of(&none.step(2)), "Succeeded");
}

#[test]
fn test_the_nodes_of_a_daemon_set_are_those_of_the_beginning() {
    let mut world = World::new(json!({"target": {
        "ref": {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "agent"}, "rules": [{"paths": ["/data"]}],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}]
    }}));
    let on = |node: &str| Host { part: Some(node.to_owned()), ..host(node) };
    world.hosts = vec![on("one"), on("two")];
    let first = world.step(1);
    assert_eq!(first.actions, [Action::WriteParts(vec!["one".to_owned(), "two".to_owned()])]);
    assert_eq!(first.status.total_hosts, None);
    world.parts_are_written = true;
    assert_eq!(world.step(2).actions.len(), 2);
}

#[test]
fn test_what_takes_too_long_is_ended() {
    let mut world = World::begun(json!({"timeOut": "10s"}));
    let exceeded = world.step(12);
    assert_eq!(
        (phase_of(&exceeded), &exceeded.actions[..]),
        ("Failed", &[Action::StopJobs(vec![host("host-0").job])][..])
    );
    assert_eq!(said(&exceeded)[5..], ["DeadlineExceeded=True", "MetricsPushed=True"]);
    let error = exceeded.status.stats[0].error.as_deref();
    assert_eq!(error, Some("Failed to complete restore within 10s."));
    // What was done in time is done, however late that is seen.
    let mut done = World::begun(json!({"timeOut": "10s"}));
    done.set(well());
    assert_eq!(phase_of(&done.step(60)), "Succeeded");
}

#[test]
fn test_a_job_that_cannot_be_made_fails_the_restore() {
    let mut world = World::new(json!({}));
    world.hosts = vec![host("host-0"), host("host-1")];
    let mut plan = world.step(1);
    host_failed(&mut plan, "host-0", "a claim of it exists already");
    assert_eq!((phase_of(&plan), plan.status.stats.len()), ("Running", 1));
    executor_failed(&mut plan, "exceeded quota", at(1));
    world.session.status = Some(plan.status);
    world.set(Work::Running);
    let failed = world.step(2);
    let jobs = vec![host("host-0").job, host("host-1").job];
    assert_eq!((phase_of(&failed), &failed.actions[..]), ("Failed", &[Action::StopJobs(jobs)][..]));
    assert_eq!(message(&failed, "RestoreExecutorEnsured"), "exceeded quota");
}

#[test]
fn test_a_deletion_is_never_held_up() {
    let mut world = World::begun(json!({}));
    let meta = &mut world.session.metadata;
    meta.deletion_timestamp = Some(Time(at(5)));
    meta.finalizers = Some(vec!["stash.appscode.com".to_owned()]);
    let plan = world.plan(6);
    assert!(plan.release && plan.actions.is_empty() && plan.requeue.is_none());
}

fn with_hooks(policy: &str) -> Value {
    let action = json!({"tcpSocket": {"host": "db.example", "port": 80}});
    let mut post = action.clone();
    post["executionPolicy"] = json!(policy);
    json!({"hooks": {"preRestore": action, "postRestore": post}})
}

/// Plays a hook to its end: it is announced, started, and has ended.
fn play(world: &mut World, point: Point, second: i64, outcome: Outcome) -> Plan {
    assert_eq!(world.step(second).actions, [Action::AnnounceHook(point)], "{point:?}");
    let set = |world: &mut World, progress| match point {
        Point::PreRestore => world.hooks.pre = progress,
        _ => world.hooks.post = progress,
    };
    set(world, Progress::Announced);
    assert!(matches!(&world.step(second).actions[..], [Action::RunHook(run)] if run.point == point));
    set(world, Progress::Running);
    assert_eq!(world.step(second).actions, []);
    set(world, Progress::Ended(outcome));
    world.step(second)
}

#[test]
fn test_hooks_are_called_before_and_after() {
    for (policy, outcome, called) in [
        ("Always", well(), true),
        ("Always", failing("no"), true),
        ("OnSuccess", well(), true),
        ("OnSuccess", failing("no"), false),
        ("OnFailure", well(), false),
        ("OnFailure", failing("no"), true),
    ] {
        let mut world = World::new(with_hooks(policy));
        let before = play(&mut world, Point::PreRestore, 1, Ok(String::new()));
        // What is known of the hook is written down before a Job is made.
        assert_eq!((before.actions.len(), phase_of(&before)), (0, "Running"));
        assert_eq!(world.step(2).actions, [Action::StartRestore(host("host-0"))]);
        world.set(outcome.clone());
        let ended = if called { play(&mut world, Point::PostRestore, 3, Ok(String::new())) } else { world.step(3) };
        let failed = matches!(&outcome, Work::Reported(outcome) if outcome.error.is_some());
        assert_eq!(phase_of(&ended), if failed { "Failed" } else { "Succeeded" }, "{policy} {outcome:?}");
        let text = message(&ended, "PostRestoreHookExecutionSucceeded");
        assert!(text.starts_with(if called { "Successfully executed" } else { "Skipped executing" }), "{text}");
        assert_eq!(ended.status.conditions.last().unwrap().type_, "MetricsPushed");
    }
}

#[test]
fn test_a_hook_that_fails_before_keeps_all_from_being_restored() {
    let mut world = World::new(with_hooks("Always"));
    play(&mut world, Point::PreRestore, 1, Err("no answer".to_owned()));
    // The hook after is called: what the one before did may have been half done.
    let failed = {
        let status = world.session.status.as_ref().unwrap();
        assert!(
            status
                .conditions
                .iter()
                .any(|said| said.type_ == "PreRestoreHookExecutionSucceeded" && said.status == "False")
        );
        world.hooks.post = Progress::Announced;
        assert!(matches!(&world.step(2).actions[..], [Action::RunHook(_)]));
        world.hooks.post = Progress::Ended(Ok(String::new()));
        world.step(3)
    };
    assert_eq!((phase_of(&failed), failed.status.stats.len()), ("Failed", 0));
    assert!(!said(&failed).iter().any(|said| said.starts_with("RestoreExecutorEnsured")));
}

#[test]
fn test_the_hook_after_is_called_when_the_work_died() {
    let mut world = World::new(with_hooks("Always"));
    let mut spec = world.session.spec.clone();
    spec.time_out = Some("10s".to_owned());
    world.session.spec = spec;
    play(&mut world, Point::PreRestore, 1, Ok(String::new()));
    world.step(2);
    world.set(Work::Running);
    let late = world.step(20);
    assert_eq!(late.actions, [Action::StopJobs(vec![host("host-0").job]), Action::AnnounceHook(Point::PostRestore)]);
    world.hooks.post = Progress::Ended(Err("refused".to_owned()));
    let failed = world.step(21);
    assert_eq!((phase_of(&failed), failed.status.stats.len()), ("Failed", 1));
}

#[test]
fn test_a_controller_that_was_stopped_calls_a_hook_again() {
    let mut world = World::new(with_hooks("Always"));
    assert_eq!(world.step(1).actions, [Action::AnnounceHook(Point::PreRestore)]);
    let reason = |world: &World| world.session.status.as_ref().unwrap().conditions.last().unwrap().reason.clone();
    assert_eq!(reason(&world).as_deref(), Some(STARTED));
    // Another process knows nothing of it.
    assert_eq!(world.step(2).actions, [Action::AnnounceHook(Point::PreRestore)]);
    assert_eq!(reason(&world).as_deref(), Some(STARTED_AGAIN));
    world.hooks.pre = Progress::Ended(Ok(String::new()));
    assert!(message(&world.step(3), "PreRestoreHookExecutionSucceeded").ends_with("may have executed it before."));
}

/// A session whose claims are the snapshot itself.
fn attaching(more: Value) -> World {
    let template = json!([{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}]);
    let target = json!({"volumeClaimTemplates": template, "rules": [{"paths": ["/stash-data"]}]});
    let mut spec = json!({"strategy": "Attach", "target": target});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    World::begun(spec)
}

fn bound() -> Work<HostOutcome> {
    Work::Reported(HostOutcome { duration: Some("1s".to_owned()), ..HostOutcome::default() })
}

#[test]
fn test_claims_that_are_the_snapshot_are_looked_at_until_they_are_bound() {
    let mut world = World::new(json!({
        "strategy": "Overlay", "target": {
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}], "rules": [{"paths": ["/stash-data"]}]
        }
    }));
    let plan = world.step(1);
    assert_eq!(plan.actions, [Action::StartRestore(host("host-0"))]);
    assert_eq!((phase_of(&plan), plan.requeue), ("Running", Some(Duration::from_secs(1))));
    world.set(Work::Running);
    world.waits = BTreeMap::from([("host-0".to_owned(), "PersistentVolumeClaim data is not bound: no.".to_owned())]);
    let plan = world.step(2);
    assert_eq!((plan.actions.len(), plan.requeue), (0, Some(Duration::from_secs(1))));
    let said = find_message(&plan, aspects::RESTORE_EXECUTOR_ENSURED);
    assert_eq!(said, "Successfully ensured restore executor. PersistentVolumeClaim data is not bound: no.");
    assert!(world.told.is_empty());
    world.set(bound());
    world.waits.clear();
    let plan = world.step(3);
    assert_eq!((phase_of(&plan), plan.status.stats[0].duration.as_deref()), ("Succeeded", Some("1s")));
}

#[test]
fn test_claims_that_are_not_bound_in_time_or_are_gone_fail_their_host() {
    let mut world = attaching(json!({"timeOut": "10s"}));
    world.waits =
        BTreeMap::from([("host-0".to_owned(), "PersistentVolumeClaim data is not bound: denied.".to_owned())]);
    let plan = world.step(20);
    let error = plan.status.stats[0].error.as_deref();
    let expected = "Failed to complete restore within 10s. PersistentVolumeClaim data is not bound: denied.";
    assert_eq!((phase_of(&plan), error), ("Failed", Some(expected)));
    let mut world = attaching(json!({}));
    world.set(Work::Absent);
    let plan = world.step(3);
    assert_eq!((phase_of(&plan), plan.status.stats[0].error.as_deref()), ("Failed", Some("a claim of it was deleted")));
}

fn find_message<'a>(plan: &'a Plan, aspect: &str) -> &'a str {
    let said = crate::conditions::find(&plan.status.conditions, aspect).unwrap();
    said.message.as_deref().unwrap()
}

fn at_start() -> Way {
    let source = json!({"mounted": {"snapshot": "0a".repeat(32), "root": "/snapshot/0", "paths": ["/data"]}});
    let task = json!({"sources": [source], "mounts": ["/data"]});
    let host = json!({"host": "host-0", "spec": {"version": 1, "task": {"restore": task}}});
    let orders = json!({"version": 1, "session": "u", "by": "one", "hosts": {"one": host}}).to_string();
    Way::AtStart(Box::new(stash_proto::job::AtStart::parse(&orders).unwrap()))
}

fn of_deployment(time_out: &str) -> World {
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"});
    let mounts = json!([{"name": "data", "mountPath": "/data"}]);
    let target = json!({"ref": deployment, "volumeMounts": mounts, "rules": [{"paths": ["/data"]}]});
    World::new(json!({"target": target, "timeOut": time_out}))
}

#[test]
fn test_a_workload_is_restored_when_its_pods_start() {
    let mut world = of_deployment("10m");
    world.way = Way::Undecided;
    // How is decided and written down before anything is counted.
    let plan = world.step(1);
    assert_eq!((plan.actions, plan.status.total_hosts), (vec![Action::ChooseWay], None));
    world.way = at_start();
    let plan = world.step(2);
    assert_eq!((plan.actions, plan.status.total_hosts), (vec![Action::Inject], Some(1)));
    assert!(is_true(&plan.status.conditions, aspects::STASH_INIT_CONTAINER_INJECTED));
    // A pod is chosen; what is waited for is said.
    world.set(Work::Running);
    world.elections = [("one".to_owned(), "pod-1".to_owned())].into();
    world.waits = [("host-0".to_owned(), "host-0 waits for a pod that starts anew.".to_owned())].into();
    let plan = world.step(3);
    assert_eq!(plan.actions, [Action::Elect(world.elections.clone())]);
    let said = plan.status.conditions.iter().find(|said| said.type_ == aspects::RESTORE_EXECUTOR_ENSURED).unwrap();
    assert!(
        said.message.as_deref().unwrap_or_default().ends_with("host-0 waits for a pod that starts anew."),
        "{said:?}"
    );
    assert!(plan.requeue.is_some());
    // Somebody took the init container out.
    (world.elections, world.is_injected) = (BTreeMap::new(), false);
    assert_eq!(world.step(4).actions, [Action::Inject]);
    world.is_injected = true;
    world.set(well());
    let plan = world.step(5);
    assert_eq!((plan.actions, plan.status.phase), (vec![], Some(RestorePhase::Succeeded)));
    // It stays until the session goes, and goes before the finalizer.
    assert_eq!(world.step(6).actions, []);
    let meta = &mut world.session.metadata;
    meta.deletion_timestamp = Some(Time(at(7)));
    assert!(!world.plan(7).release && world.plan(7).actions.is_empty());
    world.session.metadata.finalizers = Some(vec!["stash.appscode.com".to_owned()]);
    let plan = world.plan(7);
    assert_eq!((plan.release, plan.actions), (true, vec![Action::Withdraw]));
}

#[test]
fn test_pods_that_take_too_long_are_named() {
    let mut world = of_deployment("1m");
    world.way = at_start();
    world.step(1);
    world.set(Work::Running);
    world.waits = [("host-0".to_owned(), "host-0 waits for a pod that starts anew.".to_owned())].into();
    world.step(2);
    let plan = world.step(70);
    assert_eq!(plan.status.phase, Some(RestorePhase::Failed));
    let error = plan.status.stats[0].error.clone().unwrap();
    assert_eq!(error, "Failed to complete restore within 1m. host-0 waits for a pod that starts anew.");
}

#[test]
fn test_how_far_it_is_stands_in_the_status_until_it_is_done() {
    let mut world = World::begun(json!({}));
    assert_eq!(world.step(2).status.progress, None);
    world.progress = Some("42% of 1.500 GiB, 2m10s left".to_owned());
    let plan = world.step(12);
    assert_eq!(
        (plan.status.progress.as_deref(), plan.requeue),
        (Some("42% of 1.500 GiB, 2m10s left"), Some(Duration::from_secs(10)))
    );
    // Nobody answers for a moment.
    world.progress = None;
    assert!(world.step(22).status.progress.is_some());
    world.set(well());
    assert_eq!(world.step(23).status.progress, None);
}

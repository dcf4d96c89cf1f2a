use serde_json::{Value, json};

use super::*;
use crate::hooks::perform::Outcome;
use crate::hooks::{STARTED, STARTED_AGAIN};

/// A hook that names its server, and one that acts on a pod.
fn server() -> Value {
    json!({"tcpSocket": {"host": "db.example", "port": 80}})
}

fn command() -> Value {
    json!({"exec": {"command": ["thaw"]}})
}

fn hooks(pre: Option<Value>, post: Option<Value>) -> Value {
    let mut hooks = json!({});
    if let Some(pre) = pre {
        hooks["preBackup"] = pre;
    }
    if let Some(post) = post {
        hooks["postBackup"] = post;
    }
    json!({ "hooks": hooks })
}

fn with_policy(mut hook: Value, policy: &str) -> Value {
    hook["executionPolicy"] = json!(policy);
    hook
}

/// What a hook's condition says: status, reason, message.
fn hook_said(world: &World, point: Point) -> Option<(String, String, String)> {
    let target = world.session.status.as_ref()?.targets.first()?;
    let said = find(&target.conditions, point.aspect())?;
    Some((said.status.clone(), said.reason.clone().unwrap(), said.message.clone().unwrap()))
}

fn message(world: &World, point: Point) -> String {
    hook_said(world, point).unwrap().2
}

/// What happens outside of the plans, and what is remembered of it.
struct Play {
    world: World,
    second: i64,
    log: Vec<&'static str>,
    pre: Outcome,
    post: Outcome,
    work: Work<HostOutcome>,
}

impl Play {
    fn new(spec: Value) -> Self {
        Self {
            world: World::new(spec),
            second: 0,
            log: Vec::new(),
            pre: Ok(String::new()),
            post: Ok(String::new()),
            work: Work::Reported(success()),
        }
    }

    fn restart(&mut self) {
        self.world.hooks = Hooks::default();
    }

    /// Does what a plan says, as `apply` does: what is there is not made again.
    fn apply(&mut self, plan: &Plan) {
        for action in &plan.actions {
            match action {
                Action::AnnounceHook(point) => {
                    let progress = self.progress(*point);
                    if *progress == Progress::Unknown {
                        *progress = Progress::Announced;
                    }
                }
                Action::RunHook(run) => {
                    let said = hook_said(&self.world, run.point).expect("it is written down before it runs");
                    assert_eq!(said.0, "Unknown");
                    *self.progress(run.point) = Progress::Running;
                    self.log.push(if run.point == Point::PreBackup { "pre" } else { "post" });
                }
                Action::StartBackup(_) if self.world.job == Work::Absent => {
                    self.world.job = Work::Running;
                    self.log.push("backup");
                }
                Action::StartUpkeep if self.world.upkeep == Work::Absent => {
                    self.world.upkeep = Work::Running;
                    self.log.push("upkeep");
                }
                Action::StopJobs(_) => self.log.push("stop"),
                _ => {}
            }
        }
    }

    fn progress(&mut self, point: Point) -> &mut Progress {
        match point {
            Point::PreBackup | Point::PreRestore => &mut self.world.hooks.pre,
            Point::PostBackup | Point::PostRestore => &mut self.world.hooks.post,
        }
    }

    /// Lets what runs come to its end.
    fn happen(&mut self) {
        for (point, outcome) in [(Point::PreBackup, self.pre.clone()), (Point::PostBackup, self.post.clone())] {
            let progress = self.progress(point);
            if *progress == Progress::Running {
                *progress = Progress::Ended(outcome);
            }
        }
        if self.world.job == Work::Running {
            self.world.job = self.work.clone();
        }
        if self.world.upkeep == Work::Running {
            self.world.upkeep = Work::Reported(looked_after());
        }
    }

    /// Goes on until the session is done. The process is killed at the point of this number, of three in each step: before anything is
    /// done, before the status is written, and after. Returns the phase, and whether it was killed.
    fn run(&mut self, kill_at: Option<usize>) -> (String, bool) {
        let mut points = 0..;
        let mut killed = false;
        for _ in 0..60 {
            self.second += 1;
            let plan = self.world.plan(self.second);
            let mut kill = |play: &mut Self| {
                let now = points.next() == kill_at;
                if now {
                    play.restart();
                    killed = true;
                }
                now
            };
            if kill(self) {
                continue;
            }
            self.apply(&plan);
            if kill(self) {
                continue;
            }
            self.world.session.status = Some(plan.status.clone());
            if phase::is_final(plan.status.phase.as_ref()) {
                return (phase_of(&plan).to_owned(), killed);
            }
            kill(self);
            self.happen();
        }
        panic!("it does not end: {:?}", self.world.session.status);
    }
}

#[test]
fn test_hooks_are_called_around_the_backup() {
    for (pre, post, expected) in [
        (None, None, &["backup", "upkeep"][..]),
        (Some(server()), None, &["pre", "backup", "upkeep"]),
        (None, Some(server()), &["backup", "upkeep", "post"]),
        (Some(server()), Some(server()), &["pre", "backup", "upkeep", "post"]),
        // What was stopped does not wait for the repository to be looked after.
        (Some(command()), Some(command()), &["pre", "backup", "post", "upkeep"]),
    ] {
        let mut play = Play::new(hooks(pre, post));
        assert_eq!(play.run(None).0, "Succeeded");
        assert_eq!(play.log, expected);
    }
    let mut play = Play::new(hooks(Some(command()), Some(server())));
    play.pre = Ok(" In pod db-0.".to_owned());
    play.run(None);
    let expected = ("True", "SuccessfullyExecutedPreBackupHook", "Successfully executed preBackup hook. In pod db-0.");
    let said = hook_said(&play.world, Point::PreBackup).unwrap();
    assert_eq!((said.0.as_str(), said.1.as_str(), said.2.as_str()), expected);
}

#[test]
fn test_a_hook_is_written_down_before_it_runs() {
    let mut world = World::new(hooks(Some(server()), None));
    let begun = world.step(1);
    assert_eq!((phase_of(&begun), &begun.actions[..]), ("Running", &[Action::AnnounceHook(Point::PreBackup)][..]));
    assert_eq!(hook_said(&world, Point::PreBackup).unwrap().1, STARTED);
    assert!(world.told.iter().all(|notice| notice.reason == STARTED && !notice.warning), "{:?}", world.told);
    world.hooks.pre = Progress::Announced;
    let run = world.step(2);
    let [Action::RunHook(run)] = &run.actions[..] else { panic!("{:?}", run.actions) };
    assert_eq!((run.point, run.limit.as_secs(), run.summary.phase), (Point::PreBackup, 300, "Succeeded"));
    world.hooks.pre = Progress::Running;
    let waits = world.step(3);
    assert_eq!((&waits.actions[..], waits.requeue), (&[][..], Some(Duration::from_secs(60))));
    // An object that is older than what was written: it is not started without its condition.
    world.session.status.as_mut().unwrap().targets[0].conditions.clear();
    assert_eq!(world.plan(4).actions, [Action::AnnounceHook(Point::PreBackup)]);
    world.hooks.pre = Progress::Ended(Ok(String::new()));
    world.step(5);
    // How it ended is written down before there is a Job.
    let ended = world.step(6);
    assert_eq!((&ended.actions[..], world.told[0].reason.as_str()), (&[][..], "SuccessfullyExecutedPreBackupHook"));
    let begun = world.step(7);
    assert!(matches!(&begun.actions[..], [Action::StartBackup(_)]), "{:?}", begun.actions);
}

#[test]
fn test_a_controller_that_is_killed_at_any_point_leaves_no_hook_out() {
    let again = "A controller that was stopped may have executed it before.";
    for (pre, post, work, outcome) in [
        (command(), command(), Work::Reported(success()), "Succeeded"),
        (server(), server(), Work::Reported(success()), "Succeeded"),
        (command(), server(), Work::Reported(failure("full")), "Failed"),
        (command(), command(), Work::Disrupted("evicted".to_owned()), "Failed"),
        (command(), command(), Work::Absent, "Failed"),
    ] {
        let mut kill_at = 0;
        loop {
            let mut play = Play::new(hooks(Some(pre.clone()), Some(post.clone())));
            play.work = work.clone();
            let (phase, killed) = play.run(Some(kill_at));
            if !killed {
                break;
            }
            let count = |what: &str| play.log.iter().filter(|done| **done == what).count();
            let place = |what: &str| play.log.iter().position(|done| *done == what);
            assert_eq!((phase.as_str(), count("backup")), (outcome, 1), "{kill_at}: {:?}", play.log);
            assert!((1..=2).contains(&count("pre")) && (1..=2).contains(&count("post")), "{kill_at}: {:?}", play.log);
            assert!(place("pre") < place("backup") && place("backup") < place("post"), "{kill_at}: {:?}", play.log);
            for (point, what) in [(Point::PreBackup, "pre"), (Point::PostBackup, "post")] {
                // Who was called twice says so; who says so may have been called once.
                assert!(count(what) == 1 || message(&play.world, point).ends_with(again), "{kill_at}: {:?}", play.log);
            }
            kill_at += 1;
        }
        assert!(kill_at > 15, "{kill_at} points were tried");
    }
}

#[test]
fn test_a_hook_of_a_controller_that_was_stopped_is_called_again_and_said_to_be() {
    let mut world = World::new(hooks(Some(server()), None));
    world.step(1);
    // Nothing is known of it any more.
    let again = world.step(2);
    assert_eq!(again.actions, [Action::AnnounceHook(Point::PreBackup)]);
    assert_eq!(hook_said(&world, Point::PreBackup).unwrap().1, STARTED_AGAIN);
    world.hooks.pre = Progress::Ended(Err("db.example:80 cannot be reached".to_owned()));
    world.step(3);
    assert_eq!(
        message(&world, Point::PreBackup),
        "Failed to execute preBackup hook. Reason: db.example:80 cannot be reached. \
         A controller that was stopped may have executed it before."
    );
}

#[test]
fn test_a_pre_hook_that_fails_prevents_the_backup_and_not_the_post_hook() {
    for (policy, expected) in
        [("Always", &["pre", "post"][..]), ("OnFailure", &["pre", "post"]), ("OnSuccess", &["pre"])]
    {
        let mut play = Play::new(hooks(Some(server()), Some(with_policy(server(), policy))));
        play.pre = Err("a.example:80 answered 500".to_owned());
        assert_eq!(play.run(None).0, "Failed");
        assert_eq!(play.log, expected, "{policy}");
        let status = play.world.session.status.clone().unwrap();
        assert_eq!(status.targets[0].phase, Some(BackupTargetPhase::Failed));
        assert!(find(&status.targets[0].conditions, aspects::BACKUP_EXECUTOR_ENSURED).is_none());
        assert_eq!(hook_said(&play.world, Point::PreBackup).unwrap().1, "FailedToExecutePreBackupHook");
    }
}

#[test]
fn test_policies_of_the_post_hook() {
    for (policy, work, retry_left, called) in [
        ("OnSuccess", success(), 0, true),
        ("OnSuccess", failure("full"), 0, false),
        ("OnFailure", success(), 0, false),
        ("OnFailure", failure("full"), 1, true),
        ("OnFinalRetryFailure", failure("full"), 1, false),
        ("OnFinalRetryFailure", failure("full"), 0, true),
        ("OnFinalRetryFailure", success(), 0, false),
    ] {
        let mut play = Play::new(hooks(None, Some(with_policy(server(), policy))));
        play.world.session.spec.retry_left = Some(retry_left);
        play.work = Work::Reported(work);
        play.run(None);
        assert_eq!(play.log.contains(&"post"), called, "{policy} {retry_left}");
        let said = hook_said(&play.world, Point::PostBackup).unwrap();
        assert_eq!((said.0.as_str(), said.1.as_str()), ("True", "SuccessfullyExecutedPostBackupHook"));
        assert_eq!(
            said.2.starts_with("Skipped executing postBackup hook. Reason: executionPolicy is "),
            !called,
            "{}",
            said.2
        );
    }
}

#[test]
fn test_a_post_hook_that_fails_fails_the_session() {
    for post in [server(), command()] {
        let mut play = Play::new(hooks(None, Some(post)));
        play.post = Err("a.example:80 answered 500".to_owned());
        assert_eq!(play.run(None).0, "Failed");
        // The data is there, so the repository is looked after all the same.
        assert!(play.log.contains(&"upkeep"), "{:?}", play.log);
        assert_eq!(
            message(&play.world, Point::PostBackup),
            "Failed to execute postBackup hook. Reason: a.example:80 answered 500."
        );
    }
}

#[test]
fn test_the_post_hook_is_told_what_is_known() {
    let mut play = Play::new(hooks(None, Some(server())));
    play.work = Work::Reported(failure("the disk is full"));
    let mut told = None;
    for _ in 0..10 {
        play.second += 1;
        let plan = play.world.plan(play.second);
        for action in &plan.actions {
            if let Action::RunHook(run) = action {
                told = Some(run.summary.clone());
            }
        }
        play.apply(&plan);
        play.world.session.status = Some(plan.status);
        play.happen();
    }
    let told = told.unwrap();
    assert_eq!((told.phase, told.error.as_str(), told.retry_left), ("Failed", "the disk is full", 1));
    assert_eq!((told.target_name.as_str(), told.target_namespace.as_str()), ("data", "shop"));
}

#[test]
fn test_hooks_and_the_deadline() {
    let spec = |pre: Option<Value>, post: Option<Value>| {
        let mut spec = hooks(pre, post);
        spec["timeOut"] = json!("60s");
        spec
    };
    // The hook before gets what is left of the time.
    let mut world = World::new(spec(Some(command()), Some(command())));
    world.step(1);
    world.hooks.pre = Progress::Announced;
    let run = world.step(20);
    let [Action::RunHook(run)] = &run.actions[..] else { panic!("{:?}", run.actions) };
    assert_eq!(run.limit.as_secs(), 40);
    // It ends too late for a backup: there is none, and what it stopped goes on.
    world.hooks.pre = Progress::Ended(Ok(String::new()));
    assert_eq!(world.step(61).actions, []);
    let late = world.step(61);
    assert_eq!(late.actions, [Action::AnnounceHook(Point::PostBackup)]);
    assert!(is_true(&late.status.conditions, aspects::DEADLINE_EXCEEDED));
    world.hooks.post = Progress::Announced;
    let run = world.step(62);
    let [Action::RunHook(run)] = &run.actions[..] else { panic!("{:?}", run.actions) };
    assert_eq!((run.point, run.limit.as_secs(), run.summary.phase), (Point::PostBackup, 300, "Failed"));
    world.hooks.post = Progress::Ended(Ok(String::new()));
    assert_eq!(phase_of(&world.step(63)), "Failed");

    // The backup takes too long.
    let mut world = World::new(spec(None, Some(command())));
    world.step(1);
    world.job = Work::Running;
    let late = world.step(61);
    let jobs = Action::StopJobs(vec!["stash-backup-nightly-1-0".to_owned()]);
    assert_eq!(late.actions, [jobs, Action::AnnounceHook(Point::PostBackup)]);

    // A controller that was stopped comes back too late.
    let mut world = World::new(spec(Some(command()), Some(command())));
    world.step(1);
    let late = world.step(61);
    assert_eq!(late.actions, [Action::AnnounceHook(Point::PostBackup)]);
    assert!(
        message(&world, Point::PreBackup).contains("how it ended is not known, and the time for the session is over")
    );

    // It was over before the first hook: nothing was stopped, and nothing has to go on.
    let mut world = World::new(spec(Some(command()), Some(command())));
    let plan = world.step(61);
    assert_eq!(plan.actions, [Action::AnnounceHook(Point::PreBackup)]);
    world.hooks.pre = Progress::Announced;
    world.step(62);
    assert!(message(&world, Point::PreBackup).contains("was over before it began"));
}

#[test]
fn test_a_hook_that_is_taken_out_of_the_configuration() {
    for (progress, expected) in [
        (
            Progress::Unknown,
            "the controller was stopped while it ran; how it ended is not known, and the configuration lacks it now",
        ),
        (Progress::Announced, "it was taken out of the configuration"),
    ] {
        let mut world = World::new(hooks(Some(server()), None));
        world.step(1);
        world.invoker.as_mut().unwrap().spec.hooks = None;
        world.hooks.pre = progress;
        let plan = world.step(2);
        assert_eq!(phase_of(&plan), "Failed");
        assert_eq!(message(&world, Point::PreBackup), format!("Failed to execute preBackup hook. Reason: {expected}."));
    }
    // One that runs is waited for.
    let mut world = World::new(hooks(Some(server()), None));
    world.step(1);
    world.invoker.as_mut().unwrap().spec.hooks = None;
    world.hooks.pre = Progress::Running;
    assert_eq!(world.step(2).actions, []);
}

#[test]
fn test_what_cannot_be_started_has_its_post_hook() {
    let mut world = World::new(hooks(Some(command()), Some(command())));
    world.step(1);
    world.hooks.pre = Progress::Ended(Ok(String::new()));
    world.step(2);
    let mut plan = world.plan(2);
    executor_failed(&mut plan, "no such claim", at(2));
    world.session.status = Some(plan.status);
    let plan = world.step(3);
    assert_eq!(plan.actions, [Action::AnnounceHook(Point::PostBackup)]);
    world.hooks.post = Progress::Ended(Ok(String::new()));
    assert_eq!(phase_of(&world.step(4)), "Failed");
}

#[test]
fn test_a_session_that_is_skipped_has_no_hooks() {
    let mut world = World::new(hooks(Some(server()), Some(server())));
    world.siblings = vec![session("other", -5, json!({"phase": "Running"}))];
    let plan = world.step(1);
    assert_eq!((phase_of(&plan), plan.status.targets.len()), ("Skipped", 0));
}

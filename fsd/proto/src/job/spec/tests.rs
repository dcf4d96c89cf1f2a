use super::*;
use crate::job::ErrorCode;

fn backup() -> BackupTask {
    BackupTask { host: "host-0".to_owned(), paths: vec!["/data".to_owned()], ..BackupTask::default() }
}

fn spec(task: JobTask) -> JobSpec {
    let repository =
        RepositoryAccess { address: "s3:http://host/bucket/prefix".to_owned(), ..RepositoryAccess::default() };
    JobSpec { version: VERSION, repository, dead_hosts: Vec::new(), task }
}

#[test]
fn test_specs_are_read_as_they_are_written() {
    let retention = Retention { keep_last: 5, keep_tags: vec!["a,b".to_owned()], prune: true, ..Retention::default() };
    let full = BackupTask {
        exclude: vec!["*.log".to_owned()],
        args: vec!["--ignore-inode".to_owned()],
        tags: vec!["t".to_owned()],
        initialize: true,
        nice: Some(10),
        ionice: Some(IoNice { class: 2, class_data: Some(7) }),
        cache: true,
        root: Some("/stash/source".to_owned()),
        ..backup()
    };
    let maintain = MaintainTask {
        initialize: true,
        forget_snapshots: vec!["0a".repeat(32)],
        forget: Some(retention),
        check: true,
        stats: true,
        wipe_out: false,
    };
    for task in [
        JobTask::Backup(backup()),
        JobTask::Backup(full),
        JobTask::Maintain(MaintainTask::default()),
        JobTask::Maintain(maintain),
        JobTask::Maintain(MaintainTask { wipe_out: true, ..MaintainTask::default() }),
    ] {
        let spec = spec(task);
        let json = serde_json::to_vec(&spec).unwrap();
        assert_eq!(JobSpec::parse(&json), Ok(spec), "{}", String::from_utf8_lossy(&json));
    }
}

#[test]
fn test_a_spec_by_hand_is_read() {
    let json = br#"{"version": 1, "repository": {"address": "/repository"},
        "task": {"backup": {"host": "h", "paths": ["/a", "/b"], "ionice": {"class": 3}}}}"#;
    let JobTask::Backup(task) = JobSpec::parse(json).unwrap().task else { panic!("it is a backup") };
    assert_eq!((task.paths.len(), task.ionice), (2, Some(IoNice { class: 3, class_data: None })));
}

#[test]
fn test_what_restores_from_mounts_alone_names_no_repository() {
    let json = |repository: &str, sources: &str| {
        format!(r#"{{"version": 1, {repository} "task": {{"restore": {{"sources": [{sources}], "mounts": ["/"]}}}}}}"#)
    };
    let mounted = r#"{"mounted": {"snapshot": "repo-0a1b2c3d", "root": "/snapshot", "paths": ["/"]}}"#;
    let address = r#""repository": {"address": "/repository"},"#;
    for (json, expected) in [
        (json("", mounted), Ok(false)),
        (json(r#""repository": {"address": ""},"#, mounted), Ok(false)),
        (json(address, r#"{"snapshot": "latest"}"#), Ok(true)),
        (json("", r#"{"snapshot": "latest"}"#), Err("repository.address: it is empty")),
        (json(address, mounted), Err("repository.address: what is restored is mounted")),
    ] {
        match (JobSpec::parse(json.as_bytes()), expected) {
            (Ok(spec), Ok(opens)) => {
                assert_eq!(spec.opens_repository(), opens, "{json}");
                assert_eq!(JobSpec::parse(&serde_json::to_vec(&spec).unwrap()), Ok(spec));
            }
            (Err(error), Err(words)) => assert!(error.to_string().starts_with(words), "{json}: {error}"),
            (got, expected) => panic!("{json}: {got:?}, not {expected:?}"),
        }
    }
}

#[test]
fn test_wrong_specs_are_refused_by_field() {
    let with = |change: fn(&mut JobSpec)| {
        let mut spec = spec(JobTask::Backup(backup()));
        change(&mut spec);
        serde_json::to_string(&spec).unwrap()
    };
    fn task(spec: &mut JobSpec) -> &mut BackupTask {
        match &mut spec.task {
            JobTask::Backup(task) => task,
            _ => panic!("it is a backup"),
        }
    }
    for (json, words) in [
        (String::new(), "cannot be read"),
        ("[]".to_owned(), "cannot be read"),
        ("{\"version\": 2, \"new\": 1}".to_owned(), "version 2"),
        (with(|spec| spec.version = 0), "version 0"),
        (with(|_| ()).replacen("address", "adress", 1), "unknown field `adress`"),
        (with(|_| ()).replacen("paths", "path", 1), "unknown field `path`"),
        (with(|_| ()).replacen("backup", "forget", 1), "unknown variant `forget`"),
        (with(|spec| spec.repository.address.clear()), "repository.address"),
        (with(|spec| task(spec).host.clear()), "task.backup.host"),
        (with(|spec| task(spec).paths.clear()), "task.backup.paths"),
        (with(|spec| task(spec).paths.push("data".to_owned())), "`data` is not an absolute path"),
        (with(|spec| task(spec).root = Some(String::new())), "task.backup.root"),
        (with(|spec| task(spec).nice = Some(20)), "task.backup.nice"),
        (with(|spec| task(spec).ionice = Some(IoNice { class: 4, class_data: None })), "ionice.class:"),
        (with(|spec| task(spec).ionice = Some(IoNice { class: 2, class_data: Some(8) })), "ionice.classData"),
        (with(|spec| task(spec).args.push("--stdin".to_owned())), "--stdin"),
        (" ".repeat(SPEC_LIMIT_BYTES + 1), "longer"),
    ] {
        let error = JobSpec::parse(json.as_bytes()).unwrap_err();
        assert!(error.to_string().contains(words), "{json}: {error}");
    }
}

#[test]
fn test_codes_are_words_and_new_ones_are_let_be() {
    let code = |text: &str| serde_json::from_str::<ErrorCode>(text).unwrap();
    assert_eq!(serde_json::to_string(&ErrorCode::WrongPassword).unwrap(), "\"wrong-password\"");
    assert_eq!((code("\"partly-read\""), code("\"out-of-luck\"")), (ErrorCode::PartlyRead, ErrorCode::Unknown));
}

#[test]
fn test_nothing_is_asked_of_a_repository_that_is_removed() {
    type Change = fn(&mut MaintainTask);
    let others: [Change; 5] = [
        |task| task.initialize = true,
        |task| task.forget_snapshots = vec!["0a".repeat(32)],
        |task| task.forget = Some(Retention::default()),
        |task| task.check = true,
        |task| task.stats = true,
    ];
    for change in others {
        let mut task = MaintainTask { wipe_out: true, ..MaintainTask::default() };
        change(&mut task);
        let error = spec(JobTask::Maintain(task)).check().unwrap_err().to_string();
        assert!(error.starts_with("task.maintain.wipeOut: "), "{error}");
    }
}

#[test]
fn test_snapshots_are_forgotten_by_whole_ids() {
    let refused = |ids: Vec<String>| {
        let task = MaintainTask { forget_snapshots: ids, ..MaintainTask::default() };
        spec(JobTask::Maintain(task)).check().unwrap_err().to_string()
    };
    for id in ["", "0a0a0a0a", &"0A".repeat(32), &"0a".repeat(33), "latest"] {
        let message = refused(vec!["0a".repeat(32), id.to_owned()]);
        assert!(message.starts_with("task.maintain.forgetSnapshots: "), "{message}");
    }
    assert!(refused(vec!["0a".repeat(32); FORGET_LIMIT + 1]).contains("1000 snapshots at most"));
    let most = MaintainTask { forget_snapshots: vec!["0a".repeat(32); FORGET_LIMIT], ..MaintainTask::default() };
    assert_eq!(spec(JobTask::Maintain(most)).check(), Ok(()));
}

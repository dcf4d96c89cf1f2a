//! `wipeOut`: a repository goes as a whole from a real S3 server, and nothing else does; also when it is killed half way.

use std::process::{Command, Stdio};

use stash_proto::job::{ErrorCode, JobTask, MaintainTask, Step, Wiped};
use stash_repo::{FileKind, Id};
use stash_tests::mounted::{clean, wait_for};
use stash_tests::restic::Restic;
use stash_tests::servers::{Minio, Toxiproxy};
use tokio::runtime::Runtime;

use super::store::{PASSWORD, backend, backup, files, restic};
use super::{Ended, Files, sources};

/// How many packs there are at least: enough to be killed between them.
const PACKS: usize = 400;

fn wipe() -> JobTask {
    JobTask::Maintain(MaintainTask { wipe_out: true, ..MaintainTask::default() })
}

fn removed(ended: &Ended) -> u64 {
    assert_eq!(ended.report.error, None, "{}", ended.said);
    match &ended.maintain().wipe_out {
        Some(Step::Done(Wiped { removed })) => *removed,
        other => panic!("{other:?}"),
    }
}

#[test]
fn test_a_repository_goes_and_what_is_beside_below_and_between_stays() {
    let (minio, runtime) = (Minio::start(), Runtime::new().unwrap());
    minio.create_bucket("bucket");
    let (_folder, one, _) = sources();
    let environment = minio.environment();
    let address = |prefix: &str| minio.repository("bucket", prefix);
    for prefix in ["team/a", "team/a/nested", "team/ab", "team"] {
        files(&address(prefix), &environment, backup(&one)).run().backup();
    }
    // Objects that somebody keeps among the files of the repository.
    let foreign: Vec<_> = ["team/a/data", "team/a/keys", "team/a/notes"].map(address).into();
    let none = Id::default();
    for address in &foreign {
        let store = backend(&runtime, &minio, address);
        runtime.block_on(store.write(FileKind::Config, &none, "foreign".into())).unwrap();
    }
    // A repository that the password does not open is somebody else's.
    let wrong = files(&address("team/a"), &environment, wipe());
    wrong.set("RESTIC_PASSWORD", "falsches wort");
    assert_eq!(wrong.run().error(), Some(ErrorCode::WrongPassword));
    restic(&minio, &address("team/a"), &["check", "--read-data"]);

    let ended = files(&address("team/a"), &environment, wipe()).run();
    assert!(removed(&ended) >= 4, "{}", ended.said);
    assert!(!ended.said.contains(PASSWORD));
    let store = backend(&runtime, &minio, &address("team/a"));
    for kind in FileKind::LISTED {
        assert_eq!(runtime.block_on(store.list(kind)).unwrap(), [], "{kind:?}");
    }
    assert!(runtime.block_on(store.read_full(FileKind::Config, &none, 1 << 20)).is_err());
    for prefix in ["team/a/nested", "team/ab", "team"] {
        restic(&minio, &address(prefix), &["check", "--read-data"]);
    }
    for address in &foreign {
        let store = backend(&runtime, &minio, address);
        let found = runtime.block_on(store.read_full(FileKind::Config, &none, 1 << 20)).unwrap();
        assert_eq!(&found[..], b"foreign", "{address}");
    }
    // Where nothing is, nothing is left to do; and the place can be used again.
    assert_eq!(removed(&files(&address("team/a"), &environment, wipe()).run()), 0);
    assert!(files(&address("team/a"), &environment, backup(&one)).run().backup().initialized);
    // Without a bucket it is not known whether all is gone.
    let nowhere = files(&minio.repository("nobucket", "a"), &environment, wipe()).run();
    assert_eq!(nowhere.error(), Some(ErrorCode::NoRepository), "{}", nowhere.said);
}

#[test]
fn test_what_was_killed_half_way_looks_like_nothing_and_goes_on() {
    let (minio, toxiproxy, runtime) = (Minio::start(), Toxiproxy::start(), Runtime::new().unwrap());
    minio.create_bucket("bucket");
    let (_folder, one, _) = sources();
    let (address, environment) = (minio.repository("bucket", "a"), minio.environment());
    files(&address, &environment, backup(&one)).run().backup();
    let store = backend(&runtime, &minio, &address);
    runtime.block_on(async {
        for number in 0..PACKS {
            let id = Id::hash(&number.to_le_bytes());
            store.write(FileKind::Pack, &id, "pack".into()).await.unwrap();
        }
    });
    let count = |kind| runtime.block_on(store.list(kind)).unwrap().len();
    let all = count(FileKind::Pack);
    let proxy = toxiproxy.proxy(minio.address());
    proxy.latency(100);
    let job = files(&Minio::repository_at(proxy.address(), "bucket", "a"), &environment, wipe());
    let mut child = job.command().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("the first packs to go", || (count(FileKind::Pack) < all).then_some(()));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(count(FileKind::Pack) > 0, "it was killed too late");
    // Nobody opens it, and nobody makes another among its remains.
    assert_eq!((count(FileKind::Snapshot), count(FileKind::Index), count(FileKind::Key)), (0, 0, 1));
    let mut command = clean(Command::new("restic"));
    command.args(["--no-cache", "--repo", &address, "snapshots"]).env("RESTIC_PASSWORD", PASSWORD);
    let opened = command.envs(minio.environment()).output().unwrap();
    assert!(!opened.status.success(), "{opened:?}");
    let ended = files(&address, &environment, backup(&one)).run();
    assert!(ended.report.error.is_some() && count(FileKind::Snapshot) == 0, "{}", ended.said);

    assert!(removed(&files(&address, &environment, wipe()).run()) > 0);
    for kind in FileKind::LISTED {
        assert_eq!(count(kind), 0, "{kind:?}");
    }
    files(&address, &environment, backup(&one)).run().backup();
    restic(&minio, &address, &["check", "--read-data"]);
}

#[test]
fn test_a_folder_goes_too() {
    let restic = Restic::init();
    let (_folder, one, _) = sources();
    restic.backup([&one]);
    let ended = Files::maintain(&restic, MaintainTask { wipe_out: true, ..MaintainTask::default() }).run();
    assert!(removed(&ended) > 0);
    assert!(!restic.path().join("config").exists());
}

//! The node daemon and its keeper: many mounts over the control API, which outlive both processes.

mod idmapped;
mod overlay;
mod shared;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::fs::Advice;
use stash_control::control_client::ControlClient;
use stash_control::{
    Code, Connection, DropRequest, ListRequest, Mount, MountRequest, Repository, StatsRequest, UnmountRequest,
    WarmRequest, mount_request,
};
use stash_tests::fixture::rounds;
use stash_tests::mounted::{mounted_device, stash_fs, unmount_when_free, wait_for};
use stash_tests::restic::Restic;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// A keeper and a daemon, as two containers of a node would be: somebody else starts them again.
struct Node {
    folder: TempDir,
    keeper: Child,
    daemon: Child,
    runtime: Runtime,
}

impl Node {
    fn start() -> Self {
        let folder = TempDir::with_prefix("stash-fs-node-").unwrap();
        for volume in ["v1", "v2", "v3"] {
            fs::create_dir_all(folder.path().join("base").join(volume)).unwrap();
        }
        let keeper = Self::keep(folder.path());
        let daemon = Self::serve(folder.path());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Self { folder, keeper, daemon, runtime }
    }

    fn log(folder: &Path) -> Stdio {
        File::options().create(true).append(true).open(folder.join("log")).unwrap().into()
    }

    fn spawn(mut command: Command, folder: &Path) -> Child {
        command
            .env("RUST_LOG", "stash_fs=info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Self::log(folder))
            .spawn()
            .unwrap()
    }

    fn keep(folder: &Path) -> Child {
        let mut command = stash_fs();
        command.args(["keep", "--max-pause", "60s", "--socket"]).arg(folder.join("keeper.sock"));
        command.arg("--base").arg(folder.join("base"));
        command.arg("--scratch").arg(folder.join("scratch")).args(["--scratch-max", "2G"]);
        drop(fs::remove_file(folder.join("keeper.sock")));
        let child = Self::spawn(command, folder);
        wait_for("the keeper's socket", || folder.join("keeper.sock").exists().then_some(()));
        child
    }

    fn serve(folder: &Path) -> Child {
        let mut command = stash_fs();
        command
            .args(["--no-cache", "--memory", "96M", "serve", "--allow-local", "--keeper"])
            .arg(folder.join("keeper.sock"));
        command.arg("--control").arg(folder.join("control.sock"));
        drop(fs::remove_file(folder.join("control.sock")));
        let child = Self::spawn(command, folder);
        wait_for("the control socket", || folder.join("control.sock").exists().then_some(()));
        child
    }

    fn restart_daemon(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
        self.daemon = Self::serve(self.folder.path());
    }

    fn restart_keeper(&mut self) {
        let filled = || {
            let said = fs::read_to_string(self.folder.path().join("log")).unwrap();
            said.matches("another one holds the mounts now").count()
        };
        let before = filled();
        self.keeper.kill().unwrap();
        self.keeper.wait().unwrap();
        self.keeper = Self::keep(self.folder.path());
        // Until the daemon has filled it, the daemon's end is the end of the mounts.
        wait_for("the keeper is filled", || (filled() > before).then_some(()));
    }

    fn volume(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join("base").join(name)
    }

    fn client(&self) -> ControlClient<Connection> {
        let path = self.folder.path().join("control.sock");
        wait_for("a control connection", || self.runtime.block_on(stash_control::connect(&path)).ok())
    }

    fn mount(&self, request: MountRequest) -> Result<String, Code> {
        let reply = self.runtime.block_on(self.client().mount(request));
        reply.map(|reply| reply.into_inner().snapshot).map_err(|error| error.code())
    }

    fn unmount(&self, name: &str, lazy: bool) -> Result<(), Code> {
        let request = UnmountRequest { name: name.into(), lazy };
        self.runtime.block_on(self.client().unmount(request)).map(drop).map_err(|error| error.code())
    }

    /// Unmounts a volume once nothing of it is open.
    #[track_caller]
    fn unmount_when_free(&self, name: &str) {
        unmount_when_free(|| match self.unmount(name, false) {
            Err(Code::FailedPrecondition) => None,
            ended => ended.map(Some).unwrap(),
        });
    }

    fn list(&self) -> Vec<Mount> {
        self.runtime.block_on(self.client().list(ListRequest {})).unwrap().into_inner().mounts
    }

    /// Waits until all mounts are served.
    fn settle(&self, mounts: usize) {
        wait_for("all mounts are served", || {
            let list = self.list();
            (list.len() == mounts && list.iter().all(|mount| mount.trouble.is_empty())).then_some(())
        });
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for child in [&mut self.daemon, &mut self.keeper] {
            drop(child.kill());
            drop(child.wait());
        }
        for volume in fs::read_dir(self.folder.path().join("base")).into_iter().flatten().flatten() {
            let _ = rustix::mount::unmount(volume.path(), rustix::mount::UnmountFlags::DETACH);
        }
        if std::thread::panicking() {
            println!("{}", fs::read_to_string(self.folder.path().join("log")).unwrap_or_default());
        }
    }
}

fn repository() -> (Restic, PathBuf) {
    let restic = Restic::init();
    let source = restic.scratch().join("source");
    fs::create_dir_all(source.join("dir")).unwrap();
    fs::write(source.join("big"), vec![b'x'; 5 << 20]).unwrap();
    for file in 0..100 {
        fs::write(source.join(format!("dir/f{file}")), format!("{file}")).unwrap();
    }
    restic.backup([&source]);
    (restic, source)
}

fn request(restic: &Restic, source: &Path, volume: &str) -> MountRequest {
    MountRequest {
        name: volume.into(),
        place: Some(mount_request::Place::Volume(volume.into())),
        repository: Some(Repository {
            address: restic.path().to_str().unwrap().into(),
            password: restic.password().into(),
            ..Repository::default()
        }),
        snapshot: format!("latest:{}", source.display()),
        ..MountRequest::default()
    }
}

#[test]
fn test_calls_are_idempotent_and_refused_by_their_codes() {
    let (restic, source) = repository();
    let node = Node::start();
    let first = request(&restic, &source, "v1");
    let snapshot = node.mount(first.clone()).unwrap();
    assert_eq!(snapshot.len(), 64);
    let device = mounted_device(&node.volume("v1")).unwrap();
    assert_eq!(node.mount(first.clone()), Ok(snapshot.clone()), "the same again is the same");
    assert_eq!(mounted_device(&node.volume("v1")), Some(device));

    let change = |change: fn(&mut MountRequest)| {
        let mut changed = request(&restic, &source, "v2");
        change(&mut changed);
        changed
    };
    let table = [
        (change(|request| request.name = "v1".into()), Code::AlreadyExists),
        (change(|request| request.place = Some(mount_request::Place::Volume("v1".into()))), Code::AlreadyExists),
        (change(|request| request.place = Some(mount_request::Place::Volume("../v2".into()))), Code::InvalidArgument),
        (change(|request| request.place = Some(mount_request::Place::Volume("nothing".into()))), Code::NotFound),
        (change(|request| request.repository.as_mut().unwrap().password = "wrong".into()), Code::Unauthenticated),
        (change(|request| request.repository.as_mut().unwrap().address = "/nowhere".into()), Code::NotFound),
        (change(|request| request.snapshot = "0000dead".into()), Code::NotFound),
        (change(|request| request.snapshot = "latest:/nowhere".into()), Code::InvalidArgument),
    ];
    for (request, code) in table {
        let shown = format!("{request:?}");
        assert_eq!(node.mount(request), Err(code), "{shown}");
    }
    assert_eq!(node.list().len(), 1, "what failed left nothing");

    // A second mount of the same repository shares it; everything belongs to its user.
    let second = MountRequest { uid: Some(1234), gid: Some(5678), ..request(&restic, &source, "v2") };
    node.mount(second).unwrap();
    let metadata = fs::metadata(node.volume("v2").join("big")).unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), (1234, 5678));
    let stats = node.runtime.block_on(node.client().stats(StatsRequest {})).unwrap().into_inner();
    assert_eq!((stats.repositories.len(), stats.repositories[0].mounts), (1, 2));
    assert_eq!(stats.memory_limit_bytes, 96 << 20);
    let warm = |path: &str| {
        let request = WarmRequest { name: "v1".into(), path: path.into() };
        node.runtime.block_on(node.client().warm(request)).map(|reply| reply.into_inner()).map_err(|error| error.code())
    };
    let reply = warm("").unwrap();
    assert_eq!((reply.files, reply.bytes), (101, (5 << 20) + 190));
    assert_eq!(warm("dir/f7").unwrap().files, 1);
    assert_eq!(warm("nothing"), Err(Code::NotFound));

    let drop_it = || {
        let request = DropRequest { repository: restic.path().to_str().unwrap().into() };
        node.runtime.block_on(node.client().drop(request)).unwrap().into_inner().dropped
    };
    assert_eq!(drop_it(), 0, "it is in use");
    let open = File::open(node.volume("v2").join("big")).unwrap();
    assert_eq!(node.unmount("v2", false), Err(Code::FailedPrecondition), "it is in use");
    drop(open);
    for volume in ["v1", "v2", "v2", "v3"] {
        node.unmount_when_free(volume);
        assert_eq!(mounted_device(&node.volume(volume)), None);
    }
    wait_for("it is dropped", || (drop_it() == 1).then_some(()));
    assert_eq!(node.list(), []);
}

#[test]
fn test_without_allow_local_no_path_and_no_own_address_is_opened() {
    let (restic, source) = repository();
    let mut node = Node::start();
    node.daemon.kill().unwrap();
    node.daemon.wait().unwrap();
    let folder = node.folder.path().to_owned();
    let mut command = stash_fs();
    command.args(["--no-cache", "serve", "--keeper"]).arg(folder.join("keeper.sock"));
    command.arg("--control").arg(folder.join("control.sock"));
    drop(fs::remove_file(folder.join("control.sock")));
    node.daemon = Node::spawn(command, &folder);
    for address in [
        restic.path().to_str().unwrap(),
        "sftp:host:/x",
        "rclone:x:y",
        "rest:http://127.0.0.1:9/",
        "rest:http://169.254.169.254/",
    ] {
        let mut request = request(&restic, &source, "v1");
        request.repository.as_mut().unwrap().address = address.into();
        let code = node.mount(request).unwrap_err();
        assert!(
            matches!(code, Code::InvalidArgument | Code::Unavailable | Code::Unauthenticated),
            "{address}: {code:?}"
        );
    }
    assert_eq!(node.list(), []);
}

#[test]
fn soak_volumes_outlive_daemon_and_keeper() {
    let (restic, source) = repository();
    let mut node = Node::start();
    let id = node.mount(request(&restic, &source, "v1")).unwrap();
    // One session each, and one for both.
    let pinned = |volume: &str| MountRequest {
        snapshot: format!("{id}:{}", source.display()),
        ..request(&restic, &source, volume)
    };
    node.mount(pinned("v2")).unwrap();
    let big = File::open(node.volume("v1").join("big")).unwrap();
    let device = mounted_device(&node.volume("v1"));
    let mut reader = Command::new("sh")
        .args(["-c", "while [ ! -e \"$1\" ]; do cat dir/f* > /dev/null || exit 1; done", "sh"])
        .arg(node.folder.path().join("stop"))
        .current_dir(node.volume("v2"))
        .spawn()
        .unwrap();
    for round in 0..rounds() {
        match round % 4 {
            0 | 1 => node.restart_daemon(),
            2 => {
                // An end in order: nothing is unmounted.
                rustix::process::kill_process(
                    rustix::process::Pid::from_child(&node.daemon),
                    rustix::process::Signal::TERM,
                )
                .unwrap();
                assert!(node.daemon.wait().unwrap().success());
                node.daemon = Node::serve(node.folder.path());
            }
            _ => node.restart_keeper(),
        }
        rustix::fs::fadvise(&big, 0, None, Advice::DontNeed).unwrap();
        let mut bytes = vec![0; 5 << 20];
        big.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes.iter().all(|byte| *byte == b'x'));
        node.settle(2 + usize::from(round % 3 == 1));
        match round % 3 {
            0 => drop(node.mount(pinned("v3")).unwrap()),
            1 => node.unmount_when_free("v3"),
            _ => assert_eq!(mounted_device(&node.volume("v3")), None),
        }
    }
    node.unmount_when_free("v3");
    fs::write(node.folder.path().join("stop"), "").unwrap();
    assert!(reader.wait().unwrap().success(), "a reader in a working directory of the mount noticed");
    assert_eq!(mounted_device(&node.volume("v1")), device);
    drop(big);
    // The next daemon knows the request: the same is the same, and it unmounts what it did not mount.
    assert!(node.mount(request(&restic, &source, "v1")).is_ok());
    for volume in ["v1", "v2"] {
        node.unmount_when_free(volume);
    }
    assert_eq!(node.list(), []);
}

#[test]
fn test_both_killed_and_what_they_left_is_detached() {
    let (restic, source) = repository();
    let mut node = Node::start();
    node.mount(request(&restic, &source, "v1")).unwrap();
    let file = File::open(node.volume("v1").join("big")).unwrap();
    for child in [&mut node.keeper, &mut node.daemon] {
        child.kill().unwrap();
    }
    for child in [&mut node.keeper, &mut node.daemon] {
        child.wait().unwrap();
    }
    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).unwrap();
    assert!(file.read_at(&mut [0; 16], 0).is_err(), "an error, not a reader that hangs");
    drop(file);
    node.keeper = Node::keep(node.folder.path());
    node.daemon = Node::serve(node.folder.path());
    wait_for("the dead mount is detached", || mounted_device(&node.volume("v1")).is_none().then_some(()));
    assert_eq!(node.list(), []);
    assert!(node.mount(request(&restic, &source, "v1")).is_ok());
}

//! Snapshots as volumes: how soon a published one gives its first byte, whether reading through it costs more than a mount of one's own,
//! and what a copy of it costs. The store is MinIO on this machine; the test plays kubelet.

use std::cell::RefCell;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use stash_csi::proto::v1::volume_capability::access_mode::Mode;
use stash_csi::proto::v1::volume_capability::{AccessMode, AccessType, MountVolume};
use stash_csi::proto::v1::{NodePublishVolumeRequest, VolumeCapability};
use stash_proto::job::{JobSpec, JobTask, RepositoryAccess, RestoreSource, RestoreTask, VERSION};
use stash_tests::cluster::ApiServer;
use stash_tests::csi::{Driver, NODE, Node};
use stash_tests::mounted::clean;
use stash_tests::servers::Minio;
use tokio::runtime::Runtime;

use crate::data;
use crate::measure::{percentile, sequential, small_files, walk};
use crate::peers::{Peer, Target};
use crate::process::Mount;
use crate::report::Report;

const GIB: f64 = (1u64 << 30) as f64;
/// How often a volume is published for its figure.
const PUBLISHED: usize = 20;
/// What the daemon of the harness has; a mount that is compared with it gets the same.
const MEMORY: &str = "96M";
/// What a published volume may take until its first byte, in milliseconds.
const FIRST_BYTE_LIMIT: f64 = 300.0;

/// A node with a driver, and an API server that knows a Repository and a pod.
struct World {
    node: Node,
    driver: Driver,
    server: ApiServer,
    runtime: Runtime,
    request: NodePublishVolumeRequest,
}

pub(crate) fn run(work: &Path, peers: &[Peer], runs: usize, report: &mut Report) -> Result<()> {
    let source = work.join("tree-remote");
    data::make(&source, &data::REMOTE)?;
    let minio = Minio::start();
    minio.create_bucket("bench");
    let mut env: Vec<(String, OsString)> = vec![("RESTIC_PASSWORD".into(), "bench".into())];
    env.extend(minio.environment().into_iter().map(|(name, value)| (name, value.into())));
    let inside = source.strip_prefix("/")?.to_owned();
    let target = Target { address: minio.repository("bench", "repo"), env, inside, work: work.join("volume") };
    fs::create_dir_all(&target.work)?;
    target.prepare(&source)?;
    let Some(Peer::Ours { program }) = peers.first() else { return Ok(()) };

    let world = World::start(&minio, &target)?;
    let first = world.first_byte(&target)?;
    report.add("volume", "publish to first byte, first on the node", "ms", first.as_secs_f64() * 1e3);
    let mut warm = (0..PUBLISHED).map(|_| world.first_byte(&target)).collect::<Result<Vec<_>>>()?;
    report.add("volume", "publish to first byte, p50", "ms", percentile(&mut warm, 50).as_secs_f64() * 1e3);
    let slowest = percentile(&mut warm, 95).as_secs_f64() * 1e3;
    report.add("volume", "publish to first byte, p95", "ms", slowest);
    for run in 0..runs {
        eprintln!("volume run {} of {runs}", run + 1);
        let tree = world.place().join(&target.inside);
        read("volume", &tree, &source, report, || world.publish(), || world.unpublish())?;
        read("overlay", &tree, &source, report, || world.publish_overlay(), || world.unpublish())?;
        let at = target.work.join("mnt-own");
        let (args, log) = (own_mount(&target, &at), target.work.join("own.log"));
        let mount = RefCell::new(None);
        let tree = at.join("snapshots/latest").join(&target.inside);
        let mounted = || {
            *mount.borrow_mut() = Some(Mount::start(program, &args, &target.env, &at, "snapshots", &log)?);
            Ok(())
        };
        let unmounted = || drop(mount.borrow_mut().take());
        read("mount", &tree, &source, report, mounted, unmounted)?;
        for peer in peers {
            copy(peer, &target, report)?;
        }
        copy_by_volume(program, &world, &target, report)?;
    }
    drop(world);
    report.at_most("volume: publish to first byte, p95 (ms)", slowest, "300 ms", FIRST_BYTE_LIMIT, 1.0);
    for what in ["volume: sequential, cold", "volume: walk, cold", "volume: small files, cold"] {
        let (volume, own) = (report.median("volume", what), report.median("mount", what));
        report.at_most(what, volume, "a mount of one's own", own, 1.0 / 0.9);
        let written = report.median("overlay", what);
        report.at_most(&what.replace("volume", "overlay"), written, "a volume that is only read", volume, 1.0 / 0.9);
    }
    let what = "copy of the tree to an empty folder";
    let restic = report.median("restic", what);
    report.faster(what, report.median("stash-fs", what), "restic restore", restic, 1.0);
    report.faster("the same through a volume", report.median("volume", what), "restic restore", restic, 1.0);
    Ok(())
}

/// Reads what is shown in the ways that matter, each time after it was shown anew.
fn read(
    who: &str,
    tree: &Path,
    source: &Path,
    report: &mut Report,
    show: impl Fn() -> Result<()>,
    hide: impl Fn(),
) -> Result<()> {
    // What the step before left to be written to the disk is none of ours.
    rustix::fs::sync();
    show()?;
    let (bytes, elapsed) = sequential(&tree.join("big/big.bin"))?;
    report.add(who, "volume: sequential, cold", "s/GiB", elapsed.as_secs_f64() * GIB / bytes as f64);
    hide();
    show()?;
    report.add(who, "volume: walk, cold", "s", walk(tree)?.1.as_secs_f64());
    hide();
    show()?;
    report.add(who, "volume: small files, cold", "s", small_files(source, tree)?.1.as_secs_f64());
    hide();
    Ok(())
}

fn own_mount(target: &Target, at: &Path) -> Vec<OsString> {
    let words = ["--no-cache", "--memory", MEMORY, "-r", &target.address, "mount"];
    words.into_iter().map(OsString::from).chain([at.into()]).collect()
}

/// Copies the newest snapshot to an empty folder.
fn copy(peer: &Peer, target: &Target, report: &mut Report) -> Result<()> {
    let program = match peer {
        Peer::Ours { program } => program.clone(),
        Peer::Restic => PathBuf::from("restic"),
        Peer::Rustic { .. } => return Ok(()),
    };
    let into = target.work.join("copied");
    fs::create_dir_all(&into)?;
    let mut command = clean(Command::new(&program));
    command.args(["--no-cache", "-r", &target.address, "restore", "latest", "--target"]).arg(&into);
    command.envs(target.env.iter().map(|(name, value)| (name, value)));
    rustix::fs::sync();
    let started = Instant::now();
    let output = command.output().with_context(|| format!("run {}", program.display()))?;
    let elapsed = started.elapsed();
    ensure!(output.status.success(), "{}: {}", program.display(), String::from_utf8_lossy(&output.stderr));
    report.add(peer.name(), "copy of the tree to an empty folder", "s", elapsed.as_secs_f64());
    fs::remove_dir_all(&into)?;
    Ok(())
}

/// The same as a Job of a RestoreSession does it, from a volume that is mounted anew.
fn copy_by_volume(program: &Path, world: &World, target: &Target, report: &mut Report) -> Result<()> {
    let into = target.work.join("copied");
    let path = Path::new("/").join(&target.inside).display().to_string();
    let root = world.place().display().to_string();
    let task = RestoreTask {
        sources: vec![RestoreSource::Mounted { snapshot: "latest".to_owned(), root, paths: vec![path.clone()] }],
        mounts: vec![path],
        root: Some(into.display().to_string()),
        ..RestoreTask::default()
    };
    fs::create_dir_all(into.join(&target.inside))?;
    let spec = JobSpec {
        version: VERSION,
        repository: RepositoryAccess::default(),
        dead_hosts: Vec::new(),
        task: JobTask::Restore(task),
    };
    let (file, outcome) = (target.work.join("spec.json"), target.work.join("report.json"));
    fs::write(&file, serde_json::to_vec(&spec)?)?;
    let mut command = clean(Command::new(program));
    command.args(["job", "--spec"]).arg(&file).arg("--report").arg(&outcome);
    rustix::fs::sync();
    world.publish()?;
    let started = Instant::now();
    let output = command.output().with_context(|| format!("run {}", program.display()))?;
    let elapsed = started.elapsed();
    world.unpublish();
    ensure!(output.status.success(), "{}: {}", program.display(), String::from_utf8_lossy(&output.stderr));
    report.add("volume", "copy of the tree to an empty folder", "s", elapsed.as_secs_f64());
    fs::remove_dir_all(&into)?;
    Ok(())
}

impl World {
    fn start(minio: &Minio, target: &Target) -> Result<Self> {
        let server = ApiServer::start();
        for definition in stash_crds::definitions() {
            server.kubectl().apply(&serde_json::to_value(definition)?);
        }
        server.kubectl().wait_for_definitions();
        let namespace = server.namespace();
        let mut keys = json!({"RESTIC_PASSWORD": "bench"});
        for (name, value) in minio.environment() {
            keys[name] = json!(value);
        }
        namespace
            .apply(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "stringData": keys}));
        let endpoint = format!("http://{}", minio.address());
        namespace.apply(json!({
            "apiVersion": "stash.appscode.com/v1alpha1", "kind": "Repository", "metadata": {"name": "repo"},
            "spec": {"backend": {"storageSecretName": "keys",
                "s3": {"endpoint": endpoint, "bucket": "bench", "prefix": "repo"}}}
        }));
        let snapshots: Vec<Value> = serde_json::from_slice(&target.restic(&["snapshots", "--json", "--quiet"])?)?;
        let id = snapshots.last().and_then(|one| one["id"].as_str()).context("no snapshot")?.to_owned();
        namespace.apply(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "reader"},
            "spec": {
                "nodeName": NODE, "containers": [{"name": "c", "image": "localhost/none:1"}],
                "volumes": [{"name": "data", "csi": {"driver": "fs.stash.appscode.com"}}],
            },
        }));
        let uid = namespace.get("pod/reader")["metadata"]["uid"].as_str().context("no uid")?.to_owned();
        let name = namespace.name().to_owned();
        // It stays as long as the server does.
        std::mem::forget(namespace);
        let node = Node::start();
        let driver = Driver::start(&node, server.kubectl().kubeconfig(), &[]);
        let context = [
            ("csi.storage.k8s.io/pod.name", "reader"),
            ("csi.storage.k8s.io/pod.namespace", &name),
            ("csi.storage.k8s.io/pod.uid", &uid),
            ("csi.storage.k8s.io/serviceAccount.name", "default"),
            ("csi.storage.k8s.io/ephemeral", "true"),
            ("repository", "repo"),
            ("snapshot", &id),
        ];
        let mode = AccessMode { mode: Mode::SingleNodeWriter.into() };
        let mount = AccessType::Mount(MountVolume::default());
        let request = NodePublishVolumeRequest {
            volume_id: format!("csi-{uid}"),
            target_path: node.volume(&uid, "data").display().to_string(),
            volume_capability: Some(VolumeCapability { access_mode: Some(mode), access_type: Some(mount) }),
            volume_context: context.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            ..NodePublishVolumeRequest::default()
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        Ok(Self { node, driver, server, runtime, request })
    }

    fn place(&self) -> PathBuf {
        PathBuf::from(&self.request.target_path)
    }

    fn publish(&self) -> Result<()> {
        Ok(self.driver.publish(&self.runtime, self.request.clone())?)
    }

    /// The same volume, which can be written to.
    fn publish_overlay(&self) -> Result<()> {
        let mut request = self.request.clone();
        let more = [("mode", "overlay"), ("scratchSize", "64Mi")];
        request.volume_context.extend(more.map(|(name, value)| (name.to_owned(), value.to_owned())));
        Ok(self.driver.publish(&self.runtime, request)?)
    }

    fn unpublish(&self) {
        self.driver.unpublish(&self.runtime, &self.request);
    }

    /// Publishes, reads a byte of a file deep in the tree, and takes the volume away. The store and the API server are on this machine.
    fn first_byte(&self, target: &Target) -> Result<Duration> {
        let started = Instant::now();
        self.publish()?;
        let mut file = File::open(self.place().join(&target.inside).join("big/big.bin"))?;
        file.read_exact(&mut [0])?;
        let elapsed = started.elapsed();
        drop(file);
        self.unpublish();
        Ok(elapsed)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}{}", self.node.log(), self.server.kubectl().run(&["get", "events", "-A"]));
        }
    }
}

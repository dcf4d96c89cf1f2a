//! A real Kubernetes: one node, started once for all tests of a process ([`Cluster`]), or an API server alone
//! ([`ApiServer`]). What they consist of is in `tests/cluster`.

use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, mpsc};
use std::time::{Duration, Instant};

mod api_server;
mod image;
mod kubectl;
mod machine;

pub use api_server::ApiServer;
pub use image::Image;
pub use kubectl::{Kubectl, Namespace};
pub use machine::Machine;

/// Longer than anything in a cluster takes on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(300);

/// The image that a pod may use without importing one: Debian's static busybox, with `sh` as its command.
pub const BUSYBOX: &str = "localhost/busybox:1";

/// Where the cluster keeps everything, see `tests/cluster/cluster.sh`.
const STATE: &str = "/var/tmp/stash-fs-cluster";

/// Waits until `condition` gives something, or panics with `what`. For what asks the cluster: its looks are seldom.
pub fn wait_until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < LIMIT, "waited {} s for {what}", LIMIT.as_secs());
        // A pause between two looks at a condition, not a wait for time to pass.
        std::thread::park_timeout(Duration::from_millis(200));
    }
}

/// Waits until no other test has a controller on the whole cluster: two would bind each other's Roles to their own accounts. Taken before
/// the cluster.
pub fn only_controller() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether pods of the node are evicted.
static NODE: RwLock<()> = RwLock::new(());

/// Has no test evict the node's pods while it is held, for those whose pods are alone.
pub fn no_drain() -> RwLockReadGuard<'static, ()> {
    NODE.read().unwrap_or_else(PoisonError::into_inner)
}

/// Has those wait who cannot do without the node's pods, for who evicts them.
pub fn drain() -> RwLockWriteGuard<'static, ()> {
    NODE.write().unwrap_or_else(PoisonError::into_inner)
}

/// The one cluster of this process. It ends with the process, however that ends: it reads from a pipe that we hold.
static RUNNING: RwLock<Option<Running>> = RwLock::new(None);

/// The running cluster, shared by the tests.
#[derive(Debug)]
pub struct Cluster {
    running: Guard,
}

#[derive(Debug)]
enum Guard {
    Shared(RwLockReadGuard<'static, Option<Running>>),
    Alone(ExclusiveCluster),
}

impl Cluster {
    /// Starts it, if no test before has.
    ///
    /// With `STASH_FS_CLUSTER=attach` in the environment it is the one of `make cluster`, which goes on afterwards.
    pub fn start() -> Self {
        loop {
            let running = RUNNING.read().unwrap_or_else(PoisonError::into_inner);
            if running.is_some() {
                return Self { running: Guard::Shared(running) };
            }
            drop(running);
            drop(ExclusiveCluster::start());
        }
    }

    /// The same while no other test uses it, for tests that do something to its node.
    pub fn start_alone() -> Self {
        Self { running: Guard::Alone(ExclusiveCluster::start()) }
    }

    fn running(&self) -> &Running {
        let running = match &self.running {
            Guard::Shared(running) => running.as_ref(),
            Guard::Alone(cluster) => cluster.running.as_ref(),
        };
        running.expect("start() has put it there")
    }

    /// Has the node lose its power, and returns when it has started again: what ran there ended at once, and what was mounted is gone.
    /// For who is alone.
    pub fn lose_power(&self) {
        assert!(matches!(self.running, Guard::Alone(_)), "other tests have pods on the node");
        let boots = || std::fs::read_to_string(format!("{STATE}/lib/cluster/boots")).unwrap();
        let before = boots();
        assert!(script("reboot").status().unwrap().success());
        wait_until("the node to start again", || (boots() != before).then_some(()));
    }

    /// A client with all rights.
    pub fn kubectl(&self) -> &Kubectl {
        &self.running().kubectl
    }

    /// A namespace that is deleted after the test; if that fails, what is in it is printed before.
    pub fn namespace(&self) -> Namespace<'_> {
        Namespace::create(self.kubectl(), true)
    }

    /// The address of this machine that pods reach, for servers of a test.
    pub fn host(&self) -> IpAddr {
        Ipv4Addr::new(198, 18, 255, 1).into()
    }

    /// A command that runs on the node: with its mounts, its network and its processes.
    pub fn on_node(&self, program: &str) -> Command {
        let mut command = script("enter");
        command.arg(program);
        command
    }

    /// A path of the node as one of this machine, with what is mounted there.
    pub fn node_path(&self, path: impl AsRef<Path>) -> PathBuf {
        let pid = std::fs::read_to_string(format!("{STATE}/pid")).unwrap();
        Path::new("/proc").join(pid.trim()).join("root").join(path.as_ref().strip_prefix("/").unwrap())
    }

    /// Gives an image to the node. Pods that use it say `imagePullPolicy: Never`, or have another tag than `latest`.
    pub fn import(&self, image: &Image) {
        let mut import = self.on_node("ctr");
        import.args(["--namespace", "k8s.io", "images", "import", "-"]);
        let mut child = import.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        image.write(child.stdin.take().expect("it is a pipe"));
        assert!(child.wait().unwrap().success(), "{import:?}");
    }
}

/// The cluster while no other test uses it, for tests that stop it or harm it.
#[derive(Debug)]
pub struct ExclusiveCluster {
    running: RwLockWriteGuard<'static, Option<Running>>,
}

impl ExclusiveCluster {
    /// Waits for the tests that use it to end, and starts it, if no test before has.
    pub fn start() -> Self {
        let mut running = RUNNING.write().unwrap_or_else(PoisonError::into_inner);
        if running.is_none() {
            *running = Some(Running::start());
        }
        Self { running }
    }

    /// Kills the process that holds it, and starts another.
    pub fn kill_and_start(&mut self) {
        let running = self.running.take().expect("start() has put it there");
        let before = running.before.clone();
        running.owner.expect("not with an attached cluster").kill().unwrap();
        *self.running = Some(Running { before, ..Running::start() });
    }

    /// Stops it and returns what the machine was before it was started.
    pub fn stop(&mut self) -> Machine {
        let running = self.running.take().expect("start() has put it there");
        let mut owner = running.owner.expect("not with an attached cluster");
        drop(owner.stdin.take());
        wait_until("the end of the cluster", || owner.try_wait().unwrap());
        running.before
    }
}

#[derive(Debug)]
struct Running {
    /// `cluster.sh run`; none if the cluster is not ours.
    owner: Option<Child>,
    kubectl: Kubectl,
    before: Machine,
}

impl Running {
    fn start() -> Self {
        let before = Machine::observe();
        let attach = std::env::var_os("STASH_FS_CLUSTER").is_some_and(|value| value == "attach");
        let owner = if attach { None } else { Some(run()) };
        Self { owner, kubectl: Kubectl::new(Path::new(STATE).join("lib/cluster/admin.conf")), before }
    }
}

fn script(verb: &str) -> Command {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster/cluster.sh"));
    command.arg(verb);
    command
}

fn run() -> Child {
    let stderr = tempfile::NamedTempFile::new().unwrap();
    let mut command = script("run");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr.reopen().unwrap());
    let mut owner = command.spawn().unwrap();
    let stdout = owner.stdout.take().expect("it is a pipe");
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = BufReader::new(stdout).read_line(&mut line).map(|_| line);
        // The test may have given up.
        drop(sender.send(read));
    });
    match receiver.recv_timeout(LIMIT) {
        Ok(Ok(line)) if line == "ready\n" => owner,
        other => {
            let said = std::fs::read_to_string(stderr.path()).unwrap();
            panic!("the cluster does not start, it said {other:?}: {said}");
        }
    }
}

/// What the programs of the node wrote last, for a test that failed.
fn print_logs() {
    for program in ["kube-controller-manager", "kube-scheduler", "kubelet", "provisioner"] {
        let log = std::fs::read_to_string(format!("{STATE}/log/{program}.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        eprintln!("--- {program}\n{}", lines[lines.len().saturating_sub(20)..].join("\n"));
    }
}

//! The controller as a process, against an API server of which the test plays the nodes.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::json;

use crate::cluster::{Cluster, Image, wait_until};
use crate::mounted::{program, sibling};
use crate::servers::free_port;

mod rights;

pub use rights::kubeconfig_of;

/// The image that Jobs name. Nobody pulls it: it is given to the node of a cluster, and on an API server alone nobody asks for it.
pub const IMAGE: &str = "localhost/stash-fs:test";

/// Gives the image of Jobs to the node: the program that was built, and nothing else.
pub fn import_image(cluster: &Cluster) {
    let config = json!({"Entrypoint": ["/usr/bin/stash-fs"], "Env": ["PATH=/usr/bin"]});
    cluster.import(&Image::new(IMAGE, config).file("/usr/bin/stash-fs", &program()));
}

/// The namespace that it is to be in.
fn namespace<'a>(arguments: &[&'a str]) -> &'a str {
    arguments.iter().skip_while(|argument| **argument != "--namespace").nth(1).unwrap_or(&"default")
}

/// A running controller. It ends, by its process id, when it is dropped.
#[derive(Debug)]
pub struct Controller {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
}

impl Controller {
    /// Starts it with the rights that the chart gives it, and waits until it is ready. Its log goes to `log`. `kubeconfig` may do all.
    pub fn start(kubeconfig: &Path, log: &Path, arguments: &[&str]) -> Self {
        Self::start_as(&rights::restricted(kubeconfig, namespace(arguments)), log, arguments)
    }

    /// Starts it with the rights that an earlier one has left.
    pub fn start_again(kubeconfig: &Path, log: &Path, arguments: &[&str]) -> Self {
        Self::start_as(&rights::restricted_path(kubeconfig, namespace(arguments)), log, arguments)
    }

    /// Starts it with the rights of a kubeconfig.
    pub fn start_as(kubeconfig: &Path, log: &Path, arguments: &[&str]) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let file = fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        let mut command = Command::new(sibling("stash-controller"));
        command.env_clear().env("KUBECONFIG", kubeconfig).env("RUST_LOG", "warn,stash_controller=debug");
        command.args(["--image", IMAGE, "--listen", &address.to_string()]).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        let child = command.spawn().unwrap();
        let mut started = Self { child, address, log: log.to_owned() };
        wait_until("the controller to be ready", || {
            if let Some(status) = started.child.try_wait().unwrap() {
                panic!("the controller ended with {status}: {}", started.log());
            }
            started.get("/readyz").filter(|answer| answer.starts_with("HTTP/1.1 200"))
        });
        started
    }

    /// Returns what it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Returns its figures.
    pub fn metrics(&self) -> String {
        self.get("/metrics").expect("it serves them")
    }

    /// Returns the most memory that it had, in MB.
    pub fn peak_memory_mb(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux says it");
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1000.0
    }

    /// Returns how long processors worked for it, in seconds.
    pub fn cpu_seconds(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: f64 = fields[11..13].iter().map(|ticks| ticks.parse::<f64>().unwrap()).sum();
        ticks / 100.0
    }

    /// Ends it as a node that goes down does.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to end; returns whether it ended well.
    pub fn stop(mut self) -> bool {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap().success()
    }

    fn get(&self, path: &str) -> Option<String> {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect(self.address).ok()?;
        stream
            .write_all(format!("GET {path} HTTP/1.1\r\nHost: controller\r\nConnection: close\r\n\r\n").as_bytes())
            .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            eprintln!("--- the controller\n{}", self.log());
        }
    }
}

//! The CSI driver as a process, with a node daemon and a keeper, and the side of kubelet: it fills in which pod it is.

use std::convert::Infallible;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};
use stash_control::Connection;
use stash_csi::proto::v1::node_client::NodeClient;
use stash_csi::proto::v1::{NodeGetVolumeStatsRequest, NodePublishVolumeRequest, NodeUnpublishVolumeRequest};
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;

use crate::mounted::{clean, sibling, stash_fs, wait_for};

/// The name of the node on which the driver is.
pub const NODE: &str = "node-1";

/// A keeper and a daemon, below a directory that is kubelet's.
#[derive(Debug)]
pub struct Node {
    folder: tempfile::TempDir,
    path: PathBuf,
    keeper: Child,
    daemon: Child,
}

impl Node {
    /// Starts both.
    pub fn start() -> Self {
        let folder = tempfile::TempDir::with_prefix("stash-csi-").unwrap();
        let path = folder.path().canonicalize().unwrap();
        for name in ["kubelet/pods", "registry", "csi"] {
            fs::create_dir_all(path.join(name)).unwrap();
        }
        let keeper = keep(&path);
        let daemon = serve(&path);
        Self { folder, path, keeper, daemon }
    }

    /// A file of the node's own folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Kubelet's directory.
    pub fn kubelet(&self) -> PathBuf {
        self.path("kubelet")
    }

    /// Makes the folder of a pod's volume, as kubelet does; returns where the volume is to be mounted.
    pub fn volume(&self, uid: &str, volume: &str) -> PathBuf {
        let folder = self.kubelet().join(format!("pods/{uid}/volumes/kubernetes.io~csi/{volume}"));
        fs::create_dir_all(&folder).unwrap();
        folder.join("mount")
    }

    /// Kills the daemon, and starts another one.
    pub fn restart_daemon(&mut self) {
        end(&mut self.daemon);
        self.daemon = serve(&self.path);
    }

    /// What all processes logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// What is mounted below kubelet's directory.
    pub fn mounts(&self) -> Vec<PathBuf> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let places = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
        places.filter(|place| place.starts_with(&self.path)).collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        end(&mut self.daemon);
        end(&mut self.keeper);
        for mount in self.mounts() {
            unmount(&mount, UnmountFlags::DETACH).ok();
        }
        if std::thread::panicking() {
            eprintln!("--- the node in {}\n{}", self.folder.path().display(), self.log());
        }
    }
}

fn end(child: &mut Child) {
    child.kill().ok();
    child.wait().ok();
}

fn spawn(mut command: Command, folder: &Path) -> Child {
    let log = File::options().create(true).append(true).open(folder.join("log")).unwrap();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap()
}

fn keep(folder: &Path) -> Child {
    let socket = folder.join("keeper.sock");
    let mut command = stash_fs();
    command.args(["keep", "--socket"]).arg(&socket).arg("--base").arg(folder.join("kubelet"));
    command.arg("--scratch").arg(folder.join("scratch"));
    let child = spawn(command, folder);
    wait_for("the keeper's socket", || socket.exists().then_some(()));
    child
}

fn serve(folder: &Path) -> Child {
    let socket = folder.join("control.sock");
    fs::remove_file(&socket).ok();
    let mut command = stash_fs();
    command
        .args(["--no-cache", "--memory", "96M", "serve", "--allow-local", "--keeper"])
        .arg(folder.join("keeper.sock"));
    command.arg("--control").arg(&socket);
    let child = spawn(command, folder);
    wait_for("the control socket", || socket.exists().then_some(()));
    child
}

/// A running driver. It ends, by its process id, when it is dropped.
#[derive(Debug)]
pub struct Driver {
    child: Child,
    socket: PathBuf,
}

impl Driver {
    /// Starts it on a node with both services, and waits until it serves.
    pub fn start(node: &Node, kubeconfig: &Path, arguments: &[&str]) -> Self {
        let socket = node.path("csi/csi.sock");
        fs::remove_file(&socket).ok();
        let mut command = clean(Command::new(sibling("stash-csi")));
        command.env("KUBECONFIG", kubeconfig).env("RUST_LOG", "warn,stash_csi=debug");
        command.args(["--node", NODE, "--controller", "--endpoint"]).arg(&socket);
        command.arg("--daemon").arg(node.path("control.sock")).arg("--pins").arg(node.path("csi/pins"));
        command.arg("--kubelet-dir").arg(node.kubelet()).args(["--allow-address", "127.0.0.1"]).args(arguments);
        let mut started = Self { child: spawn(command, &node.path), socket };
        wait_for("the driver's socket", || {
            if let Some(status) = started.child.try_wait().unwrap() {
                panic!("the driver ended with {status}: {}", node.log());
            }
            started.socket.exists().then_some(())
        });
        started
    }

    /// Its socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Publishes a volume, as kubelet does.
    ///
    /// # Errors
    /// The driver's.
    pub fn publish(&self, runtime: &Runtime, request: NodePublishVolumeRequest) -> Result<(), Status> {
        runtime.block_on(async { nodes(&self.socket).await.node_publish_volume(request).await.map(drop) })
    }

    /// Takes away what was published.
    pub fn unpublish(&self, runtime: &Runtime, published: &NodePublishVolumeRequest) {
        let request = NodeUnpublishVolumeRequest {
            volume_id: published.volume_id.clone(),
            target_path: published.target_path.clone(),
        };
        runtime.block_on(async { nodes(&self.socket).await.node_unpublish_volume(request).await }).unwrap();
    }

    /// Ends it as a node that goes down does.
    pub fn kill(mut self) {
        end(&mut self.child);
    }

    /// Asks it to end.
    pub fn stop(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
    }

    /// Waits until it has ended.
    pub fn wait(mut self) -> ExitStatus {
        wait_for("the driver to end", || self.child.try_wait().unwrap())
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// Connects to the Node service.
pub async fn nodes(socket: &Path) -> NodeClient<Connection> {
    NodeClient::with_origin(connect(socket).await, origin())
}

/// Connects to a socket, for clients that tonic generates.
pub async fn connect(socket: &Path) -> Connection {
    Connection::open(socket).await.unwrap()
}

/// The host that a socket is called by.
pub fn origin() -> http::Uri {
    http::Uri::from_static("http://localhost")
}

/// Where kubelet mounts, instead of where csi-sanity wants it: below the folder of a pod's volume it is always `mount`.
const LEAVES: (&str, &str) = ("/target", "/mount");

/// Stands between csi-sanity and a driver as kubelet does: says which pod a volume is for, and calls the folder `mount`. Everything else
/// goes through as it is.
pub fn play_kubelet(runtime: &Runtime, at: &Path, driver: PathBuf, pod: Vec<(String, String)>) {
    let guard = runtime.enter();
    let listener = UnixListener::bind(at).unwrap();
    drop(guard);
    drop(runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (driver, pod) = (driver.clone(), pod.clone());
            drop(tokio::spawn(async move {
                let behind = connect(&driver).await;
                let service = hyper::service::service_fn(move |request: http::Request<Incoming>| {
                    let (mut behind, pod) = (behind.clone(), pod.clone());
                    async move {
                        let answer = behind.call(changed(request, &pod).await).await.unwrap();
                        Ok::<_, Infallible>(answer.map(Body::new))
                    }
                });
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                server.serve_connection(TokioIo::new(stream), service).await.ok();
            }));
        }
    }));
}

async fn changed(request: http::Request<Incoming>, pod: &[(String, String)]) -> http::Request<Body> {
    let (mut parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    parts.uri = format!("http://localhost{path}").parse().unwrap();
    let folder = |path: &mut String| {
        if let Some(parent) = path.strip_suffix(LEAVES.0) {
            *path = format!("{parent}{}", LEAVES.1);
        }
    };
    let body = match path.as_str() {
        "/csi.v1.Node/NodePublishVolume" => {
            rewritten(body, |message: &mut NodePublishVolumeRequest| {
                folder(&mut message.target_path);
                message.volume_context.extend(pod.iter().cloned());
            })
            .await
        }
        "/csi.v1.Node/NodeUnpublishVolume" => {
            rewritten(body, |message: &mut NodeUnpublishVolumeRequest| folder(&mut message.target_path)).await
        }
        "/csi.v1.Node/NodeGetVolumeStats" => {
            rewritten(body, |message: &mut NodeGetVolumeStatsRequest| folder(&mut message.volume_path)).await
        }
        _ => Body::new(body),
    };
    http::Request::from_parts(parts, body)
}

/// Changes the one message of a call: a byte that says "not compressed", its length, the message.
async fn rewritten<M: Message + Default>(body: Incoming, change: impl FnOnce(&mut M)) -> Body {
    let bytes = body.collect().await.unwrap().to_bytes();
    let mut message = M::decode(&bytes[5..]).unwrap();
    change(&mut message);
    let message = message.encode_to_vec();
    let mut framed = vec![0];
    framed.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    framed.extend(message);
    Body::new(Full::new(Bytes::from(framed)))
}

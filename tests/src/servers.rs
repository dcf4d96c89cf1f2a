//! Servers that a test starts on loopback: real ones (MinIO, rclone, sshd, toxiproxy), one that records what it is asked
//! ([`Recorder`]), one that counts on the way to another ([`Counting`]), and one that misbehaves ([`Peer`]).
//!
//! Each listens on a port of its own and ends, by its process id, when it is dropped. So none of them goes into a `static`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use crate::mounted::wait_for;

mod access;
mod certificates;
mod counting;
pub(crate) mod http1;
mod minio;
mod peer;
mod rclone;
mod recorder;
mod sigv4;
mod sshd;
mod toxiproxy;

pub use access::AccessServer;
pub use certificates::Certificates;
pub use counting::Counting;
pub use minio::Minio;
pub use peer::{Peer, Script};
pub use rclone::RcloneServer;
pub use recorder::{Answer, Recorded, Recorder};
pub use sshd::Sshd;
pub use toxiproxy::{Proxy, Toxiproxy};

/// Returns the path of a program that `make` fetches: from the folder in `STASH_FS_TOOLS`, or its default.
///
/// # Panics
/// It is not there.
pub fn tool(name: &str) -> PathBuf {
    let folder =
        std::env::var_os("STASH_FS_TOOLS").map_or_else(|| PathBuf::from("/var/tmp/stash-fs-tools"), PathBuf::from);
    let path = folder.join("bin").join(name);
    assert!(path.is_file(), "{} is not there; run `make tools`", path.display());
    path
}

/// The ports that [`free_port`] takes: above those of a cluster's parts, and below those that the kernel gives to whoever asks for any
/// (`net.ipv4.ip_local_port_range`).
const PORTS: std::ops::Range<u16> = 11_000..29_000;

/// Returns a port that nothing listens on, and that it returns to nobody else of this process: what is to listen there can take its time.
pub fn free_port() -> u16 {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    // Processes begin at different places: two may run side by side.
    let begin = std::process::id().wrapping_mul(997);
    let ports = u32::from(PORTS.end - PORTS.start);
    loop {
        let number = begin.wrapping_add(TAKEN.fetch_add(1, Relaxed)) % ports;
        let port = PORTS.start + u16::try_from(number).unwrap();
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return port;
        }
    }
}

/// A child process that ends with its owner.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    /// Starts a program that is told its port, and waits until it accepts connections. The port is another one after
    /// each failure: somebody else may have taken it in between.
    pub(crate) fn start(name: &str, command: impl FnMut(u16) -> Command) -> Self {
        Self::start_on(Ipv4Addr::LOCALHOST.into(), name, command)
    }

    /// The same on another address of this machine.
    fn start_on(host: IpAddr, name: &str, mut command: impl FnMut(u16) -> Command) -> Self {
        for _ in 0..5 {
            let port = free_port();
            let address = SocketAddr::from((host, port));
            let mut command = command(port);
            let log = tempfile::tempfile().unwrap();
            command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log.try_clone().unwrap());
            let mut child = command.spawn().unwrap_or_else(|error| panic!("{name} does not start: {error}"));
            let came_up = wait_for(name, || {
                if child.try_wait().unwrap().is_some() {
                    return Some(false);
                }
                TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok().then_some(true)
            });
            if came_up {
                return Self { child, address };
            }
            let mut log = log;
            let mut text = String::new();
            std::io::Seek::rewind(&mut log).unwrap();
            std::io::Read::read_to_string(&mut log, &mut text).unwrap();
            eprintln!("{name} ended at its start: {text}");
        }
        panic!("{name} does not start");
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

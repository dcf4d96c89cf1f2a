//! `stash-fs access`, as a server on loopback.

use std::path::Path;
use std::process::{Command, ExitStatus};

use rustix::process::{Pid, Signal, kill_process};

use super::{Certificates, Server, http1};
use crate::mounted::{clean, stash_fs, wait_for};

/// It serves a directory to whoever shows the certificate of `client`.
#[derive(Debug)]
pub struct AccessServer {
    server: Server,
    certificates: Certificates,
}

impl AccessServer {
    /// Starts it with the certificate `server`.
    pub fn start(directory: &Path, arguments: &[&str]) -> Self {
        Self::start_as("server", directory, arguments)
    }

    /// Starts it with another certificate.
    pub fn start_as(name: &str, directory: &Path, arguments: &[&str]) -> Self {
        let certificates = Certificates::make();
        let server = Server::start("stash-fs access", |port| {
            let mut command = stash_fs();
            command.arg("access").arg(directory).args(["--listen", &format!("127.0.0.1:{port}")]).args(arguments);
            command.arg("--tls-cert").arg(certificates.certificate(name)).arg("--tls-key").arg(certificates.key(name));
            command.arg("--client-ca").arg(certificates.certificate("client-ca"));
            command
        });
        Self { server, certificates }
    }

    /// The certificates of all sides.
    pub fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// Where it listens.
    pub fn address(&self) -> std::net::SocketAddr {
        self.server.address()
    }

    /// The repository's address.
    pub fn repository(&self) -> String {
        format!("rest:https://{}/", self.address())
    }

    /// Returns a call of our program on the repository, as the client, without a cache.
    pub fn stash_fs(&self) -> Command {
        self.as_client(stash_fs())
    }

    /// Returns a call of restic on the repository, as the client, without a cache.
    pub fn restic(&self) -> Command {
        let mut command = clean(Command::new("restic"));
        command.arg("--quiet");
        self.as_client(command)
    }

    fn as_client(&self, mut command: Command) -> Command {
        command.args(["--no-cache", "--repo", &self.repository()]);
        command.arg("--cacert").arg(self.certificates.certificate("ca"));
        command.arg("--tls-client-cert").arg(self.certificates.path("client-both.pem"));
        command
    }

    /// Sends one request as the client; returns status and body.
    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> (u16, Vec<u8>) {
        let headers: Vec<_> = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let client = (self.certificates.certificate("client"), self.certificates.key("client"));
        http1::request_tls_as(Some(&client), self.address(), method, path, &headers, b"").unwrap()
    }

    /// Asks it to end.
    pub fn terminate(&self) {
        kill_process(Pid::from_child(&self.server.child), Signal::TERM).unwrap();
    }

    /// Waits until it ended.
    pub fn wait(mut self) -> ExitStatus {
        wait_for("stash-fs access to end", || self.server.child.try_wait().unwrap())
    }
}

//! `rclone serve restic`: a real server of restic's REST protocol.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use super::{Certificates, Server};

/// rclone serving a folder; repositories are folders below it.
#[derive(Debug)]
pub struct RcloneServer {
    server: Server,
}

impl RcloneServer {
    /// Starts it, with an account where one is given.
    pub fn start(folder: &Path, account: Option<(&str, &str)>) -> Self {
        Self::start_with(folder, |command| {
            if let Some((user, password)) = account {
                command.env("RCLONE_USER", user).env("RCLONE_PASS", password);
            }
        })
    }

    /// Starts it with TLS and one of the certificates; with `clients` it wants one that `client-ca` signed of everybody.
    pub fn start_tls(folder: &Path, certificates: &Certificates, name: &str, clients: bool) -> Self {
        Self::start_with(folder, |command| {
            command.arg("--cert").arg(certificates.certificate(name)).arg("--key").arg(certificates.key(name));
            if clients {
                command.arg("--client-ca").arg(certificates.certificate("client-ca"));
            }
        })
    }

    fn start_with(folder: &Path, adapt: impl Fn(&mut Command)) -> Self {
        let server = Server::start("rclone", |port| {
            let mut command = Command::new("rclone");
            command.args(["serve", "restic", "--addr", &format!("127.0.0.1:{port}")]);
            adapt(&mut command);
            command.arg(folder).env("RCLONE_CONFIG", "/notfound");
            command
        });
        Self { server }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address
    }
}

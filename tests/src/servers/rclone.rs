//! `rclone serve restic`: a real server of restic's REST protocol.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use super::Server;

/// rclone serving a folder; repositories are folders below it.
#[derive(Debug)]
pub struct RcloneServer {
    server: Server,
}

impl RcloneServer {
    /// Starts it, with an account where one is given.
    pub fn start(folder: &Path, account: Option<(&str, &str)>) -> Self {
        let server = Server::start("rclone", |port| {
            let mut command = Command::new("rclone");
            command.args(["serve", "restic", "--addr", &format!("127.0.0.1:{port}")]);
            if let Some((user, password)) = account {
                command.env("RCLONE_USER", user).env("RCLONE_PASS", password);
            }
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

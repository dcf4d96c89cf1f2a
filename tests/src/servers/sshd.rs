//! A real SSH server with its SFTP subsystem.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::process::Command;

use super::Server;

/// sshd on loopback with keys of its own; root logs in with the one that was made for it.
#[derive(Debug)]
pub struct Sshd {
    server: Server,
    folder: tempfile::TempDir,
}

impl Sshd {
    /// Makes keys and starts it.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        for key in ["host_key", "user_key"] {
            let status = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &path(key)]).status();
            assert!(status.unwrap().success(), "ssh-keygen failed");
        }
        // sshd's own folder for its unprivileged half, which Debian's unit makes.
        fs::DirBuilder::new().recursive(true).mode(0o755).create("/run/sshd").unwrap();
        let server = Server::start("sshd", |port| {
            let config = format!(
                "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\n\
                 StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n\
                 Subsystem sftp internal-sftp\n",
                path("host_key"),
                path("user_key.pub")
            );
            fs::write(path("sshd_config"), config).unwrap();
            let mut command = Command::new("/usr/sbin/sshd");
            command.args(["-D", "-e", "-f", &path("sshd_config")]);
            command
        });
        let host_key = fs::read_to_string(path("host_key.pub")).unwrap();
        let known = format!("[127.0.0.1]:{} {host_key}", server.address.port());
        fs::write(path("known_hosts"), known).unwrap();
        Self { server, folder }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address
    }

    /// The arguments with which `ssh` logs in, for `-o sftp.args=`.
    pub fn ssh_args(&self) -> String {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        format!(
            "-F none -i {} -o IdentitiesOnly=yes -o BatchMode=yes -o UserKnownHostsFile={}",
            path("user_key"),
            path("known_hosts")
        )
    }

    /// restic's address of a folder on it.
    pub fn repository(&self, path: &std::path::Path) -> String {
        format!("sftp://root@{}/{}", self.address(), path.display())
    }
}

//! A real S3 server.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use super::{Certificates, Server, http1, sigv4, tool};
use crate::mounted::wait_for;

/// MinIO on an empty folder.
#[derive(Debug)]
pub struct Minio {
    server: Server,
    folder: tempfile::TempDir,
    tls: bool,
}

const USER: &str = "stash-test-root";
const PASSWORD: &str = "stash-test-secret";

impl Minio {
    /// Starts it and waits until it serves.
    pub fn start() -> Self {
        Self::start_with(Ipv4Addr::LOCALHOST.into(), None)
    }

    /// Starts it on another address of this machine, as on the one that pods reach.
    pub fn start_on(host: IpAddr) -> Self {
        Self::start_with(host, None)
    }

    /// Starts it with TLS and one of the certificates.
    pub fn start_tls(certificates: &Certificates, name: &str) -> Self {
        Self::start_with(Ipv4Addr::LOCALHOST.into(), Some((certificates, name)))
    }

    fn start_with(host: IpAddr, tls: Option<(&Certificates, &str)>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let certs_dir = folder.path().join("certs");
        if let Some((certificates, name)) = tls {
            certificates.copy_for_minio(name, &certs_dir);
        }
        let program = tool("minio");
        let server = Server::start_on(host, "minio", |port| {
            let mut command = Command::new(&program);
            command
                .args(["server", "--quiet", "--address", &format!("{host}:{port}"), "--console-address"])
                .arg(format!("127.0.0.1:{}", super::free_port()))
                .arg(folder.path().join("data"))
                .arg("--certs-dir")
                .arg(&certs_dir)
                .env_clear()
                .env("HOME", folder.path())
                .env("MINIO_ROOT_USER", USER)
                .env("MINIO_ROOT_PASSWORD", PASSWORD)
                .env("MINIO_BROWSER", "off")
                .env("MINIO_UPDATE", "off");
            command
        });
        let minio = Self { server, folder, tls: tls.is_some() };
        wait_for("minio", || {
            let ready = minio.request("GET", "/minio/health/ready", &[], b"");
            matches!(ready, Ok((200, _))).then_some(())
        });
        minio
    }

    fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(String, String)],
        body: &[u8],
    ) -> std::io::Result<(u16, Vec<u8>)> {
        let request = if self.tls { http1::request_tls } else { http1::request };
        request(self.address(), method, path, headers, body)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address
    }

    /// Where its files lie, in its own format.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Makes a bucket.
    pub fn create_bucket(&self, bucket: &str) {
        let host = self.address().to_string();
        let path = format!("/{bucket}");
        wait_for("a bucket", || {
            let headers = sigv4::sign((USER, PASSWORD), "s3", ("PUT", &host, &path), b"");
            let (status, body) = self.request("PUT", &path, &headers, b"").ok()?;
            // A server that has just started says 503 for a moment.
            assert!(matches!(status, 200 | 503), "status {status}: {}", String::from_utf8_lossy(&body));
            (status == 200).then_some(())
        });
    }

    /// restic's address of a folder in a bucket.
    pub fn repository(&self, bucket: &str, prefix: &str) -> String {
        let plain = Self::repository_at(self.address(), bucket, prefix);
        if self.tls { plain.replacen("http:", "https:", 1) } else { plain }
    }

    /// The same through a proxy at another address.
    pub fn repository_at(address: SocketAddr, bucket: &str, prefix: &str) -> String {
        format!("s3:http://{address}/{bucket}/{prefix}")
    }

    /// The variables of a credential that may do everything.
    pub fn environment(&self) -> BTreeMap<String, String> {
        environment(&[("AWS_ACCESS_KEY_ID", USER), ("AWS_SECRET_ACCESS_KEY", PASSWORD)])
    }

    /// The variables of a credential that may list a bucket and get its objects, and nothing else.
    pub fn list_and_get_environment(&self, bucket: &str) -> BTreeMap<String, String> {
        let policy = serde_json::json!({ "Version": "2012-10-17", "Statement": [
            { "Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": [format!("arn:aws:s3:::{bucket}")] },
            { "Effect": "Allow", "Action": ["s3:GetObject"], "Resource": [format!("arn:aws:s3:::{bucket}/*")] },
        ] });
        let policy: String = policy.to_string().bytes().map(|byte| format!("%{byte:02X}")).collect();
        let body = format!("Action=AssumeRole&Version=2011-06-15&DurationSeconds=86400&Policy={policy}");
        let host = self.address().to_string();
        let mut headers = sigv4::sign((USER, PASSWORD), "sts", ("POST", &host, "/"), body.as_bytes());
        headers.push(("Content-Type".to_owned(), "application/x-www-form-urlencoded".to_owned()));
        let (status, answer) = self.request("POST", "/", &headers, body.as_bytes()).unwrap();
        let answer = String::from_utf8(answer).unwrap();
        assert_eq!(status, 200, "{answer}");
        let field = |name: &str| {
            let (_, rest) = answer.split_once(&format!("<{name}>")).unwrap_or_else(|| panic!("no {name} in {answer}"));
            rest.split('<').next().unwrap().to_owned()
        };
        environment(&[
            ("AWS_ACCESS_KEY_ID", &field("AccessKeyId")),
            ("AWS_SECRET_ACCESS_KEY", &field("SecretAccessKey")),
            ("AWS_SESSION_TOKEN", &field("SessionToken")),
        ])
    }
}

fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

//! Trust over TLS, by the program against real servers: whom we believe, and who we are to them.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use stash_tests::mounted::stash_fs;
use stash_tests::restic::Restic;
use stash_tests::servers::{Certificates, Minio, RcloneServer};

use crate::cli::outcome;

/// restic's repository behind rclone.
struct Rest {
    restic: Restic,
    server: RcloneServer,
}

impl Rest {
    fn start(certificates: &Certificates, name: &str, clients: bool) -> Self {
        let restic = Restic::init();
        let server = RcloneServer::start_tls(&restic.path(), certificates, name, clients);
        Self { restic, server }
    }

    fn address(&self) -> String {
        format!("rest:https://{}/", self.server.address())
    }

    /// Lists the snapshots with our program and more arguments.
    fn list(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Result<(), String> {
        let mut command = list(&self.address());
        succeed(command.env("RESTIC_PASSWORD", self.restic.password()).args(arguments).envs(variables.to_vec()))
    }

    /// Lists the snapshots with restic and more arguments.
    fn list_by_restic(&self, arguments: &[&str]) -> Result<(), String> {
        let mut command = stash_tests::mounted::clean(Command::new("restic"));
        command.args(["--no-cache", "--no-lock", "-r", &self.address(), "snapshots"]);
        succeed(command.env("RESTIC_PASSWORD", self.restic.password()).args(arguments))
    }
}

fn list(address: &str) -> Command {
    let mut command = stash_fs();
    command.args(["--no-cache", "--deadline=20s", "-r", address, "snapshots"]);
    command
}

/// Runs a command; returns what it said where it failed.
fn succeed(command: &mut Command) -> Result<(), String> {
    match outcome(command) {
        (0, ..) => Ok(()),
        (code, _, stderr) => Err(format!("{code}: {stderr}")),
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn assert_no_trust(result: Result<(), String>, host: &str) {
    let error = result.unwrap_err();
    assert!(error.contains("no trust in the server") && error.contains("--cacert names"), "{error}");
    assert!(error.contains(host), "{error}");
}

#[test]
fn test_a_rest_server_is_trusted_by_cacert_alone() {
    let certificates = Certificates::make();
    let (ca, other) = (certificates.certificate("ca"), certificates.certificate("other-ca"));
    let (ca, other) = (text(&ca), text(&other));
    let rest = Rest::start(&certificates, "server", false);
    let host = rest.server.address().to_string();

    let begun = Instant::now();
    assert_no_trust(rest.list(&[], &[]), &host);
    assert_no_trust(rest.list(&["--cacert", other], &[]), &host);
    assert!(begun.elapsed() < Duration::from_secs(15), "nothing is waited for: {:?}", begun.elapsed());
    rest.list(&["--cacert", ca], &[]).unwrap();
    rest.list(&["--cacert", other, "--cacert", ca], &[]).unwrap();
    rest.list(&[], &[("RESTIC_CACERT", ca)]).unwrap();
    rest.list(&[], &[("RESTIC_CACERT", &format!("{other},{ca}"))]).unwrap();
    rest.list_by_restic(&["--cacert", &format!("{other},{ca}")]).unwrap();
    rest.list(&["--insecure-tls"], &[]).unwrap();
    // The machine's own roots, in place of which the named ones stand.
    rest.list(&[], &[("SSL_CERT_FILE", ca)]).unwrap();
    assert_no_trust(rest.list(&["--cacert", other], &[("SSL_CERT_FILE", ca)]), &host);
    assert_no_trust(rest.list(&[], &[("SSL_CERT_FILE", "/not/there"), ("SSL_CERT_DIR", "/not/there")]), &host);
}

#[test]
fn test_a_certificate_for_another_name_is_refused() {
    let certificates = Certificates::make();
    let ca = certificates.certificate("ca");
    let rest = Rest::start(&certificates, "elsewhere", false);
    let error = rest.list(&["--cacert", text(&ca)], &[]).unwrap_err();
    assert!(error.contains("no trust in the server") && error.contains("elsewhere.invalid"), "{error}");
    assert!(!error.contains("--cacert names"), "another authority is no help: {error}");
    rest.list(&["--insecure-tls"], &[]).unwrap();
}

#[test]
fn test_a_server_that_signed_itself_is_trusted_as_restic_does() {
    let certificates = Certificates::make();
    let itself = certificates.certificate("itself");
    let ca = certificates.certificate("ca");
    let rest = Rest::start(&certificates, "itself", false);
    rest.list_by_restic(&["--cacert", text(&itself)]).unwrap();
    rest.list(&["--cacert", text(&itself)], &[]).unwrap();
    assert_no_trust(rest.list(&["--cacert", text(&ca)], &[]), "127.0.0.1");
    rest.list(&["--insecure-tls"], &[]).unwrap();
}

#[test]
fn test_a_client_certificate_is_shown_where_one_is_wanted() {
    let certificates = Certificates::make();
    let ca = certificates.certificate("ca");
    let [client, chain, key] =
        ["client-both.pem", "client.pem", "client.key"].map(|name| certificates.path(name).display().to_string());
    let rest = Rest::start(&certificates, "server", true);
    let list = |arguments: &[&str], variables: &[(&str, &str)]| {
        rest.list(&[&["--cacert", text(&ca)], arguments].concat(), variables)
    };
    let error = list(&[], &[]).unwrap_err();
    assert!(error.contains("wants a client certificate") && error.contains("--tls-client-cert"), "{error}");
    assert!(error.contains(&rest.server.address().to_string()), "{error}");
    list(&["--tls-client-cert", &client], &[]).unwrap();
    list(&[], &[("RESTIC_TLS_CLIENT_CERT", &client)]).unwrap();
    rest.list_by_restic(&["--cacert", text(&ca), "--tls-client-cert", &client]).unwrap();
    // One that another authority signed.
    let foreign = certificates.path("foreign.pem");
    let both = ["server.pem", "server.key"].map(|name| std::fs::read_to_string(certificates.path(name)).unwrap());
    std::fs::write(&foreign, both.concat()).unwrap();
    let error = list(&["--tls-client-cert", text(&foreign)], &[]).unwrap_err();
    assert!(error.contains("wants a client certificate that it trusts"), "{error}");
    for half in [chain, key] {
        let error = list(&["--tls-client-cert", &half], &[]).unwrap_err();
        assert!(error.contains(&format!("--tls-client-cert {half}: not a PEM file with a certificate and")), "{error}");
    }
}

#[test]
fn test_files_of_certificates_are_judged_before_any_request() {
    let certificates = Certificates::make();
    let made = |name: &str, content: &str| {
        let path = certificates.path(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let [server, other_key] =
        ["server.pem", "client.key"].map(|name| std::fs::read_to_string(certificates.path(name)).unwrap());
    let empty = made("empty", "");
    let no_pem = made("no-pem", "hush");
    let no_certificate = made("no-certificate", "-----BEGIN CERTIFICATE-----\naHVzaA==\n-----END CERTIFICATE-----\n");
    let half = made("half", &server[..server.len() / 2]);
    let key = certificates.key("server").display().to_string();
    let folder = certificates.path("").display().to_string();
    let mixed = made("mixed", &format!("{server}{other_key}"));

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap();
    for address in [format!("rest:https://{host}/"), format!("s3:https://{host}/bucket")] {
        let refused = |option: &str, path: &str, why: &str| {
            let mut command = list(&address);
            command.env("RESTIC_PASSWORD", "x").env("AWS_ACCESS_KEY_ID", "id").env("AWS_SECRET_ACCESS_KEY", "secret");
            let error = succeed(command.args([option, path])).unwrap_err();
            assert!(error.contains(&format!("{option} {path}: {why}")), "{error}");
            assert!(!error.contains("hush"), "{error}");
        };
        refused("--cacert", "/not/there.pem", "No such file");
        refused("--cacert", &folder, "Is a directory");
        for path in [&empty, &no_pem, &no_certificate, &half, &key] {
            refused("--cacert", path, "not a PEM file of certificates");
            refused("--tls-client-cert", path, "not a PEM file with a certificate and its key");
        }
        refused("--tls-client-cert", "/not/there.pem", "No such file");
        refused("--tls-client-cert", &mixed, "keys may not be consistent");
    }
    listener.set_nonblocking(true).unwrap();
    assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "something was asked for");
}

#[test]
fn test_a_bucket_over_tls() {
    let certificates = Certificates::make();
    let minio = Minio::start_tls(&certificates, "itself");
    minio.create_bucket("bucket");
    let address = minio.repository("bucket", "repo");
    assert!(address.starts_with("s3:https://"), "{address}");
    let [itself, ca] = ["itself", "ca"].map(|name| certificates.certificate(name));
    let run = |verb: &str, arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = stash_fs();
        command.args(["--no-cache", "--deadline=20s", "-r", &address, verb]).args(arguments);
        succeed(command.env("RESTIC_PASSWORD", "x").envs(minio.environment()).envs(variables.to_vec()))
    };
    assert_no_trust(run("init", &[], &[]), &minio.address().to_string());
    run("init", &["--cacert", text(&itself)], &[]).unwrap();
    run("snapshots", &[], &[("RESTIC_CACERT", text(&itself))]).unwrap();
    run("snapshots", &["--insecure-tls"], &[]).unwrap();
    assert_no_trust(run("snapshots", &["--cacert", text(&ca)], &[]), &minio.address().to_string());
}

#[test]
fn test_a_machine_without_roots_uses_stores_without_tls() {
    let restic = Restic::init();
    let server = RcloneServer::start(&restic.path(), None);
    let mut command = list(&format!("rest:http://{}/", server.address()));
    command.env("RESTIC_PASSWORD", restic.password());
    succeed(command.env("SSL_CERT_FILE", "/not/there").env("SSL_CERT_DIR", "/not/there")).unwrap();
}

//! `stash-fs access`: restic's REST protocol, of which restic itself is the judge.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use stash_repo::backend::connect::{ConnectOptions, connect};
use stash_repo::backend::location::Location;
use stash_repo::write::{Access, catalog};
use stash_repo::{BackendErrorKind, FileKind, Id};
use stash_tests::restic::Restic;
use stash_tests::servers::{AccessServer, Certificates};

use crate::cli::outcome;

/// restic's repository with a snapshot of a folder, and a server of it.
struct World {
    restic: Restic,
    data: PathBuf,
    server: AccessServer,
}

impl World {
    fn start(arguments: &[&str]) -> Self {
        let restic = Restic::init();
        let data = restic.scratch().join("data");
        fs::create_dir_all(data.join("folder")).unwrap();
        fs::write(data.join("folder/small"), "hello").unwrap();
        fs::write(data.join("large"), incompressible(9 << 20)).unwrap();
        restic.backup([&data]);
        let server = AccessServer::start(&restic.path(), arguments);
        Self { restic, data, server }
    }

    fn run(&self, mut command: Command, arguments: &[&str]) -> (i32, String, String) {
        outcome(command.env("RESTIC_PASSWORD", self.restic.password()).args(arguments))
    }

    fn succeed(&self, command: Command, arguments: &[&str]) -> String {
        let (code, stdout, stderr) = self.run(command, arguments);
        assert_eq!(code, 0, "{arguments:?}: {stderr}");
        stdout
    }
}

fn incompressible(len_bytes: usize) -> Vec<u8> {
    (0..len_bytes.div_ceil(32)).flat_map(|n| *Id::hash(&n.to_le_bytes()).as_bytes()).collect()
}

/// All files below a folder, with their contents.
fn tree(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.strip_prefix(root).unwrap().to_owned(), fs::read(&path).unwrap());
            }
        }
    }
    found
}

#[test]
fn test_restic_and_we_read_a_repository_through_it() {
    let world = World::start(&[]);
    let before = tree(&world.restic.path());
    let ids: Vec<String> =
        world.restic.snapshots().iter().map(|snapshot| snapshot["id"].as_str().unwrap().to_owned()).collect();
    for (name, command) in [("restic", world.server.restic()), ("stash-fs", world.server.stash_fs())] {
        let listed = world.succeed(command, &["snapshots", "--json", "--no-lock"]);
        assert!(ids.iter().all(|id| listed.contains(id)), "{name}: {listed}");
    }
    world.succeed(world.server.restic(), &["check", "--read-data", "--no-lock"]);
    for (name, command) in [("restic", world.server.restic()), ("ours", world.server.stash_fs())] {
        let target = world.restic.scratch().join(name);
        world.succeed(command, &["restore", "latest", "--no-lock", "--target", target.to_str().unwrap()]);
        let restored = target.join(world.data.strip_prefix("/").unwrap());
        assert!(tree(&restored) == tree(&world.data), "{name} restored something else");
    }
    assert!(tree(&world.restic.path()) == before, "the repository is as it was");
}

#[test]
fn test_nothing_is_changed_through_it() {
    let world = World::start(&[]);
    let before = tree(&world.restic.path());
    let data = world.data.to_str().unwrap();
    for arguments in [&["backup", data][..], &["forget", "latest", "--no-lock"]] {
        // restic tries what is refused again and again, for a quarter of an hour.
        let restic = world.server.restic();
        let mut command = Command::new("timeout");
        command.arg("4").arg(restic.get_program()).args(restic.get_args());
        let (code, ..) = world.run(stash_tests::mounted::clean(command), arguments);
        assert!(code != 0, "restic {arguments:?} ended well");
    }
    let (code, _, stderr) = world.run(world.server.stash_fs(), &["backup", data]);
    assert!(code != 0 && stderr.contains("405"), "{code}: {stderr}");
    let name = &world.restic.files("keys")[0];
    for (method, path) in [
        ("POST", format!("/keys/{}", "ab".repeat(32))),
        ("DELETE", format!("/keys/{name}")),
        ("POST", "/?create=true".to_owned()),
        ("DELETE", "/".to_owned()),
        ("PUT", "/config".to_owned()),
        ("PATCH", "/config".to_owned()),
    ] {
        assert_eq!(world.server.request(method, &path, &[]).0, 405, "{method} {path}");
    }
    assert!(tree(&world.restic.path()) == before, "the repository is as it was");
}

#[test]
fn test_names_lead_nowhere_else() {
    let world = World::start(&[]);
    fs::write(world.restic.scratch().join("outside"), "hush").unwrap();
    let key = world.restic.files("keys")[0].clone();
    let v2 = [("Accept", "application/vnd.x.restic.rest.v2")];
    for path in [
        "/".to_owned(),
        "/../outside".to_owned(),
        "/data/../../outside".to_owned(),
        "/%2e%2e/outside".to_owned(),
        "/keys/..".to_owned(),
        "/keys/%2e%2e%2foutside".to_owned(),
        "/keys/.".to_owned(),
        "//etc/passwd".to_owned(),
        "/etc/passwd".to_owned(),
        format!("/keys/./{key}"),
        format!("/keys//{key}"),
        format!("/data/{}/", &key[..2]),
        format!("/keys/{}", key.to_uppercase()),
        format!("/keys/{key}.tmp"),
    ] {
        let (status, body) = world.server.request("GET", &path, &v2);
        assert_eq!(status, 403, "{path}");
        assert!(!String::from_utf8_lossy(&body).contains("hush"));
    }
    assert_eq!(world.server.request("GET", &format!("/keys/{key}"), &[]).0, 200);
    assert_eq!(world.server.request("GET", &format!("/keys/{}", "0".repeat(64)), &[]).0, 404);
    let (status, body) = world.server.request("GET", "/keys/", &v2);
    assert_eq!((status, body.starts_with(format!(r#"[{{"name":"{key}","size":"#).as_bytes())), (200, true));
}

#[test]
fn test_only_a_client_with_a_certificate_is_answered() {
    let world = World::start(&[]);
    let certificates = world.server.certificates();
    let ca = certificates.certificate("ca");
    // The authority of the server is not that of its clients.
    let foreign = certificates.path("foreign.pem");
    let both = ["server.pem", "server.key"].map(|name| fs::read_to_string(certificates.path(name)).unwrap());
    fs::write(&foreign, both.concat()).unwrap();
    let base = |program: Command| {
        let mut command = program;
        command.args(["--no-cache", "--repo", &world.server.repository(), "--cacert"]).arg(&ca);
        command
    };
    let restic = || stash_tests::mounted::clean(Command::new("restic"));
    for certificate in [None, Some(&foreign)] {
        for program in [restic(), stash_tests::mounted::stash_fs()] {
            let mut command = base(program);
            if let Some(certificate) = certificate {
                command.arg("--tls-client-cert").arg(certificate);
            }
            let (code, stdout, stderr) = world.run(command, &["snapshots", "--no-lock"]);
            assert!(code != 0 && stdout.is_empty(), "{certificate:?}: {code} {stdout} {stderr}");
            assert!(stderr.contains("certificate"), "{certificate:?}: {stderr}");
        }
    }
    world.succeed(world.server.restic(), &["snapshots", "--no-lock"]);
}

#[test]
fn test_the_engine_takes_certificates_from_memory_and_is_told_where_a_name_is() {
    let restic = Restic::init();
    let data = restic.scratch().join("data");
    fs::create_dir(&data).unwrap();
    restic.backup([&data]);
    let server = AccessServer::start_as("elsewhere", &restic.path(), &[]);
    let read = |name: &str| fs::read_to_string(server.certificates().path(name)).unwrap();
    let loopback: IpAddr = server.address().ip();
    let options = |ca: &str, name: &str| ConnectOptions {
        ca_certificates: Some(read(ca)),
        client_identity: Some(Arc::new(read("client-both.pem").into())),
        resolved: Some((name.to_owned(), loopback)),
        // Nobody is asked where it is, so nothing is refused.
        refused: Some(Arc::new(|_, _| true)),
        deadline: Duration::from_secs(9),
        ..ConnectOptions::default()
    };
    let address =
        |name: &str| Location::parse_in_cluster(&format!("rest:https://{name}:{}/", server.address().port())).unwrap();
    stash_tests::engine::run(async {
        let right = options("ca.pem", "elsewhere.invalid");
        let backend = connect(&address("elsewhere.invalid"), &right).await.unwrap();
        assert_eq!(catalog::list(&backend).await.unwrap().len(), 1);
        Access::open(Arc::clone(&backend), restic.password(), None).await.unwrap();
        let written = backend.write(FileKind::Lock, &Id::new([1; 32]), "x".into()).await.unwrap_err();
        assert_eq!(written.kind, BackendErrorKind::Unsupported);
        for (name, options, kind) in [
            ("elsewhere.invalid", options("other-ca.pem", "elsewhere.invalid"), BackendErrorKind::Invalid),
            ("another.invalid", options("ca.pem", "another.invalid"), BackendErrorKind::Invalid),
            ("elsewhere.invalid", ConnectOptions { client_identity: None, ..right.clone() }, BackendErrorKind::Denied),
            (
                "elsewhere.invalid",
                ConnectOptions {
                    client_identity: Some(Arc::new([read("server.pem"), read("server.key")].concat().into())),
                    ..right.clone()
                },
                BackendErrorKind::Denied,
            ),
        ] {
            let backend = connect(&address(name), &options).await.unwrap();
            let error = catalog::list(&backend).await.unwrap_err().to_string();
            let found = backend.list(FileKind::Snapshot).await.unwrap_err();
            assert_eq!(found.kind, kind, "{error}");
            assert!(!error.contains("PRIVATE"), "{error}");
        }
        let broken = ConnectOptions { client_identity: Some(Arc::new("hush".to_owned().into())), ..right };
        let error = connect(&address("elsewhere.invalid"), &broken).await.unwrap_err();
        assert_eq!(error.kind, BackendErrorKind::Invalid);
        assert!(!error.to_string().contains("hush"), "{error}");
    });
}

#[test]
fn test_it_ends_when_it_is_told_and_when_nobody_asks() {
    let world = World::start(&[]);
    // A connection that is open and idle holds nothing up.
    let idle = TcpStream::connect(world.server.address()).unwrap();
    world.succeed(world.server.restic(), &["snapshots", "--no-lock"]);
    world.server.terminate();
    let begun = Instant::now();
    assert!(world.server.wait().success());
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
    drop(idle);

    let world = World::start(&["--max-idle", "1s"]);
    assert!(world.server.wait().success(), "it ends by itself, and well");
}

#[test]
fn test_those_who_say_nothing_do_not_keep_others_out() {
    let world = World::start(&["--max-connections", "2"]);
    let silent: Vec<_> = (0..2).map(|_| TcpStream::connect(world.server.address()).unwrap()).collect();
    let begun = Instant::now();
    world.succeed(world.server.stash_fs(), &["--deadline=50s", "snapshots", "--no-lock"]);
    assert!(begun.elapsed() < Duration::from_secs(45), "{:?}", begun.elapsed());
    drop(silent);
}

#[test]
fn test_what_it_needs_is_judged_before_it_listens() {
    let certificates = Certificates::make();
    let folder = tempfile::tempdir().unwrap();
    let [server, key, clients] = ["server.pem", "server.key", "client-ca.pem"].map(|name| certificates.path(name));
    let empty = folder.path().join("empty");
    fs::write(&empty, "").unwrap();
    let other = certificates.key("client");
    let missing = folder.path().join("missing");
    for (directory, certificate, key, clients, expected) in [
        (missing.as_path(), &server, &key, &clients, "cannot open"),
        (folder.path(), &missing, &key, &clients, "cannot read"),
        (folder.path(), &empty, &key, &clients, "is not a PEM file with certificates"),
        (folder.path(), &server, &empty, &clients, "is not a PEM file with a key"),
        (folder.path(), &server, &key, &empty, "is not a PEM file with certificates"),
        (folder.path(), &server, &other, &clients, "cannot be used"),
    ] {
        let mut command = stash_tests::mounted::stash_fs();
        command.arg("access").arg(directory).arg("--tls-cert").arg(certificate).arg("--tls-key").arg(key);
        command.arg("--client-ca").arg(clients).args(["--listen", "127.0.0.1:0"]);
        let (code, _, stderr) = outcome(&mut command);
        assert!(code == 1 && stderr.contains(expected), "{expected}: {code} {stderr}");
    }
}

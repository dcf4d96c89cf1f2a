//! What a server may do wrong, against both ways to speak HTTP: each ends inside the deadline, in the right words, with
//! nothing of the server's text in them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::join_all;
use stash_repo::backend::{Backend, ConnectOptions, FileKind, Location, Retry, connect};
use stash_repo::{BackendErrorKind as Kind, Id};
use stash_tests::servers::{Peer, Script};

/// An attempt has a third of it.
const DEADLINE: Duration = Duration::from_secs(6);
/// What a machine that does much else takes beside.
const SLACK: Duration = Duration::from_secs(5);

async fn reach(peer: &Peer) -> [(Arc<dyn Backend>, ConnectOptions); 2] {
    let s3 = format!("s3:http://{}/bucket/repo", peer.address());
    let rest = format!("rest:http://user:hush@{}/repo", peer.address());
    let connect = async |address: String| {
        let environment = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "hush")];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let options = ConnectOptions { environment, deadline: DEADLINE, ..ConnectOptions::default() };
        (connect(&Location::parse(&address).unwrap(), &options).await.unwrap(), options)
    };
    [connect(s3).await, connect(rest).await]
}

fn part(body: &[u8]) -> Script {
    Script::Answer { status: 206, headers: String::new(), body: body.to_vec() }
}

fn redirect(status: u16) -> Script {
    Script::Answer { status, headers: "Location: http://169.254.169.254/\r\n".into(), body: Vec::new() }
}

#[tokio::test]
async fn a_read_ends_in_time_with_the_right_error() {
    // (what the server does, what the error is, whether it was tried again)
    let rows = [
        (Script::Stall, Kind::Unavailable, Retry::Temporary),
        (Script::StallInBody, Kind::Unavailable, Retry::Temporary),
        (Script::Reset, Kind::Unavailable, Retry::Temporary),
        (Script::CutBody, Kind::Unavailable, Retry::Temporary),
        (Script::Garbage, Kind::Unavailable, Retry::Temporary),
        (Script::status(403), Kind::Denied, Retry::Permanent),
        (Script::status(401), Kind::Denied, Retry::Permanent),
        (Script::status(404), Kind::NotFound, Retry::Permanent),
        (Script::status(416), Kind::Corrupt, Retry::Permanent),
        (Script::status(429), Kind::Unavailable, Retry::Temporary),
        (Script::status(500), Kind::Unavailable, Retry::Temporary),
        (Script::status(503), Kind::Unavailable, Retry::Temporary),
        (part(b"abc"), Kind::Corrupt, Retry::Temporary),
        (part(b"abcde"), Kind::Corrupt, Retry::Temporary),
        (part(b""), Kind::Corrupt, Retry::Temporary),
        (Script::Endless { status: 206 }, Kind::Corrupt, Retry::Temporary),
        (Script::Endless { status: 500 }, Kind::Unavailable, Retry::Temporary),
        (redirect(301), Kind::Other, Retry::Permanent),
        (redirect(307), Kind::Other, Retry::Permanent),
    ];
    // Side by side: most take all of the deadline.
    join_all(rows.map(async |(script, kind, retry)| {
        let peer = Peer::start(script.clone());
        for (backend, options) in reach(&peer).await {
            let before = peer.requests();
            let begun = Instant::now();
            let error = backend.read_range(FileKind::Pack, &Id::hash(b"x"), 10..14).await.unwrap_err();
            let elapsed = begun.elapsed();
            let what = format!("{} {script:?}: {error}", backend.location());
            assert_eq!((error.kind, error.retry), (kind, retry), "{what}");
            assert!(elapsed < DEADLINE + SLACK, "{what}: {elapsed:?}");
            let text = error.to_string();
            assert!(!text.contains("hush") && !text.contains("secret") && !text.contains("169.254"), "{what}");
            assert!(text.starts_with("read data/"), "{what}");
            let requests = peer.requests() - before;
            match retry {
                Retry::Permanent => assert_eq!(requests, 1, "{what}"),
                Retry::Temporary => assert!(requests >= 2, "{what}: {requests} requests"),
            }
            assert_eq!(options.metrics.backend_requests.get(), options.metrics.backend_errors.get(), "{what}");
        }
    }))
    .await;
}

#[tokio::test]
async fn a_list_fails_as_a_whole() {
    let rows = [
        (Script::status(500), Kind::Unavailable),
        (Script::status(403), Kind::Denied),
        (Script::status(404), Kind::NotFound),
        (Script::Stall, Kind::Unavailable),
        (Script::CutBody, Kind::Unavailable),
        (Script::Answer { status: 200, headers: String::new(), body: b"<html>not a list".to_vec() }, Kind::Corrupt),
    ];
    join_all(rows.map(async |(script, kind)| {
        let peer = Peer::start(script.clone());
        for (backend, _) in reach(&peer).await {
            let begun = Instant::now();
            let error = backend.list(FileKind::Snapshot).await.unwrap_err();
            assert_eq!(error.kind, kind, "{} {script:?}: {error}", backend.location());
            assert!(begun.elapsed() < DEADLINE * 2 + SLACK, "{script:?}: {:?}", begun.elapsed());
            assert!(!error.to_string().contains("secret") && !error.to_string().contains("html"), "{error}");
        }
    }))
    .await;
}

#[tokio::test]
async fn a_server_that_comes_back_is_used_again() {
    let peer = Peer::start(Script::Reset);
    for (backend, _) in reach(&peer).await {
        peer.set(Script::Stall);
        assert!(backend.read_range(FileKind::Pack, &Id::hash(b"x"), 0..4).await.is_err());
        peer.set(Script::status(503));
        let read = {
            let backend = Arc::clone(&backend);
            tokio::spawn(async move { backend.read_range(FileKind::Pack, &Id::hash(b"x"), 0..4).await })
        };
        let before = peer.requests();
        let end = Instant::now() + DEADLINE;
        while peer.requests() == before && Instant::now() < end {
            tokio::task::yield_now().await;
        }
        peer.set(part(b"good"));
        assert_eq!(read.await.unwrap().unwrap(), "good");
    }
}

#[tokio::test]
async fn wrong_bytes_of_the_right_length_are_for_the_mac_to_find() {
    let peer = Peer::start(part(b"evil"));
    for (backend, _) in reach(&peer).await {
        assert_eq!(backend.read_range(FileKind::Pack, &Id::hash(b"x"), 0..4).await.unwrap(), "evil");
    }
}

#[tokio::test]
async fn a_whole_file_is_never_taken_for_a_part() {
    let whole = Script::Answer { status: 200, headers: String::new(), body: vec![b'x'; 100_000] };
    let peer = Peer::start(whole);
    for (backend, _) in reach(&peer).await {
        let error = backend.read_range(FileKind::Pack, &Id::hash(b"x"), 0..4).await.unwrap_err();
        assert!(matches!(error.kind, Kind::Unsupported | Kind::Corrupt), "{error}");
        let error = backend.read_full(FileKind::Key, &Id::hash(b"x"), 99_999).await.unwrap_err();
        assert_eq!(error.kind, Kind::Corrupt, "{error}");
    }
}

#[tokio::test]
async fn nobody_listening_is_told_as_such() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let options = ConnectOptions { deadline: DEADLINE, ..ConnectOptions::default() };
    let backend = connect(&Location::parse(&format!("rest:http://{address}/")).unwrap(), &options).await.unwrap();
    let error = backend.write(FileKind::Lock, &Id::hash(b"x"), Bytes::from_static(b"x")).await.unwrap_err();
    assert_eq!((error.kind, error.retry), (Kind::Unavailable, Retry::Temporary));
    assert!(error.to_string().contains("Connection refused"), "{error}");
}

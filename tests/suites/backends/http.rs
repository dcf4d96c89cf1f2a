//! How requests are made: restic's REST protocol, proxies, accounts.

use std::sync::Arc;
use std::time::Duration;

use stash_repo::Id;
use stash_repo::backend::{Backend, BackendErrorKind, ConnectOptions, FileKind, ListEntry, Location, connect};
use stash_tests::servers::{Answer, Recorder};

async fn reach(address: &str, options: &ConnectOptions) -> Arc<dyn Backend> {
    connect(&Location::parse(address).unwrap(), options).await.unwrap()
}

fn options() -> ConnectOptions {
    ConnectOptions { deadline: Duration::from_secs(10), ..ConnectOptions::default() }
}

const V2: &str = "application/vnd.x.restic.rest.v2";

#[tokio::test]
async fn rest_lists_of_both_versions() {
    let id = Id::hash(b"x");
    for (kind, body) in [
        (V2, format!(r#"[{{"name":"{id}","size":12}},{{"name":"not-an-id","size":1}}]"#)),
        ("application/json", format!(r#"["{id}","not-an-id"]"#)),
    ] {
        let server = Recorder::start(move |request| match request.method.as_str() {
            "HEAD" => Answer::new(200, "twelve bytes"),
            _ => Answer::new(200, body.clone()).header("content-type", kind),
        });
        let backend = reach(&format!("rest:http://{}/a/repo", server.address()), &options()).await;
        assert_eq!(backend.list(FileKind::Pack).await.unwrap(), [ListEntry { id, len_bytes: 12 }]);
        let requests = server.take();
        assert_eq!((requests[0].method.as_str(), requests[0].path.as_str()), ("GET", "/a/repo/data/"));
        assert_eq!(requests[0].header("accept"), Some(V2));
        assert_eq!(requests.len(), if kind == V2 { 1 } else { 2 }, "version 1 has no lengths");
    }
    for (body, expected) in [("null", true), ("[]", true), ("{}", false), ("[1]", false), ("", false)] {
        let server = Recorder::start(move |_| Answer::new(200, body).header("content-type", V2));
        // What fails is tried again until the deadline.
        let short = ConnectOptions { deadline: Duration::from_millis(300), ..options() };
        let options = if expected { options() } else { short };
        let backend = reach(&format!("rest:http://{}/", server.address()), &options).await;
        assert_eq!(backend.list(FileKind::Key).await.is_ok(), expected, "{body}");
    }
}

#[tokio::test]
async fn rest_takes_a_missing_folder_for_empty_from_rclone_only() {
    for (server_name, expected) in [("rclone/v1.60", None), ("nginx", Some(BackendErrorKind::NotFound))] {
        let server = Recorder::start(move |_| Answer::new(404, "").header("server", server_name));
        let backend = reach(&format!("rest:http://{}/", server.address()), &options()).await;
        assert_eq!(backend.list(FileKind::Index).await.err().map(|error| error.kind), expected);
    }
}

#[tokio::test]
async fn rest_requests_are_restics() {
    let server = Recorder::start(|request| match (request.method.as_str(), request.header("range")) {
        ("GET", Some(_)) => Answer::new(206, "abcd"),
        ("HEAD", _) => Answer::new(404, ""),
        _ => Answer::new(200, ""),
    });
    let backend = reach(&format!("rest:http://us%20er:p%3Aw@{}/repo", server.address()), &options()).await;
    let id = Id::hash(b"x");
    backend.create().await.unwrap();
    backend.read_range(FileKind::Pack, &id, 3..7).await.unwrap();
    backend.read_range(FileKind::Pack, &id, 3..3).await.unwrap();
    backend.write(FileKind::Config, &Id::default(), bytes::Bytes::from_static(b"cfg")).await.unwrap();
    backend.remove(FileKind::Lock, &id).await.unwrap();
    let requests = server.take();
    let seen: Vec<_> = requests.iter().map(|request| (request.method.clone(), request.path.clone())).collect();
    let expected = [
        ("HEAD", "/repo/config".to_owned()),
        ("POST", "/repo/?create=true".to_owned()),
        ("GET", format!("/repo/data/{id}")),
        ("POST", "/repo/config".to_owned()),
        ("DELETE", format!("/repo/locks/{id}")),
    ];
    assert_eq!(seen, expected.map(|(method, path)| (method.to_owned(), path)));
    assert_eq!(requests[2].header("range"), Some("bytes=3-6"));
    assert_eq!(requests[3].body, b"cfg");
    // "us er:p:w"
    assert!(requests.iter().all(|request| request.header("authorization") == Some("Basic dXMgZXI6cDp3")));
}

#[tokio::test]
async fn a_proxy_is_asked_unless_the_host_is_excepted() {
    let proxy = Recorder::start(|_| Answer::new(200, "[]").header("content-type", V2));
    let mut options = options();
    options.environment.insert("http_proxy".into(), format!("http://puser:pass@{}", proxy.address()));
    options.environment.insert("NO_PROXY".into(), "excepted.invalid".into());
    let backend = reach("rest:http://host.invalid/r/", &options).await;
    assert_eq!(backend.list(FileKind::Key).await.unwrap(), []);
    let requests = proxy.take();
    assert_eq!((requests[0].host.as_str(), requests[0].path.as_str()), ("host.invalid", "/r/keys/"));
    assert_eq!(requests[0].header("proxy-authorization"), Some("Basic cHVzZXI6cGFzcw=="));

    options.deadline = Duration::from_secs(1);
    let backend = reach("rest:http://excepted.invalid/r/", &options).await;
    assert!(backend.read_full(FileKind::Config, &Id::default(), 1).await.is_err());
    // Loopback is never proxied.
    let direct = Recorder::start(|_| Answer::new(200, "[]").header("content-type", V2));
    let backend = reach(&format!("rest:http://{}/", direct.address()), &options).await;
    assert_eq!(backend.list(FileKind::Key).await.unwrap(), []);
    assert_eq!((proxy.take().len(), direct.take().len()), (0, 1));
}

#[tokio::test]
async fn rest_over_a_unix_socket() {
    // A forwarder: the recorder listens on TCP only.
    let server = Recorder::start(|_| Answer::new(200, "[]").header("content-type", V2));
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("rest.sock");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let upstream = server.address();
    let forward = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut upstream = tokio::net::TcpStream::connect(upstream).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut stream, &mut upstream).await });
        }
    });
    let backend = reach(&format!("rest:http+unix://{}:/my/repo", socket.display()), &options()).await;
    assert_eq!(backend.list(FileKind::Key).await.unwrap(), []);
    assert_eq!(server.take()[0].path, "/my/repo/keys/");
    forward.abort();
}

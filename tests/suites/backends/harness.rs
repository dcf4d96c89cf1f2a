//! The servers of the harness themselves.

use stash_repo::backend::{ConnectOptions, FileKind, Location, connect};
use stash_tests::servers::{Minio, Toxiproxy};

#[tokio::test]
async fn a_bucket_is_reached_through_toxiproxy_and_its_faults_come_and_go() {
    let minio = Minio::start();
    minio.create_bucket("bucket");
    let toxiproxy = Toxiproxy::start();
    let proxy = toxiproxy.proxy(minio.address());
    let location = Location::parse(&Minio::repository_at(proxy.address(), "bucket", "a/b")).unwrap();
    let environment = minio.environment();
    let deadline = std::time::Duration::from_secs(5);
    let options = ConnectOptions { environment, deadline, ..ConnectOptions::default() };
    let backend = connect(&location, &options).await.unwrap();
    assert_eq!(backend.list(FileKind::Snapshot).await.unwrap(), []);
    proxy.set_enabled(false);
    let error = backend.read_range(FileKind::Pack, &stash_repo::Id::hash(b"x"), 0..1).await.unwrap_err();
    assert_eq!(error.kind, stash_repo::BackendErrorKind::Unavailable, "{error}");
    proxy.set_enabled(true);
    proxy.latency(50);
    let begun = std::time::Instant::now();
    assert_eq!(backend.list(FileKind::Snapshot).await.unwrap(), []);
    assert!(begun.elapsed() >= std::time::Duration::from_millis(50));
    proxy.remove("latency");
}

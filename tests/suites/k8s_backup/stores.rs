//! What a store and a repository do under the volume of a pod: what cannot be read is an error in time, and read when it can be again.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::json;
use stash_tests::cluster::wait_until;
use stash_tests::fixture::pattern;
use stash_tests::servers::{Peer, Script};

use super::Shop;
use super::volumes::{mounts, pod};

/// The daemon's deadline here is 8 s; the kernel asks again for the one page that a program wants.
const IN_TIME: Duration = Duration::from_secs(30);

pub(super) fn test_stores_under_a_volume(shop: &Shop<'_>) {
    let source = tempfile::tempdir().unwrap();
    let name = |number: usize| format!("file-{number}");
    for number in 0..8 {
        fs::write(source.path().join(name(number)), pattern(3 << 20, number as u64)).unwrap();
    }
    let minio = shop.world.minio.address();
    let proxy = shop.world.toxiproxy.proxy_on(shop.world.cluster.host(), minio);
    shop.backed_up_elsewhere("far", source.path(), proxy.address());
    let attributes = json!({"repository": "far", "snapshot": "latest", "path": source.path()});
    shop.namespace.apply(pod("far", "exec sleep 3600", attributes, &json!({})));
    shop.namespace.wait("pod/far", "condition=Ready");
    let read = |number: usize| {
        let path = format!("/backup/{}", name(number));
        shop.world.kubectl().try_run(&["-n", shop.namespace.name(), "exec", "far", "--", "sha256sum", &path], "")
    };
    let wanted = |number: usize| {
        use sha2::Digest as _;
        let sum = hex::encode(sha2::Sha256::digest(pattern(3 << 20, number as u64)));
        format!("{sum}  /backup/{}\n", name(number))
    };
    assert_eq!(read(0), Ok(wanted(0)));

    let forbidding = Peer::start(Script::status(403));
    for (number, fault) in ["silence", "reset", "forbidden"].into_iter().enumerate() {
        match fault {
            "silence" => proxy.add("timeout", json!({"timeout": 0})),
            "reset" => proxy.add("reset_peer", json!({"timeout": 0})),
            _ => proxy.lead_to(forbidding.address()),
        }
        let number = number + 1;
        let asked = Instant::now();
        let error = read(number).unwrap_err();
        let took = asked.elapsed();
        assert!(error.contains("I/O error") || error.contains("Input/output error"), "{fault}: {error}");
        assert!(took < IN_TIME, "{fault}: {took:?}");
        match fault {
            "silence" => proxy.remove("timeout"),
            "reset" => proxy.remove("reset_peer"),
            _ => proxy.lead_to(minio),
        }
        assert_eq!(read(number), Ok(wanted(number)), "{fault} is over");
    }

    // Somebody forgets the snapshot and prunes with restic: what was read may be read again, the rest is an error, and the volume goes.
    let snapshots: serde_json::Value = serde_json::from_str(&shop.restic("far", &["snapshots", "--json"])).unwrap();
    let id = snapshots[0]["id"].as_str().unwrap();
    shop.restic("far", &["forget", id, "--prune", "--max-unused", "0"]);
    let lost = read(7);
    assert!(lost.is_err() || lost == Ok(wanted(7)), "{lost:?}");
    let listed = shop.namespace.run(&["exec", "far", "--", "ls", "/backup"]);
    assert_eq!(listed.lines().count(), 8, "{listed}");
    shop.namespace.run(&["delete", "pod", "far"]);
    wait_until("the volume to go", || mounts(shop).is_empty().then_some(()));
}

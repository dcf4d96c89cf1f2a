//! Restores that copy through the node's cache: Jobs without credentials, and what one has downloaded no other downloads.

use std::fs;
use std::time::Instant;

use serde_json::{Value, json};
use stash_tests::cluster::Namespace;
use stash_tests::servers::Counting;

use super::restored::{content, restore, volume};
use super::{Case, Shop, claim};

/// What of data the store was asked for, and how many bytes it answered in all.
fn asked(store: &Counting) -> (usize, u64) {
    let (requests, bytes) = store.take();
    (requests.iter().filter(|line| line.starts_with("GET ") && line.contains("/data/")).count(), bytes)
}

pub(super) fn test_copies(shop: &Shop<'_>, case: &Case, release: &Namespace<'_>) {
    let store = Counting::start_on(shop.world.cluster.host(), shop.world.minio.address());
    shop.configure_at(store.address(), "counted", &case.target, &json!({}));
    shop.trigger("counted", "counted-1");
    shop.succeeded("counted-1");
    shop.mirrored("counted", 1);
    let into = |name: &str, replicas: u32| {
        json!({
            "replicas": replicas, "volumeMounts": [{"name": name, "mountPath": "/stash-data"}],
            "rules": [{"sourceHost": "host-0", "paths": ["/stash-data"]}],
            "volumeClaimTemplates": [{"metadata": {"name": format!("{name}-${{POD_ORDINAL}}")}, "spec": claim("ReadWriteOnce")}]
        })
    };
    let _ = asked(&store);
    let begun = Instant::now();
    restore(shop, "first", "counted", &into("first", 1));
    let (of_first, first_bytes) = asked(&store);
    println!("a copy through the node took {:.1} s, {of_first} reads of data", begun.elapsed().as_secs_f64());
    assert!(of_first > 0 && first_bytes > 4 << 20, "{of_first} reads, {first_bytes} bytes");
    restore(shop, "more", "counted", &into("more", 2));
    let (of_more, more_bytes) = asked(&store);
    println!("two more replicas: {of_more} reads of data, {more_bytes} bytes in all");
    assert!(of_more == 0 && more_bytes < 1 << 20, "{of_more} reads, {more_bytes} bytes");

    let before = content(&volume(shop, "data"));
    for made in ["first-0", "more-0", "more-1"] {
        let mut after = content(&volume(shop, made));
        assert_eq!(after.len(), before.len());
        after.retain(|path, said| before.get(path) != Some(said));
        assert!(after.is_empty(), "{made}: {:?}", after.keys());
    }
    has_no_credentials(shop);
    let said = release.run(&["logs", "deployment/stash-fs-controller"]);
    assert!(!said.contains("the Job reads with credentials"), "{said}");
    shop.namespace.run(&["delete", "restoresessions", "first", "more"]);
    assert!(fs::exists(volume(shop, "first-0").join("a/file")).unwrap(), "what was restored stays");
}

fn has_no_credentials(shop: &Shop<'_>) {
    let jobs = shop.namespace.get("jobs")["items"].as_array().unwrap().clone();
    let ours: Vec<&Value> = jobs
        .iter()
        .filter(|job| {
            job["metadata"]["annotations"]["stash.appscode.com/repository"]
                == format!("{}/counted", shop.namespace.name())
        })
        .filter(|job| job["metadata"]["name"].as_str().unwrap().starts_with("stash-restore-"))
        .collect();
    assert_eq!(ours.len(), 3, "{ours:#?}");
    for job in ours {
        let pod = &job["spec"]["template"]["spec"];
        let volumes = pod["volumes"].as_array().unwrap();
        assert_eq!(volumes.iter().filter(|one| one["csi"]["driver"] == "fs.stash.appscode.com").count(), 1, "{pod:#}");
        let secret = shop.namespace.get(&format!("secret/{}", job["metadata"]["name"].as_str().unwrap()));
        let keys: Vec<&String> = secret["data"].as_object().unwrap().keys().collect();
        assert_eq!(keys, ["job.json"]);
    }
}

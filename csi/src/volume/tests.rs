use proptest::prelude::*;

use super::*;

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// A context that is whole, with changes: an empty value takes an attribute away.
fn context(changes: &[(&str, &str)]) -> BTreeMap<String, String> {
    let mut context = map(&[
        (REPOSITORY, "repo"),
        (SNAPSHOT, "latest"),
        (POD_NAME, "pod"),
        (POD_NAMESPACE, "shop"),
        (POD_UID, "u-1"),
        (SERVICE_ACCOUNT, "default"),
        (EPHEMERAL, "true"),
    ]);
    for (name, value) in changes {
        if *value == "-" {
            context.remove(*name);
        } else {
            context.insert((*name).to_owned(), (*value).to_owned());
        }
    }
    context
}

#[test]
fn test_the_least_and_the_most() {
    let (wanted, pod) = parse(&context(&[])).unwrap();
    assert_eq!(
        wanted,
        Wanted {
            repository: "repo".to_owned(),
            repository_namespace: None,
            snapshot: SnapshotChoice::Latest { host: None },
            path: SnapshotPath::default(),
            mode: Mode::ReadOnly,
            scratch_bytes: None,
            ownership: Ownership::default(),
            prefetch: false,
        }
    );
    assert_eq!((pod.namespace.as_str(), pod.name.as_str(), pod.ephemeral), ("shop", "pod", true));
    let (wanted, pod) = parse(&context(&[
        (REPOSITORY_NAMESPACE, "storage"),
        (HOST, "host-0"),
        (PATH, "data//a/"),
        (MODE, "overlay"),
        (SCRATCH_SIZE, "500Mi"),
        (UID, "1000"),
        (GID, "0"),
        (PREFETCH, "true"),
        (EPHEMERAL, "-"),
        (PROVISIONER, "1-2-fs.stash.appscode.com"),
    ]))
    .unwrap();
    assert_eq!(wanted.snapshot, SnapshotChoice::Latest { host: Some("host-0".to_owned()) });
    assert_eq!((wanted.path.as_str(), wanted.mode, wanted.prefetch), ("/data/a", Mode::Overlay, true));
    assert_eq!(wanted.scratch_bytes, Some(500 << 20));
    assert_eq!(wanted.ownership, Ownership { uid: Some(1000), gid: Some(0) });
    assert_eq!((wanted.repository_namespace.as_deref(), pod.ephemeral), (Some("storage"), false));
}

#[test]
fn test_how_a_snapshot_is_named() {
    let whole = "0a".repeat(32);
    for (text, expected) in [
        (whole.as_str(), SnapshotChoice::Id(SnapshotId::parse(&whole).unwrap())),
        ("0a1b", SnapshotChoice::Prefix("0a1b".to_owned())),
        ("deadbeef", SnapshotChoice::Prefix("deadbeef".to_owned())),
        ("repo-0a1b2c3d", SnapshotChoice::Named("repo-0a1b2c3d".to_owned())),
        ("abc", SnapshotChoice::Named("abc".to_owned())),
    ] {
        assert_eq!(parse(&context(&[(SNAPSHOT, text)])).unwrap().0.snapshot, expected, "{text}");
    }
}

#[test]
fn test_each_wrong_attribute_is_refused_by_name() {
    for (changes, words) in [
        (&[("password", "geheim")][..], "the attribute \"password\" is not known"),
        (&[("Repository", "repo")], "the attribute \"Repository\" is not known"),
        (&[("csi.storage.k8s.io/serviceAccount.tokens", "geheim")], "serviceAccount.tokens\" is not known"),
        (&[(REPOSITORY, "-")], "the attribute repository is needed"),
        (&[(REPOSITORY, "")], "the attribute repository is \"\"; it must be the name of an object"),
        (&[(REPOSITORY, "../repo")], "the attribute repository is \"../repo\"; it must be the name of an object"),
        (&[(REPOSITORY_NAMESPACE, "a/b")], "the attribute repositoryNamespace is"),
        (&[(SNAPSHOT, "-")], "the attribute snapshot is needed"),
        (&[(SNAPSHOT, "")], "the attribute snapshot is \"\"; it must be latest, an id"),
        (&[(SNAPSHOT, "latest~1")], "the attribute snapshot is \"latest~1\"; it must be latest"),
        (&[(SNAPSHOT, "0a1b:/etc")], "the attribute snapshot is"),
        (&[(SNAPSHOT, "0A1B")], "the attribute snapshot is"),
        (&[(HOST, "")], "the attribute host is \"\"; it must be the name of a host"),
        (&[(HOST, "a\nb")], "the attribute host is"),
        (&[(HOST, "a"), (SNAPSHOT, "0a1b")], "it goes with snapshot: latest only"),
        (&[(PATH, "")], "the attribute path is \"\"; it must be a folder"),
        (&[(PATH, "/data/../../etc")], "the attribute path is \"/data/../../etc\"; it must be a folder"),
        (&[(PATH, "..")], "the attribute path is"),
        (&[(PATH, "/a\0b")], "the attribute path is"),
        (&[(MODE, "rw")], "the attribute mode is \"rw\"; it must be ro or overlay"),
        (
            &[(SCRATCH_SIZE, "1Gi")],
            "the attribute scratchSize bounds what is written to a volume: it goes with mode: overlay",
        ),
        (&[(MODE, "overlay"), (SCRATCH_SIZE, "big")], "the attribute scratchSize is \"big\"; it must be a size like"),
        (&[(MODE, "overlay"), (SCRATCH_SIZE, "0")], "the attribute scratchSize is"),
        (&[(UID, "-1")], "the attribute uid is \"-1\"; it must be a number"),
        (&[(UID, "+1")], "the attribute uid is"),
        (&[(UID, "4294967295")], "the attribute uid is"),
        (&[(GID, "root")], "the attribute gid is \"root\"; it must be a number"),
        (&[(PREFETCH, "yes")], "the attribute prefetch is \"yes\"; it must be true or false"),
        (&[(POD_NAME, "-")], "csi.storage.k8s.io/pod.name is needed: the CSIDriver object fs.stash.appscode.com"),
        (&[(POD_NAMESPACE, "")], "csi.storage.k8s.io/pod.namespace is needed"),
        (&[(POD_UID, "-")], "csi.storage.k8s.io/pod.uid is needed"),
        (&[(SERVICE_ACCOUNT, "-")], "csi.storage.k8s.io/serviceAccount.name is needed"),
    ] {
        let error = parse(&context(changes)).unwrap_err().to_string();
        assert!(error.contains(words), "{changes:?}: {error}");
        assert!(!error.contains("geheim"), "{error}");
    }
}

#[test]
fn test_a_claim_names_its_snapshot_itself() {
    let (wanted, with_path) = beside_snapshot(&map(&[(MODE, "overlay"), (PATH, "/a")]), &[]).unwrap();
    assert_eq!((wanted.mode, wanted.path.as_str(), with_path), (Mode::Overlay, "/a", true));
    assert!(!beside_snapshot(&map(&[]), &[]).unwrap().1);
    for name in [REPOSITORY, REPOSITORY_NAMESPACE, SNAPSHOT, HOST] {
        let error = beside_snapshot(&map(&[(name, "x")]), &[]).unwrap_err().to_string();
        assert!(error.starts_with(&format!("the attribute {name} is \"x\"; it must be left out")), "{error}");
    }
}

#[test]
fn test_which_backup_holds_a_folder() {
    for (folder, path, expected) in [
        ("/", "/", true),
        ("/", "/data", false),
        ("/data", "/data", true),
        ("/data", "/data/", true),
        ("/data/a", "/data", true),
        ("/data2", "/data", false),
        ("/data", "/data/a", false),
        ("/data", "/", true),
    ] {
        assert_eq!(SnapshotPath::parse(folder).unwrap().is_within(path), expected, "{folder} in {path}");
    }
}

proptest! {
    #[test]
    fn test_attributes_never_panic_and_never_lead_up(
        pairs in prop::collection::btree_map("[a-zA-Z]{1,8}|path|uid|snapshot|mode|host", "[ -~]{0,12}|(/?\\.{0,3}){0,5}", 0..6),
    ) {
        let mut all = context(&[]);
        all.extend(pairs);
        if let Ok((wanted, _)) = parse(&all) {
            prop_assert!(wanted.path.as_str().starts_with('/'));
            prop_assert!(!wanted.path.as_str().split('/').any(|part| part == ".." || part == "."));
            prop_assert!(is_object_name(&wanted.repository));
        }
    }

    #[test]
    fn test_a_path_is_read_as_it_is_written(parts in prop::collection::vec("[a-z .\u{e9}]{1,8}", 0..5)) {
        let text = format!("/{}", parts.join("/"));
        let plain = parts.iter().all(|part| part != "." && part != "..");
        prop_assert_eq!(SnapshotPath::parse(&text).map(|path| path.0), plain.then_some(text));
    }
}

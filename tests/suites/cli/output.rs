//! What restic prints and what we print.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use stash_tests::fixture::pattern;
use stash_tests::mounted::clean;
use stash_tests::restic::Restic;

use super::{lines, ours, outcome, text};

/// A repository with two snapshots that differ in every way.
struct Two {
    restic: Restic,
    _source: tempfile::TempDir,
    ids: [String; 2],
    /// The tree's path in the snapshots.
    root: String,
}

fn two() -> Two {
    let source = tempfile::tempdir().unwrap();
    let root = source.path().join("tree");
    let at = |name: &str| root.join(name);
    fs::create_dir_all(at("same/deep")).unwrap();
    fs::create_dir_all(at("gone/inner")).unwrap();
    for name in ["same/deep/f", "same/g", "gone/inner/x", "changed", "touched", "kind", "copied", "Upper.TXT"] {
        fs::write(at(name), name).unwrap();
    }
    fs::write(at("big"), pattern(6 << 20, 4)).unwrap();
    fs::set_permissions(at("touched"), fs::Permissions::from_mode(0o4711)).unwrap();
    symlink("changed", at("link")).unwrap();
    fs::hard_link(at("same/g"), at("hard")).unwrap();
    let restic = Restic::init();
    let first = restic.backup(
        ["--tag", "one,two", "--host", "alpha"]
            .map(std::ffi::OsStr::new)
            .into_iter()
            .chain([source.path().as_os_str()]),
    );
    fs::remove_dir_all(at("gone")).unwrap();
    fs::write(at("changed"), "other content").unwrap();
    fs::set_permissions(at("touched"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::remove_file(at("kind")).unwrap();
    fs::create_dir_all(at("kind")).unwrap();
    fs::create_dir_all(at("new/inner")).unwrap();
    fs::write(at("new/inner/y"), pattern(3 << 20, 5)).unwrap();
    // The same content at a new place: nothing new in the repository.
    fs::copy(at("same/deep/f"), at("new/copy")).unwrap();
    let second =
        restic.backup(["--host", "beta"].map(std::ffi::OsStr::new).into_iter().chain([source.path().as_os_str()]));
    let root = root.to_str().unwrap().to_owned();
    Two { restic, _source: source, ids: [first, second], root }
}

/// Takes away what restic 0.14 does not print.
fn without(mut value: Value, fields: &[&str]) -> Value {
    if let Some(object) = value.as_object_mut() {
        fields.iter().for_each(|field| drop(object.remove(*field)));
    }
    value
}

#[test]
fn test_ls_prints_what_restic_prints() {
    let two = two();
    for arguments in [&["ls", "latest"][..], &["ls", &two.ids[0]], &["ls", "latest", "--host", "alpha"]] {
        for more in [&[][..], &["-l"], &[&two.root as &str], &["--recursive", &two.root], &["--recursive", "-l", "/"]] {
            let arguments = [arguments, more].concat();
            let theirs = text(two.restic.command().args(&arguments));
            let mine = text(ours(&two.restic).arg("--quiet").args(&arguments));
            assert_eq!(mine, theirs, "{arguments:?}");
        }
    }
    let theirs = lines(&two.restic.run(["ls", "latest", "--json"]));
    let mine = lines(&text(ours(&two.restic).args(["ls", "latest", "--json"])));
    let newer = ["inode", "message_type"];
    let mine: Vec<Value> = mine.into_iter().map(|line| without(line, &newer)).collect();
    assert_eq!(mine, theirs);
}

#[test]
fn test_ls_of_a_path_in_a_snapshot() {
    let two = two();
    let same = format!("{}:{}/same", two.ids[0], two.root);
    assert_eq!(text(ours(&two.restic).args(["ls", "--quiet", &same])), "/deep\n/deep/f\n/g\n");
    let file = format!("latest~1:{}/changed", two.root);
    assert!(text(ours(&two.restic).args(["ls", "-q", &file])).ends_with("/changed\n"));
    let (code, _, stderr) = outcome(ours(&two.restic).args(["ls", "latest:/nowhere"]));
    assert_eq!(code, 1);
    assert!(stderr.contains("has no /nowhere"), "{stderr}");
}

#[test]
fn test_snapshots_prints_what_restic_prints() {
    let two = two();
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    for arguments in [
        &["snapshots", "--json"][..],
        &["snapshots", "--json", "latest"],
        &["snapshots", "--json", "--host", "alpha"],
        &["snapshots", "--json", "--tag", "one"],
        &["snapshots", "--json", "--tag", "one,two"],
        &["snapshots", "--json", "--tag", "one,three"],
        &["snapshots", "--json", "--tag", ""],
        &["snapshots", "--json", "--path", "/nowhere"],
        &["snapshots", "--json", "--latest", "1"],
        &["snapshots", "--json", &two.ids[1][..6]],
    ] {
        let theirs = json(&two.restic.run(arguments));
        let mine = json(&text(ours(&two.restic).args(arguments)));
        // restic prints `null` for an empty list.
        let theirs = if theirs.is_null() { Value::Array(Vec::new()) } else { theirs };
        assert_eq!(mine, theirs, "{arguments:?}");
    }
    let by_key = |text: &str| {
        let mut groups = json(text).as_array().unwrap().clone();
        groups.sort_by_key(|group| group["group_key"].to_string());
        groups
    };
    for group in ["host", "paths", "tags", "host,paths,tags"] {
        let arguments = ["snapshots", "--json", "--group-by", group];
        assert_eq!(by_key(&text(ours(&two.restic).args(arguments))), by_key(&two.restic.run(arguments)), "{group}");
    }
    let table = text(ours(&two.restic).args(["snapshots"]));
    assert!(table.contains("one,two") && table.contains("alpha") && table.ends_with("2 snapshots\n"), "{table}");
}

#[test]
fn test_diff_prints_what_restic_prints() {
    let two = two();
    let [first, second] = &two.ids;
    // restic prints no changes under the --quiet of the harness.
    let loud = |arguments: &[&str]| {
        let mut restic = clean(Command::new("restic"));
        restic.args(["--no-cache", "--repo"]).arg(two.restic.path()).env("RESTIC_PASSWORD", two.restic.password());
        text(restic.args(arguments))
    };
    for arguments in [&["diff", first, second][..], &["diff", "--metadata", first, second], &["diff", second, first]] {
        let arguments = [arguments, &["--json"]].concat();
        assert_eq!(lines(&text(ours(&two.restic).args(&arguments))), lines(&loud(&arguments)), "{arguments:?}");
    }
    let arguments = ["diff", first, second];
    let body = |text: String| text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(body(text(ours(&two.restic).args(arguments))), body(loud(&arguments)));
    // Without blobs nothing but what differs is read, and the changes are the same.
    let fast = lines(&text(ours(&two.restic).args(["diff", "--no-blobs", "--json", first, second])));
    assert_eq!(fast.last().unwrap()["added"]["files"], 2);
    assert!(fast.last().unwrap()["added"]["data_blobs"].is_null());
    // Of a directory alone.
    let inner = |id: &str, name: &str| format!("{id}:{}/{name}", two.root);
    let text = text(ours(&two.restic).args(["diff", &inner(first, "same"), &inner(second, "new")]));
    assert!(text.contains("-    /deep/\n-    /deep/f\n") && text.contains("+    /inner/y\n"), "{text}");
}

#[test]
fn test_find_prints_what_restic_prints() {
    let two = two();
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let absolute = format!("{}/same/deep", two.root);
    for arguments in [
        &["changed"][..],
        &["*.TXT", "link"],
        &["-i", "upper*"],
        &["deep"],
        &["same/g"],
        &[&absolute as &str],
        &["--oldest", "2000-01-01", "x"],
        &["--newest", "2000-01-01", "x"],
        &["--host", "alpha", "inner"],
        &["-s", &two.ids[0], "inner"],
        &["nothing-like-this"],
    ] {
        let arguments = [&["find", "--json"][..], arguments].concat();
        let mut theirs = json(&two.restic.run(&arguments));
        // restic's map of a node has no user name where there is none; ours neither.
        let mut mine = json(&text(ours(&two.restic).args(&arguments)));
        for value in [&mut theirs, &mut mine] {
            value.as_array_mut().unwrap().sort_by_key(|group| group["snapshot"].to_string());
        }
        assert_eq!(mine, theirs, "{arguments:?}");
    }
    let theirs = text(two.restic.command().args(["find", "-l", "changed"]));
    let mine = text(ours(&two.restic).args(["--quiet", "find", "-l", "changed"]));
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&mine), sorted(&theirs));
}

#[test]
fn test_find_of_objects_names_files_and_packs() {
    let two = two();
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let stat = json(&text(ours(&two.restic).args(["stat", "--json", &format!("latest:{}/big", two.root)])));
    assert_eq!(stat["size"], 6 << 20);
    let blobs = stat["blobs"].as_array().unwrap();
    assert!(blobs.len() > 1);
    assert_eq!(blobs.iter().map(|blob| blob["size"].as_u64().unwrap()).sum::<u64>(), 6 << 20);
    let blob = blobs[0]["id"].as_str().unwrap();
    let arguments = ["find", "--json", "--blob", blob];
    let sorted = |mut value: Value| {
        value.as_array_mut().unwrap().sort_by_key(|hit| (hit["snapshot"].to_string(), hit["path"].to_string()));
        value
    };
    assert_eq!(sorted(json(&text(ours(&two.restic).args(arguments)))), sorted(json(&two.restic.run(arguments))));
    let pack = blobs[0]["pack"].as_str().unwrap();
    let shown = text(ours(&two.restic).args(["find", "--pack", &pack[..12]]));
    assert!(shown.contains(&format!("{}/big", two.root)), "{shown}");
    let tree = text(ours(&two.restic).args(["find", "--show-pack-id", "--blob", &blob[..12]]));
    assert!(tree.contains(&format!("Object belongs to pack {pack}")), "{tree}");
    assert_eq!(outcome(ours(&two.restic).args(["find", "--blob", "xyz"])).0, 2);
}

#[test]
fn test_stats_counts_what_restic_counts() {
    let two = two();
    for mode in ["restore-size", "files-by-contents", "raw-data", "blobs-per-file"] {
        for snapshots in [&[][..], &["latest"], &["--host", "alpha"]] {
            let arguments = [&["stats", "--json", "--mode", mode], snapshots].concat();
            let theirs = lines(&two.restic.run(&arguments)).remove(0);
            let mine = lines(&text(ours(&two.restic).args(&arguments))).remove(0);
            // Newer restics print what compression saved.
            let newer =
                ["total_uncompressed_size", "compression_ratio", "compression_progress", "compression_space_saving"];
            assert_eq!(without(mine, &newer), theirs, "{arguments:?}");
        }
    }
}

#[test]
fn test_cat_prints_what_restic_prints() {
    let two = two();
    let key = two.restic.run(["list", "keys"]);
    let index = two.restic.run(["list", "index"]);
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    for arguments in [
        &["cat", "config"][..],
        &["cat", "masterkey"],
        &["cat", "key", key.trim()],
        &["cat", "index", index.lines().next().unwrap()],
        &["cat", "snapshot", &two.ids[0]],
    ] {
        assert_eq!(json(&text(ours(&two.restic).args(arguments))), json(&two.restic.run(arguments)), "{arguments:?}");
    }
    let tree = json(&two.restic.run(["cat", "snapshot", &two.ids[0]]))["tree"].as_str().unwrap().to_owned();
    let raw = |command: &mut Command| command.output().unwrap().stdout;
    assert_eq!(
        raw(ours(&two.restic).args(["cat", "blob", &tree])),
        raw(two.restic.command().args(["cat", "blob", &tree]))
    );
    assert_eq!(
        raw(ours(&two.restic).args(["cat", "tree", &two.ids[0]])),
        raw(two.restic.command().args(["cat", "blob", &tree]))
    );
    let pack = two.restic.run(["list", "packs"]).lines().next().unwrap().to_owned();
    let stored = two.restic.path().join("data").join(&pack[..2]).join(&pack);
    assert_eq!(raw(ours(&two.restic).args(["cat", "pack", &pack[..8]])), fs::read(stored).unwrap());
    let big = format!("latest:{}/big", two.root);
    assert_eq!(raw(ours(&two.restic).args(["cat", &big])), pattern(6 << 20, 4));
    let path = Path::new(&two.root).join("big");
    assert_eq!(raw(ours(&two.restic).args(["dump", "latest", path.to_str().unwrap()])), pattern(6 << 20, 4));
    let (code, _, stderr) = outcome(ours(&two.restic).args(["cat", "nonsense"]));
    assert!(code == 2 && stderr.contains("hint: give SNAPSHOT:PATH"), "{stderr}");
}

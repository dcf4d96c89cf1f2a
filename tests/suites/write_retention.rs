//! Forget, prune, copy, keys, tags, init and check, judged by Debian's restic.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use stash_tests::fixture::pattern;
use stash_tests::restic::Restic;

/// Makes a repository with a snapshot of a tiny file at each of these times.
fn with_snapshots(times: &[&str]) -> Restic {
    let restic = Restic::init_with_ours("2");
    let file = restic.scratch().join("file");
    fs::write(&file, "content").unwrap();
    for (nr, time) in times.iter().enumerate() {
        let tag = if nr % 3 == 0 { "keep,x" } else { "x" };
        restic.stash_fs(["backup", "--time", time, "--tag", tag, "--host", "h", file.to_str().unwrap()]);
    }
    restic
}

/// A group's outcome: the ids of those that stay with their reasons, the ids of those that go, and the group's names.
type Outcome = (BTreeMap<String, Value>, Vec<Value>, Value);

/// Reads what forget prints as JSON, without what may differ.
fn outcome(json: &str) -> Vec<Outcome> {
    let groups: Vec<Value> = serde_json::from_str(json).unwrap();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    groups
        .iter()
        .map(|group| {
            let ids = list(&group["keep"]).into_iter().map(|kept| kept["id"].as_str().unwrap().to_owned());
            let reasons = list(&group["reasons"])
                .into_iter()
                .map(|reason| json!([reason["matches"], reason["counters"], reason["snapshot"]["time"]]));
            let mut gone: Vec<_> = list(&group["remove"]).into_iter().map(|gone| gone["id"].clone()).collect();
            gone.sort_by_key(ToString::to_string);
            let names = json!([group["host"], group["paths"], group["tags"]]);
            (ids.zip(reasons).collect(), gone, names)
        })
        .collect()
}

#[test]
fn test_forget_decides_as_restic() {
    let restic = with_snapshots(&[
        "2020-12-27 10:00:00",
        "2020-12-31 09:00:00",
        "2020-12-31 09:30:00",
        "2021-01-01 00:10:00",
        "2021-01-03 12:00:00",
        "2021-01-04 12:00:00",
        "2021-02-28 23:00:00",
        "2021-02-28 23:59:00",
        "2021-03-31 00:00:00",
    ]);
    let run = |ours: bool, policy: &[&str]| {
        let arguments = [&["forget", "--dry-run", "--json"], policy].concat();
        let json = if ours { restic.stash_fs(arguments) } else { restic.run(arguments) };
        let mut outcome = outcome(json.lines().next().unwrap());
        outcome.sort_by_key(|group| group.2.to_string());
        outcome
    };
    for policy in [
        &["--keep-last", "2"][..],
        &["--keep-hourly", "3"],
        &["--keep-daily", "4"],
        &["--keep-weekly", "100"],
        &["--keep-monthly", "2", "--keep-yearly", "2"],
        &["--keep-within", "1m"],
        &["--keep-within", "30d12h", "--keep-last", "1"],
        &["--keep-within-daily", "3m", "--keep-within-weekly", "1y"],
        &["--keep-tag", "keep"],
        &["--keep-tag", "nothing", "--keep-last", "1", "--group-by", "tags"],
        &["--keep-last", "1", "--group-by", ""],
        &["--keep-last", "1", "--tag", "keep"],
    ] {
        assert_eq!(run(true, policy), run(false, policy), "{policy:?}");
    }
    // Since 0.16 restic keeps the oldest as well while a rule has counts left, or where it is within a rule's time; since
    // 0.17 it says so. Debian's is older, and differs in this alone.
    let oldest = restic.snapshots()[0]["id"].as_str().unwrap().to_owned();
    for (policy, reason, counters) in [
        (&["--keep-monthly", "2", "--keep-yearly", "5"][..], "oldest yearly snapshot", json!({"yearly": 2})),
        (&["--keep-hourly", "1", "--keep-yearly", "unlimited"], "oldest yearly snapshot", json!({"yearly": -1})),
        (&["--keep-within-yearly", "1y"], "oldest yearly within 1y", json!({})),
    ] {
        let theirs = policy.iter().map(|word| if *word == "unlimited" { "99" } else { word }).collect::<Vec<_>>();
        let (mut ours, theirs) = (run(true, policy), run(false, &theirs));
        let kept = ours[0].0.remove(&oldest).unwrap_or_default();
        assert_eq!(kept, json!([[reason], counters, "2020-12-27T10:00:00Z"]), "{policy:?}");
        ours[0].1.push(oldest.as_str().into());
        ours[0].1.sort_by_key(ToString::to_string);
        let ids = |outcome: &[Outcome]| {
            outcome
                .iter()
                .map(|(keep, gone, names)| (keep.keys().cloned().collect::<Vec<_>>(), gone.clone(), names.clone()))
                .collect::<Vec<_>>()
        };
        assert_eq!(ids(&ours), ids(&theirs), "{policy:?}");
    }
    assert_eq!(restic.snapshots().len(), 9, "a dry run removed");
    restic.stash_fs(["forget", "--keep-last", "3", "--prune"]);
    assert_eq!(restic.snapshots().len(), 3);
    assert!(restic.files("locks").is_empty());
    restic.check_all();
}

fn stored_bytes(restic: &Restic) -> u64 {
    let size = |name: &String| fs::metadata(restic.path().join("data").join(&name[..2]).join(name)).unwrap().len();
    restic.files("data").iter().map(size).sum()
}

#[test]
fn test_prune_removes_what_nothing_needs() {
    // The pattern is half random: with compression (format 2) half of it is stored.
    for (init, stored_share) in
        [(Restic::init as fn() -> Restic, 2), ((|| Restic::init_with_ours("1")) as fn() -> Restic, 1)]
    {
        let restic = init();
        let folder = restic.scratch().join("source");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("stays"), pattern(1 << 20, 1)).unwrap();
        for round in 0..4 {
            fs::write(folder.join("changes"), pattern(2 << 20, 10 + round)).unwrap();
            if round % 2 == 0 {
                restic.backup([&folder]);
            } else {
                restic.stash_fs([Path::new("backup"), &folder]);
            }
        }
        restic.stash_fs(["forget", "--keep-last", "1"]);
        let before = stored_bytes(&restic);
        let plan: Value = serde_json::from_str(&restic.stash_fs(["--json", "prune", "--dry-run"])).unwrap();
        assert_eq!(stored_bytes(&restic), before, "a dry run removed");
        assert!(plan["removed_bytes"].as_u64().unwrap() > 0);
        restic.stash_fs(["prune", "--max-unused", "0"]);
        let after = stored_bytes(&restic);
        assert!(after < before - (3 << 21) / stored_share, "{before} became {after}");
        assert!(
            before - after >= plan["removed_bytes"].as_u64().unwrap() / 100 * 99,
            "{before} became {after}: {plan}"
        );
        restic.check_all();
        let again: Value = serde_json::from_str(&restic.stash_fs(["--json", "prune", "--dry-run"])).unwrap();
        assert_eq!((&again["unused_blobs"], &again["unreferenced_packs"]), (&0.into(), &0.into()));
        // What is stored is what is needed, and packs' headers.
        let used = again["used_bytes"].as_u64().unwrap();
        assert!((used..used + 4096).contains(&after), "{after} bytes for {used}");
        let target = restic.scratch().join("restored");
        restic.run(["restore", "latest", "--target", target.to_str().unwrap()]);
        let restored = target.join(folder.strip_prefix("/").unwrap());
        for name in ["stays", "changes"] {
            assert!(fs::read(restored.join(name)).unwrap() == fs::read(folder.join(name)).unwrap(), "{name} differs");
        }
    }
}

#[test]
fn test_prune_in_two_phases_leaves_packs_for_readers() {
    let restic = Restic::init_with_ours("2");
    let file = restic.scratch().join("file");
    for round in 0..2 {
        fs::write(&file, pattern(1 << 20, round)).unwrap();
        restic.stash_fs([Path::new("backup"), &file]);
    }
    restic.stash_fs(["forget", "--keep-last", "1"]);
    let before = restic.files("data");
    restic.stash_fs(["prune", "--max-unused", "0", "--keep-delete", "23h"]);
    let marked = restic.files("data");
    assert!(before.iter().all(|pack| marked.contains(pack)), "a pack went at once");
    restic.check_all();
    restic.stash_fs(["prune", "--max-unused", "0", "--keep-delete", "0s"]);
    assert!(restic.files("data").len() < marked.len());
    restic.check_all();
}

#[test]
fn test_copy_between_repositories() {
    let from = with_snapshots(&["2020-01-01 00:00:00", "2020-01-02 00:00:00"]);
    let folder = from.scratch().join("more");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("data"), pattern(3 << 20, 7)).unwrap();
    from.backup(["--exclude".as_ref(), "none".as_ref(), folder.as_os_str()]);
    let to = Restic::init_with_ours("2");
    let copy = |arguments: &[&str]| {
        let mut command = to.stash_fs_command();
        command.args(["--json", "copy", "--from-repo"]).arg(from.path()).args(["--from-password-file"]);
        command.arg(from.password_file()).args(arguments);
        let text = stash_tests::fixture::run(&mut command);
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        lines.iter().filter(|line| line["new"] == true).count()
    };
    assert_eq!(copy(&["latest"]), 1);
    assert_eq!(copy(&[]), 2);
    assert_eq!(copy(&[]), 0, "copied twice");
    let (ours, theirs) = (to.snapshots(), from.snapshots());
    assert_eq!(ours.len(), 3);
    for snapshot in &ours {
        let same = |other: &&Value| snapshot["original"] == other["id"];
        let original = theirs.iter().find(same).unwrap();
        for field in ["time", "paths", "tags", "hostname", "tree", "excludes"] {
            assert_eq!(snapshot[field], original[field], "{field}");
        }
        assert!(snapshot.get("parent").is_none());
    }
    to.check_all();
    assert!(from.files("locks").is_empty() && to.files("locks").is_empty());
    // restic sees them as copied, too.
    let mut restic = to.command();
    restic.args(["copy", "--from-repo"]).arg(from.path()).arg("--from-password-file").arg(from.password_file());
    stash_tests::fixture::run(&mut restic);
    assert_eq!(to.snapshots().len(), 3, "restic copied again");
}

#[test]
fn test_copy_of_what_is_damaged_copies_nothing() {
    let from = Restic::init_with_ours("2");
    let file = from.scratch().join("file");
    fs::write(&file, pattern(1 << 20, 3)).unwrap();
    from.stash_fs([Path::new("backup"), &file]);
    // Without its index file the blobs are unknown.
    for index in from.files("index") {
        fs::remove_file(from.path().join("index").join(index)).unwrap();
    }
    let to = Restic::init_with_ours("2");
    let mut command = to.stash_fs_command();
    command.args(["copy", "--from-repo"]).arg(from.path()).arg("--from-password-file").arg(from.password_file());
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(to.files("snapshots").is_empty());
}

#[test]
fn test_keys_open_for_restic() {
    let restic = Restic::init();
    let file = |name: &str, password: &str| -> PathBuf {
        let path = restic.scratch().join(name);
        fs::write(&path, password).unwrap();
        path
    };
    let (second, third) = (file("second", "second password\n"), file("third", "third password"));
    let key = |password: &Path, arguments: &[&str]| {
        let mut command = restic.stash_fs_command();
        command.env_remove("RESTIC_PASSWORD").arg("--password-file").arg(password).arg("key").args(arguments);
        command.output().unwrap()
    };
    let first = restic.password_file();
    let opens = |password: &Path| {
        let mut command = restic.command();
        command.env_remove("RESTIC_PASSWORD").arg("--password-file").arg(password).args(["cat", "config"]);
        command.output().unwrap().status.success()
    };
    assert!(
        key(&first, &["add", "--new-password-file", second.to_str().unwrap(), "--user", "u", "--host", "h"])
            .status
            .success()
    );
    assert!(opens(&first) && opens(&second));
    let list: Value = serde_json::from_str(&restic.stash_fs(["--json", "key", "list"])).unwrap();
    let list = list.as_array().unwrap();
    assert_eq!(list.len(), 2);
    let new = list.iter().find(|key| key["userName"] == "u").unwrap();
    assert_eq!((&new["hostName"], &new["current"]), (&"h".into(), &false.into()));

    assert!(key(&second, &["passwd", "--new-password-file", third.to_str().unwrap()]).status.success());
    assert!(opens(&first) && !opens(&second) && opens(&third));
    assert_eq!(key(&second, &["list"]).status.code(), Some(12));
    let list: Value = serde_json::from_slice(&key(&third, &["list"]).stdout).unwrap_or_default();
    assert!(list.is_null(), "text, not JSON");
    let ids = restic.files("keys");
    assert_eq!(ids.len(), 2);
    // The key in use stays; the other goes.
    let results: Vec<_> = ids.iter().map(|id| key(&first, &["remove", &id[..12]]).status.code()).collect();
    assert!(results.contains(&Some(0)) && results.contains(&Some(1)), "{results:?}");
    assert!(opens(&first) && !opens(&third));
    assert!(restic.files("locks").is_empty());
}

#[test]
fn test_tags_are_changed_and_all_else_stays() {
    let restic = Restic::init();
    restic.backup(["--tag", "a,b", "--exclude", "pattern", "/etc/hostname"]);
    // What restic 0.14's backup prints is the id's beginning.
    let id = restic.snapshots()[0]["id"].as_str().unwrap().to_owned();
    restic.stash_fs(["tag", "--add", "c,b", "--remove", "a", &id[..8]]);
    let changed = &restic.snapshots()[0];
    assert_eq!(changed["tags"], json!(["b", "c"]));
    assert_eq!((changed["original"].as_str(), changed["excludes"][0].as_str()), (Some(id.as_str()), Some("pattern")));
    restic.stash_fs(["tag", "--set", "z"]);
    assert_eq!(restic.snapshots()[0]["tags"], json!(["z"]));
    assert_eq!(restic.snapshots()[0]["original"].as_str(), Some(id.as_str()));
    let text = restic.stash_fs(["--json", "tag", "--set", "z"]);
    assert!(text.contains(r#""changed_snapshots":0"#), "{text}");
    restic.stash_fs(["tag", "--set", ""]);
    assert!(restic.snapshots()[0].get("tags").is_none());
    assert_eq!(restic.files("snapshots").len(), 1);
    restic.check_all();
}

#[test]
fn test_init_makes_what_restic_opens() {
    for version in ["1", "2"] {
        let restic = Restic::init_with_ours(version);
        let config: Value = serde_json::from_str(&restic.run(["cat", "config"])).unwrap();
        assert_eq!(config["version"].to_string(), version);
        let again = restic.stash_fs_command().arg("init").output().unwrap();
        assert_eq!(again.status.code(), Some(1));
        let other = restic.scratch().join("other");
        let mut command = stash_tests::mounted::stash_fs();
        command.args(["--no-cache", "--repo"]).arg(&other).args(["init", "--copy-chunker-params", "--from-repo"]);
        command.arg(restic.path()).env("RESTIC_PASSWORD", "x").env("RESTIC_FROM_PASSWORD", restic.password());
        stash_tests::fixture::run(&mut command);
        let mut cat = restic.command();
        cat.arg("--repo").arg(&other).args(["cat", "config"]).env("RESTIC_PASSWORD", "x");
        let copied: Value = serde_json::from_str(&stash_tests::fixture::run(&mut cat)).unwrap();
        assert_eq!(copied["chunker_polynomial"], config["chunker_polynomial"]);
        assert_ne!(copied["id"], config["id"]);
    }
}

#[test]
fn test_check_names_damage() {
    let restic = Restic::init_with_ours("2");
    let file = restic.scratch().join("file");
    for round in 0..2 {
        fs::write(&file, pattern(1 << 20, round)).unwrap();
        restic.stash_fs([Path::new("backup"), &file]);
    }
    let check = |arguments: &[&str]| {
        let output = restic.stash_fs_command().arg("check").args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    assert_eq!(check(&[]).0, Some(0));
    assert_eq!(check(&["--read-data"]).0, Some(0));
    assert_eq!(check(&["--read-data-subset", "1/2"]).0, Some(0));
    assert_eq!(check(&["--read-data-subset", "50%"]).0, Some(0));
    assert_eq!(check(&["--read-data-subset", "x"]).0, Some(2));

    let path_of = |pack: &str| restic.path().join("data").join(&pack[..2]).join(pack);
    let largest =
        restic.files("data").into_iter().max_by_key(|pack| fs::metadata(path_of(pack)).unwrap().len()).unwrap();
    let pack = path_of(&largest);
    let good = fs::read(&pack).unwrap();
    let write = |path: &Path, bytes: &[u8]| {
        // restic makes its files read-only.
        let _ = fs::remove_file(path);
        fs::write(path, bytes).unwrap();
    };
    let mut bad = good.clone();
    bad[1000] ^= 1;
    write(&pack, &bad);
    assert_eq!(check(&[]).0, Some(0), "a flipped bit is seen by reading only");
    for (damage, arguments) in
        [(Some(&bad[..]), &["--read-data"][..]), (Some(&good[..good.len() - 5]), &[]), (None, &[])]
    {
        match damage {
            Some(bytes) => write(&pack, bytes),
            None => fs::remove_file(&pack).unwrap(),
        }
        let (code, text) = check(arguments);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains(&largest[..8]), "the pack is not named: {text}");
    }
    write(&pack, &good);
    assert_eq!(check(&["--read-data"]).0, Some(0));
    for kind in ["snapshots", "index"] {
        let name = restic.files(kind)[0].clone();
        let path = restic.path().join(kind).join(&name);
        let good = fs::read(&path).unwrap();
        let mut bad = good.clone();
        bad[20] ^= 1;
        write(&path, &bad);
        let (code, text) = check(&[]);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains(&name[..8]), "{kind}: {text}");
        write(&path, &good);
    }
    assert_eq!(check(&[]).0, Some(0));
}

#[test]
fn test_a_killed_backup_leaves_a_whole_repository() {
    use rand::Rng as _;
    let restic = Restic::init_with_ours("2");
    let folder = restic.scratch().join("source");
    fs::create_dir(&folder).unwrap();
    let mut random = rand::rng();
    for round in 0..20_u64 {
        for file in 0..8 {
            fs::write(folder.join(format!("f{file}")), pattern(1 << 20, round * 100 + file)).unwrap();
        }
        let mut command = restic.stash_fs_command();
        command.args(["--no-lock", "--pack-size", "4", "backup"]).arg(&folder);
        let mut child =
            command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        // Anywhere between the start of the process and a little after its usual end.
        let limit = std::time::Duration::from_millis(u64::from(random.next_u32()) % 2500);
        let start = std::time::Instant::now();
        while start.elapsed() < limit && child.try_wait().unwrap().is_none() {
            std::thread::park_timeout(std::time::Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        if round % 5 == 4 {
            restic.run(["check", "--read-data"]);
        }
    }
    restic.stash_fs([Path::new("backup"), &folder]);
    restic.stash_fs(["prune", "--max-unused", "0"]);
    restic.check_all();
}

//! What all verbs share: exit codes, errors, closed pipes, signals, secrets, help.

use std::fs;
use std::io::Read as _;
use std::process::{Command, Stdio};

use serde_json::Value;
use stash_tests::mounted::stash_fs;
use stash_tests::restic::Restic;

use super::{ours, outcome};

#[test]
fn test_exit_codes_and_errors() {
    let restic = Restic::init();
    let (code, _, stderr) = outcome(ours(&restic).arg("snapshots").env("RESTIC_PASSWORD", "wrong"));
    assert_eq!(code, 12);
    assert!(stderr.starts_with("stash-fs: wrong password") && stderr.contains("\nhint: "), "{stderr}");
    let (code, _, stderr) =
        outcome(stash_fs().args(["-r", "/nowhere/at/all", "snapshots"]).env("RESTIC_PASSWORD", "x"));
    assert!(code == 10 && stderr.contains("there is no repository at /nowhere/at/all"), "{stderr}");
    let (code, stdout, stderr) =
        outcome(stash_fs().args(["-r", "/nowhere/at/all", "--json", "snapshots"]).env("RESTIC_PASSWORD", "x"));
    let error: Value = serde_json::from_str(&stderr).unwrap();
    assert_eq!(
        (code, stdout.as_str(), &error["message_type"], &error["code"]),
        (10, "", &"exit_error".into(), &10.into())
    );
    assert_eq!(outcome(stash_fs().arg("snapshots")).0, 2, "no repository is named");
    assert_eq!(outcome(stash_fs().args(["snapshots", "--no-such-option"])).0, 2);
    assert_eq!(outcome(ours(&restic).args(["ls", "latest"])).0, 1, "no snapshot");
    let (code, _, stderr) = outcome(ours(&restic).arg("snapshots").env_remove("RESTIC_PASSWORD").stdin(Stdio::null()));
    assert!(code == 2 && stderr.contains("no terminal to ask at"), "{stderr}");
}

#[test]
fn test_every_source_of_a_password() {
    let restic = Restic::init();
    let bare = || {
        let mut command = ours(&restic);
        command.env_remove("RESTIC_PASSWORD").arg("snapshots");
        command
    };
    let file = restic.password_file();
    let cat = format!("cat '{}'", file.display());
    assert_eq!(outcome(bare().arg("--password-file").arg(&file)).0, 0);
    assert_eq!(outcome(bare().env("RESTIC_PASSWORD_FILE", &file)).0, 0);
    assert_eq!(outcome(bare().args(["--password-command", &cat])).0, 0);
    assert_eq!(outcome(bare().env("RESTIC_PASSWORD_COMMAND", &cat)).0, 0);
    assert_eq!(outcome(bare().env("RESTIC_PASSWORD_COMMAND", &cat).env("RESTIC_PASSWORD_FILE", &file)).0, 2);
    let repository = restic.scratch().join("address");
    fs::write(&repository, format!("{}\n", restic.path().display())).unwrap();
    let by_file = outcome(
        stash_fs()
            .arg("snapshots")
            .env("RESTIC_REPOSITORY_FILE", &repository)
            .env("RESTIC_PASSWORD", restic.password()),
    );
    assert_eq!(by_file.0, 0, "{}", by_file.2);
}

#[test]
fn test_the_password_commands_child_gets_no_secrets() {
    let restic = Restic::init();
    let seen = restic.scratch().join("environment");
    let script = restic.scratch().join("script");
    let password = restic.password();
    fs::write(&script, format!("env > '{}'\necho '{password}'\n", seen.display())).unwrap();
    let (code, _, stderr) = outcome(
        ours(&restic)
            .arg("snapshots")
            .env("RESTIC_PASSWORD", "hidden-1")
            .env("AWS_SECRET_ACCESS_KEY", "hidden-2")
            .env("AWS_SESSION_TOKEN", "hidden-3")
            .env("RESTIC_REST_PASSWORD", "hidden-4")
            .env("KEPT", "kept")
            .env("RESTIC_PASSWORD_COMMAND", format!("sh '{}'", script.display())),
    );
    assert_eq!(code, 0, "{stderr}");
    let seen = fs::read_to_string(seen).unwrap();
    assert!(!seen.contains("hidden-") && seen.contains("KEPT=kept"), "{seen}");
}

#[test]
fn test_a_closed_pipe_ends_in_silence() {
    let source = tempfile::tempdir().unwrap();
    for i in 0..3000 {
        fs::write(source.path().join(format!("a-rather-long-name-{i:060}")), "").unwrap();
    }
    let restic = Restic::init();
    restic.backup([source.path()]);
    for arguments in [&["ls", "latest"][..], &["ls", "--json", "latest"], &["dump", "latest", "/"]] {
        let mut child = ours(&restic).args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut head = [0; 100];
        child.stdout.take().unwrap().read_exact(&mut head).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments:?}");
        assert_eq!(output.status.code(), Some(141), "{arguments:?}");
    }
}

#[test]
fn test_sigint_ends_with_130() {
    // A store that takes the connection and never answers.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("rest:http://{}/", listener.local_addr().unwrap());
    let mut child = stash_fs()
        .args(["-r", &address, "--deadline", "60s", "snapshots"])
        .env("RESTIC_PASSWORD", "x")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _connection = listener.accept().unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn test_hostile_names_do_not_reach_the_terminal() {
    let source = tempfile::tempdir().unwrap();
    fs::write(source.path().join("evil\x1b[2J\nname"), "").unwrap();
    let restic = Restic::init();
    restic.backup([source.path()]);
    let listed = super::text(ours(&restic).args(["ls", "-l", "latest"]));
    assert!(!listed.contains('\x1b') && listed.contains("evil\\u{1b}[2J\\nname"), "{listed}");
}

#[test]
fn test_every_verb_explains_itself() {
    let verbs = "mount umount snapshots ls find cat dump diff stat restore backup init copy tag forget prune check stats \
                 key unlock cache completion";
    for verb in verbs.split_whitespace() {
        let (code, stdout, _) = outcome(stash_fs().args([verb, "--help"]));
        assert!(code == 0 && stdout.contains("Usage: stash-fs"), "{verb}: {stdout}");
    }
    let (code, stdout, _) = outcome(stash_fs().arg("--help"));
    assert!(code == 0 && verbs.split_whitespace().all(|verb| stdout.contains(&format!("  {verb} "))), "{stdout}");
    // No secret of the environment is shown by any help.
    let (_, stdout, _) =
        outcome(stash_fs().args(["ls", "--help"]).env("RESTIC_REPOSITORY", "rest:https://u:hidden@h/"));
    assert!(!stdout.contains("hidden"), "{stdout}");
}

#[test]
fn test_completions_and_manual_pages() {
    let directory = tempfile::tempdir().unwrap();
    for (shell, check) in [("bash", "bash"), ("zsh", ""), ("fish", "")] {
        let (code, script, _) = outcome(stash_fs().args(["completion", shell]));
        assert!(code == 0 && script.contains("snapshots") && script.contains("restore"), "{shell}");
        if !check.is_empty() {
            let path = directory.path().join(shell);
            fs::write(&path, script).unwrap();
            assert!(Command::new(check).arg("-n").arg(&path).status().unwrap().success());
        }
    }
    assert_eq!(outcome(stash_fs().arg("man").arg(directory.path())).0, 0);
    let page = fs::read_to_string(directory.path().join("stash-fs-restore.1")).unwrap();
    assert!(page.contains("overwrite") && page.contains(".TH"), "{page}");
}

#[test]
fn test_cache_lists_and_cleans() {
    let restic = Restic::init();
    let source = tempfile::tempdir().unwrap();
    fs::write(source.path().join("x"), "x").unwrap();
    restic.backup([source.path()]);
    let cache = restic.scratch().join("cache");
    let with_cache = || {
        let mut command = stash_fs();
        command.arg("-r").arg(restic.path()).arg("--cache-dir").arg(&cache).env("RESTIC_PASSWORD", restic.password());
        command
    };
    assert_eq!(outcome(with_cache().args(["ls", "latest"])).0, 0);
    let caches = |arguments: &[&str]| -> Vec<Value> {
        serde_json::from_str(&super::text(with_cache().args(["cache", "--json"]).args(arguments))).unwrap()
    };
    let listed = caches(&[]);
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0]["old"], false);
    assert!(listed[0]["size"].as_u64().unwrap() > 0);
    assert_eq!(super::text(with_cache().args(["cache", "--path"])).trim(), cache.to_str().unwrap());
    // Nothing is old.
    assert_eq!(caches(&["--cleanup"]).len(), 1);
    let long_ago = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(86_400);
    let mut stack = vec![cache.clone()];
    while let Some(path) = stack.pop() {
        if path.is_dir() {
            stack.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let times = fs::FileTimes::new().set_accessed(long_ago).set_modified(long_ago);
        fs::File::open(&path).unwrap().set_times(times).unwrap();
    }
    // A foreign directory in the folder is none of ours.
    fs::create_dir(cache.join("foreign")).unwrap();
    assert_eq!(caches(&["--cleanup"]).len(), 0);
    assert!(cache.join("foreign").is_dir());
}

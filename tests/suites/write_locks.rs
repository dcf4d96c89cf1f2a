//! Our locks against restic's, both ways round.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use stash_tests::mounted::{LIMIT, stash_fs, wait_for};
use stash_tests::restic::Restic;
use stash_tests::servers::{Answer, Recorded, Recorder};

/// A backup whose input comes from a pipe that is held open: it waits, under its lock, until it is told to go on.
struct Waiting {
    child: Child,
    writer: Option<fs::File>,
    _folder: tempfile::TempDir,
}

impl Waiting {
    /// Starts a backup by our program.
    fn ours(restic: &Restic) -> Self {
        Self::start(restic, |fifo| {
            let mut command = restic.stash_fs_command();
            command.args(["backup", "--stdin-from-command", "--", "cat"]).arg(fifo).stdin(Stdio::null());
            command
        })
    }

    /// Starts a backup by restic.
    fn restic(restic: &Restic) -> Self {
        Self::start(restic, |fifo| {
            let mut command = restic.command();
            command.args(["backup", "--stdin"]).stdin(fs::File::open(fifo).unwrap());
            command
        })
    }

    fn start(restic: &Restic, command: impl FnOnce(&PathBuf) -> Command) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        // Opened for both, so that it waits for no reader; it is not inherited.
        let mut writer = fs::File::options().read(true).write(true).open(&fifo).unwrap();
        writer.write_all(&[b'x'; 1000]).unwrap();
        let mut command = command(&fifo);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait_for("a lock in force", || {
            assert!(child.try_wait().unwrap().is_none(), "the backup ended early");
            (!restic.files("locks").is_empty()).then_some(())
        });
        // A reader that opened the pipe only after its last writer had closed it would wait for ever.
        wait_for("the first bytes are read", || (rustix::io::ioctl_fionread(&writer) == Ok(0)).then_some(()));
        Self { child, writer: Some(writer), _folder: folder }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn send(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Lets it go on, and waits for its end.
    fn finish(mut self) -> Output {
        self.writer = None;
        self.child.wait_with_output().unwrap()
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

#[test]
fn test_restic_does_not_prune_during_our_backup() {
    let restic = Restic::init_with_ours("2");
    let backup = Waiting::ours(&restic);
    let pid = backup.pid().as_raw_nonzero().to_string();
    let prune = restic.command().arg("prune").output().unwrap();
    assert!(!prune.status.success());
    assert!(text(&prune).contains(&format!("PID {pid}")), "restic does not name our process: {}", text(&prune));
    // To see whether the lock is stale restic sends SIGHUP to our process, which must live on.
    restic.run(["unlock"]);
    assert_eq!(restic.files("locks").len(), 1, "restic took our lock for stale");
    // Others may read and add.
    restic.backup(["/etc/hostname"]);
    let ended = backup.finish();
    assert!(ended.status.success(), "{}", text(&ended));
    assert!(restic.files("locks").is_empty());
    assert_eq!(restic.snapshots().len(), 2);
    restic.run(["prune"]);
    restic.check_all();
}

#[test]
fn test_we_do_not_prune_during_restics_backup() {
    let restic = Restic::init();
    let backup = Waiting::restic(&restic);
    let pid = backup.pid().as_raw_nonzero().to_string();
    let before = restic.files("locks");
    for arguments in [&["prune"][..], &["forget", "--keep-last", "1", "--prune"], &["key", "remove", "00"]] {
        let output = restic.stash_fs_command().args(arguments).output().unwrap();
        let said = text(&output);
        // Without a snapshot there is nothing to forget, so no exclusive lock is wanted.
        if arguments[0] == "forget" {
            assert_eq!(output.status.code(), Some(0), "{said}");
            continue;
        }
        assert_eq!(output.status.code(), Some(11), "{arguments:?}: {said}");
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        assert!(said.contains(&pid) && said.contains(&host) && said.contains("since"), "{said}");
    }
    assert_eq!(restic.files("locks"), before);
    restic.stash_fs(["backup", "/etc/hostname"]);
    let refused = restic.stash_fs_command().args(["forget", "latest"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(11), "{}", text(&refused));
    assert_eq!(restic.files("snapshots").len(), 1, "a snapshot was removed under another's lock");
    let ended = backup.finish();
    assert!(ended.status.success(), "{}", text(&ended));
    restic.stash_fs(["prune"]);
    assert!(restic.files("locks").is_empty());
    restic.check_all();
}

/// Answers a request of restic's REST protocol, version 2, from the folder of a repository. Source: restic,
/// `doc/REST_backend.rst`.
fn answer_from(folder: &Path, request: &Recorded) -> std::io::Result<Answer> {
    const V2: &str = "application/vnd.x.restic.rest.v2";
    let name = request.path.trim_start_matches('/');
    let path = match name.strip_prefix("data/") {
        Some(pack) if !pack.is_empty() => folder.join("data").join(&pack[..2]).join(pack),
        _ => folder.join(name),
    };
    Ok(match request.method.as_str() {
        "GET" if name.ends_with('/') => {
            let mut files = Vec::new();
            let mut folders = vec![path];
            while let Some(folder) = folders.pop() {
                for entry in fs::read_dir(folder)? {
                    let entry = entry?;
                    let metadata = entry.metadata()?;
                    if metadata.is_dir() {
                        folders.push(entry.path());
                    } else {
                        files.push(json!({ "name": entry.file_name().to_str(), "size": metadata.len() }));
                    }
                }
            }
            Answer::new(200, json!(files).to_string()).header("content-type", V2)
        }
        "GET" => {
            let content = fs::read(path)?;
            match request.header("range").and_then(|range| range.strip_prefix("bytes=")?.split_once('-')) {
                None => Answer::new(200, content),
                Some((first, last)) => {
                    let piece = &content[first.parse().unwrap()..=last.parse().unwrap()];
                    Answer::new(206, piece).header("content-range", format!("bytes {first}-{last}/{}", content.len()))
                }
            }
        }
        "POST" => fs::write(path, &request.body).map(|()| Answer::new(200, ""))?,
        "DELETE" => fs::remove_file(path).map(|()| Answer::new(200, ""))?,
        method => panic!("{method} {name}"),
    })
}

#[test]
fn test_restic_does_not_back_up_during_our_prune() {
    let restic = Restic::init_with_ours("2");
    let folder = tempfile::tempdir().unwrap();
    for round in 0..3 {
        fs::write(folder.path().join("file"), stash_tests::fixture::pattern(2 << 20, round)).unwrap();
        restic.stash_fs(["backup".as_ref(), folder.path().as_os_str()]);
    }
    restic.stash_fs(["forget", "--keep-last", "1"]);
    let packs = restic.files("data");

    // Prune works through a server that keeps its first removal waiting: then it is in the middle of its work.
    let (reached, wait_reached) = mpsc::channel();
    let (go_on, wait_go_on) = mpsc::channel::<()>();
    let hold = std::sync::Mutex::new(Some((reached, wait_go_on)));
    let repository = restic.path();
    let server = Recorder::start(move |request| {
        if request.method == "DELETE"
            && let Some((reached, wait_go_on)) = hold.lock().unwrap().take()
        {
            reached.send(request.path.clone()).unwrap();
            // Whatever became of the test, it goes on.
            let _ = wait_go_on.recv_timeout(LIMIT);
        }
        answer_from(&repository, request).unwrap_or_else(|_| Answer::new(404, ""))
    });
    let mut prune = stash_fs();
    prune.args(["--no-cache", "--repo", &format!("rest:http://{}/", server.address())]);
    prune.env("RESTIC_PASSWORD", restic.password()).args(["prune", "--max-unused", "0"]);
    let prune = prune.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let removal = wait_reached.recv_timeout(LIMIT).expect("prune removes something");
    assert!(removal.starts_with("/index/"), "{removal} is removed first");

    let locks = restic.files("locks");
    assert_eq!(locks.len(), 1);
    let backup = restic.command().args(["backup", "/etc/hostname"]).output().unwrap();
    assert!(!backup.status.success());
    let holder = format!("locked exclusively by PID {}", prune.id());
    assert!(text(&backup).contains(&holder), "{}", text(&backup));
    assert_eq!(restic.files("locks"), locks);
    assert!(packs.iter().all(|pack| restic.files("data").contains(pack)), "prune was not held");

    go_on.send(()).unwrap();
    let ended = prune.wait_with_output().unwrap();
    assert!(ended.status.success(), "{}", text(&ended));
    assert!(restic.files("locks").is_empty());
    assert_eq!(restic.snapshots().len(), 1);
    assert!(!packs.iter().all(|pack| restic.files("data").contains(pack)), "prune removed nothing");
    restic.check_all();
    restic.backup(["/etc/hostname"]);
}

#[test]
fn test_a_lock_that_was_left_behind_is_removed_by_both() {
    let restic = Restic::init_with_ours("2");
    for (ours_dies, ours_unlocks) in [(true, true), (true, false), (false, true)] {
        let backup = if ours_dies { Waiting::ours(&restic) } else { Waiting::restic(&restic) };
        backup.send(Signal::KILL);
        backup.finish();
        assert_eq!(restic.files("locks").len(), 1);
        let refused = restic.stash_fs_command().arg("prune").output().unwrap();
        assert_eq!(refused.status.code(), Some(11), "{}", text(&refused));
        assert!(text(&refused).contains("stale") && text(&refused).contains("unlock"), "{}", text(&refused));
        if ours_unlocks {
            restic.stash_fs(["unlock"]);
        } else {
            restic.run(["unlock"]);
        }
        assert!(restic.files("locks").is_empty());
        restic.stash_fs(["prune"]);
    }
    // A living process's lock stays, unless all are to go.
    let backup = Waiting::ours(&restic);
    restic.stash_fs(["unlock"]);
    assert_eq!(restic.files("locks").len(), 1);
    restic.stash_fs(["unlock", "--remove-all"]);
    assert!(restic.files("locks").is_empty());
    backup.finish();
    restic.check_all();
}

#[test]
fn test_a_stopped_backup_leaves_no_snapshot_and_no_lock() {
    let restic = Restic::init_with_ours("2");
    for signal in [Signal::INT, Signal::TERM] {
        let backup = Waiting::ours(&restic);
        backup.send(signal);
        // The pipe is still open: it ends although its command would read on.
        let Waiting { child, writer, _folder } = backup;
        let ended = child.wait_with_output().unwrap();
        drop(writer);
        assert_eq!(ended.status.code(), Some(130), "{}", text(&ended));
        assert!(restic.files("locks").is_empty());
        assert!(restic.files("snapshots").is_empty());
    }
    restic.check_all();
}

#[test]
fn test_waiting_for_a_lock_ends_with_it() {
    let restic = Restic::init_with_ours("2");
    let backup = Waiting::ours(&restic);
    let mut prune = restic.stash_fs_command();
    let prune =
        prune.args(["--retry-lock", "60s", "prune"]).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let ended = backup.finish();
    assert!(ended.status.success(), "{}", text(&ended));
    let ended = prune.wait_with_output().unwrap();
    assert!(ended.status.success(), "{}", text(&ended));
    assert!(restic.files("locks").is_empty());
}

#[test]
fn test_no_lock_leaves_none_and_does_not_remove() {
    let restic = Restic::init_with_ours("2");
    let backup = Waiting::ours(&restic);
    restic.stash_fs(["--no-lock", "check"]);
    for arguments in [&["--no-lock", "prune"][..], &["--no-lock", "forget", "--keep-last", "1"]] {
        let refused = restic.stash_fs_command().args(arguments).output().unwrap();
        assert_eq!(refused.status.code(), Some(2), "{}", text(&refused));
    }
    assert_eq!(restic.files("locks").len(), 1);
    assert!(backup.finish().status.success());
}

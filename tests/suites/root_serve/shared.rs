//! Volumes that show the very same: one session, mounted at several places.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use rustix::fs::Advice;
use stash_control::{Code, MountRequest};
use stash_tests::fixture::run;
use stash_tests::mounted::{mounted_device, wait_for};

use super::{Command, Node, Restic, TempDir, repository, request};

/// A repository, its only snapshot's id, and the path that was backed up.
fn pinned(node: &Node) -> (Restic, impl Fn(&str) -> MountRequest + use<>) {
    let (restic, source) = repository();
    let id = node.mount(request(&restic, &source, "v1")).unwrap();
    node.unmount_when_free("v1");
    let made = {
        let template = request(&restic, &source, "template");
        move |volume: &str| MountRequest {
            name: volume.into(),
            place: Some(stash_control::mount_request::Place::Volume(volume.into())),
            snapshot: format!("{id}:{}", source.display()),
            ..template.clone()
        }
    };
    (restic, made)
}

#[track_caller]
fn reads(node: &Node, volume: &str) {
    let big = File::open(node.volume(volume).join("big")).unwrap();
    rustix::fs::fadvise(&big, 0, None, Advice::DontNeed).unwrap();
    let mut bytes = vec![0; 5 << 20];
    big.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes.iter().all(|byte| *byte == b'x'), "{volume}");
}

fn names(node: &Node) -> Vec<String> {
    node.list().into_iter().map(|mount| mount.name).collect()
}

#[test]
fn test_what_is_the_same_is_one_session_at_several_places() {
    let mut node = Node::start();
    let (_restic, volume) = pinned(&node);
    for name in ["v1", "v2"] {
        node.mount(volume(name)).unwrap();
    }
    node.mount(MountRequest { uid: Some(1234), ..volume("v3") }).unwrap();
    let device = |node: &Node, name: &str| mounted_device(&node.volume(name));
    assert!(device(&node, "v1").is_some() && device(&node, "v1") == device(&node, "v2"));
    assert_ne!(device(&node, "v1"), device(&node, "v3"), "what has other owners is another tree");
    let of = |node: &Node, name: &str| fs::metadata(node.volume(name).join("dir/f7")).unwrap();
    assert_eq!(of(&node, "v1").ino(), of(&node, "v2").ino());
    assert_eq!((of(&node, "v1").uid() != 1234, of(&node, "v3").uid()), (true, 1234));
    assert_eq!(names(&node), ["v1", "v2", "v3"]);
    let writes = fs::write(node.volume("v2").join("x"), "");
    assert_eq!(writes.unwrap_err().kind(), std::io::ErrorKind::ReadOnlyFilesystem);

    // Each goes alone, the first one too, and comes back.
    let open = File::open(node.volume("v1").join("big")).unwrap();
    assert_eq!(node.unmount("v1", false), Err(Code::FailedPrecondition), "it is in use");
    drop(open);
    node.unmount_when_free("v1");
    assert_eq!((device(&node, "v1"), names(&node)), (None, vec!["v2".to_owned(), "v3".to_owned()]));
    reads(&node, "v2");
    node.mount(volume("v1")).unwrap();
    assert_eq!(device(&node, "v1"), device(&node, "v2"));

    // All of it outlives both processes, and what was taken away stays away.
    node.restart_daemon();
    node.settle(3);
    node.restart_keeper();
    node.unmount_when_free("v2");
    node.restart_daemon();
    node.settle(2);
    assert_eq!((device(&node, "v2"), names(&node)), (None, vec!["v1".to_owned(), "v3".to_owned()]));
    reads(&node, "v1");
    node.mount(volume("v2")).unwrap();
    assert_eq!(device(&node, "v1"), device(&node, "v2"), "also for the next daemon it is the same");

    // What is detached in use is read to its end, beside a new mount of the same.
    let (old, open) = (device(&node, "v1"), File::open(node.volume("v1").join("dir/f7")).unwrap());
    for name in ["v1", "v2"] {
        node.unmount(name, true).unwrap();
        assert_eq!(device(&node, name), None);
    }
    assert_eq!(names(&node), ["v3"]);
    node.mount(volume("v1")).unwrap();
    assert!(device(&node, "v1").is_some() && device(&node, "v1") != old);
    node.restart_daemon();
    node.settle(2);
    assert_eq!(device(&node, "v2"), None, "what was detached is not mounted again");
    rustix::fs::fadvise(&open, 0, None, Advice::DontNeed).unwrap();
    assert_eq!(open.read_at(&mut [0; 16], 0).unwrap(), 1);
    drop(open);
    for name in ["v1", "v3"] {
        node.unmount_when_free(name);
    }
    assert_eq!(names(&node), [""; 0]);
}

/// Waits until so many mounts of an earlier daemon wait.
fn waiting(node: &Node, mounts: usize) {
    wait_for("all mounts wait", || {
        let list = node.list();
        (list.len() == mounts && list.iter().all(|mount| !mount.trouble.is_empty())).then_some(())
    });
}

#[test]
fn test_volumes_of_a_shared_session_that_nobody_serves_are_unmounted_one_by_one() {
    let mut node = Node::start();
    let (restic, volume) = pinned(&node);
    for name in ["v1", "v2", "v3"] {
        node.mount(volume(name)).unwrap();
    }
    // The next daemon cannot open the repository.
    let away = restic.path().with_extension("away");
    fs::rename(restic.path(), &away).unwrap();
    node.restart_daemon();
    waiting(&node, 3);
    wait_for("the first is unmounted", || node.unmount("v1", true).ok());
    // Nor can the one after it, which knows of that.
    node.restart_daemon();
    waiting(&node, 2);
    wait_for("the second is unmounted", || node.unmount("v2", true).ok());
    fs::rename(&away, restic.path()).unwrap();
    node.settle(1);
    assert_eq!(names(&node), ["v3"]);
    reads(&node, "v3");
    assert_eq!(["v1", "v2"].map(|name| mounted_device(&node.volume(name))), [None, None]);
    let log = fs::read_to_string(node.folder.path().join("log")).unwrap();
    assert!(!log.contains("damaged"), "nobody had asked for anything, which is no damage");
    node.unmount_when_free("v3");
    assert_eq!(names(&node), [""; 0]);
}

#[test]
fn test_a_name_that_waited_and_was_unmounted_is_free() {
    let mut node = Node::start();
    let (restic, volume) = pinned(&node);
    node.mount(volume("v1")).unwrap();
    let away = restic.path().with_extension("away");
    fs::rename(restic.path(), &away).unwrap();
    node.restart_daemon();
    waiting(&node, 1);
    wait_for("it is unmounted", || node.unmount("v1", true).ok());
    fs::rename(&away, restic.path()).unwrap();
    node.mount(volume("v1")).unwrap();
    assert!(mounted_device(&node.volume("v1")).is_some());
    // Nobody takes it over beside the daemon that has it: whoever waited to go on with the old one is told so within its pause.
    let log = || fs::read_to_string(node.folder.path().join("log")).unwrap();
    let before = log().matches("going on with the mount").count();
    for _ in 0..20 {
        reads(&node, "v1");
    }
    node.unmount_when_free("v1");
    assert_eq!((log().matches("going on with the mount").count(), names(&node)), (before, vec![]));
}

#[test]
fn test_a_place_that_is_none_harms_nobody_who_shares() {
    let mut node = Node::start();
    let (_restic, volume) = pinned(&node);
    node.mount(volume("v1")).unwrap();
    let at = |name: &str, id: &str| MountRequest {
        place: Some(stash_control::mount_request::Place::Volume(id.into())),
        ..volume(name)
    };
    for (request, code) in [
        (at("x", "../v2"), Code::InvalidArgument),
        (at("x", &"v".repeat(1 << 16)), Code::InvalidArgument),
        (at("x", "missing"), Code::NotFound),
        (at("x", "v1"), Code::AlreadyExists),
    ] {
        assert_eq!(node.mount(request), Err(code));
    }
    node.restart_keeper();
    node.mount(volume("v2")).unwrap();
    node.restart_daemon();
    node.settle(2);
    for name in ["v1", "v2"] {
        reads(&node, name);
        node.unmount_when_free(name);
    }
    assert_eq!(names(&node), [""; 0]);
}

#[test]
fn test_what_the_kernel_cuts_off_is_detached_everywhere() {
    let node = Node::start();
    let (_restic, volume) = pinned(&node);
    for name in ["v1", "v2"] {
        node.mount(volume(name)).unwrap();
    }
    node.mount(MountRequest { uid: Some(1234), ..volume("v3") }).unwrap();
    // As an administrator does, or a limit of the kernel on how long a request may take.
    let control = TempDir::new().unwrap();
    run(Command::new("mount").args(["-t", "fusectl", "none"]).arg(control.path()));
    let open = File::open(node.volume("v2").join("big")).unwrap();
    for name in ["v1", "v3"] {
        let (_, connection) = mounted_device(&node.volume(name)).unwrap();
        fs::write(control.path().join(connection.to_string()).join("abort"), "1").unwrap();
    }
    run(Command::new("umount").arg("-l").arg(control.path()));
    wait_for("all of it to go", || node.list().is_empty().then_some(()));
    for name in ["v1", "v2", "v3"] {
        assert_eq!(mounted_device(&node.volume(name)), None, "{name}");
        fs::remove_dir(node.volume(name)).unwrap();
        fs::create_dir(node.volume(name)).unwrap();
        node.unmount_when_free(name);
        node.mount(volume(name)).unwrap();
        reads(&node, name);
    }
    drop(open);
    for name in ["v1", "v2", "v3"] {
        node.unmount_when_free(name);
    }
    assert_eq!(names(&node), [""; 0]);
}

/// Makes the folders of so many volumes.
fn many(node: &Node, count: u32) -> Vec<String> {
    let places: Vec<String> = (0..count).map(|number| format!("many-{number}")).collect();
    for place in &places {
        fs::create_dir(node.volume(place)).unwrap();
    }
    places
}

#[test]
fn test_as_many_different_volumes_as_a_node_has_pods() {
    let mut node = Node::start();
    let (_restic, volume) = pinned(&node);
    let places = many(&node, 110);
    for (uid, place) in (0..).zip(&places) {
        node.mount(MountRequest { uid: Some(uid), ..volume(place) }).unwrap();
    }
    node.restart_daemon();
    node.settle(110);
    node.restart_keeper();
    for (uid, place) in (0..).zip(&places) {
        assert_eq!(fs::metadata(node.volume(place).join("dir/f7")).unwrap().uid(), uid);
        node.unmount_when_free(place);
    }
    assert_eq!(names(&node), [""; 0]);
}

#[test]
fn test_many_at_once_share_one_session_and_leave_nothing() {
    let node = Node::start();
    let (_restic, volume) = pinned(&node);
    let places = many(&node, 70);
    let mount = |place: &String| {
        let mut client = node.client();
        let request = volume(place);
        node.runtime.spawn(async move { client.mount(request).await.map(drop) })
    };
    let mounts: Vec<_> = places.iter().map(mount).collect();
    for mounted in mounts {
        node.runtime.block_on(mounted).unwrap().unwrap();
    }
    let devices: std::collections::BTreeSet<_> =
        places.iter().map(|place| mounted_device(&node.volume(place)).unwrap()).collect();
    assert_eq!(devices.len(), 2, "as many places as a session has, and the rest");
    for place in &places {
        reads(&node, place);
    }
    let unmount = |place: &String| {
        let mut client = node.client();
        let request = stash_control::UnmountRequest { name: place.clone(), lazy: false };
        node.runtime.spawn(async move { client.unmount(request).await.map(drop) })
    };
    let unmounts: Vec<_> = places.iter().map(unmount).collect();
    for (unmounted, place) in unmounts.into_iter().zip(&places) {
        match node.runtime.block_on(unmounted).unwrap() {
            Err(error) if error.code() == Code::FailedPrecondition => node.unmount_when_free(place),
            ended => ended.unwrap(),
        }
    }
    assert!(places.iter().all(|place| mounted_device(&node.volume(place)).is_none()));
    assert_eq!(names(&node), [""; 0]);
}

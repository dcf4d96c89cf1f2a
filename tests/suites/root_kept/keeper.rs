//! The keeper's socket: what foreign, oversized, truncated and wrong messages do, which is nothing to the mounts.

use std::fs::{self, File};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rand::RngExt as _;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use stash_fs::keeper::message::{
    MAX_MESSAGE_BYTES, MountWords, Place, Refusal, Reply, Request, SessionName, VERSION, decode, encode,
};
use stash_fs::keeper::socket::{self, Packet};
use stash_tests::mounted::{mounted_device, stash_fs, wait_for};
use tempfile::TempDir;

struct Keeper {
    child: Child,
    folder: TempDir,
}

impl Keeper {
    fn start(max_pause: &str) -> Self {
        let folder = TempDir::with_prefix("stash-fs-keeper-").unwrap();
        fs::create_dir(folder.path().join("base")).unwrap();
        for volume in ["v1", "v2"] {
            fs::create_dir(folder.path().join("base").join(volume)).unwrap();
        }
        let child = Self::spawn(&folder, max_pause);
        Self { child, folder }
    }

    fn spawn(folder: &TempDir, max_pause: &str) -> Child {
        let socket = folder.path().join("keeper.sock");
        drop(fs::remove_file(&socket));
        let mut command = stash_fs();
        command.args(["keep", "--max-pause", max_pause, "--socket"]).arg(&socket);
        command.arg("--base").arg(folder.path().join("base")).stderr(Stdio::null());
        command.arg("--scratch").arg(folder.path().join("scratch"));
        let child = command.spawn().unwrap();
        wait_for("the keeper's socket", || socket::connect(&socket).ok());
        child
    }

    fn base(&self) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join("base")
    }

    /// Connects, once no other daemon is.
    fn connect(&self) -> OwnedFd {
        wait_for("a free keeper", || {
            let client = socket::connect(&self.folder.path().join("keeper.sock")).ok()?;
            let (reply, _) = ask(&client, &Request::Hello { version: VERSION }, &[])?;
            matches!(reply, Reply::Welcome { .. }).then_some(client)
        })
    }

    fn restart(&mut self, max_pause: &str) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = Self::spawn(&self.folder, max_pause);
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        for volume in ["v1", "v2"] {
            let _ = rustix::mount::unmount(self.base().join(volume), rustix::mount::UnmountFlags::DETACH);
        }
    }
}

/// Asks; `None` if the connection has ended.
fn ask(client: &OwnedFd, request: &Request, descriptors: &[&OwnedFd]) -> Option<(Reply, Vec<OwnedFd>)> {
    let descriptors: Vec<_> = descriptors.iter().map(|descriptor| descriptor.as_fd()).collect();
    socket::send(client.as_fd(), &encode(request).unwrap(), &descriptors).ok()?;
    let Packet { bytes, descriptors } = socket::receive(client.as_fd()).ok()??;
    Some((decode(&bytes).unwrap(), descriptors))
}

fn name(text: &str) -> SessionName {
    SessionName::new(text).unwrap()
}

fn mount_request(session: &str, place: Place) -> Request {
    let words = MountWords { source: "test".into(), allow_other: true, default_permissions: true };
    Request::Mount { session: name(session), place, words, scratch_bytes: None }
}

fn volume(id: &str) -> Place {
    Place::Volume(id.into())
}

/// Holds the session `a`.
fn hold_at(device: (u32, u32), volumes: &[&str]) -> Request {
    let mut places = volumes.iter().map(|id| volume(id));
    let place = places.next().unwrap();
    let also = places.collect();
    Request::Hold { session: name("a"), place, also, device, read_ahead_kib: 512, scratch_bytes: None }
}

fn unmount(session: &str, place: Option<&str>) -> Request {
    Request::Unmount { session: name(session), lazy: false, place: place.map(volume), again: false }
}

fn refusal(reply: Option<(Reply, Vec<OwnedFd>)>) -> Option<Refusal> {
    match reply {
        Some((Reply::Refused { kind, .. }, _)) => Some(kind),
        _ => None,
    }
}

fn null() -> OwnedFd {
    File::open("/dev/null").unwrap().into()
}

#[test]
fn test_what_is_held_is_given_to_the_next_daemon() {
    let mut keeper = Keeper::start("10m");
    let client = keeper.connect();
    let Some((Reply::Mounted { device }, connection)) = ask(&client, &mount_request("a", volume("v1")), &[]) else {
        panic!("not mounted");
    };
    assert_eq!(mounted_device(&keeper.base().join("v1")), Some(device));
    let again = [mount_request("a", volume("v2")), mount_request("b", volume("v1"))];
    for request in again {
        assert_eq!(refusal(ask(&client, &request, &[])), Some(Refusal::Exists));
    }
    let file = || OwnedFd::from(tempfile::tempfile().unwrap());
    let (table, in_flight, state) = (file(), file(), file());
    let hold = hold_at(device, &["v1"]);
    let descriptors = [&connection[0], &table, &in_flight, &state];
    // Nothing but a FUSE connection with its three files is a session.
    let wrong = null();
    for few in [&descriptors[..0], &descriptors[..3], &[&wrong, &table, &in_flight, &state]] {
        assert_eq!(refusal(ask(&client, &hold, few)), Some(Refusal::BadMessage));
    }
    assert_eq!(ask(&client, &hold, &descriptors).unwrap().0, Reply::Done);

    // Another daemon at the same time is refused; the next one gets everything.
    let other = socket::connect(&keeper.folder.path().join("keeper.sock")).unwrap();
    let occupied = socket::receive(other.as_fd()).unwrap().unwrap();
    assert!(matches!(decode(&occupied.bytes), Ok(Reply::Refused { kind: Refusal::Occupied, .. })));
    drop((client, other));
    let client = keeper.connect();
    let Some((Reply::Held { place, device: held, read_ahead_kib, .. }, given)) =
        ask(&client, &Request::Take { session: name("a") }, &[])
    else {
        panic!("not held");
    };
    assert_eq!((place, held, read_ahead_kib, given.len()), (volume("v1"), device, 512, 4));
    assert_eq!(refusal(ask(&client, &Request::Take { session: name("b") }, &[])), Some(Refusal::NotFound));

    // A new keeper detaches what the daemon does not hand it, and nothing else.
    let Some((Reply::Mounted { device: second }, _lost)) = ask(&client, &mount_request("b", volume("v2")), &[]) else {
        panic!("not mounted");
    };
    keeper.restart("10m");
    let client = keeper.connect();
    assert_eq!(mounted_device(&keeper.base().join("v2")), Some(second));
    let given: Vec<&OwnedFd> = given.iter().collect();
    assert_eq!(ask(&client, &hold, &given).unwrap().0, Reply::Done);
    assert_eq!(ask(&client, &Request::Settled, &[]).unwrap().0, Reply::Done);
    assert_eq!(mounted_device(&keeper.base().join("v2")), None);
    assert_eq!(mounted_device(&keeper.base().join("v1")), Some(device));
    assert_eq!(ask(&client, &unmount("a", None), &[]).unwrap().0, Reply::Done);
    assert_eq!(mounted_device(&keeper.base().join("v1")), None);
    assert_eq!(ask(&client, &Request::Release { session: name("a") }, &[]).unwrap().0, Reply::Done);
}

#[test]
fn test_mounts_that_nobody_served_are_detached_with_their_daemon() {
    let keeper = Keeper::start("10m");
    let client = keeper.connect();
    assert!(matches!(ask(&client, &mount_request("a", volume("v1")), &[]), Some((Reply::Mounted { .. }, _))));
    drop(client);
    wait_for("the mount is detached", || mounted_device(&keeper.base().join("v1")).is_none().then_some(()));
}

#[test]
fn test_a_session_at_several_places() {
    let mut keeper = Keeper::start("5s");
    let client = keeper.connect();
    let Some((Reply::Mounted { device }, connection)) = ask(&client, &mount_request("a", volume("v1")), &[]) else {
        panic!("not mounted");
    };
    let bind = |id: &str| Request::Bind { session: name("a"), place: volume(id) };
    let at = |keeper: &Keeper| ["v1", "v2"].map(|id| mounted_device(&keeper.base().join(id)) == Some(device));
    assert_eq!(refusal(ask(&client, &bind("v2"), &[])), Some(Refusal::NotFound), "it is not served yet");
    let file = || OwnedFd::from(tempfile::tempfile().unwrap());
    let files = [file(), file(), file()];
    let descriptors = [&connection[0], &files[0], &files[1], &files[2]];
    assert_eq!(ask(&client, &hold_at(device, &["v1", "v2"]), &descriptors).unwrap().0, Reply::Done);
    // Nobody answers the kernel: binding asks nothing of the mount.
    for id in ["v2", "v2", "v1"] {
        assert_eq!(ask(&client, &bind(id), &[]).unwrap().0, Reply::Done, "{id}");
    }
    assert_eq!(at(&keeper), [true, true]);
    for (id, expected) in [("missing", Refusal::NotFound), ("../base/v1", Refusal::Forbidden)] {
        assert_eq!(refusal(ask(&client, &bind(id), &[])), Some(expected), "{id}");
    }
    // Each place goes for itself, the first one too.
    assert_eq!(ask(&client, &unmount("a", Some("v1")), &[]).unwrap().0, Reply::Done);
    assert_eq!(at(&keeper), [false, true]);
    assert_eq!(refusal(ask(&client, &unmount("a", Some("v1")), &[])), Some(Refusal::NotFound));
    assert_eq!(ask(&client, &bind("v1"), &[]).unwrap().0, Reply::Done);
    let Some((Reply::Held { place, also, .. }, _)) = ask(&client, &Request::Take { session: name("a") }, &[]) else {
        panic!("not held");
    };
    assert_eq!((place, also), (volume("v2"), vec![volume("v1")]));

    // The next keeper is told of both; the end of both is the end of all places.
    keeper.restart("5s");
    let client = keeper.connect();
    assert_eq!(ask(&client, &hold_at(device, &["v2", "v1"]), &descriptors).unwrap().0, Reply::Done);
    assert_eq!(ask(&client, &Request::Settled, &[]).unwrap().0, Reply::Done);
    assert_eq!(at(&keeper), [true, true]);
    drop((client, connection));
    wait_for("both are detached", || (at(&keeper) == [false, false]).then_some(()));
}

/// What is in the scratch directory.
fn scratch(keeper: &Keeper) -> usize {
    fs::read_dir(keeper.folder.path().join("scratch")).unwrap().count()
}

#[test]
fn test_a_keeper_goes_on_while_an_overlay_waits_for_a_daemon_that_does_not_answer() {
    let keeper = Keeper::start("5s");
    let client = keeper.connect();
    let words = MountWords { source: "test".into(), allow_other: true, default_permissions: true };
    let mount = |session: &str, id: &str| Request::Mount {
        session: name(session),
        place: volume(id),
        words: words.clone(),
        scratch_bytes: Some(16 << 20),
    };
    let Some((Reply::Mounted { device }, connection)) = ask(&client, &mount("a", "v1"), &[]) else {
        panic!("not mounted");
    };
    assert_eq!(mounted_device(&keeper.base().join("v1")), None, "nobody sees it before it can be written");
    assert_eq!(refusal(ask(&client, &mount_request("b", volume("v1")), &[])), Some(Refusal::Exists));
    let overlay = |again| Request::Overlay { session: name("a"), again };
    assert_eq!(refusal(ask(&client, &overlay(false), &[])), Some(Refusal::NotFound), "it is not served yet");
    let file = || OwnedFd::from(tempfile::tempfile().unwrap());
    let (table, in_flight, state) = (file(), file(), file());
    let (place, also, scratch_bytes) = (volume("v1"), Vec::new(), Some(16 << 20));
    let hold = Request::Hold { session: name("a"), place, also, device, read_ahead_kib: 512, scratch_bytes };
    assert_eq!(ask(&client, &hold, &[&connection[0], &table, &in_flight, &state]).unwrap().0, Reply::Done);
    // Nobody answers the kernel, which asks for the root's attributes. Others are answered meanwhile.
    for id in ["b", "c"] {
        assert_eq!(ask(&client, &overlay(true), &[]).unwrap().0, Reply::UnderWay);
        assert_eq!(refusal(ask(&client, &unmount("a", None), &[])), Some(Refusal::Busy));
        assert!(matches!(ask(&client, &mount_request(id, volume("v2")), &[]), Some((Reply::Mounted { .. }, _))));
        assert_eq!(ask(&client, &unmount(id, None), &[]).unwrap().0, Reply::Done);
    }
    // One of an earlier version waits. The daemon ends.
    socket::send(client.as_fd(), &encode(&overlay(false)).unwrap(), &[]).unwrap();
    drop((client, connection));
    let next = keeper.connect();
    assert!(matches!(ask(&next, &Request::Take { session: name("a") }, &[]), Some((Reply::Held { .. }, _))));
    assert_eq!(refusal(ask(&next, &unmount("a", None), &[])), Some(Refusal::Busy));
    // Nobody serves it for longer than the pause: nothing is left of it, and who asks again hears that once.
    let given_up = wait_for("it is given up", || {
        let (reply, _) = ask(&next, &overlay(true), &[]).unwrap();
        (reply != Reply::UnderWay).then_some(reply)
    });
    assert!(matches!(given_up, Reply::Refused { kind: Refusal::System, .. }), "{given_up:?}");
    for request in [overlay(true), Request::Take { session: name("a") }] {
        assert_eq!(refusal(ask(&next, &request, &[])), Some(Refusal::NotFound));
    }
    wait_for("its folder is removed", || (scratch(&keeper) == 0).then_some(()));

    // One that its daemon did not come to hold.
    assert!(matches!(ask(&next, &mount("c", "v2"), &[]), Some((Reply::Mounted { .. }, _))));
    assert_eq!(scratch(&keeper), 1);
    drop(next);
    wait_for("its folder is removed", || (scratch(&keeper) == 0).then_some(()));
}

#[test]
fn test_both_ended_and_the_next_keeper_detaches_what_they_left() {
    let mut keeper = Keeper::start("1s");
    let client = keeper.connect();
    assert!(matches!(ask(&client, &mount_request("a", volume("v1")), &[]), Some((Reply::Mounted { .. }, _))));
    keeper.child.kill().unwrap();
    keeper.child.wait().unwrap();
    drop(client);
    assert!(mounted_device(&keeper.base().join("v1")).is_some());
    keeper.restart("1s");
    wait_for("the dead mount is detached", || mounted_device(&keeper.base().join("v1")).is_none().then_some(()));
}

#[test]
fn test_whatever_is_sent_the_keeper_goes_on() {
    let mut keeper = Keeper::start("10m");
    let long = format!("{{\"take\":{{\"session\":\"{}\"}}}}", "a".repeat(MAX_MESSAGE_BYTES * 2));
    let deep = format!("{{\"take\":{}", "[".repeat(10_000));
    let hello = encode(&Request::Hello { version: VERSION }).unwrap();
    let mut garbage: Vec<Vec<u8>> =
        [long.as_bytes(), deep.as_bytes(), b"\0", b"{}", b"null", b"\xff\xff", b"{\"take\":1}"]
            .map(<[u8]>::to_vec)
            .into();
    garbage.extend((1..hello.len()).map(|cut| hello[..cut].to_vec()));
    let mut random = rand::rng();
    garbage.extend((0..50).map(|_| {
        let mut bytes = vec![0; random.random_range(1..300)];
        random.fill(&mut bytes[..]);
        bytes
    }));
    for bytes in garbage {
        for after_hello in [false, true] {
            let client = if after_hello {
                keeper.connect()
            } else {
                wait_for("a connection", || {
                    let client = socket::connect(&keeper.folder.path().join("keeper.sock")).ok()?;
                    // The one before may not have been seen to have gone.
                    let _ = socket::send(client.as_fd(), &bytes, &[]);
                    let answer = socket::receive(client.as_fd()).ok()??;
                    let occupied = matches!(decode(&answer.bytes), Ok(Reply::Refused { kind: Refusal::Occupied, .. }));
                    (!occupied).then_some(client)
                })
            };
            let _ = socket::send(client.as_fd(), &bytes, &[]);
            // It is refused, and the connection closed.
            while let Ok(Some(answer)) = socket::receive(client.as_fd()) {
                assert!(matches!(decode(&answer.bytes), Ok(Reply::Refused { kind: Refusal::BadMessage, .. })));
            }
        }
    }
    // Descriptors beyond the bound, and some where none belong: all are closed.
    let open = |keeper: &Keeper| fs::read_dir(format!("/proc/{}/fd", keeper.child.id())).unwrap().count();
    let before = open(&keeper);
    for count in [1, 4, 40] {
        let client = keeper.connect();
        let null = null();
        let many = vec![null.as_fd(); count];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(40))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&many)));
        let bytes = encode(&Request::Take { session: name("x") }).unwrap();
        sendmsg(&client, &[IoSlice::new(&bytes)], &mut control, SendFlags::empty()).unwrap();
        drop(socket::receive(client.as_fd()));
    }
    let client = keeper.connect();
    // The connection and the process behind it.
    assert!(open(&keeper) <= before + 2);
    // Another version is told so.
    assert_eq!(refusal(ask(&client, &Request::Hello { version: 2 }, &[])), Some(Refusal::Version));
    // Places that are none.
    let client = keeper.connect();
    std::os::unix::fs::symlink("/", keeper.base().join("link")).unwrap();
    for (place, expected) in [
        (volume("../base/v1"), Refusal::Forbidden),
        (volume("missing"), Refusal::NotFound),
        (volume("link"), Refusal::NotFound),
        (Place::Path(b"/mnt".to_vec()), Refusal::Forbidden),
        (Place::Pod { uid: "..".into(), volume: "v".into() }, Refusal::Forbidden),
    ] {
        assert_eq!(refusal(ask(&client, &mount_request("s", place.clone()), &[])), Some(expected), "{place:?}");
    }
    assert!(keeper.child.try_wait().unwrap().is_none(), "it goes on");
}

#[test]
fn test_other_users_are_refused() {
    let keeper = Keeper::start("10m");
    let socket = keeper.folder.path().join("keeper.sock");
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    // Even where the file's mode would let them in.
    fs::set_permissions(keeper.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
    let script = r#"
        use Socket;
        socket(my $s, AF_UNIX, SOCK_SEQPACKET, 0) or die; connect($s, sockaddr_un($ARGV[0])) or die;
        local $SIG{PIPE} = "IGNORE"; send($s, '{"hello":{"version":1}}', 0); recv($s, my $answer, 100, 0);
        print length($answer // "");
    "#;
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--", "perl", "-e", script])
        .arg(&socket)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(said, "0", "{}", String::from_utf8_lossy(&output.stderr));
    drop(keeper.connect());
}

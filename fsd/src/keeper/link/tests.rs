use std::collections::VecDeque;
use std::sync::mpsc::channel;

use super::*;

fn name(text: &str) -> SessionName {
    SessionName::new(text).unwrap()
}

/// A link to a keeper that answers with what `reply` says.
fn link(mut reply: impl FnMut(Request) -> Reply + Send + 'static) -> Link {
    let (ours, theirs) = socket::pair().unwrap();
    std::thread::spawn(move || {
        while let Ok(Some(packet)) = socket::receive(theirs.as_fd()) {
            let reply = match decode(&packet.bytes).unwrap() {
                Request::Hello { version } => {
                    Reply::Welcome { version, sessions: Vec::new(), scratch_limit_bytes: 0, binds: true }
                }
                request => reply(request),
            };
            socket::send(theirs.as_fd(), &encode(&reply).unwrap(), &[]).unwrap();
        }
    });
    Link::open(Reach::Connect("/nonexistent".into()), Some(ours)).unwrap()
}

#[test]
fn test_others_ask_while_the_keeper_works() {
    let (began, begun) = channel();
    let mut released = false;
    let link = link(move |request| match request {
        Request::Unmount { again: true, .. } if !released => {
            let _ = began.send(());
            Reply::UnderWay
        }
        Request::Release { .. } => {
            released = true;
            Reply::Done
        }
        _ => Reply::Done,
    });
    let own = link.clone();
    let unmount = std::thread::spawn(move || own.unmount(&name("a"), None, false));
    begun.recv().unwrap();
    // The unmount does not end before this does.
    link.release(&name("b"));
    unmount.join().unwrap().unwrap();
}

#[test]
fn test_work_ends_as_the_keeper_says() {
    let mut replies = VecDeque::from([
        Reply::UnderWay,
        Reply::Done,
        Reply::UnderWay,
        Reply::UnderWay,
        Reply::Refused { kind: Refusal::Busy, message: "files are open".into() },
        Reply::UnderWay,
    ]);
    // A keeper that ends is `Done` to nobody: the last one waits for another, until the link is closed.
    let (last, is_last) = channel();
    let link = link(move |_| {
        let reply = replies.pop_front().unwrap_or(Reply::UnderWay);
        if replies.is_empty() {
            let _ = last.send(());
        }
        reply
    });
    assert!(link.overlay(&name("a")).is_ok());
    let refused = link.overlay(&name("a"));
    assert!(matches!(refused, Err(LinkError::Refused { kind: Refusal::Busy, .. })), "{refused:?}");
    let own = link.clone();
    let waits = std::thread::spawn(move || own.overlay(&name("a")));
    is_last.recv().unwrap();
    link.close();
    let gone = waits.join().unwrap();
    assert!(matches!(gone, Err(LinkError::Gone(_))), "{gone:?}");
}

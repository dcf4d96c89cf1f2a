//! What blocks, beside the keeper's loop: it must be able to take the next daemon whatever a mount waits for.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use rustix::event::{EventfdFlags, eventfd};

use super::message::SessionName;
use super::overlay::OverlayError;

/// What is done for a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Its overlay is mounted.
    Make,
    /// Its overlay is unmounted.
    Unmount,
    /// What is left of it is taken away.
    Detach,
}

/// Work that has ended.
#[derive(Debug)]
pub struct Ended {
    /// What was done.
    pub kind: Kind,
    /// For which session.
    pub session: SessionName,
    /// Whether it was.
    pub result: Result<(), OverlayError>,
    /// Whether a daemon waits for it.
    pub asked: bool,
}

/// All work that is under way, a thread each. At most one for a session, but for `Detach`.
#[derive(Debug)]
pub struct Works {
    under_way: Vec<(SessionName, Kind, bool)>,
    ended: (Sender<Done>, Receiver<Done>),
    /// Becomes readable when one has ended.
    bell: Arc<OwnedFd>,
}

type Done = (SessionName, Kind, Result<(), OverlayError>);

impl Works {
    /// Makes a list of nothing.
    ///
    /// # Errors
    /// The system has no descriptors left.
    pub fn new() -> io::Result<Self> {
        let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        Ok(Self { under_way: Vec::new(), ended: channel(), bell })
    }

    /// Returns what is readable when work has ended.
    #[must_use]
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Returns whether something is under way for a session that a daemon may have asked for.
    #[must_use]
    pub fn has(&self, session: &SessionName) -> Option<Kind> {
        let mut all = self.under_way.iter().filter(|(_, kind, _)| *kind != Kind::Detach);
        all.find(|(own, _, _)| own == session).map(|(_, kind, _)| *kind)
    }

    /// Begins; `asked` if a daemon waits for the end.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn begin(
        &mut self,
        session: SessionName,
        kind: Kind,
        asked: bool,
        work: impl FnOnce() -> Result<(), OverlayError> + Send + 'static,
    ) -> io::Result<()> {
        let (sender, bell, own) = (self.ended.0.clone(), Arc::clone(&self.bell), session.clone());
        std::thread::Builder::new().name("overlay".to_owned()).spawn(move || {
            // The loop has gone when nobody receives.
            let _ = sender.send((own, kind, work()));
            let _ = rustix::io::write(&*bell, &1_u64.to_ne_bytes());
        })?;
        self.under_way.push((session, kind, asked));
        Ok(())
    }

    /// Has a daemon wait for what is under way for a session.
    pub fn wait_for(&mut self, session: &SessionName, kind: Kind) {
        for (own, of, asked) in &mut self.under_way {
            *asked |= own == session && *of == kind;
        }
    }

    /// Nobody waits any more.
    pub fn forget_askers(&mut self) {
        self.under_way.iter_mut().for_each(|(_, _, asked)| *asked = false);
    }

    /// Returns what has ended.
    pub fn take_ended(&mut self) -> Vec<Ended> {
        let mut count = [0; 8];
        let _ = rustix::io::read(&*self.bell, &mut count);
        let ended: Vec<Done> = self.ended.1.try_iter().collect();
        let taken = ended.into_iter().map(|(session, kind, result)| {
            let position = self.under_way.iter().position(|(own, of, _)| *own == session && *of == kind);
            let asked = position.is_some_and(|position| self.under_way.swap_remove(position).2);
            Ended { kind, session, result, asked }
        });
        taken.collect()
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;

    fn name(text: &str) -> SessionName {
        SessionName::new(text).unwrap()
    }

    fn wait(works: &mut Works) -> Vec<Ended> {
        let bell = works.bell();
        poll(&mut [PollFd::from_borrowed_fd(bell, PollFlags::IN)], None).unwrap();
        works.take_ended()
    }

    #[test]
    fn test_the_bell_rings_and_the_asker_is_known() {
        let mut works = Works::new().unwrap();
        let (go, gate) = channel::<()>();
        works
            .begin(name("a"), Kind::Make, true, move || gate.recv().map_err(|_| OverlayError::NoLower(name("a"))))
            .unwrap();
        assert_eq!((works.has(&name("a")), works.has(&name("b"))), (Some(Kind::Make), None));
        // The daemon ends; the next one asks for the same.
        works.forget_askers();
        works.begin(name("b"), Kind::Detach, false, || Ok(())).unwrap();
        let ended = wait(&mut works);
        assert_eq!((ended.len(), ended[0].kind, ended[0].asked), (1, Kind::Detach, false));
        works.wait_for(&name("a"), Kind::Make);
        go.send(()).unwrap();
        let ended = wait(&mut works);
        assert!(ended.len() == 1 && ended[0].asked && ended[0].result.is_ok() && ended[0].session == name("a"));
        assert_eq!(works.has(&name("a")), None);
        assert!(works.take_ended().is_empty());
    }
}

//! What blocks, beside the keeper's loop: it must be able to take the next daemon whatever a mount waits for.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use rustix::event::{EventfdFlags, eventfd};

use super::message::{Reply, SessionName};
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

/// Who is told how work has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// A daemon that waits for the answer.
    Waits,
    /// A daemon that asks again.
    Returns,
    /// Nobody.
    None,
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
    /// Who is told.
    pub asker: Asker,
}

/// All work that is under way, a thread each. At most one for a session, but for `Detach`.
#[derive(Debug)]
pub struct Works {
    under_way: Vec<(SessionName, Kind, Asker)>,
    /// What daemons that ask again have not heard yet.
    answers: BTreeMap<SessionName, (Kind, Reply)>,
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
        Ok(Self { under_way: Vec::new(), answers: BTreeMap::new(), ended: channel(), bell })
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

    /// Begins, which makes earlier answers void.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn begin(
        &mut self,
        session: SessionName,
        kind: Kind,
        asker: Asker,
        work: impl FnOnce() -> Result<(), OverlayError> + Send + 'static,
    ) -> io::Result<()> {
        let (sender, bell, own) = (self.ended.0.clone(), Arc::clone(&self.bell), session.clone());
        std::thread::Builder::new().name("overlay".to_owned()).spawn(move || {
            // The loop has gone when nobody receives.
            let _ = sender.send((own, kind, work()));
            let _ = rustix::io::write(&*bell, &1_u64.to_ne_bytes());
        })?;
        self.answers.remove(&session);
        self.under_way.push((session, kind, asker));
        Ok(())
    }

    /// Has a daemon be told how what is under way for a session ends.
    pub fn tell(&mut self, session: &SessionName, kind: Kind, asker: Asker) {
        for (own, of, told) in &mut self.under_way {
            if own == session && *of == kind {
                *told = asker;
            }
        }
    }

    /// Keeps an answer for a daemon that asks again.
    pub fn keep_answer(&mut self, session: SessionName, kind: Kind, reply: Reply) {
        self.answers.insert(session, (kind, reply));
    }

    /// Returns how what was asked for before has ended, once.
    pub fn take_answer(&mut self, session: &SessionName, kind: Kind) -> Option<Reply> {
        self.answers.get(session).filter(|(of, _)| *of == kind)?;
        self.answers.remove(session).map(|(_, reply)| reply)
    }

    /// Nobody asks for what was done for a session any more.
    pub fn forget(&mut self, session: &SessionName) {
        self.answers.remove(session);
        self.under_way.iter_mut().filter(|(own, _, _)| own == session).for_each(|(_, _, asker)| *asker = Asker::None);
    }

    /// The daemon has ended: nobody is told anything any more.
    pub fn forget_askers(&mut self) {
        self.answers.clear();
        self.under_way.iter_mut().for_each(|(_, _, asker)| *asker = Asker::None);
    }

    /// Returns what has ended.
    pub fn take_ended(&mut self) -> Vec<Ended> {
        let mut count = [0; 8];
        let _ = rustix::io::read(&*self.bell, &mut count);
        let ended: Vec<Done> = self.ended.1.try_iter().collect();
        let taken = ended.into_iter().map(|(session, kind, result)| {
            let position = self.under_way.iter().position(|(own, of, _)| *own == session && *of == kind);
            let asker = position.map_or(Asker::None, |position| self.under_way.swap_remove(position).2);
            Ended { kind, session, result, asker }
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
            .begin(name("a"), Kind::Make, Asker::Waits, move || {
                gate.recv().map_err(|_| OverlayError::NoLower(name("a")))
            })
            .unwrap();
        assert_eq!((works.has(&name("a")), works.has(&name("b"))), (Some(Kind::Make), None));
        // The daemon ends; the next one asks for the same.
        works.forget_askers();
        works.begin(name("b"), Kind::Detach, Asker::None, || Ok(())).unwrap();
        let ended = wait(&mut works);
        assert_eq!((ended.len(), ended[0].kind, ended[0].asker), (1, Kind::Detach, Asker::None));
        works.tell(&name("a"), Kind::Make, Asker::Waits);
        go.send(()).unwrap();
        let ended = wait(&mut works);
        assert_eq!((ended.len(), ended[0].asker, &ended[0].session), (1, Asker::Waits, &name("a")));
        assert!(ended[0].result.is_ok());
        assert_eq!(works.has(&name("a")), None);
        assert!(works.take_ended().is_empty());
    }

    #[test]
    fn test_answers_are_given_once_and_to_who_asked() {
        let mut works = Works::new().unwrap();
        works.keep_answer(name("a"), Kind::Make, Reply::Done);
        assert_eq!(works.take_answer(&name("b"), Kind::Make), None);
        assert_eq!(works.take_answer(&name("a"), Kind::Unmount), None, "that is another question");
        assert_eq!(works.take_answer(&name("a"), Kind::Make), Some(Reply::Done));
        assert_eq!(works.take_answer(&name("a"), Kind::Make), None);
        let voids: [fn(&mut Works); 3] = [
            |works| works.forget(&name("a")),
            Works::forget_askers,
            |works| works.begin(name("a"), Kind::Unmount, Asker::Returns, || Ok(())).unwrap(),
        ];
        for void in voids {
            works.keep_answer(name("a"), Kind::Make, Reply::Done);
            void(&mut works);
            assert_eq!(works.take_answer(&name("a"), Kind::Make), None);
        }
        works.forget(&name("a"));
        assert_eq!(wait(&mut works)[0].asker, Asker::None);
    }
}

//! The daemon's side: asks a keeper, and fills a new one when it is gone.
//!
//! Everything that the keeper holds is open here as well. A thread waits for the end of the connection; then it starts or
//! finds another keeper and hands it all sessions. Readers notice nothing: the daemon has the mounts.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::Child;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, poll};

use super::message::{MountWords, Place, Refusal, Reply, Request, SessionName, VERSION, decode, encode};
use super::socket::{self, Packet};
use crate::fuse::InFlight;

/// How long a request waits for a keeper that is gone.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a keeper may take for an answer: mounting by fusermount3 starts a program.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// Between two questions whether work has ended: the first pause, which doubles, and the longest. An overlay is mounted in some 30 ms.
const ASK_AGAIN: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(100));
/// Between two attempts to reach a keeper.
const RETRY: Duration = Duration::from_millis(100);

/// How a keeper is reached.
pub enum Reach {
    /// It is started with the other end of a connection.
    Start(Box<dyn Fn(OwnedFd) -> io::Result<Child> + Send + Sync>),
    /// Somebody starts it, and it listens here.
    Connect(PathBuf),
}

impl fmt::Debug for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(_) => f.write_str("Start"),
            Self::Connect(path) => f.debug_tuple("Connect").field(path).finish(),
        }
    }
}

/// Why a keeper did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// It said no.
    #[error("{message}")]
    Refused {
        /// The sort of reason.
        kind: Refusal,
        /// The keeper's words.
        message: String,
    },
    /// There is none, and none could be had in time.
    #[error("the keeper cannot be reached: {0}")]
    Gone(#[source] io::Error),
    /// It said something that is no answer.
    #[error("the keeper answered with something else: {0}")]
    Odd(String),
}

/// A session, as a daemon holds it: what a keeper is filled with.
#[derive(Debug, Clone)]
pub struct Kept {
    /// Where it is mounted.
    pub place: Place,
    /// Where else.
    pub also: Vec<Place>,
    /// The mount's device.
    pub device: (u32, u32),
    /// How far the kernel is to read ahead.
    pub read_ahead_kib: u32,
    /// The scratch space of its overlay, in bytes.
    pub scratch_bytes: Option<u64>,
    /// The open `/dev/fuse`.
    pub connection: Arc<OwnedFd>,
    /// The table of inodes.
    pub table: Arc<OwnedFd>,
    /// The table of requests in flight.
    pub in_flight: Arc<InFlight>,
    /// What the next daemon needs.
    pub state: Arc<OwnedFd>,
}

/// A session that another daemon left.
#[derive(Debug)]
pub struct Taken {
    /// Where it is mounted.
    pub place: Place,
    /// Where else.
    pub also: Vec<Place>,
    /// The mount's device.
    pub device: (u32, u32),
    /// How far the kernel reads ahead.
    pub read_ahead_kib: u32,
    /// The scratch space of its overlay, in bytes.
    pub scratch_bytes: Option<u64>,
    /// The open `/dev/fuse`.
    pub connection: OwnedFd,
    /// The table of inodes.
    pub table: OwnedFd,
    /// The table of requests in flight.
    pub in_flight: OwnedFd,
    /// What this daemon needs.
    pub state: OwnedFd,
}

/// The connection to the keeper, whichever it is. Calls block.
#[derive(Clone)]
pub struct Link {
    inner: Arc<Inner>,
}

struct Inner {
    reach: Reach,
    /// What the keeper said of itself: [`State`] is locked as long as it works.
    scratch_limit_bytes: AtomicU64,
    binds: AtomicBool,
    state: Mutex<State>,
    /// Told when there is a keeper again.
    back: Condvar,
}

#[derive(Default)]
struct State {
    socket: Option<Arc<OwnedFd>>,
    keeper: Option<Child>,
    held: BTreeMap<SessionName, Kept>,
    /// Sessions that were left by an earlier daemon and that this one has not gone on with yet.
    left: Vec<SessionName>,
    closed: bool,
}

/// What a keeper says when it is reached.
struct Welcome {
    sessions: Vec<SessionName>,
    scratch_limit_bytes: u64,
    binds: bool,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("held", &self.inner.state.lock().held.keys()).finish_non_exhaustive()
    }
}

impl Link {
    /// Reaches a keeper, over a connection that there is already or by the given way.
    ///
    /// # Errors
    /// There is none, or it speaks another version.
    pub fn open(reach: Reach, connection: Option<OwnedFd>) -> Result<Self, LinkError> {
        let inner = Arc::new(Inner {
            reach,
            scratch_limit_bytes: AtomicU64::default(),
            binds: AtomicBool::default(),
            state: Mutex::default(),
            back: Condvar::new(),
        });
        let (connected, welcome) = match connection {
            Some(socket) => {
                let welcome = hello(socket.as_fd())?;
                (Connected { socket: Arc::new(socket), keeper: None }, welcome)
            }
            None => inner.first()?,
        };
        {
            let mut state = inner.state.lock();
            state.socket = Some(Arc::clone(&connected.socket));
            state.keeper = connected.keeper;
            inner.says(&welcome);
            state.left = welcome.sessions;
        }
        let (weak, socket) = (Arc::downgrade(&inner), connected.socket);
        std::thread::Builder::new()
            .name("keeper-watch".to_owned())
            .spawn(move || watch(&weak, socket))
            .map_err(LinkError::Gone)?;
        Ok(Self { inner })
    }

    /// Returns the sessions that an earlier daemon left.
    #[must_use]
    pub fn left(&self) -> Vec<SessionName> {
        self.inner.state.lock().left.clone()
    }

    /// Returns the largest scratch space of a volume that the keeper makes, in bytes; 0 where it mounts no overlays.
    #[must_use]
    pub fn scratch_limit_bytes(&self) -> u64 {
        self.inner.scratch_limit_bytes.load(Relaxed)
    }

    /// Returns whether the keeper mounts a session at more than one place.
    #[must_use]
    pub fn binds(&self) -> bool {
        self.inner.binds.load(Relaxed)
    }

    /// Returns whether a session with this name is held, or was left by an earlier daemon. Blocks.
    #[must_use]
    pub fn has(&self, session: &SessionName) -> bool {
        let state = self.inner.state.lock();
        state.held.contains_key(session) || state.left.contains(session)
    }

    /// Mounts. One with scratch space is mounted where nobody sees it, until [`Link::overlay`]. The mount is gone if this process ends before [`Link::hold`].
    ///
    /// # Errors
    /// The keeper refused, or there is none.
    pub fn mount(
        &self,
        session: &SessionName,
        place: &Place,
        words: &MountWords,
        scratch_bytes: Option<u64>,
    ) -> Result<((u32, u32), OwnedFd), LinkError> {
        let (session, place, words) = (session.clone(), place.clone(), words.clone());
        let request = Request::Mount { session, place, words, scratch_bytes };
        match self.ask(&request)? {
            (Reply::Mounted { device }, descriptors) => match <[OwnedFd; 1]>::try_from(descriptors) {
                Ok([connection]) => Ok((device, connection)),
                Err(other) => Err(LinkError::Odd(format!("{} descriptors of a mount", other.len()))),
            },
            (reply, _) => Err(unexpected(reply)),
        }
    }

    /// Mounts the overlay of a session that is held and served: the kernel asks this process meanwhile.
    ///
    /// # Errors
    /// `NotFound` where its own mount has ended, and others of the keeper, or there is none.
    pub fn overlay(&self, session: &SessionName) -> Result<(), LinkError> {
        self.ask(&Request::Overlay { session: session.clone(), again: true }).and_then(done)
    }

    /// Mounts a session that is held at one more place. What it is mounted at is held by [`Link::hold_at`], before.
    ///
    /// # Errors
    /// `NotFound` where it is not mounted any more, and others of the keeper, or there is none.
    pub fn bind(&self, session: &SessionName, place: &Place) -> Result<(), LinkError> {
        self.ask(&Request::Bind { session: session.clone(), place: place.clone() }).and_then(done)
    }

    /// Takes what an earlier daemon left under a name.
    ///
    /// # Errors
    /// There is nothing, or there is no keeper.
    pub fn take(&self, session: &SessionName) -> Result<Taken, LinkError> {
        match self.ask(&Request::Take { session: session.clone() })? {
            (Reply::Held { place, also, device, read_ahead_kib, scratch_bytes }, descriptors) => {
                let [connection, table, in_flight, state] = descriptors.try_into().map_err(|other: Vec<OwnedFd>| {
                    LinkError::Odd(format!("{} descriptors of a session", other.len()))
                })?;
                Ok(Taken { place, also, device, read_ahead_kib, scratch_bytes, connection, table, in_flight, state })
            }
            (reply, _) => Err(unexpected(reply)),
        }
    }

    /// Has a session held, by this keeper and by those after it, from now until [`Link::release`].
    ///
    /// # Errors
    /// The keeper refused. That there is none now is no error: the next one will be filled.
    pub fn hold(&self, session: &SessionName, kept: Kept) -> Result<(), LinkError> {
        self.inner.state.lock().hold(session, kept)
    }

    /// Has a session that is held go on to be held, with other places and another state; without any place it is one that was detached.
    ///
    /// # Errors
    /// It is not held, or the keeper refused.
    pub fn hold_at(&self, session: &SessionName, places: &[Place], state: OwnedFd) -> Result<(), LinkError> {
        // Locked over both: it must not be held again that was let go of meanwhile.
        let mut locked = self.inner.state.lock();
        let kept = locked.held.get(session).cloned().ok_or_else(|| LinkError::Refused {
            kind: Refusal::NotFound,
            message: format!("there is no session {session} any more"),
        })?;
        let (place, also) = match places {
            [place, also @ ..] => (place.clone(), also.to_vec()),
            [] => (kept.place.clone(), Vec::new()),
        };
        locked.hold(session, Kept { place, also, state: Arc::new(state), ..kept })
    }

    /// Says that nothing but what is held and what is left is alive.
    ///
    /// # Errors
    /// There is no keeper.
    pub fn settled(&self) -> Result<(), LinkError> {
        self.ask(&Request::Settled).and_then(done)
    }

    /// Unmounts a session at one place, or at its first where none is said; it is held on.
    ///
    /// # Errors
    /// `Busy` and others of the keeper, or there is none.
    pub fn unmount(&self, session: &SessionName, place: Option<&Place>, lazy: bool) -> Result<(), LinkError> {
        let place = if self.binds() {
            place.cloned()
        } else {
            // It knows of one place.
            let first = self.inner.state.lock().held.get(session).map(|kept| kept.place.clone());
            if let (Some(first), Some(place)) = (first, place)
                && first != *place
            {
                let message = "the keeper is older than what it holds, and knows of one place of it only".to_owned();
                return Err(LinkError::Refused { kind: Refusal::System, message });
            }
            None
        };
        self.ask(&Request::Unmount { session: session.clone(), lazy, place, again: true }).and_then(done)
    }

    /// Lets go of a session, whose mount has ended. Once: then another one may have the name.
    pub fn release(&self, session: &SessionName) {
        let mut state = self.inner.state.lock();
        state.held.remove(session);
        state.left.retain(|left| left != session);
        // A keeper that is gone holds nothing, and the next one does not get it. One that has not answered is left: its answer would be
        // taken for that to the next question.
        if let Some(socket) = state.socket.clone()
            && exchange(socket.as_fd(), &Request::Release { session: session.clone() }, &[]).is_err()
        {
            state.leave();
        }
    }

    /// Ends the connection, and reaches no other keeper.
    pub fn close(&self) {
        let mut state = self.inner.state.lock();
        state.closed = true;
        state.leave();
        self.inner.back.notify_all();
    }

    /// Asks, again if the keeper is replaced meanwhile: every request may be asked twice. Others ask while it works.
    fn ask(&self, request: &Request) -> Result<(Reply, Vec<OwnedFd>), LinkError> {
        let mut until = Instant::now() + PATIENCE;
        let (mut pause, longest) = ASK_AGAIN;
        let mut state = self.inner.state.lock();
        loop {
            let Some(socket) = state.socket.clone() else {
                if state.closed || self.inner.back.wait_until(&mut state, until).timed_out() {
                    return Err(LinkError::Gone(io::ErrorKind::NotConnected.into()));
                }
                continue;
            };
            match exchange(socket.as_fd(), request, &[]) {
                Ok((Reply::Refused { kind, message }, _)) => return Err(LinkError::Refused { kind, message }),
                Ok((Reply::UnderWay, _)) => {
                    self.inner.back.wait_for(&mut state, pause);
                    pause = longest.min(pause * 2);
                    until = Instant::now() + PATIENCE;
                }
                Ok(answer) => return Ok(answer),
                Err(error) if Instant::now() >= until => return Err(LinkError::Gone(error)),
                Err(_) => state.leave(),
            }
        }
    }
}

/// A keeper that was reached.
struct Connected {
    socket: Arc<OwnedFd>,
    keeper: Option<Child>,
}

impl State {
    /// Ends the connection; the watch sees that as well.
    fn leave(&mut self) {
        if let Some(socket) = self.socket.take() {
            let _ = rustix::net::shutdown(&*socket, rustix::net::Shutdown::Both);
        }
    }

    fn hold(&mut self, session: &SessionName, kept: Kept) -> Result<(), LinkError> {
        self.left.retain(|left| left != session);
        let before = self.held.insert(session.clone(), kept.clone());
        let Some(socket) = self.socket.clone() else { return Ok(()) };
        match exchange(socket.as_fd(), &hold_request(session, &kept), &descriptors(&kept)) {
            Ok((Reply::Done, _)) => Ok(()),
            Ok((reply, _)) => {
                // It goes on to hold what it held.
                match before {
                    Some(before) => self.held.insert(session.clone(), before),
                    None => self.held.remove(session),
                };
                Err(unexpected(reply))
            }
            Err(error) => {
                tracing::warn!(%error, "the keeper is gone; the next one will be filled");
                self.leave();
                Ok(())
            }
        }
    }
}

impl Inner {
    fn connect(&self) -> io::Result<Connected> {
        match &self.reach {
            Reach::Start(start) => {
                let (ours, theirs) = socket::pair()?;
                let keeper = start(theirs)?;
                Ok(Connected { socket: Arc::new(ours), keeper: Some(keeper) })
            }
            Reach::Connect(path) => Ok(Connected { socket: Arc::new(socket::connect(path)?), keeper: None }),
        }
    }

    /// Reaches the first keeper. One that others start may be on its way, or not have seen the end of an earlier daemon.
    fn first(&self) -> Result<(Connected, Welcome), LinkError> {
        let until = Instant::now() + PATIENCE;
        loop {
            let reached = self.connect().map_err(LinkError::Gone).and_then(|connected| {
                let welcome = hello(connected.socket.as_fd())?;
                Ok((connected, welcome))
            });
            let again = match &reached {
                Err(LinkError::Gone(_)) => matches!(self.reach, Reach::Connect(_)),
                Err(LinkError::Refused { kind, .. }) => *kind == Refusal::Occupied,
                Ok(_) | Err(LinkError::Odd(_)) => false,
            };
            if !again || Instant::now() >= until {
                return reached;
            }
            // Nobody else has this link yet, so nobody ends the pause.
            self.back.wait_for(&mut self.state.lock(), RETRY);
        }
    }

    /// Takes note of what a keeper said of itself.
    fn says(&self, welcome: &Welcome) {
        self.scratch_limit_bytes.store(welcome.scratch_limit_bytes, Relaxed);
        self.binds.store(welcome.binds, Relaxed);
    }

    /// Reaches a keeper and fills it.
    fn refill(&self) -> Result<Arc<OwnedFd>, LinkError> {
        let connected = self.connect().map_err(LinkError::Gone)?;
        let socket = connected.socket.as_fd();
        let welcome = hello(socket)?;
        let mut state = self.state.lock();
        self.says(&welcome);
        for (session, kept) in &state.held {
            match exchange(socket, &hold_request(session, kept), &descriptors(kept)).map_err(LinkError::Gone)? {
                (Reply::Done, _) => {}
                (reply, _) => tracing::error!(%session, ?reply, "a session could not be handed to the new keeper"),
            }
        }
        exchange(socket, &Request::Settled, &[]).map_err(LinkError::Gone)?;
        state.left.retain(|left| welcome.sessions.contains(left));
        state.keeper = connected.keeper;
        state.socket = Some(Arc::clone(&connected.socket));
        self.back.notify_all();
        Ok(connected.socket)
    }
}

/// Waits for the end of each keeper, and fills the next one.
fn watch(inner: &Weak<Inner>, mut socket: Arc<OwnedFd>) {
    loop {
        let mut polled = [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::empty())];
        if let Err(errno) = poll(&mut polled, None)
            && errno != rustix::io::Errno::INTR
        {
            return tracing::error!(%errno, "nobody watches over the keeper any more");
        }
        if polled[0].revents().is_empty() {
            continue;
        }
        let began = Instant::now();
        let mut said = false;
        socket = loop {
            let Some(inner) = inner.upgrade() else { return };
            {
                let mut state = inner.state.lock();
                if state.closed {
                    return;
                }
                state.socket = None;
                if let Some(mut keeper) = state.keeper.take() {
                    drop(keeper.kill());
                    drop(keeper.wait());
                }
            }
            match inner.refill() {
                Ok(socket) => break socket,
                Err(error) if !std::mem::replace(&mut said, true) => {
                    tracing::warn!(%error, "the keeper is gone and another one cannot be reached yet");
                }
                Err(error) => tracing::debug!(%error, "no keeper yet"),
            }
            // Until somebody closes the link; else it is time for another attempt.
            let mut state = inner.state.lock();
            inner.back.wait_for(&mut state, RETRY.saturating_mul(1 + u32::from(began.elapsed() > PATIENCE) * 19));
        };
        tracing::warn!(
            pause_ms = began.elapsed().as_millis(),
            "the keeper had ended; another one holds the mounts now"
        );
    }
}

/// Introduces this process.
fn hello(socket: BorrowedFd<'_>) -> Result<Welcome, LinkError> {
    match exchange(socket, &Request::Hello { version: VERSION }, &[]).map_err(LinkError::Gone)? {
        (Reply::Welcome { sessions, scratch_limit_bytes, binds, .. }, _) => {
            Ok(Welcome { sessions, scratch_limit_bytes, binds })
        }
        (reply, _) => Err(unexpected(reply)),
    }
}

fn hold_request(session: &SessionName, kept: &Kept) -> Request {
    Request::Hold {
        session: session.clone(),
        place: kept.place.clone(),
        also: kept.also.clone(),
        device: kept.device,
        read_ahead_kib: kept.read_ahead_kib,
        scratch_bytes: kept.scratch_bytes,
    }
}

fn descriptors(kept: &Kept) -> [BorrowedFd<'_>; 4] {
    [kept.connection.as_fd(), kept.table.as_fd(), kept.in_flight.as_fd(), kept.state.as_fd()]
}

/// Sends a request and waits for its answer.
fn exchange(
    socket: BorrowedFd<'_>,
    request: &Request,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<(Reply, Vec<OwnedFd>)> {
    let bytes = encode(request).map_err(io::Error::other)?;
    socket::send(socket, &bytes, descriptors)?;
    rustix::net::sockopt::set_socket_timeout(socket, rustix::net::sockopt::Timeout::Recv, Some(ANSWER_LIMIT))?;
    let Packet { bytes, descriptors } = socket::receive(socket)?.ok_or(io::ErrorKind::ConnectionReset)?;
    let reply = decode(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok((reply, descriptors))
}

fn done((reply, _): (Reply, Vec<OwnedFd>)) -> Result<(), LinkError> {
    if reply == Reply::Done { Ok(()) } else { Err(unexpected(reply)) }
}

fn unexpected(reply: Reply) -> LinkError {
    match reply {
        Reply::Refused { kind, message } => LinkError::Refused { kind, message },
        other => LinkError::Odd(format!("{other:?}")),
    }
}

#[cfg(test)]
mod tests;

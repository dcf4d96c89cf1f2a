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
    scratch_limit_bytes: u64,
    closed: bool,
}

/// What a keeper says when it is reached.
struct Welcome {
    sessions: Vec<SessionName>,
    scratch_limit_bytes: u64,
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
        let inner = Arc::new(Inner { reach, state: Mutex::default(), back: Condvar::new() });
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
            state.left = welcome.sessions;
            state.scratch_limit_bytes = welcome.scratch_limit_bytes;
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
        self.inner.state.lock().scratch_limit_bytes
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
        self.ask(&Request::Overlay { session: session.clone() }).and_then(done)
    }

    /// Takes what an earlier daemon left under a name.
    ///
    /// # Errors
    /// There is nothing, or there is no keeper.
    pub fn take(&self, session: &SessionName) -> Result<Taken, LinkError> {
        match self.ask(&Request::Take { session: session.clone() })? {
            (Reply::Held { place, device, read_ahead_kib, scratch_bytes }, descriptors) => {
                let [connection, table, in_flight, state] = descriptors.try_into().map_err(|other: Vec<OwnedFd>| {
                    LinkError::Odd(format!("{} descriptors of a session", other.len()))
                })?;
                Ok(Taken { place, device, read_ahead_kib, scratch_bytes, connection, table, in_flight, state })
            }
            (reply, _) => Err(unexpected(reply)),
        }
    }

    /// Has a session held, by this keeper and by those after it, from now until [`Link::release`].
    ///
    /// # Errors
    /// The keeper refused. That there is none now is no error: the next one will be filled.
    pub fn hold(&self, session: &SessionName, kept: Kept) -> Result<(), LinkError> {
        let mut state = self.inner.state.lock();
        state.left.retain(|left| left != session);
        state.held.insert(session.clone(), kept.clone());
        let Some(socket) = state.socket.clone() else { return Ok(()) };
        match exchange(socket.as_fd(), &hold_request(session, &kept), &descriptors(&kept)) {
            Ok((Reply::Done, _)) => Ok(()),
            Ok((reply, _)) => {
                state.held.remove(session);
                Err(unexpected(reply))
            }
            Err(error) => {
                tracing::warn!(%error, "the keeper is gone; the next one will be filled");
                state.socket = None;
                Ok(())
            }
        }
    }

    /// Says that nothing but what is held and what is left is alive.
    ///
    /// # Errors
    /// There is no keeper.
    pub fn settled(&self) -> Result<(), LinkError> {
        self.ask(&Request::Settled).and_then(done)
    }

    /// Unmounts a session; it is held on.
    ///
    /// # Errors
    /// `Busy` and others of the keeper, or there is none.
    pub fn unmount(&self, session: &SessionName, lazy: bool) -> Result<(), LinkError> {
        self.ask(&Request::Unmount { session: session.clone(), lazy }).and_then(done)
    }

    /// Lets go of a session, whose mount has ended.
    pub fn release(&self, session: &SessionName) {
        let mut state = self.inner.state.lock();
        state.held.remove(session);
        state.left.retain(|left| left != session);
        if let Some(socket) = state.socket.clone() {
            // A keeper that is gone holds nothing, and the next one does not get it.
            let _ = exchange(socket.as_fd(), &Request::Release { session: session.clone() }, &[]);
        }
    }

    /// Ends the connection, and reaches no other keeper.
    pub fn close(&self) {
        let mut state = self.inner.state.lock();
        state.closed = true;
        if let Some(socket) = state.socket.take() {
            let _ = rustix::net::shutdown(&*socket, rustix::net::Shutdown::Both);
        }
        self.inner.back.notify_all();
    }

    /// Asks, again if the keeper is replaced meanwhile: every request may be asked twice.
    fn ask(&self, request: &Request) -> Result<(Reply, Vec<OwnedFd>), LinkError> {
        let until = Instant::now() + PATIENCE;
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
                Ok(answer) => return Ok(answer),
                Err(error) if Instant::now() >= until => return Err(LinkError::Gone(error)),
                Err(_) => {
                    // The watch sees the end of the connection as well.
                    let _ = rustix::net::shutdown(&*socket, rustix::net::Shutdown::Both);
                    state.socket = None;
                }
            }
        }
    }
}

/// A keeper that was reached.
struct Connected {
    socket: Arc<OwnedFd>,
    keeper: Option<Child>,
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

    /// Reaches a keeper and fills it.
    fn refill(&self) -> Result<Arc<OwnedFd>, LinkError> {
        let connected = self.connect().map_err(LinkError::Gone)?;
        let socket = connected.socket.as_fd();
        let Welcome { sessions, scratch_limit_bytes } = hello(socket)?;
        let mut state = self.state.lock();
        state.scratch_limit_bytes = scratch_limit_bytes;
        for (session, kept) in &state.held {
            match exchange(socket, &hold_request(session, kept), &descriptors(kept)).map_err(LinkError::Gone)? {
                (Reply::Done, _) => {}
                (reply, _) => tracing::error!(%session, ?reply, "a session could not be handed to the new keeper"),
            }
        }
        exchange(socket, &Request::Settled, &[]).map_err(LinkError::Gone)?;
        state.left.retain(|left| sessions.contains(left));
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
        (Reply::Welcome { sessions, scratch_limit_bytes, .. }, _) => Ok(Welcome { sessions, scratch_limit_bytes }),
        (reply, _) => Err(unexpected(reply)),
    }
}

fn hold_request(session: &SessionName, kept: &Kept) -> Request {
    Request::Hold {
        session: session.clone(),
        place: kept.place.clone(),
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

//! The keeper's loop: one thread that waits for one daemon at a time. What it does with mounts is in [`mounts`].

mod mounts;

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::held::{Held, Mounted, Session};
use super::message::{Refusal, Reply, Request, VERSION, decode, encode};
use super::overlay::Overlays;
use super::place::Base;
use super::restart::Restarts;
use super::socket::{self, Packet};
use super::work::{Asker, Works};

/// How often it is looked whether a mount that waits for a daemon was unmounted meanwhile, or has waited too long.
const TICK: Duration = Duration::from_secs(1);

/// How a keeper works.
#[derive(Debug)]
pub struct Options {
    /// Where it mounts.
    pub base: Base,
    /// A mount that nobody serves for so long is given up: its readers get an error instead of waiting for ever.
    pub max_pause: Duration,
    /// The users whose daemon may connect.
    pub peers: Vec<u32>,
    /// Where scratch space of overlays lies; without it there are none.
    pub overlays: Option<Overlays>,
}

/// Starts a daemon with this end of a connection.
pub type Start = Box<dyn FnMut(OwnedFd) -> io::Result<Child>>;

/// Where daemons come from.
pub enum Daemons {
    /// Others start them, and they connect here.
    Connect(OwnedFd),
    /// The first one has the other end of this socket; those after it are started here.
    Start {
        /// The connection to the first one.
        first: OwnedFd,
        /// Starts another.
        start: Start,
    },
}

impl std::fmt::Debug for Daemons {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Connect(_) => "Connect",
            Self::Start { .. } => "Start",
        })
    }
}

/// A keeper.
pub struct Keeper {
    options: Options,
    held: Held,
    works: Works,
    daemon: Option<Daemon>,
    /// A daemon whose connection has ended, and that has not: no other one may serve before that.
    ending: Option<OwnedFd>,
    listener: Option<OwnedFd>,
    supervised: Option<Supervised>,
    /// Until when a daemon must have said what it has, or whatever is mounted below the base is taken for dead.
    settle_by: Option<Instant>,
}

struct Daemon {
    socket: OwnedFd,
    /// The process; `None` where it is in another namespace.
    process: Option<OwnedFd>,
    welcome: bool,
}

struct Supervised {
    start: Start,
    child: Option<Child>,
    started: Instant,
    restarts: Restarts,
    due: Option<Instant>,
}

/// What becomes of a connection after an answer.
enum Then {
    GoOn,
    Close,
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").field("held", &self.held).finish_non_exhaustive()
    }
}

impl Keeper {
    /// Makes a keeper that holds nothing.
    ///
    /// # Errors
    /// The system has no descriptors left.
    pub fn new(options: Options, daemons: Daemons) -> io::Result<Self> {
        let now = Instant::now();
        let settle_by = matches!(options.base, Base::Below { .. }).then(|| now + options.max_pause);
        let mut keeper = Self {
            options,
            held: Held::default(),
            works: Works::new()?,
            daemon: None,
            ending: None,
            listener: None,
            supervised: None,
            settle_by,
        };
        match daemons {
            Daemons::Connect(listener) => keeper.listener = Some(listener),
            Daemons::Start { first, start } => {
                keeper.supervised =
                    Some(Supervised { start, child: None, started: now, restarts: Restarts::default(), due: None });
                let process = process_behind(first.as_fd());
                keeper.daemon = Some(Daemon { socket: first, process, welcome: false });
            }
        }
        Ok(keeper)
    }

    /// Works until nothing is held and nobody can ask for anything any more; one that listens never ends.
    ///
    /// # Errors
    /// poll(2) failed.
    pub fn run(mut self) -> io::Result<()> {
        loop {
            let now = Instant::now();
            self.look_after(now);
            if self.listener.is_none() && self.daemon.is_none() && self.held.is_empty() {
                return Ok(());
            }
            self.wait(now)?;
        }
    }

    /// Does what time brings.
    fn look_after(&mut self, now: Instant) {
        for (name, session) in self.held.overdue(now, self.options.max_pause, is_dead) {
            tracing::warn!(place = session.place.shown(), "no daemon serves it any more: it is detached");
            self.detach(&name, &session);
        }
        if self.settle_by.is_some_and(|by| by <= now) {
            self.settle();
        }
        let Some(supervised) = &mut self.supervised else { return };
        if self.ending.is_none()
            && self.daemon.is_none()
            && !self.held.is_empty()
            && supervised.due.is_some_and(|due| due <= now)
        {
            match supervised.start(now) {
                Ok(daemon) => self.daemon = Some(daemon),
                Err(error) => {
                    tracing::error!(%error, "cannot start the daemon again");
                    supervised.due = Some(supervised.restarts.after(now, now));
                }
            }
        }
    }

    /// Waits for the next thing to do, and does it.
    fn wait(&mut self, now: Instant) -> io::Result<()> {
        let until = [
            self.settle_by,
            self.supervised.as_ref().and_then(|supervised| supervised.due).filter(|_| self.daemon.is_none()),
            self.held.is_waiting().then(|| now + TICK),
        ];
        let timeout = until.into_iter().flatten().min().map(|until| until.saturating_duration_since(now));
        // A millisecond more: rounding down would make it wake too early.
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout + Duration::from_millis(1)).ok());

        // Not the mounts' own descriptors: the kernel would wake this process at every request.
        let mut watched = Vec::new();
        let daemon = self.daemon.as_ref().map(|daemon| daemon.socket.as_fd());
        let (listener, ending) = (self.listener.as_ref().map(OwnedFd::as_fd), self.ending.as_ref().map(OwnedFd::as_fd));
        for descriptor in [daemon, listener, ending, Some(self.works.bell())] {
            watched.push(descriptor);
        }
        let mut polled: Vec<PollFd<'_>> =
            watched.iter().flatten().map(|descriptor| PollFd::from_borrowed_fd(*descriptor, PollFlags::IN)).collect();
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut ready = polled.iter().map(|polled| !polled.revents().is_empty());
        let mut next = |descriptor: &Option<BorrowedFd<'_>>| descriptor.is_some() && ready.next().unwrap_or(false);
        let (spoke, came, ended) = (next(&watched[0]), next(&watched[1]), next(&watched[2]));
        let worked = next(&watched[3]);
        drop((polled, watched));
        if ended {
            self.ending = None;
        }
        if worked {
            self.worked();
        }
        if spoke {
            self.hear();
        }
        if came {
            self.admit();
        }
        Ok(())
    }

    /// Takes a connection, if there is none.
    fn admit(&mut self) {
        let Some(listener) = &self.listener else { return };
        let socket = match socket::accept(listener.as_fd()) {
            Ok(socket) => socket,
            Err(error) => return tracing::warn!(%error, "a connection could not be taken"),
        };
        match socket::peer(socket.as_fd()) {
            Ok(peer) if self.options.peers.contains(&peer.uid) => {}
            peer => return tracing::warn!(?peer, "a connection of another user was refused"),
        }
        if self.daemon.is_some() || self.ending.is_some() {
            answer(socket.as_fd(), &refused(Refusal::Occupied, "another daemon is connected"), &[]);
            return;
        }
        let process = process_behind(socket.as_fd());
        self.daemon = Some(Daemon { socket, process, welcome: false });
    }

    /// Receives a message and answers it.
    fn hear(&mut self) {
        let Some(daemon) = self.daemon.take() else { return };
        let then = match socket::receive(daemon.socket.as_fd()) {
            Ok(Some(packet)) => self.reply(&daemon, packet),
            Ok(None) => (Then::Close, daemon.welcome),
            Err(error) => {
                answer(daemon.socket.as_fd(), &refused(Refusal::BadMessage, &error.to_string()), &[]);
                (Then::Close, daemon.welcome)
            }
        };
        match then {
            (Then::GoOn, welcome) => self.daemon = Some(Daemon { welcome, ..daemon }),
            (Then::Close, _) => self.ended(daemon),
        }
    }

    /// Sees to what a daemon left.
    fn ended(&mut self, daemon: Daemon) {
        let now = Instant::now();
        self.works.forget_askers();
        for (name, session) in self.held.daemon_ended(now) {
            tracing::warn!(place = session.place.shown(), "its daemon ended before it served it: it is detached");
            self.detach(&name, &session);
        }
        // A process's connection ends with the process. One that let go of it and lives would answer beside the next one.
        if let (Some(process), Some(_)) = (daemon.process, &self.supervised) {
            let _ = pidfd_send_signal(&process, Signal::KILL);
            self.ending = Some(process);
        }
        if let Some(supervised) = &mut self.supervised {
            if let Some(mut child) = supervised.child.take() {
                // It was killed if it had not ended.
                drop(child.wait());
            }
            if !self.held.is_empty() {
                tracing::warn!("the daemon has ended; it is started again");
            }
            supervised.due = Some(supervised.restarts.after(supervised.started, now));
        }
    }

    /// Carries out a message.
    fn reply(&mut self, daemon: &Daemon, packet: Packet) -> (Then, bool) {
        let socket = daemon.socket.as_fd();
        let request = match decode::<Request>(&packet.bytes) {
            Ok(request) => request,
            Err(error) => {
                answer(socket, &refused(Refusal::BadMessage, &error.to_string()), &[]);
                return (Then::Close, daemon.welcome);
            }
        };
        let answered = match request {
            Request::Hello { version } if version == VERSION => {
                let sessions = self.held.names().cloned().collect();
                let scratch_limit_bytes = self.options.overlays.as_ref().map_or(0, Overlays::limit_bytes);
                // A person's own mount is at one place.
                let binds = matches!(self.options.base, Base::Below { .. });
                let welcome = Reply::Welcome { version: VERSION, sessions, scratch_limit_bytes, binds };
                let sent = answer(socket, &welcome, &[]);
                return (if sent { Then::GoOn } else { Then::Close }, true);
            }
            Request::Hello { version } => {
                let message = format!("this keeper speaks version {VERSION}, the daemon version {version}");
                answer(socket, &refused(Refusal::Version, &message), &[]);
                return (Then::Close, daemon.welcome);
            }
            _ if !daemon.welcome => {
                answer(socket, &refused(Refusal::BadMessage, "the first message must be hello"), &[]);
                return (Then::Close, false);
            }
            Request::Mount { session, place, words, scratch_bytes } => {
                self.mount(socket, session, place, &words, scratch_bytes)
            }
            Request::Hold { session, place, also, device, read_ahead_kib, scratch_bytes } => {
                let mounted = Mounted { place, also, device, read_ahead_kib, scratch_bytes };
                let reply = self.hold(session, mounted, packet.descriptors);
                answer(socket, &reply, &[])
            }
            Request::Bind { session, place } => {
                let reply = self.bind(&session, place);
                answer(socket, &reply, &[])
            }
            // Answered now, or when the work for it has ended.
            Request::Overlay { session, again } => {
                self.overlay(session, asker(again)).is_none_or(|reply| answer(socket, &reply, &[]))
            }
            Request::Settled => {
                self.settle();
                answer(socket, &Reply::Done, &[])
            }
            Request::Take { session } => {
                match self.held.get(&session).and_then(|held| Some((held, held.descriptors()?))) {
                    Some((held, descriptors)) => {
                        let Session { place, also, device, read_ahead_kib, scratch_bytes, .. } = held;
                        let (device, read_ahead_kib, scratch_bytes) = (*device, *read_ahead_kib, *scratch_bytes);
                        let (place, also) = (place.clone(), also.clone());
                        let reply = Reply::Held { place, also, device, read_ahead_kib, scratch_bytes };
                        answer(socket, &reply, &descriptors.borrowed())
                    }
                    None => answer(socket, &refused(Refusal::NotFound, "there is no such session"), &[]),
                }
            }
            Request::Unmount { session, lazy, place, again } => {
                let reply = self.unmount_asked(session, place, lazy, asker(again));
                reply.is_none_or(|reply| answer(socket, &reply, &[]))
            }
            Request::Release { session } => {
                self.held.remove(&session);
                self.works.forget(&session);
                answer(socket, &Reply::Done, &[])
            }
        };
        (if answered { Then::GoOn } else { Then::Close }, true)
    }
}

impl Supervised {
    /// Starts another daemon.
    fn start(&mut self, now: Instant) -> io::Result<Daemon> {
        let (ours, theirs) = socket::pair()?;
        let child = (self.start)(theirs)?;
        let process = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).ok();
        (self.child, self.started, self.due) = (Some(child), now, None);
        Ok(Daemon { socket: ours, process, welcome: false })
    }
}

fn asker(again: bool) -> Asker {
    if again { Asker::Returns } else { Asker::Waits }
}

/// Sends a reply; returns whether it was taken.
fn answer(socket: BorrowedFd<'_>, reply: &Reply, descriptors: &[BorrowedFd<'_>]) -> bool {
    let sent = encode(reply).map_err(io::Error::other).and_then(|bytes| socket::send(socket, &bytes, descriptors));
    if let Err(error) = &sent {
        tracing::warn!(%error, "the daemon does not take an answer");
    }
    sent.is_ok()
}

fn refused(kind: Refusal, message: &str) -> Reply {
    // What a peer sent may be in it; the reply must fit into a packet whatever that was.
    let message = message.chars().filter(|c| !c.is_control()).take(1_000).collect();
    Reply::Refused { kind, message }
}

/// Returns the process at the other end, if this one's namespace has it.
fn process_behind(socket: BorrowedFd<'_>) -> Option<OwnedFd> {
    let pid = socket::peer(socket).ok()?.pid?;
    pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()
}

/// Whether a connection to the kernel has ended: its mount is gone.
fn is_dead(connection: BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::from_borrowed_fd(connection, PollFlags::empty())];
    poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
}

//! What a keeper holds, and when it stops to. The time is an argument.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use super::message::{MAX_DESCRIPTORS, MAX_SESSIONS, Place, SessionName};

/// The descriptors of a session that a daemon can go on with, in the order of the protocol.
#[derive(Debug)]
pub struct Descriptors([OwnedFd; MAX_DESCRIPTORS]);

impl Descriptors {
    /// Takes what came with a message; `None` if it is not what a session has.
    #[must_use]
    pub fn new(received: Vec<OwnedFd>) -> Option<Self> {
        received.try_into().ok().map(Self)
    }

    /// Returns them to be sent.
    #[must_use]
    pub fn borrowed(&self) -> [BorrowedFd<'_>; MAX_DESCRIPTORS] {
        self.0.each_ref().map(OwnedFd::as_fd)
    }

    /// Returns the open `/dev/fuse`.
    #[must_use]
    pub fn connection(&self) -> BorrowedFd<'_> {
        self.0[0].as_fd()
    }
}

/// A mount.
#[derive(Debug)]
pub struct Session {
    /// Where.
    pub place: Place,
    /// Where else.
    pub also: Vec<Place>,
    /// Its device.
    pub device: (u32, u32),
    /// How far the kernel reads ahead.
    pub read_ahead_kib: u32,
    /// The scratch space of one that has an overlay at its place, in bytes; its own mount is then below that.
    pub scratch_bytes: Option<u64>,
    what: What,
}

#[derive(Debug)]
enum What {
    /// Mounted for a daemon that has not said that it serves it. The descriptor keeps the mount alive until then.
    New { _connection: OwnedFd },
    /// A daemon serves it, or has and another one can.
    Kept { descriptors: Descriptors, alone_since: Option<Instant> },
}

/// What is mounted of a session.
#[derive(Debug, Clone)]
pub struct Mounted {
    /// Where.
    pub place: Place,
    /// Where else.
    pub also: Vec<Place>,
    /// Its device.
    pub device: (u32, u32),
    /// How far the kernel reads ahead.
    pub read_ahead_kib: u32,
    /// The scratch space of one with an overlay, in bytes.
    pub scratch_bytes: Option<u64>,
}

impl Mounted {
    fn session(self, what: What) -> Session {
        let Self { place, also, device, read_ahead_kib, scratch_bytes } = self;
        Session { place, also, device, read_ahead_kib, scratch_bytes, what }
    }
}

/// All mounts of a keeper.
#[derive(Debug, Default)]
pub struct Held {
    sessions: BTreeMap<SessionName, Session>,
}

impl Held {
    /// Returns whether another session may be added, or this one replaced.
    #[must_use]
    pub fn has_room(&self, name: &SessionName) -> bool {
        self.sessions.len() < MAX_SESSIONS || self.sessions.contains_key(name)
    }

    /// Returns a session.
    #[must_use]
    pub fn get(&self, name: &SessionName) -> Option<&Session> {
        self.sessions.get(name)
    }

    /// Returns whether a device belongs to a session.
    #[must_use]
    pub fn has_device(&self, device: (u32, u32)) -> bool {
        self.sessions.values().any(|session| session.device == device)
    }

    /// Returns whether a session has an overlay, or is to have one.
    #[must_use]
    pub fn has_overlay(&self, name: &SessionName) -> bool {
        self.get(name).is_some_and(|session| session.scratch_bytes.is_some())
    }

    /// Returns whether an overlay belongs to a place, mounted there or not yet.
    #[must_use]
    pub fn has_overlay_at(&self, place: &Place) -> bool {
        self.sessions.values().any(|session| session.scratch_bytes.is_some() && session.place == *place)
    }

    /// Returns whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Adds a mount that was just made.
    pub fn add_new(&mut self, name: SessionName, mounted: Mounted, connection: OwnedFd) {
        self.sessions.insert(name, mounted.session(What::New { _connection: connection }));
    }

    /// Holds a session that a daemon serves from now on, in the place of what was held under the name.
    pub fn hold(&mut self, name: SessionName, mounted: Mounted, of: Descriptors) {
        self.sessions.insert(name, mounted.session(What::Kept { descriptors: of, alone_since: None }));
    }

    /// Adds a place to a session.
    pub fn add_place(&mut self, name: &SessionName, place: Place) {
        if let Some(session) = self.sessions.get_mut(name)
            && !session.places().any(|other| *other == place)
        {
            session.also.push(place);
        }
    }

    /// Takes a place from a session, unless it is its only one.
    pub fn remove_place(&mut self, name: &SessionName, place: &Place) {
        let Some(session) = self.sessions.get_mut(name) else { return };
        if session.place == *place && !session.also.is_empty() {
            session.place = session.also.remove(0);
        }
        session.also.retain(|other| other != place);
    }

    /// Lets go of a session.
    pub fn remove(&mut self, name: &SessionName) -> Option<Session> {
        self.sessions.remove(name)
    }

    /// Returns the sessions that can be taken.
    pub fn names(&self) -> impl Iterator<Item = &SessionName> {
        self.sessions.iter().filter(|(_, session)| session.descriptors().is_some()).map(|(name, _)| name)
    }

    /// Takes note of a daemon's end. Returns the mounts that no other can go on with.
    pub fn daemon_ended(&mut self, now: Instant) -> Vec<(SessionName, Session)> {
        for session in self.sessions.values_mut() {
            if let What::Kept { alone_since, .. } = &mut session.what {
                // One that took it and ended before it served does not make the pause begin anew.
                alone_since.get_or_insert(now);
            }
        }
        self.remove_where(|session| matches!(session.what, What::New { .. }))
    }

    /// Returns the mounts that nobody has served for longer than `limit`, and those whose connection `is_dead`.
    pub fn overdue(
        &mut self,
        now: Instant,
        limit: Duration,
        is_dead: impl Fn(BorrowedFd<'_>) -> bool,
    ) -> Vec<(SessionName, Session)> {
        self.remove_where(|session| match &session.what {
            What::Kept { descriptors, alone_since: Some(since) } => {
                now.saturating_duration_since(*since) >= limit || is_dead(descriptors.connection())
            }
            What::New { .. } | What::Kept { alone_since: None, .. } => false,
        })
    }

    /// Returns whether a session waits for a daemon.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.sessions.values().any(|session| matches!(session.what, What::Kept { alone_since: Some(_), .. }))
    }

    fn remove_where(&mut self, mut wanted: impl FnMut(&Session) -> bool) -> Vec<(SessionName, Session)> {
        let names: Vec<SessionName> =
            self.sessions.iter().filter(|(_, session)| wanted(session)).map(|(name, _)| name.clone()).collect();
        names.into_iter().filter_map(|name| self.sessions.remove_entry(&name)).collect()
    }
}

impl Session {
    /// Returns all places.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        std::iter::once(&self.place).chain(&self.also)
    }

    /// Returns what another daemon needs, if there is all of it.
    #[must_use]
    pub fn descriptors(&self) -> Option<&Descriptors> {
        match &self.what {
            What::New { .. } => None,
            What::Kept { descriptors, .. } => Some(descriptors),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> SessionName {
        SessionName::new(text).unwrap()
    }

    fn descriptor() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    fn descriptors() -> Descriptors {
        Descriptors::new((0..MAX_DESCRIPTORS).map(|_| descriptor()).collect()).unwrap()
    }

    fn mounted(minor: u32) -> Mounted {
        let (place, also) = (Place::Volume("v".into()), Vec::new());
        Mounted { place, also, device: (0, minor), read_ahead_kib: 0, scratch_bytes: None }
    }

    #[test]
    fn test_a_mount_lives_as_long_as_its_pause_is_bounded() {
        let (mut held, start) = (Held::default(), Instant::now());
        let limit = Duration::from_secs(600);
        let after = |seconds| start + Duration::from_secs(seconds);
        held.hold(name("a"), mounted(1), descriptors());
        held.add_new(name("b"), mounted(2), descriptor());
        assert_eq!(held.names().collect::<Vec<_>>(), [&name("a")], "what is not served yet cannot be taken");
        assert!(held.overdue(after(10_000), limit, |_| true).is_empty(), "its daemon lives");

        let lost = held.daemon_ended(start);
        assert_eq!(lost.iter().map(|(_, session)| session.device).collect::<Vec<_>>(), [(0, 2)]);
        assert!(held.is_waiting());
        // A daemon that took it and died again, never having served, changes nothing.
        held.daemon_ended(after(500));
        assert!(held.overdue(after(599), limit, |_| false).is_empty());
        // One that serves it does.
        held.hold(name("a"), mounted(1), descriptors());
        assert!(!held.is_waiting() && held.overdue(after(10_000), limit, |_| true).is_empty());
        held.daemon_ended(after(1_000));
        assert!(held.overdue(after(1_599), limit, |_| false).is_empty());
        assert_eq!(held.overdue(after(1_600), limit, |_| false).len(), 1);
        assert!(held.is_empty());
    }

    #[test]
    fn test_what_was_unmounted_meanwhile_is_let_go() {
        let (mut held, start) = (Held::default(), Instant::now());
        held.hold(name("a"), mounted(1), descriptors());
        held.daemon_ended(start);
        assert_eq!(held.overdue(start, Duration::MAX, |_| true).len(), 1);
    }

    #[test]
    fn test_overlays_are_known_by_their_session_and_place() {
        let mut held = Held::default();
        held.add_new(name("a"), mounted(1), descriptor());
        let place = Place::Volume("w".into());
        held.add_new(name("b"), Mounted { place: place.clone(), scratch_bytes: Some(1), ..mounted(2) }, descriptor());
        assert_eq!([name("a"), name("b"), name("c")].map(|name| held.has_overlay(&name)), [false, true, false]);
        assert!(held.has_overlay_at(&place) && !held.has_overlay_at(&mounted(1).place));
    }

    #[test]
    fn test_a_session_has_places_until_its_last_one() {
        let mut held = Held::default();
        let place = |id: &str| Place::Volume(id.to_owned());
        held.add_new(name("a"), mounted(1), descriptor());
        for id in ["w", "x", "w", "v"] {
            held.add_place(&name("a"), place(id));
        }
        let places = |held: &Held| held.get(&name("a")).unwrap().places().cloned().collect::<Vec<_>>();
        assert_eq!(places(&held), [place("v"), place("w"), place("x")]);
        for (id, left) in [("v", vec!["w", "x"]), ("y", vec!["w", "x"]), ("x", vec!["w"]), ("w", vec!["w"])] {
            held.remove_place(&name("a"), &place(id));
            assert_eq!(places(&held), left.into_iter().map(place).collect::<Vec<_>>(), "{id}");
        }
    }

    #[test]
    fn test_sessions_are_bounded() {
        let mut held = Held::default();
        for number in 0..MAX_SESSIONS {
            assert!(held.has_room(&name(&number.to_string())));
            held.add_new(name(&number.to_string()), mounted(1), descriptor());
        }
        assert!(!held.has_room(&name("more")) && held.has_room(&name("0")));
    }

    #[test]
    fn test_a_session_has_exactly_its_descriptors() {
        for count in 0..=MAX_DESCRIPTORS + 1 {
            let received = (0..count).map(|_| descriptor()).collect();
            assert_eq!(Descriptors::new(received).is_some(), count == MAX_DESCRIPTORS);
        }
    }
}

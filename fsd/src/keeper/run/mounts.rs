//! What the keeper does with mounts.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use rustix::mount::UnmountFlags;

use super::{Keeper, answer, refused};
use crate::fuse::mount::{self, MountError, MountOptions};
use crate::fuse::mountinfo::{self, MountEntry};
use crate::keeper::held::{Descriptors, Mounted, Session};
use crate::keeper::message::{MAX_PLACES, MountWords, Place, Refusal, Reply, SessionName};
use crate::keeper::overlay::{self, OverlayError, Overlays};
use crate::keeper::place::{Base, PlaceError};
use crate::keeper::work::{Asker, Ended, Kind};

impl Keeper {
    /// Mounts; returns whether the daemon took the answer.
    pub(super) fn mount(
        &mut self,
        socket: BorrowedFd<'_>,
        name: SessionName,
        place: Place,
        words: &MountWords,
        scratch_bytes: Option<u64>,
    ) -> bool {
        match self.try_mount(&name, &place, words, scratch_bytes) {
            Ok((device, connection)) => {
                let sent = answer(socket, &Reply::Mounted { device }, &[connection.as_fd()]);
                let mounted = Mounted { place, also: Vec::new(), device, read_ahead_kib: 0, scratch_bytes };
                // What an earlier session of this name was not told does not concern this one.
                self.works.forget(&name);
                self.held.add_new(name, mounted, connection);
                sent
            }
            Err((kind, message)) => answer(socket, &refused(kind, &message), &[]),
        }
    }

    fn try_mount(
        &mut self,
        name: &SessionName,
        place: &Place,
        words: &MountWords,
        scratch_bytes: Option<u64>,
    ) -> Result<((u32, u32), OwnedFd), (Refusal, String)> {
        if self.held.get(name).is_some() {
            return Err((Refusal::Exists, format!("there is a session {name} already")));
        }
        if !self.held.has_room(name) {
            return Err((Refusal::Full, "there are as many sessions as a keeper holds".to_owned()));
        }
        self.clear_place(place)?;
        // Where nobody sees it, if something is to be mounted over it.
        let (path, mountpoint, _target) = match scratch_bytes {
            None => {
                let target = self.options.base.open(place).map_err(|error| (error.refusal(), error.to_string()))?;
                (target.path.clone(), target.mountpoint.clone(), Some(target))
            }
            Some(bytes) => {
                if self.works.has(name).is_some() {
                    return Err((Refusal::Busy, format!("the overlay of {name} is being mounted or unmounted")));
                }
                let overlays = self.overlays()?;
                let lower = overlays.prepare(name, bytes).map_err(|error| refusal_of_overlay(&error))?;
                (lower.clone(), lower, None)
            }
        };
        let options = MountOptions {
            source: words.source.clone(),
            allow_other: words.allow_other,
            default_permissions: words.default_permissions,
        };
        let mounted = mount::mount(&path, &options)
            .and_then(|connection| Ok((mount::device_of(&mountpoint)?, connection)))
            .map_err(|error| refusal_of(&error));
        if let (Err(_), Some(_), Some(overlays)) = (&mounted, scratch_bytes, &self.options.overlays)
            && let Err(error) = overlays.clear(name)
        {
            tracing::error!(session = %name, %error, "scratch space cannot be removed");
        }
        mounted
    }

    /// Sees to it that nothing of ours is mounted at a place.
    fn clear_place(&self, place: &Place) -> Result<(), (Refusal, String)> {
        let target = self.options.base.open(place).map_err(|error| (error.refusal(), error.to_string()))?;
        let system = |error: &dyn std::fmt::Display| (Refusal::System, error.to_string());
        let mounts = mountinfo::read().map_err(|error| system(&error))?;
        let exists = || (Refusal::Exists, format!("a stash-fs is mounted on {} already", target.mountpoint.display()));
        if self.held.has_overlay_at(place) {
            return Err(exists());
        }
        let there = mountinfo::topmost(&mounts, &target.mountpoint);
        if let Some(there) = there.filter(|there| there.is_ours() || overlay::session_of(there).is_some()) {
            if self.held.has_device(there.device) || matches!(self.options.base, Base::Anywhere) {
                return Err(exists());
            }
            // What a keeper and a daemon left that died together.
            detach_dead(there).map_err(|error| system(&error))?;
        }
        Ok(())
    }

    /// Mounts what is held at one more place.
    pub(super) fn bind(&mut self, name: &SessionName, place: Place) -> Reply {
        match self.try_bind(name, &place) {
            Ok(()) => {
                self.held.add_place(name, place);
                Reply::Done
            }
            Err((kind, message)) => refused(kind, &message),
        }
    }

    /// Neither the mount's root nor anything below it is looked at: that would ask the daemon, which waits for the answer.
    fn try_bind(&self, name: &SessionName, place: &Place) -> Result<(), (Refusal, String)> {
        let session = self.held.get(name).filter(|session| session.scratch_bytes.is_none());
        let Some(session) = session.filter(|session| session.descriptors().is_some()) else {
            return Err((Refusal::NotFound, "there is no such session that is served and has no scratch space".into()));
        };
        if session.places().filter(|other| *other != place).count() >= MAX_PLACES {
            return Err((Refusal::Full, format!("{name} is mounted at as many places as a session may be")));
        }
        let of_place = |error: PlaceError| (error.refusal(), error.to_string());
        let mountpoint = self.options.base.mountpoint(place).map_err(of_place)?;
        let mounts = mountinfo::read().map_err(|error| (Refusal::System, error.to_string()))?;
        let is_there = |mountpoint: &Path| {
            mountinfo::topmost(&mounts, mountpoint)
                .is_some_and(|there| there.is_ours() && there.device == session.device)
        };
        if is_there(&mountpoint) {
            return Ok(());
        }
        self.clear_place(place)?;
        let target = self.options.base.open(place).map_err(of_place)?;
        let source = session
            .places()
            .find(|other| self.options.base.mountpoint(other).is_ok_and(|mountpoint| is_there(&mountpoint)))
            .ok_or_else(|| (Refusal::NotFound, format!("{name} is not mounted any more")))?;
        let source = self.options.base.open(source).map_err(of_place)?;
        rustix::mount::mount_bind(&source.path, &target.path).map_err(|errno| {
            (Refusal::System, format!("cannot mount {name} on {} as well: {errno}", target.mountpoint.display()))
        })
    }

    fn overlays(&self) -> Result<Overlays, (Refusal, String)> {
        let without = || (Refusal::Forbidden, "this keeper has no scratch directory (--scratch)".to_owned());
        self.options.overlays.clone().ok_or_else(without)
    }

    /// Holds a session.
    pub(super) fn hold(&mut self, name: SessionName, mounted: Mounted, received: Vec<OwnedFd>) -> Reply {
        for place in std::iter::once(&mounted.place).chain(&mounted.also) {
            if let Err(error) = self.options.base.mountpoint(place) {
                return refused(error.refusal(), &error.to_string());
            }
        }
        if mounted.also.len() >= MAX_PLACES {
            return refused(Refusal::Full, "a session is not mounted at so many places");
        }
        if !self.held.has_room(&name) {
            return refused(Refusal::Full, "there are as many sessions as a keeper holds");
        }
        let Some(descriptors) = Descriptors::new(received).filter(|all| is_fuse(all.connection())) else {
            return refused(Refusal::BadMessage, "a session is /dev/fuse and three files");
        };
        mount::set_read_ahead(mounted.device, mounted.read_ahead_kib);
        self.held.hold(name, mounted, descriptors);
        Reply::Done
    }

    /// Begins to mount the overlay of a session; returns the answer where there is one at once.
    pub(super) fn overlay(&mut self, name: SessionName, asker: Asker) -> Option<Reply> {
        if let Some(answer) = self.works.take_answer(&name, Kind::Make) {
            return Some(answer);
        }
        if self.works.has(&name) == Some(Kind::Make) {
            self.works.tell(&name, Kind::Make, asker);
            return until_it_ends(asker);
        }
        match self.try_overlay(name, asker) {
            Ok(()) => until_it_ends(asker),
            Err((kind, message)) => Some(refused(kind, &message)),
        }
    }

    fn try_overlay(&mut self, name: SessionName, asker: Asker) -> Result<(), (Refusal, String)> {
        let session = self.held.get(&name).filter(|session| session.descriptors().is_some());
        let Some((session, bytes)) = session.and_then(|session| Some((session, session.scratch_bytes?))) else {
            return Err((
                Refusal::NotFound,
                "there is no such session that is served and has scratch space".to_owned(),
            ));
        };
        let overlays = self.overlays()?;
        let target = self.options.base.open(&session.place).map_err(|error| (error.refusal(), error.to_string()))?;
        let own = name.clone();
        let work = move || overlays.make(&own, &target, bytes);
        self.works.begin(name, Kind::Make, asker, work).map_err(|error| (Refusal::System, error.to_string()))
    }

    /// Unmounts a session, or begins to; returns the answer where there is one at once.
    pub(super) fn unmount_asked(
        &mut self,
        name: SessionName,
        place: Option<Place>,
        lazy: bool,
        asker: Asker,
    ) -> Option<Reply> {
        let Some(session) = self.held.get(&name) else {
            return Some(refused(Refusal::NotFound, "there is no such session"));
        };
        if session.scratch_bytes.is_none() {
            let place = place.unwrap_or_else(|| session.place.clone());
            let reply = self.unmount(session, &place, lazy);
            if matches!(reply, Reply::Done | Reply::Refused { kind: Refusal::NotFound, .. }) {
                self.held.remove_place(&name, &place);
            }
            return Some(reply);
        }
        if let Some(answer) = self.works.take_answer(&name, Kind::Unmount) {
            return Some(answer);
        }
        match self.works.has(&name) {
            Some(Kind::Unmount) => {
                self.works.tell(&name, Kind::Unmount, asker);
                return until_it_ends(asker);
            }
            Some(_) => return Some(refused(Refusal::Busy, &format!("the overlay of {name} is being mounted"))),
            None => {}
        }
        let place = session.place.clone();
        let begun = self.begin_unmount(name, &place, (Kind::Unmount, asker), lazy);
        begun.map_or_else(Some, |()| until_it_ends(asker))
    }

    fn begin_unmount(
        &mut self,
        name: SessionName,
        place: &Place,
        (kind, asker): (Kind, Asker),
        lazy: bool,
    ) -> Result<(), Reply> {
        // One that has the directory no more unmounts what was mounted while it had it.
        let overlays = self.options.overlays.clone();
        let mountpoint = self.options.base.mountpoint(place);
        let mountpoint = mountpoint.map_err(|error| refused(error.refusal(), &error.to_string()))?;
        let own = name.clone();
        let work = move || {
            // Layers, if it was not mounted.
            overlays.map_or(Ok(()), |overlays| overlays.clear(&own))?;
            overlay::unmount(&own, &mountpoint, lazy)
        };
        let begun = self.works.begin(name, kind, asker, work);
        begun.map_err(|error| refused(Refusal::System, &error.to_string()))
    }

    /// Unmounts; nothing but the very mount of the session.
    fn unmount(&self, session: &Session, place: &Place, lazy: bool) -> Reply {
        let mountpoint = match self.options.base.mountpoint(place) {
            Ok(mountpoint) => mountpoint,
            Err(error) => return refused(error.refusal(), &error.to_string()),
        };
        match mount::unmount(&mountpoint, Some(session.device), lazy) {
            Ok(()) => Reply::Done,
            Err(error) => {
                let (kind, message) = refusal_of(&error);
                refused(kind, &message)
            }
        }
    }

    /// Takes a mount away whose readers shall get an error: its last descriptor is closed by the caller.
    pub(super) fn detach(&mut self, name: &SessionName, session: &Session) {
        for place in session.places() {
            let detached = match session.scratch_bytes {
                None => match self.unmount(session, place, true) {
                    Reply::Refused { kind: Refusal::NotFound, .. } | Reply::Done => Ok(()),
                    reply => Err(reply),
                },
                Some(_) => self.begin_unmount(name.clone(), place, (Kind::Detach, Asker::None), true),
            };
            if let Err(reply) = detached {
                tracing::error!(?reply, place = place.shown(), "cannot detach");
            }
        }
    }

    /// Answers for work that has ended.
    pub(super) fn worked(&mut self) {
        for Ended { kind, session, result, asker } in self.works.take_ended() {
            let reply = match &result {
                Ok(()) => Reply::Done,
                Err(error) => {
                    let (kind, message) = refusal_of_overlay(error);
                    refused(kind, &message)
                }
            };
            if let (Kind::Detach, Reply::Refused { kind: of, message }) = (kind, &reply)
                && *of != Refusal::NotFound
            {
                tracing::error!(%session, message, "cannot detach");
            }
            if kind == Kind::Make && !self.held.has_overlay(&session) {
                // It was given up meanwhile.
                self.settle_by = Some(Instant::now());
            }
            match (asker, &self.daemon) {
                (Asker::Waits, Some(daemon)) => {
                    answer(daemon.socket.as_fd(), &reply, &[]);
                }
                (Asker::Returns, _) => self.works.keep_answer(session, kind, reply),
                (Asker::Waits | Asker::None, _) => {}
            }
        }
    }

    /// Detaches all of ours below the base that nobody holds.
    pub(super) fn settle(&mut self) {
        self.settle_by = None;
        let Base::Below { path, .. } = &self.options.base else { return };
        let mounts = match mountinfo::read() {
            Ok(mounts) => mounts,
            Err(error) => return tracing::error!(%error, "what is mounted cannot be read"),
        };
        for dead in mounts.iter().rev().filter(|mount| mount.mountpoint.starts_with(path)) {
            let held = match overlay::session_of(dead) {
                Some(session) => self.held.has_overlay(&session),
                None => !dead.is_ours() || self.held.has_device(dead.device),
            };
            if !held {
                tracing::warn!(mountpoint = %dead.mountpoint.display(), "nobody serves it: it is detached");
                if let Err(error) = detach_dead(dead) {
                    tracing::error!(%error, "cannot detach");
                }
            }
        }
        if let Some(overlays) = &self.options.overlays {
            overlays.sweep(|session| self.held.has_overlay(session) || self.works.has(session).is_some());
        }
    }
}

/// What is said of work that has begun; nothing as long as it lasts to a daemon that waits.
fn until_it_ends(asker: Asker) -> Option<Reply> {
    (asker == Asker::Returns).then_some(Reply::UnderWay)
}

/// Detaches what nobody serves.
fn detach_dead(dead: &MountEntry) -> io::Result<()> {
    match rustix::mount::unmount(&dead.mountpoint, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        // It is not there any more.
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn refusal_of(error: &MountError) -> (Refusal, String) {
    let kind = match error {
        MountError::Busy(_) => Refusal::Busy,
        MountError::NotMounted(_) => Refusal::NotFound,
        _ => Refusal::System,
    };
    (kind, error.to_string())
}

fn refusal_of_overlay(error: &OverlayError) -> (Refusal, String) {
    let kind = match error {
        OverlayError::Size { .. } => Refusal::Forbidden,
        OverlayError::Space { .. } => Refusal::Full,
        OverlayError::NoLower(_) | OverlayError::NotMounted(_) => Refusal::NotFound,
        OverlayError::Busy(_) => Refusal::Busy,
        OverlayError::System { .. } => Refusal::System,
    };
    (kind, error.to_string())
}

/// Whether a descriptor is an open `/dev/fuse` (Documentation/admin-guide/devices.txt: character device 10:229).
fn is_fuse(descriptor: BorrowedFd<'_>) -> bool {
    rustix::fs::fstat(descriptor).is_ok_and(|stat| {
        rustix::fs::FileType::from_raw_mode(stat.st_mode).is_char_device()
            && (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)) == (10, 229)
    })
}

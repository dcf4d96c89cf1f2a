//! Mounts that a keeper holds, as a daemon makes them and goes on with them.
//!
//! What the next daemon needs besides the tables lies in a sealed file of memory: what was agreed with the kernel, and what
//! the daemon wants to know again (keys, which snapshot `latest` was). The keeper holds it unread.

mod repository;

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use stash_vfs::InodeTable;
use stash_vfs::inode::{FileStore, table};
use tokio::runtime::Handle;
use zeroize::Zeroizing;

use crate::fuse::{
    Connection, FuseMetrics, FuseSession, InFlight, Inheritance, InitExchange, MountError, Outstanding, ReadTree,
    Recovery, SessionOptions,
};
use crate::keeper::link::Taken;
use crate::keeper::message::{MountWords, Refusal};
use crate::keeper::{Kept, Link, LinkError, Place, SessionName};

pub use repository::KeptRepository;

/// The version of what is in the file. A daemon that finds another one does not go on with the mount.
const VERSION: u16 = 1;
/// More than a daemon wants to know of a mount: credentials, certificates, an INIT message.
const MAX_STATE_BYTES: u64 = 4 << 20;

/// Why a mount could not be made, or gone on with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeptError {
    /// The keeper refused, or there is none.
    #[error(transparent)]
    Keeper(#[from] LinkError),
    /// The exchange with the kernel failed.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// What the last daemon left cannot be read.
    #[error("cannot read {what} that the last daemon left: {source}")]
    Left {
        /// Which part.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// There is no memory or descriptor.
    #[error("cannot make {what}: {source}")]
    Memory {
        /// Which part.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

#[derive(Serialize, Deserialize)]
struct StateFile<T> {
    version: u16,
    init_request: Vec<u8>,
    init_reply: Vec<u8>,
    resume: T,
}

fn write_state<T: Serialize>(init: &InitExchange, resume: &T) -> io::Result<OwnedFd> {
    let state =
        StateFile { version: VERSION, init_request: init.request.clone(), init_reply: init.reply.clone(), resume };
    let bytes = Zeroizing::new(serde_json::to_vec(&state)?);
    let file = rustix::fs::memfd_create("stash-fs-state", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = File::from(file);
    file.write_all(&bytes)?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file.into())
}

fn read_state<T: DeserializeOwned>(file: &OwnedFd) -> io::Result<(InitExchange, T)> {
    let bad = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut file = File::from(file.try_clone()?);
    let len = file.metadata()?.len();
    if len > MAX_STATE_BYTES {
        return Err(bad(format!("{len} bytes, more than any state has")));
    }
    // Its place in the file is shared with whoever holds it too.
    file.rewind()?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(len).unwrap_or_default()));
    file.take(MAX_STATE_BYTES).read_to_end(&mut bytes)?;
    // The version first: what follows may have changed.
    #[derive(Deserialize)]
    struct Version {
        version: u16,
    }
    // serde_json's messages name no content but numbers and fields.
    let Version { version } = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
    if version != VERSION {
        return Err(bad(format!("version {version}, this program reads {VERSION}")));
    }
    let state: StateFile<T> = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
    Ok((InitExchange { request: state.init_request, reply: state.init_reply }, state.resume))
}

/// Makes a table of inodes whose records a keeper can hold.
///
/// # Errors
/// There is no memory or descriptor.
pub fn new_table(limit: u32) -> Result<(InodeTable, OwnedFd), KeptError> {
    let failed = |source| KeptError::Memory { what: "the table of inodes", source };
    let file =
        rustix::fs::memfd_create("stash-fs-inodes", MemfdFlags::CLOEXEC).map_err(|errno| failed(errno.into()))?;
    let store = FileStore::new(file.try_clone().map_err(failed)?.into());
    let mut table = InodeTable::new(limit, Some(Box::new(store)));
    // The root: a table without it is one that was damaged.
    table.commit().map_err(failed)?;
    Ok((table, file))
}

/// What another daemon left of a mount, read.
#[derive(Debug)]
pub struct Left {
    session: SessionName,
    place: Place,
    also: Vec<Place>,
    device: (u32, u32),
    read_ahead_kib: u32,
    scratch_bytes: Option<u64>,
    connection: OwnedFd,
    table: OwnedFd,
    in_flight: Arc<InFlight>,
    outstanding: Outstanding,
    init: InitExchange,
    state: OwnedFd,
    /// The table lacks inodes that the kernel may hold.
    incomplete: bool,
}

impl Left {
    /// Takes what the keeper holds under a name, and what that daemon wanted this one to know. It goes on to hold it, until the mount is
    /// served again.
    ///
    /// # Errors
    /// There is nothing, or it is damaged or of another version.
    pub fn take<T: DeserializeOwned>(link: &Link, session: &SessionName) -> Result<(T, Self), KeptError> {
        let Taken { place, also, device, read_ahead_kib, scratch_bytes, connection, table, in_flight, state } =
            link.take(session)?;
        let (in_flight, outstanding) =
            InFlight::adopt(in_flight).map_err(|source| KeptError::Left { what: "the requests in flight", source })?;
        let (init, resume) = read_state(&state).map_err(|source| KeptError::Left { what: "the state", source })?;
        let session = session.clone();
        let left = Self {
            session,
            place,
            also,
            device,
            read_ahead_kib,
            scratch_bytes,
            connection,
            table,
            in_flight,
            outstanding,
            init,
            state,
            incomplete: false,
        };
        Ok((resume, left))
    }

    /// Returns all places at which it is mounted, as far as the keeper knows.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        std::iter::once(&self.place).chain(&self.also)
    }

    /// Returns where it is mounted.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Returns the table of inodes, and the file that it goes on to write.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn table(&mut self, limit: u32) -> Result<(InodeTable, OwnedFd), KeptError> {
        let failed = |source| KeptError::Left { what: "the table of inodes", source };
        let file = File::from(self.table.try_clone().map_err(failed)?);
        let (records, damaged) = FileStore::read(&file).map_err(failed)?;
        let store = FileStore::new(file);
        let was_empty = records.is_empty();
        let table = InodeTable::from_records(records, limit, Some(Box::new(store)));
        // Whoever served the mount wrote at least the root.
        self.incomplete = was_empty || damaged > 0 || table.dropped() > 0;
        if self.incomplete {
            tracing::error!(
                damaged,
                dropped = table.dropped(),
                "the table of inodes is damaged: what it lacks is stale until its path is walked again"
            );
        }
        Ok((table, self.table.try_clone().map_err(failed)?))
    }

    /// Goes on with the mount. Returns also whether it is an overlay that was detached, and of which somebody has something open.
    ///
    /// # Errors
    /// This program would agree with the kernel on something else.
    pub fn serve<V: ReadTree>(
        self,
        link: &Link,
        tree: V,
        recovery: Recovery,
        options: &SessionOptions,
        metrics: Arc<FuseMetrics>,
    ) -> Result<(FuseSession, bool), KeptError> {
        let failed = |source| KeptError::Memory { what: "a descriptor", source };
        let connection = Connection {
            fd: self.connection.try_clone().map_err(failed)?,
            mountpoint: mountpoint(&self.place),
            device: self.device,
        };
        let left =
            Inheritance { init: self.init, outstanding: self.outstanding, recovery, incomplete: self.incomplete };
        let in_flight = Arc::clone(&self.in_flight);
        let session = FuseSession::take_over(tree, connection, left, options, Handle::current(), metrics, in_flight)?;
        let kept = Kept {
            place: self.place.clone(),
            also: self.also,
            device: self.device,
            read_ahead_kib: self.read_ahead_kib,
            scratch_bytes: self.scratch_bytes,
            connection: Arc::new(self.connection),
            table: Arc::new(self.table),
            in_flight: self.in_flight,
            state: Arc::new(self.state),
        };
        link.hold(&self.session, kept)?;
        let mut detached = false;
        if self.scratch_bytes.is_some() {
            // The daemon before may have ended before it was mounted.
            match link.overlay(&self.session) {
                Ok(()) => {}
                Err(LinkError::Refused { kind: Refusal::NotFound, .. }) => detached = true,
                Err(error) => {
                    // Whoever asked for it has no answer yet, and asks again.
                    drop(link.unmount(&self.session, Some(&self.place), true));
                    link.release(&self.session);
                    return Err(error.into());
                }
            }
        }
        Ok((session, detached))
    }
}

/// A mount to be made.
#[derive(Debug)]
pub struct New<'a, T> {
    /// Its name.
    pub session: &'a SessionName,
    /// Where.
    pub place: Place,
    /// The scratch space of one that is to be written, in bytes.
    pub scratch_bytes: Option<u64>,
    /// The file of its table of inodes.
    pub table: OwnedFd,
    /// What the next daemon is to know.
    pub resume: &'a T,
}

impl<T: Serialize> New<'_, T> {
    /// Mounts through the keeper, and serves.
    ///
    /// # Errors
    /// The keeper or the system refused; then nothing is mounted.
    pub fn serve<V: ReadTree>(
        self,
        link: &Link,
        tree: V,
        options: &SessionOptions,
        metrics: Arc<FuseMetrics>,
    ) -> Result<FuseSession, KeptError> {
        let words = MountWords {
            source: options.mount.source.clone(),
            allow_other: options.mount.allow_other,
            default_permissions: options.mount.default_permissions,
        };
        let in_flight = InFlight::create()
            .map_err(|source| KeptError::Memory { what: "the table of requests in flight", source })?;
        let (session, place) = (self.session, self.place.clone());
        let (device, connection) = link.mount(session, &place, &words, self.scratch_bytes)?;
        let overlaid = self.scratch_bytes.is_some();
        let served = self.serve_mounted(link, tree, options, metrics, in_flight, device, connection);
        let made = served.and_then(|served| {
            if overlaid {
                link.overlay(session)?;
            }
            Ok(served)
        });
        made.inspect_err(|_| {
            // A failure changes nothing: the keeper detaches what is not served when this process ends.
            drop(link.unmount(session, Some(&place), true));
            link.release(session);
        })
    }

    #[expect(clippy::too_many_arguments, reason = "one step of `serve`, apart so that its failure can be undone")]
    fn serve_mounted<V: ReadTree>(
        self,
        link: &Link,
        tree: V,
        options: &SessionOptions,
        metrics: Arc<FuseMetrics>,
        in_flight: Arc<InFlight>,
        device: (u32, u32),
        connection: OwnedFd,
    ) -> Result<FuseSession, KeptError> {
        let failed = |what| move |source| KeptError::Memory { what, source };
        let served = Connection {
            fd: connection.try_clone().map_err(failed("a descriptor"))?,
            mountpoint: mountpoint(&self.place),
            device,
        };
        let session =
            FuseSession::serve(tree, served, options, Handle::current(), metrics, Some(Arc::clone(&in_flight)))?;
        let state = write_state(session.init(), self.resume).map_err(failed("the state"))?;
        let kept = Kept {
            place: self.place,
            also: Vec::new(),
            device,
            read_ahead_kib: options.read_ahead_kib,
            scratch_bytes: self.scratch_bytes,
            connection: Arc::new(connection),
            table: Arc::new(self.table),
            in_flight,
            state: Arc::new(state),
        };
        link.hold(self.session, kept)?;
        Ok(session)
    }
}

/// Returns the state of a mount that is served, with something else that the next daemon is to know: for [`Link::hold_at`].
///
/// # Errors
/// There is no memory.
pub fn state<T: Serialize>(served: &FuseSession, resume: &T) -> Result<OwnedFd, KeptError> {
    write_state(served.init(), resume).map_err(|source| KeptError::Memory { what: "the state", source })
}

/// The path of a place, or what it is called where the keeper alone knows its path.
fn mountpoint(place: &Place) -> PathBuf {
    place.path().unwrap_or_else(|| PathBuf::from(place.shown()))
}

/// The limit of a table that nobody shares memory with.
pub const TABLE_LIMIT: u32 = table::DEFAULT_LIMIT;

#[cfg(test)]
mod tests {
    use super::*;

    fn init() -> InitExchange {
        InitExchange { request: vec![1, 2, 3], reply: vec![0, 255] }
    }

    #[test]
    fn test_state_round_trip_and_nobody_changes_it() {
        let file = write_state(&init(), &("key", 7)).unwrap();
        for _ in 0..2 {
            let (read, resume): (_, (String, u32)) = read_state(&file).unwrap();
            assert_eq!((read, resume), (init(), ("key".to_owned(), 7)));
        }
        assert!(File::from(file).write_all(b"x").is_err());
    }

    #[test]
    fn test_damaged_states_are_refused() {
        let good = serde_json::json!({"version": 1, "init_request": [1], "init_reply": [2], "resume": 7});
        let memory = |bytes: &[u8]| {
            let mut file = File::from(rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC).unwrap());
            file.write_all(bytes).unwrap();
            OwnedFd::from(file)
        };
        assert!(read_state::<u32>(&memory(good.to_string().as_bytes())).is_ok());
        let text = good.to_string();
        for cut in 0..text.len() {
            assert!(read_state::<u32>(&memory(&text.as_bytes()[..cut])).is_err(), "{cut}");
        }
        let mut newer = good;
        newer["version"] = 2.into();
        newer["resume"] = serde_json::json!({"of": "another form"});
        let error = read_state::<u32>(&memory(newer.to_string().as_bytes())).unwrap_err();
        assert!(error.to_string().contains("version 2"), "{error}");
        let huge = rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&huge, 1 << 40).unwrap();
        assert!(read_state::<u32>(&huge).is_err());
    }
}

//! A mount from its first exchange with the kernel to its end.
//!
//! The INIT exchange is recorded, byte for byte. fuser makes it inside `Session::from_fd`, so it is led through a socket
//! pair: the kernel's INIT is read here and handed to fuser, fuser's reply is read here and handed to the kernel, and then
//! the kernel's connection takes the socket's place under fuser (`dup3`). A later process that takes a mount over hands
//! fuser the recorded INIT instead, and must get the recorded reply, or the kernel and it would not mean the same
//! (`docs/design/0002-fuse-session.md`).

use std::io::{self, IoSlice};
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fuser::{Config, Session, SessionACL};
use rustix::io::{DupFlags, Errno};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::adapter::{Adapter, Agreed};
use super::dispatch::DispatchOptions;
use super::inflight::{InFlight, Outstanding};
use super::metrics::FuseMetrics;
use super::mount::{self, MountError, MountOptions};
use super::tree::ReadTree;

/// How a tree is mounted.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    /// What the kernel is told.
    pub mount: MountOptions,
    /// Threads that read requests. One answers from memory as fast as two readers ask; a second one helps where many do
    /// (figures: `docs/design/0002-fuse-session.md`).
    pub threads: usize,
    /// How far the kernel reads ahead, where we may say so.
    pub read_ahead_kib: u32,
    /// Limits of requests that need I/O.
    pub dispatch: DispatchOptions,
}

/// What was agreed with the kernel when the mount was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitExchange {
    /// The kernel's INIT message.
    pub request: Vec<u8>,
    /// Our answer to it.
    pub reply: Vec<u8>,
}

/// A mount that another process made: what is served, and where it is.
#[derive(Debug)]
pub struct Connection {
    /// The open `/dev/fuse`.
    pub fd: OwnedFd,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// Its device, `st_dev` of all its files.
    pub device: (u32, u32),
}

/// What becomes of the requests that a process had read and not answered when it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Recovery {
    /// The kernel tells them again, where it can (Linux 6.9); else as [`Recovery::Fail`].
    #[default]
    Resend,
    /// They are answered EIO, and no other request is.
    Fail,
}

/// What one process left to the next.
#[derive(Debug)]
pub struct Inheritance {
    /// What was agreed with the kernel.
    pub init: InitExchange,
    /// What was read and not answered.
    pub outstanding: Outstanding,
    /// What becomes of that.
    pub recovery: Recovery,
    /// The kernel may hold inodes that the tree does not know: it is told to look all names up again.
    pub incomplete: bool,
}

/// A mounted tree. It stays mounted when this is dropped: [`FuseSession::unmount`] ends it.
#[derive(Debug)]
pub struct FuseSession {
    mountpoint: PathBuf,
    device: (u32, u32),
    init: InitExchange,
    metrics: Arc<FuseMetrics>,
    ended: watch::Receiver<Option<Result<(), Arc<io::Error>>>>,
}

impl FuseSession {
    /// Mounts `tree` on `mountpoint`, which must be canonical. When this returns, the kernel is answered.
    ///
    /// # Errors
    /// The system refused; then nothing is mounted.
    pub fn start<T: ReadTree>(
        tree: T,
        mountpoint: &Path,
        options: &SessionOptions,
        runtime: Handle,
        metrics: Arc<FuseMetrics>,
    ) -> Result<Self, MountError> {
        let connection = mount::mount(mountpoint, &options.mount)?;
        let serve = || {
            let device = mount::device_of(mountpoint)?;
            let connection = Connection { fd: connection, mountpoint: mountpoint.to_owned(), device };
            let session = Self::serve(tree, connection, options, runtime, metrics, None)?;
            mount::set_read_ahead(device, options.read_ahead_kib);
            Ok(session)
        };
        serve().inspect_err(|_| {
            // The connection is closed, so the mount is dead: take it away. A failure here changes nothing.
            drop(mount::unmount(mountpoint, None, true));
        })
    }

    /// Answers the first request of a new mount and all that follow; `in_flight` is where another process can see which.
    ///
    /// # Errors
    /// The exchange with the kernel failed.
    pub fn serve<T: ReadTree>(
        tree: T,
        connection: Connection,
        options: &SessionOptions,
        runtime: Handle,
        metrics: Arc<FuseMetrics>,
        in_flight: Option<Arc<InFlight>>,
    ) -> Result<Self, MountError> {
        let adapter = adapter(tree, options, runtime, &metrics, in_flight);
        let (session, init) = handshake(adapter, config(options), &connection.fd).map_err(MountError::Handshake)?;
        Self::run(session, connection, init, metrics)
    }

    /// Goes on with a mount that another process served, which must have ended.
    ///
    /// # Errors
    /// `Handshake` if this program would agree on something else than is agreed; the mount is untouched then.
    pub fn take_over<T: ReadTree>(
        tree: T,
        connection: Connection,
        left: Inheritance,
        options: &SessionOptions,
        runtime: Handle,
        metrics: Arc<FuseMetrics>,
        in_flight: Arc<InFlight>,
    ) -> Result<Self, MountError> {
        let agreed = Agreed::parse(&left.init.reply).ok_or_else(|| {
            MountError::Handshake(io::Error::new(io::ErrorKind::InvalidData, "the record of INIT is damaged"))
        })?;
        let adapter = adapter(tree, options, runtime, &metrics, Some(Arc::clone(&in_flight))).answering_as(agreed);
        let (session, reply) =
            answer_init(adapter, config(options), &left.init.request).map_err(MountError::Handshake)?;
        if reply != left.init.reply {
            return Err(MountError::Handshake(io::Error::new(
                io::ErrorKind::Unsupported,
                "this version cannot go on with a mount that another one made: it would agree with the kernel on something else",
            )));
        }
        put_under(&session, &connection.fd).map_err(MountError::Handshake)?;
        if left.incomplete
            && let Err(error) = send(connection.fd.as_fd(), &out_header(NOTIFY_INC_EPOCH, 0))
        {
            tracing::warn!(%error, "the kernel goes on with names that it knows; some may be stale");
        }
        recover(&connection.fd, left.recovery, &left.outstanding).map_err(MountError::Handshake)?;
        in_flight.clear();
        Self::run(session, connection, left.init, metrics)
    }

    /// Starts the threads that answer.
    fn run<T: ReadTree>(
        session: Session<Adapter<T>>,
        connection: Connection,
        init: InitExchange,
        metrics: Arc<FuseMetrics>,
    ) -> Result<Self, MountError> {
        let (sender, ended) = watch::channel(None);
        std::thread::Builder::new()
            .name("fuse-session".to_owned())
            .spawn(move || {
                let result = session.run().map_err(Arc::new);
                // Nobody waits any more where the receiver is gone.
                drop(sender.send(Some(result)));
            })
            .map_err(MountError::Handshake)?;
        let Connection { mountpoint, device, fd: _ } = connection;
        Ok(Self { mountpoint, device, init, metrics, ended })
    }

    /// Returns where the tree is mounted.
    #[must_use]
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// Returns the device of the mount, `st_dev` of all its files.
    #[must_use]
    pub fn device(&self) -> (u32, u32) {
        self.device
    }

    /// Returns the recorded INIT exchange.
    #[must_use]
    pub fn init(&self) -> &InitExchange {
        &self.init
    }

    /// Returns the counters.
    #[must_use]
    pub fn metrics(&self) -> &Arc<FuseMetrics> {
        &self.metrics
    }

    /// Returns whether the mount is gone.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended.borrow().is_some() || self.ended.has_changed().is_err()
    }

    /// Waits until the mount is gone and all threads have ended: somebody unmounted it, and the last open file is closed.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn ended(&self) -> Result<(), Arc<io::Error>> {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(result) => result.clone().unwrap_or(Ok(())),
            // The thread is gone without a word: it panicked.
            Err(_) => Err(Arc::new(io::Error::other("the thread of the FUSE session panicked"))),
        }
    }

    /// Unmounts. `lazy` detaches a mount that is in use; it ends when the last open file is closed.
    ///
    /// # Errors
    /// `Busy`; `NotMounted` where somebody else did it already.
    pub fn unmount(&self, lazy: bool) -> Result<(), MountError> {
        mount::unmount(&self.mountpoint, Some(self.device), lazy)
    }

    /// Waits for the end, but not for ever. Returns whether it came.
    pub async fn ended_within(&self, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.ended()).await.is_ok()
    }
}

fn adapter<T: ReadTree>(
    tree: T,
    options: &SessionOptions,
    runtime: Handle,
    metrics: &Arc<FuseMetrics>,
    in_flight: Option<Arc<InFlight>>,
) -> Adapter<T> {
    let default_permissions = options.mount.default_permissions;
    Adapter::new(tree, runtime, &options.dispatch, Arc::clone(metrics), default_permissions, in_flight)
}

fn config(options: &SessionOptions) -> Config {
    let mut config = Config::default();
    config.n_threads = Some(options.threads.clamp(1, 4));
    // With a descriptor for each thread, requests in flight die with the process and cannot be taken over.
    config.clone_fd = false;
    config
}

/// `FUSE_NOTIFY_RESEND` (include/uapi/linux/fuse.h).
const NOTIFY_RESEND: i32 = 7;

/// `FUSE_NOTIFY_INC_EPOCH` (include/uapi/linux/fuse.h): no name is believed any more (Linux 6.16).
const NOTIFY_INC_EPOCH: i32 = 8;

/// Sees to the requests that were read and not answered. Nothing must have been read since.
fn recover(connection: &OwnedFd, recovery: Recovery, outstanding: &Outstanding) -> io::Result<()> {
    if recovery == Recovery::Resend {
        match send(connection.as_fd(), &out_header(NOTIFY_RESEND, 0)) {
            Ok(()) => return Ok(()),
            // EINVAL: a kernel that does not know it.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            Err(error) => return Err(error),
        }
    }
    let mut failed = 0_u32;
    for unique in outstanding.uniques() {
        match send(connection.as_fd(), &out_header(-libc::EIO, *unique)) {
            Ok(()) => failed += 1,
            // ENOENT: it was answered, or never asked.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => return Err(error),
        }
    }
    if failed > 0 {
        tracing::warn!(requests = failed, "the kernel does not tell requests again: those in flight were answered EIO");
    }
    Ok(())
}

/// A message to the kernel without content: `fuse_out_header`.
fn out_header(error: i32, unique: u64) -> [u8; 16] {
    let mut header = [0; 16];
    header[..4].copy_from_slice(&16_u32.to_ne_bytes());
    header[4..8].copy_from_slice(&error.to_ne_bytes());
    header[8..].copy_from_slice(&unique.to_ne_bytes());
    header
}

/// The smallest buffer that the kernel fills (`FUSE_MIN_READ_BUFFER`, include/uapi/linux/fuse.h).
const MIN_READ_BUFFER_BYTES: usize = 8192;

/// The major protocol version that fuser speaks; with another, INIT would take two exchanges.
const MAJOR: u32 = 7;

/// Lets fuser answer the kernel's INIT, and puts the connection under fuser's session.
fn handshake<T: ReadTree>(
    adapter: Adapter<T>,
    config: Config,
    connection: &OwnedFd,
) -> io::Result<(Session<Adapter<T>>, InitExchange)> {
    let request = receive(connection.as_fd())?;
    let (session, reply) = answer_init(adapter, config, &request)?;
    send(connection.as_fd(), &reply)?;
    put_under(&session, connection)?;
    Ok((session, InitExchange { request, reply }))
}

/// Hands fuser an INIT, live or recorded, and returns its session with the answer.
fn answer_init<T: ReadTree>(
    adapter: Adapter<T>,
    config: Config,
    request: &[u8],
) -> io::Result<(Session<Adapter<T>>, Vec<u8>)> {
    // fuse_in_header is 40 bytes; fuse_init_in begins with the major version.
    let major = request.get(40..44).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes);
    if major != Some(MAJOR) {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("FUSE protocol version {major:?}, not {MAJOR}"),
        ));
    }
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    send(ours.as_fd(), request)?;
    // The kernel lets in whom the mount is open to; fuser's own check would see no user at all on id-mapped mounts.
    let session = Session::from_fd(adapter, theirs, SessionACL::All, config)?;
    let reply = receive(ours.as_fd())?;
    // fuse_out_header: length, error, unique.
    match reply.get(4..8).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes) {
        Some(0) => Ok((session, reply)),
        error => Err(io::Error::other(format!("INIT was answered with the error {error:?}"))),
    }
}

fn receive(from: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; MIN_READ_BUFFER_BYTES];
    loop {
        match rustix::io::read(from, &mut buffer[..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(len) => {
                buffer.truncate(len);
                return Ok(buffer);
            }
            // ENOENT: the request was interrupted (fs/fuse/dev.c).
            Err(Errno::INTR | Errno::AGAIN | Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn send(to: BorrowedFd<'_>, message: &[u8]) -> io::Result<()> {
    // Messages are taken whole or not at all.
    let sent = rustix::io::retry_on_intr(|| rustix::io::writev(to, &[IoSlice::new(message)]))?;
    if sent == message.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Makes the session's descriptor one of the kernel's connection; the socket behind it is closed.
#[expect(unsafe_code, reason = "dup3 onto a descriptor that fuser owns; no safe call takes a borrowed one")]
fn put_under<T: ReadTree>(session: &Session<Adapter<T>>, connection: &OwnedFd) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as `session` is borrowed, and `ManuallyDrop` leaves it open: it stays the
    // session's. dup3 replaces what it refers to in one step, and no thread reads from it before `run`.
    let mut under = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(session.as_fd().as_raw_fd()) });
    rustix::io::dup3(connection, &mut under, DupFlags::CLOEXEC)?;
    Ok(())
}

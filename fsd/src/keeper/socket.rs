//! Packets with descriptors, over a Unix socket of the sort that keeps packets apart (`SOCK_SEQPACKET`).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sockopt,
};

use super::message::{MAX_DESCRIPTORS, MAX_MESSAGE_BYTES};

/// A peer that does not take a packet for so long is given up: the keeper waits for nobody.
const SEND_LIMIT: Duration = Duration::from_secs(5);

/// A packet that was received.
#[derive(Debug)]
pub struct Packet {
    /// The message.
    pub bytes: Vec<u8>,
    /// What came with it.
    pub descriptors: Vec<OwnedFd>,
}

/// Makes two sockets that are connected with each other.
///
/// # Errors
/// The system has no descriptors left.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Listens at a path, which only the owner may use. What stands there and is a socket is replaced.
///
/// # Errors
/// The path cannot be used.
pub fn listen(path: &Path) -> io::Result<OwnedFd> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if std::os::unix::fs::FileTypeExt::is_socket(&found.file_type()) => std::fs::remove_file(path)?,
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket")),
        Err(_) => {}
    }
    let socket = socket()?;
    // From its first moment on nobody else may connect; the name is made with the mode of the socket's own inode.
    rustix::fs::fchmod(&socket, rustix::fs::Mode::from_raw_mode(0o600))?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, 8)?;
    Ok(socket)
}

/// Connects to a path.
///
/// # Errors
/// Nobody listens there, or we may not.
pub fn connect(path: &Path) -> io::Result<OwnedFd> {
    let socket = socket()?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

fn socket() -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Takes the next connection.
///
/// # Errors
/// Of this connection alone, or the system has no descriptors left.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    Ok(rustix::net::accept_with(listener, SocketFlags::CLOEXEC)?)
}

/// Who made the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The user.
    pub uid: u32,
    /// The process; `None` where it is in another namespace.
    pub pid: Option<i32>,
}

/// Returns who made the other end of a connection.
///
/// # Errors
/// It is no Unix socket.
#[expect(unsafe_code, reason = "rustix has no value for the process 0, which stands for one of another namespace")]
pub fn peer(socket: BorrowedFd<'_>) -> io::Result<Peer> {
    let mut found = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut len = libc::socklen_t::try_from(size_of::<libc::ucred>()).map_err(io::Error::other)?;
    // SAFETY: both pointers are of values that live across the call, and the length is that of the first.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            std::ptr::from_mut(&mut found).cast(),
            &raw mut len,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Peer { uid: found.uid, pid: Some(found.pid).filter(|pid| *pid > 0) })
}

/// Sends a packet. It is taken whole or not at all.
///
/// # Errors
/// The peer is gone, or does not read.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let beyond = || io::Error::new(io::ErrorKind::InvalidInput, "more descriptors than a message has");
    // The space has room to be aligned, and may take one more.
    if descriptors.len() > MAX_DESCRIPTORS {
        return Err(beyond());
    }
    sockopt::set_socket_timeout(socket, sockopt::Timeout::Send, Some(SEND_LIMIT))?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(beyond());
    }
    let sent = rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
    })?;
    if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Receives a packet; `None` when the peer has gone.
///
/// # Errors
/// `InvalidData` for a packet or descriptors beyond the bounds: they are gone, and the connection should be too.
pub fn receive(socket: BorrowedFd<'_>) -> io::Result<Option<Packet>> {
    let mut bytes = vec![0; MAX_MESSAGE_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)
    });
    // Whatever came is owned from here on, and closed where it is not wanted.
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    let received = match received {
        Ok(received) => received,
        Err(rustix::io::Errno::CONNRESET) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let is_cut = received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
    if is_cut || descriptors.len() > MAX_DESCRIPTORS {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a packet beyond the bounds"));
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    bytes.truncate(received.bytes);
    Ok(Some(Packet { bytes, descriptors }))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read as _;
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// How often this process has a file open.
    fn times_open(file: &File) -> usize {
        use std::os::unix::fs::MetadataExt as _;
        let identity = |found: &std::fs::Metadata| (found.dev(), found.ino());
        let wanted = identity(&file.metadata().unwrap());
        let all = std::fs::read_dir("/proc/self/fd").unwrap();
        // Other tests close theirs meanwhile.
        all.filter(|entry| {
            let path = entry.as_ref().unwrap().path();
            std::fs::metadata(path).is_ok_and(|found| identity(&found) == wanted)
        })
        .count()
    }

    #[test]
    fn test_packets_come_whole_and_with_their_descriptors() {
        let (here, there) = pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, b"content").unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        send(here.as_fd(), b"one", &[]).unwrap();
        send(here.as_fd(), b"two", &[file.as_fd(), file.as_fd()]).unwrap();
        drop(here);
        let first = receive(there.as_fd()).unwrap().unwrap();
        assert_eq!((first.bytes.as_slice(), first.descriptors.len()), (b"one".as_slice(), 0));
        let second = receive(there.as_fd()).unwrap().unwrap();
        assert_eq!((second.bytes.as_slice(), second.descriptors.len()), (b"two".as_slice(), 2));
        let mut text = String::new();
        File::from(second.descriptors.into_iter().next().unwrap()).read_to_string(&mut text).unwrap();
        assert_eq!(text, "content");
        assert!(receive(there.as_fd()).unwrap().is_none());
    }

    #[test]
    fn test_what_is_beyond_the_bounds_is_refused_and_nothing_leaks() {
        let (here, there) = pair().unwrap();
        send(here.as_fd(), &vec![b'x'; MAX_MESSAGE_BYTES + 1], &[]).unwrap();
        assert_eq!(receive(there.as_fd()).unwrap_err().kind(), io::ErrorKind::InvalidData);

        let file = tempfile::tempfile().unwrap();
        assert!(send(here.as_fd(), b"x", &[file.as_fd(); MAX_DESCRIPTORS + 1]).is_err());
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(40))];
        let many = [file.as_fd(); 40];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&many)));
        rustix::net::sendmsg(&here, &[IoSlice::new(b"x")], &mut control, SendFlags::empty()).unwrap();
        assert_eq!(receive(there.as_fd()).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(times_open(&file), 1);
    }

    #[test]
    fn test_the_socket_is_its_owners() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = listen(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let client = connect(&path).unwrap();
        let server = accept(listener.as_fd()).unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        let uid = rustix::process::geteuid().as_raw();
        assert_eq!(peer(server.as_fd()).unwrap(), Peer { uid, pid: Some(own) });
        drop((client, listener));
        drop(listen(&path).unwrap());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "").unwrap();
        assert_eq!(listen(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }
}

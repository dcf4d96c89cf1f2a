//! A server that takes a request and then does what its script says, however wrong.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What the server does with each request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Script {
    /// Answers with a status and a body.
    Answer {
        /// The status.
        status: u16,
        /// Further headers, each ending in CR LF.
        headers: String,
        /// The body.
        body: Vec<u8>,
    },
    /// Reads the request and never answers.
    Stall,
    /// Sends half of a body and then nothing.
    StallInBody,
    /// Resets the connection.
    Reset,
    /// Says a length and closes before it is reached.
    CutBody,
    /// Sends a body without end.
    Endless {
        /// The status.
        status: u16,
    },
    /// Sends something that is not HTTP.
    Garbage,
}

impl Script {
    /// A status with a short body that must show up nowhere.
    pub fn status(status: u16) -> Self {
        Self::Answer { status, headers: String::new(), body: b"<secret-body>".to_vec() }
    }
}

/// The server.
#[derive(Debug)]
pub struct Peer {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    script: Mutex<Script>,
    requests: AtomicUsize,
    ended: AtomicBool,
}

impl Peer {
    /// Starts it.
    pub fn start(script: Script) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            script: Mutex::new(script),
            requests: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
        });
        let for_thread = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if for_thread.ended.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let shared = Arc::clone(&for_thread);
                std::thread::spawn(move || serve(stream, &shared));
            }
        });
        Self { address, shared }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Does something else from the next request on.
    pub fn set(&self, script: Script) {
        *self.shared.script.lock().unwrap() = script;
    }

    /// How many requests came.
    pub fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        drop(TcpStream::connect(self.address));
    }
}

/// Whether anything fails here is the client's business: it is meant to hang up.
fn serve(mut stream: TcpStream, shared: &Shared) -> Option<()> {
    stream.set_read_timeout(Some(Duration::from_millis(50))).ok()?;
    loop {
        read_head(&mut stream, shared)?;
        shared.requests.fetch_add(1, Ordering::SeqCst);
        let script = shared.script.lock().unwrap().clone();
        match script {
            Script::Answer { status, headers, body } => {
                let head = format!("HTTP/1.1 {status} X\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
                stream.write_all(head.as_bytes()).ok()?;
                stream.write_all(&body).ok()?;
            }
            Script::Stall => return hold(&mut stream, shared),
            Script::StallInBody => {
                stream.write_all(b"HTTP/1.1 206 X\r\nContent-Length: 4\r\n\r\nab").ok()?;
                return hold(&mut stream, shared);
            }
            Script::Reset => {
                // With unread data in the socket or SO_LINGER 0 a close is a reset.
                rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).ok()?;
                return None;
            }
            Script::CutBody => {
                stream.write_all(b"HTTP/1.1 206 X\r\nContent-Length: 4\r\n\r\nab").ok()?;
                return stream.shutdown(Shutdown::Both).ok();
            }
            Script::Endless { status } => {
                stream
                    .write_all(format!("HTTP/1.1 {status} X\r\nTransfer-Encoding: chunked\r\n\r\n").as_bytes())
                    .ok()?;
                let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
                while !shared.ended.load(Ordering::SeqCst) {
                    stream.write_all(chunk.as_bytes()).ok()?;
                }
                return None;
            }
            Script::Garbage => {
                stream.write_all(b"SSH-2.0-not-http\r\n\r\n").ok()?;
                return stream.shutdown(Shutdown::Both).ok();
            }
        }
    }
}

/// Reads to the end of a request's head; bodies are not sent by what is tested with this.
fn read_head(stream: &mut TcpStream, shared: &Shared) -> Option<()> {
    let mut head = Vec::new();
    let mut byte = [0; 1];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(0) => return None,
            Ok(_) => head.push(byte[0]),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                if shared.ended.load(Ordering::SeqCst) {
                    return None;
                }
            }
            Err(_) => return None,
        }
    }
    Some(())
}

/// Keeps the connection open, in silence, until the client or the test ends.
fn hold(stream: &mut TcpStream, shared: &Shared) -> Option<()> {
    read_head(stream, shared)
}

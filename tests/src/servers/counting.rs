//! A way to a server that counts what goes through it.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// What went through.
#[derive(Debug, Default)]
struct Counts {
    requests: Mutex<Vec<String>>,
    answered_bytes: AtomicU64,
    stopped: AtomicBool,
}

/// The way. Of HTTP/1.1 it knows that a request begins what is read: no client sends one before it has the answer to the last.
#[derive(Debug)]
pub struct Counting {
    address: SocketAddr,
    counts: Arc<Counts>,
    thread: Option<JoinHandle<()>>,
}

impl Counting {
    /// Begins on an address of this machine.
    #[must_use]
    pub fn start_on(host: IpAddr, server: SocketAddr) -> Self {
        let listener = TcpListener::bind((host, 0)).unwrap();
        let (address, counts) = (listener.local_addr().unwrap(), Arc::<Counts>::default());
        let for_thread = Arc::clone(&counts);
        let thread = std::thread::spawn(move || {
            for client in listener.incoming() {
                if for_thread.stopped.load(Ordering::Acquire) {
                    break;
                }
                if let (Ok(client), Ok(server)) = (client, TcpStream::connect(server)) {
                    join(client, server, &for_thread);
                }
            }
        });
        Self { address, counts, thread: Some(thread) }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes the first lines of the requests, and how many bytes were answered, since this was called last.
    #[must_use]
    pub fn take(&self) -> (Vec<String>, u64) {
        let requests = std::mem::take(&mut *self.counts.requests.lock().unwrap_or_else(PoisonError::into_inner));
        (requests, self.counts.answered_bytes.swap(0, Ordering::AcqRel))
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.counts.stopped.store(true, Ordering::Release);
        // It wakes who waits for one.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn join(client: TcpStream, server: TcpStream, counts: &Arc<Counts>) {
    let (from_client, to_client) = (client.try_clone().unwrap(), client);
    let (from_server, to_server) = (server.try_clone().unwrap(), server);
    let of_client = Arc::clone(counts);
    std::thread::spawn(move || {
        pass(from_client, to_server, |bytes| {
            let line = bytes.split(|&byte| byte == b'\r').next().unwrap_or_default();
            if line.ends_with(b" HTTP/1.1") {
                let line = String::from_utf8_lossy(line).into_owned();
                of_client.requests.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
    });
    let of_server = Arc::clone(counts);
    std::thread::spawn(move || {
        pass(from_server, to_client, |bytes| {
            of_server.answered_bytes.fetch_add(bytes.len() as u64, Ordering::AcqRel);
        });
    });
}

fn pass(mut from: TcpStream, mut to: TcpStream, see: impl Fn(&[u8])) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        see(&buffer[..length]);
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    // The other side may be gone already.
    let _ = to.shutdown(Shutdown::Write);
}

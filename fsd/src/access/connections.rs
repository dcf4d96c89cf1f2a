//! Connections: how many, for how long, and how they end.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use super::answer::Answerer;
use super::directory::Directory;

/// How long a client may take to show who it is.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a connection may be without a request. Longer than clients keep one: who closes first is the client.
const KEPT: Duration = Duration::from_secs(90);
/// How long a client may leave what it was sent without taking it.
const STALLED: Duration = Duration::from_secs(60);
/// How long requests may take that are under way when the server is told to end.
const DRAIN: Duration = Duration::from_secs(5);
/// How long is waited after the system gave no connection, as where it has no descriptors left.
const PAUSE: Duration = Duration::from_millis(100);
/// What a connection holds that was read, or is to be written.
const BUFFER_BYTES: usize = 64 << 10;

/// How it is served.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How many connections there are at most. More wait.
    pub max_connections: usize,
    /// After how long without a request the server ends by itself.
    pub max_idle: Option<Duration>,
}

/// Why the server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was told to.
    Told,
    /// Nobody asked for anything.
    Idle,
}

/// When something was asked for last, or was answered.
#[derive(Debug)]
pub(super) struct Activity(Mutex<Instant>);

impl Default for Activity {
    fn default() -> Self {
        Self(Mutex::new(Instant::now()))
    }
}

impl Activity {
    pub(super) fn touch(&self) {
        *self.0.lock() = Instant::now();
    }

    /// Waits until nothing happened for as long as `limit`; for ever without one.
    async fn stopped(&self, limit: Option<Duration>) {
        let Some(limit) = limit else { return std::future::pending().await };
        loop {
            let end = *self.0.lock() + limit;
            if end <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    }
}

/// Listens at `address`. `[::]` takes IPv4 as well; where the machine has no IPv6 it is all of IPv4.
///
/// # Errors
/// The address is taken, or not the machine's.
pub async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(error) if address.is_ipv6() && address.ip().is_unspecified() && no_ipv6(&error) => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        bound => bound,
    }
}

fn no_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

/// Serves `directory` until `told` or until nobody asks any more. Requests that are under way then have 5 s.
pub async fn serve(
    listener: TcpListener,
    tls: ServerConfig,
    directory: Directory,
    options: Options,
    told: impl Future<Output = ()>,
) -> Ended {
    let activity = Arc::new(Activity::default());
    let answerer = Answerer { directory: Arc::new(directory), activity: Arc::clone(&activity) };
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let slots = Arc::new(Semaphore::new(options.max_connections));
    let (stop, stopped) = watch::channel(false);
    let mut connections = JoinSet::new();
    tokio::pin!(told);
    let ended = loop {
        // A place first: who finds none waits in the system's queue.
        let next = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            (slot, listener.accept().await)
        };
        tokio::select! {
            biased;
            () = &mut told => break Ended::Told,
            () = activity.stopped(options.max_idle) => break Ended::Idle,
            Some(_) = connections.join_next() => {}
            (slot, accepted) = next => match accepted {
                Ok((stream, peer)) => {
                    let (acceptor, answerer, stopped) = (acceptor.clone(), answerer.clone(), stopped.clone());
                    connections.spawn(async move {
                        if let Err(error) = connection(stream, &acceptor, answerer, stopped).await {
                            tracing::debug!(%peer, %error, "a connection ended");
                        }
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "no connection could be taken");
                    #[expect(clippy::disallowed_methods, reason = "a retry's backoff")]
                    tokio::time::sleep(PAUSE).await;
                }
            },
        }
    };
    drop(listener);
    stop.send_replace(true);
    let drained = tokio::time::timeout(DRAIN, async { while connections.join_next().await.is_some() {} });
    if drained.await.is_err() {
        tracing::warn!(connections = connections.len(), "requests that were under way are broken off");
    }
    ended
}

type ConnectionError = Box<dyn std::error::Error + Send + Sync>;

async fn connection(
    stream: TcpStream,
    acceptor: &TlsAcceptor,
    answerer: Answerer,
    mut stopped: watch::Receiver<bool>,
) -> Result<(), ConnectionError> {
    stream.set_nodelay(true)?;
    // Of a peer that is gone, or takes nothing, the kernel ends the connection.
    let stalled = u32::try_from(STALLED.as_millis())?;
    rustix::net::sockopt::set_tcp_user_timeout(&stream, stalled)?;
    rustix::net::sockopt::set_socket_keepalive(&stream, true)?;
    // An error says that the server is gone, which ends the connection as well.
    let ended = async { drop(stopped.wait_for(|stopped| *stopped).await) };
    tokio::pin!(ended);
    let handshake = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream).into_fallible());
    let stream = tokio::select! {
        shaken = handshake => shaken?,
        () = &mut ended => return Ok(()),
    };
    let stream = match stream {
        Ok(stream) => stream,
        Err((error, stream)) => {
            tracing::warn!(%error, "a client was refused");
            hang_up(stream).await;
            return Err(error.into());
        }
    };
    let service = service_fn(move |request| {
        let answerer = answerer.clone();
        async move { Ok::<_, Infallible>(answerer.answer(&request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(KEPT)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(served);
    tokio::select! {
        result = &mut served => result?,
        () = &mut ended => {
            served.as_mut().graceful_shutdown();
            served.await?;
        }
    }
    Ok(())
}

/// Ends a connection so that the client gets to see why: what it sent on is read, else the system would take the answer back.
async fn hang_up(mut stream: TcpStream) {
    let read_rest = async {
        stream.shutdown().await?;
        let mut rest = [0; 4096];
        for _ in 0..16 {
            if stream.read(&mut rest).await? == 0 {
                break;
            }
        }
        Ok::<_, io::Error>(())
    };
    // Whatever comes of it, the connection is over.
    drop(tokio::time::timeout(Duration::from_secs(2), read_rest).await);
}

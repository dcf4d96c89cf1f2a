//! The control API of the node daemon (`stash-fs serve`): what it does for others on its node, over a Unix socket.
//!
//! The messages are generated from `proto/control.proto` and checked in, so that no build needs a compiler of them; the suite
//! `control_proto` holds that they are not stale, and writes them anew. [`connect`] is the client, [`serve`] the server's side of
//! the socket: it is its owner's alone, and whoever connects is asked who he is.
//!
//! This crate knows nothing of repositories, FUSE or Kubernetes.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{UnixListener, UnixStream};
use tonic::body::Body;
use tonic::codegen::Service;

/// The messages, the client and the server as they are generated.
#[allow(clippy::all, unreachable_pub, missing_debug_implementations, reason = "generated")]
#[rustfmt::skip]
mod generated;

pub use generated::*;
pub use tonic::{Code, Request, Response, Status, async_trait};

/// More connections at a time than anybody has; others wait.
const MAX_CONNECTIONS: usize = 16;

/// The most mounts of a node that do not show the same: as many sessions as its keeper holds, the names of all of which fit into a message
/// of its protocol.
pub const MAX_SESSIONS: usize = 480;

/// More bytes than any message of this API has.
pub const MAX_MESSAGE_BYTES: usize = 1 << 20;

impl fmt::Debug for Repository {
    /// Shows the address and nothing that is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Repository").field("address", &self.address).finish_non_exhaustive()
    }
}

/// A connection to a daemon.
#[derive(Debug, Clone)]
pub struct Connection(hyper::client::conn::http2::SendRequest<Body>);

impl Service<http::Request<Body>> for Connection {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

impl Connection {
    /// Connects to whoever listens at `path`. A connection that has ended fails every call: connect again.
    ///
    /// # Errors
    /// Nobody listens there, or we may not.
    pub async fn open(path: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(path).await?;
        let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        drop(tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "control connection");
            }
        }));
        Ok(Self(sender))
    }
}

/// Connects to the daemon that listens at `path`.
///
/// # Errors
/// Nobody listens there, or we may not.
pub async fn connect(path: &Path) -> io::Result<control_client::ControlClient<Connection>> {
    // A socket has no host; HTTP/2 wants one all the same.
    let origin = http::Uri::from_static("http://stash-fs");
    Ok(control_client::ControlClient::with_origin(Connection::open(path).await?, origin)
        .max_decoding_message_size(MAX_MESSAGE_BYTES))
}

/// Listens at `path`, which only the owner may use. A socket that stands there is replaced; anything else is not touched.
///
/// # Errors
/// Something else stands there, or the path cannot be used.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket"));
        }
        _ => {}
    }
    // It has its mode before it has its name, so that nobody connects in between; kubelet looks at no name with a dot.
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let hidden = path.with_file_name(format!(".{name}"));
    match std::fs::remove_file(&hidden) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&hidden)?;
    std::fs::set_permissions(&hidden, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&hidden, path)?;
    Ok(listener)
}

/// Answers calls until `stop` comes. Connections of users that are not among `peers` are closed.
pub async fn serve<S: control_server::Control>(
    listener: UnixListener,
    service: S,
    peers: Vec<u32>,
    stop: impl Future<Output = ()>,
) {
    let service = control_server::ControlServer::new(service).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let slots = Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS));
    let accept = async {
        loop {
            // Neither fails for good: the semaphore is never closed, and accept(2) complains of single connections.
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            let Ok((stream, _)) = listener.accept().await else { continue };
            match stream.peer_cred() {
                Ok(peer) if peers.contains(&peer.uid()) => {}
                peer => {
                    tracing::warn!(?peer, "a control connection of another user was refused");
                    continue;
                }
            }
            let service = service.clone();
            drop(tokio::spawn(async move {
                let answer = hyper::service::service_fn(move |request: http::Request<Incoming>| {
                    let mut service = service.clone();
                    async move { Ok::<_, Infallible>(service.call(request).await.unwrap_or_else(|never| match never {})) }
                });
                let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), answer);
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "control connection");
                }
                drop(slot);
            }));
        }
    };
    tokio::select! {
        () = accept => {}
        () = stop => {}
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    struct Echo;

    #[async_trait]
    impl control_server::Control for Echo {
        async fn mount(&self, request: Request<MountRequest>) -> Result<Response<MountReply>, Status> {
            Ok(Response::new(MountReply { snapshot: request.into_inner().name }))
        }

        async fn unmount(&self, _: Request<UnmountRequest>) -> Result<Response<UnmountReply>, Status> {
            Err(Status::failed_precondition("in use"))
        }

        async fn list(&self, _: Request<ListRequest>) -> Result<Response<ListReply>, Status> {
            Ok(Response::new(ListReply::default()))
        }

        async fn stats(&self, _: Request<StatsRequest>) -> Result<Response<StatsReply>, Status> {
            Ok(Response::new(StatsReply::default()))
        }

        async fn warm(&self, _: Request<WarmRequest>) -> Result<Response<WarmReply>, Status> {
            Ok(Response::new(WarmReply::default()))
        }

        async fn drop(&self, _: Request<DropRequest>) -> Result<Response<DropReply>, Status> {
            Ok(Response::new(DropReply::default()))
        }
    }

    fn own_uid(path: &Path) -> u32 {
        std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(path).unwrap())
    }

    #[tokio::test]
    async fn test_calls_over_the_socket_and_whatever_else_is_sent() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let listener = listen(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let server = tokio::spawn(serve(listener, Echo, vec![own_uid(folder.path())], std::future::pending()));
        // Garbage, truncated and oversized messages end their own connection and nothing else.
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        for bytes in [
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            vec![0xff; 100_000],
            preface[..10].to_vec(),
            [&preface[..], &[0; 5000]].concat(),
        ] {
            let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
            drop(stream.write_all(&bytes));
        }
        let mut client = connect(&path).await.unwrap();
        let huge = MountRequest { name: "x".repeat(MAX_MESSAGE_BYTES + 1), ..MountRequest::default() };
        assert_eq!(client.mount(huge).await.unwrap_err().code(), Code::OutOfRange);
        let named = MountRequest { name: "a".into(), ..MountRequest::default() };
        assert_eq!(client.mount(named).await.unwrap().into_inner().snapshot, "a");
        let error = client.unmount(UnmountRequest::default()).await.unwrap_err();
        assert_eq!((error.code(), error.message()), (Code::FailedPrecondition, "in use"));
        server.abort();
    }

    #[tokio::test]
    async fn test_other_users_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let other = own_uid(folder.path()) + 1;
        let server = tokio::spawn(serve(listen(&path).unwrap(), Echo, vec![other], std::future::pending()));
        let answer = match connect(&path).await {
            Ok(mut client) => client.list(ListRequest {}).await.map(drop).is_ok(),
            Err(_) => false,
        };
        assert!(!answer);
        server.abort();
    }

    #[test]
    fn test_no_secret_is_shown() {
        let repository = Repository {
            address: "s3:host/bucket".into(),
            password: "geheim".into(),
            environment: [("AWS_SECRET_ACCESS_KEY".to_owned(), "geheim".to_owned())].into(),
            ..Repository::default()
        };
        let shown = format!("{:?}", MountRequest { repository: Some(repository), ..MountRequest::default() });
        assert!(shown.contains("s3:host/bucket") && !shown.contains("geheim"), "{shown}");
    }
}

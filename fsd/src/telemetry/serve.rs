//! The figures over HTTP, for Prometheus.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::metrics::Sources;

/// More scrapers at a time than anybody has; another waits.
const MAX_CONNECTIONS: usize = 8;

/// Parses `PORT`, `:PORT` or `ADDRESS:PORT`; without an address it is this machine alone that may ask.
///
/// # Errors
/// It is none of these.
pub fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let port = text.strip_prefix(':').unwrap_or(text);
    if let Ok(port) = port.parse::<u16>() {
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    let text = text.replacen("localhost:", "127.0.0.1:", 1);
    text.parse().map_err(|_| format!("`{text}` is not a port or an address like 127.0.0.1:9180"))
}

/// Answers `GET /metrics` for ever, with what `sources` gives at that moment.
pub async fn serve(listener: TcpListener, sources: impl Fn() -> Sources + Send + Sync + 'static) {
    let sources = Arc::new(sources);
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // Neither fails for good: the semaphore is never closed, and accept(2) complains of single connections.
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let Ok((stream, _peer)) = listener.accept().await else { continue };
        let sources = Arc::clone(&sources);
        drop(tokio::spawn(async move {
            let service = service_fn(move |request| answer(request, Arc::clone(&sources)));
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(hyper_util::rt::TokioTimer::new())
                .header_read_timeout(std::time::Duration::from_secs(10))
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "metrics connection");
            }
            drop(slot);
        }));
    }
}

async fn answer(
    request: Request<Incoming>,
    sources: Arc<impl Fn() -> Sources>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => (StatusCode::OK, sources().prometheus()),
        (&Method::GET, "/") => (StatusCode::OK, "stash-fs: see /metrics\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, "not found\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let text = header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::fuse::FuseMetrics;

    #[test]
    fn test_addresses_are_of_this_machine_unless_said_otherwise() {
        let table = [
            ("9180", Some("127.0.0.1:9180")),
            (":9180", Some("127.0.0.1:9180")),
            ("localhost:9180", Some("127.0.0.1:9180")),
            ("0.0.0.0:9180", Some("0.0.0.0:9180")),
            ("[::1]:9180", Some("[::1]:9180")),
            ("", None),
            ("99999", None),
            ("somewhere", None),
        ];
        for (text, expected) in table {
            assert_eq!(parse_address(text).ok().map(|address| address.to_string()).as_deref(), expected, "{text}");
        }
    }

    #[tokio::test]
    async fn test_metrics_are_served_and_nothing_else_is() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let sources = Sources { fuse: Arc::new(FuseMetrics::default()), repositories: Vec::new(), mounts: None };
        let server = tokio::spawn(serve(listener, move || sources.clone()));
        for (path, status, body) in
            [("/metrics", "200 OK", "stash_fs_fuse_panics_total 0"), ("/x", "404 Not Found", "not found")]
        {
            let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{answer}");
            assert!(answer.contains(body), "{answer}");
        }
        server.abort();
    }
}

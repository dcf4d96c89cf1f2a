//! `rclone serve restic --stdio`: the REST protocol over HTTP/2 on the standard streams of a child process.
//!
//! The child is started with the first request, again after it has died, and ends when the backend is dropped.
//! Source: restic, `internal/backend/rclone`.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use http_body_util::{BodyExt as _, BodyStream, Full};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::Mutex;

use super::child::{Program, Running, split_words};
use super::error::Failure;
use super::http::{Answer, Http};
use super::settings::Settings;

/// How much of one answer may be on its way. A pipe has no round trips to bridge, but two processes to switch between.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;

/// How much of all answers together may be on its way: bounds what a lot of slow readers hold.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// The connection to rclone.
#[derive(Debug)]
pub(super) struct Rclone {
    program: Program,
    connection: Mutex<Option<Connection>>,
}

#[derive(Debug)]
struct Connection {
    requests: SendRequest<Full<Bytes>>,
    running: Arc<parking_lot::Mutex<Running>>,
    /// Moves the bytes; ends with the connection.
    driver: tokio::task::JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Rclone {
    /// Reads `-o rclone.program` and `-o rclone.args`.
    ///
    /// # Errors
    /// They cannot be split into words.
    pub(super) fn new(remote: &str, settings: &Settings<'_>) -> Result<Self, Failure> {
        let mut words = split_words(settings.option("program").unwrap_or("rclone"))?;
        words.extend(split_words(settings.option("args").unwrap_or("serve restic --stdio --b2-hard-delete"))?);
        words.push(remote.to_owned());
        Ok(Self { program: Program::new(words, settings.options, true), connection: Mutex::default() })
    }

    /// Returns the connection, after starting rclone where none runs.
    async fn connection(&self) -> Result<(SendRequest<Full<Bytes>>, Arc<parking_lot::Mutex<Running>>), Failure> {
        let mut connection = self.connection.lock().await;
        if let Some(open) = &*connection
            && !open.requests.is_closed()
        {
            return Ok((open.requests.clone(), Arc::clone(&open.running)));
        }
        if connection.take().is_some() {
            tracing::warn!(program = self.program.name(), "the program has ended and is started again");
        }
        let (running, stdout, stdin) = self.program.start()?;
        let running = Arc::new(parking_lot::Mutex::new(running));
        let handshake = Builder::new(TokioExecutor::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .handshake(TokioIo::new(tokio::io::join(stdout, stdin)));
        let (requests, driver) = handshake.await.map_err(|_| running.lock().failure(&self.program))?;
        let driver = tokio::spawn(async move {
            // Its end is seen by whoever asks next.
            drop(driver.await);
        });
        let open = connection.insert(Connection { requests, running, driver });
        Ok((open.requests.clone(), Arc::clone(&open.running)))
    }
}

#[async_trait]
impl Http for Rclone {
    async fn send(&self, request: http::Request<Bytes>) -> Result<Answer, Failure> {
        let (mut requests, running) = self.connection().await?;
        let failure = |_: hyper::Error| running.lock().failure(&self.program);
        requests.ready().await.map_err(failure)?;
        let response = requests.send_request(request.map(Full::new)).await.map_err(failure)?;
        let (parts, body) = response.into_parts();
        let (program, running) = (self.program.clone(), Arc::clone(&running));
        let chunks = BodyStream::new(body.map_err(move |_| running.lock().failure(&program)));
        let chunks = chunks.filter_map(|frame| async { frame.map(|frame| frame.into_data().ok()).transpose() });
        Ok(Answer { status: parts.status, headers: parts.headers, body: Box::pin(chunks) })
    }
}

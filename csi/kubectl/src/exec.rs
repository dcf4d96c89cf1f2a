//! Commands in the pod, through the API server: what they print comes here to the byte, and how they ended.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::{Api, AttachParams, AttachedProcess};
use kube::client::UpgradeConnectionError;
use stash_fs::cli::output::show_name;
use stash_fs::cli::{CliError, CliResult};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::mpsc;

use crate::cluster::{RIGHTS, refused};
use crate::pod::CONTAINER;

/// How much is on its way at once, in bytes; of chunks of at most [`CHUNK`].
const BUFFER: usize = 1 << 20;
/// The most that is handed on at once.
const CHUNK: usize = 64 << 10;

/// What takes the output of a command: a thread that may block.
pub(crate) struct Consumer<T> {
    to: mpsc::Sender<Vec<u8>>,
    thread: tokio::task::JoinHandle<CliResult<T>>,
}

impl<T: Send + 'static> Consumer<T> {
    /// Starts it. `work` gets the chunks until there are no more.
    pub(crate) fn start(work: impl FnOnce(Chunks) -> CliResult<T> + Send + 'static) -> Self {
        let (to, from) = mpsc::channel(BUFFER / CHUNK);
        let chunks = Chunks { from, current: Vec::new(), read: 0 };
        Self { to, thread: tokio::task::spawn_blocking(move || work(chunks)) }
    }

    /// Hands all that is read to it, and returns what it made of that.
    pub(crate) async fn take(self, from: Option<impl AsyncRead + Unpin>) -> CliResult<T> {
        let Self { to, thread } = self;
        pump(from, async |bytes| to.send(bytes.to_vec()).await.is_ok()).await;
        drop(to);
        thread.await.unwrap_or_else(|error| Err(CliError::failure(format!("the output was lost: {error}"))))
    }
}

/// The output of a command, for a thread that reads it.
pub(crate) struct Chunks {
    from: mpsc::Receiver<Vec<u8>>,
    current: Vec<u8>,
    read: usize,
}

impl std::io::Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.read == self.current.len() {
            match self.from.blocking_recv() {
                Some(chunk) => (self.current, self.read) = (chunk, 0),
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.current.len() - self.read);
        buffer[..length].copy_from_slice(&self.current[self.read..self.read + length]);
        self.read += length;
        Ok(length)
    }
}

/// Writes what a command prints to standard output.
pub(crate) fn print(mut chunks: Chunks) -> CliResult<()> {
    let mut stdout = std::io::stdout().lock();
    while let Some(chunk) = chunks.from.blocking_recv() {
        std::io::Write::write_all(&mut stdout, &chunk)?;
        std::io::Write::flush(&mut stdout)?;
    }
    Ok(())
}

/// Runs a command, hands what it prints to `consumer`, and shows what it complains about. Returns its exit code and what the consumer made.
///
/// # Errors
///
/// It was not started, the connection broke before its end, or the consumer failed.
pub(crate) async fn exec<T: Send + 'static>(
    pods: &Api<Pod>,
    pod: &str,
    command: Vec<String>,
    consumer: Consumer<T>,
) -> CliResult<(u8, T)> {
    let parameters = AttachParams::default().container(CONTAINER).stdin(false).stdout(true).stderr(true);
    let mut process = attach(pods, pod, command, &parameters.max_stdout_buf_size(BUFFER)).await?;
    let (status, stdout, stderr) = (process.take_status(), process.stdout(), process.stderr());
    let complaints = async {
        let mut lines = Lines::default();
        pump(stderr, async |bytes| {
            lines.add(bytes);
            true
        })
        .await;
        lines.end();
        Ok(())
    };
    // Who takes no more ends it at once: the command would wait for ever.
    let streams = async { tokio::try_join!(consumer.take(stdout), complaints).map(|(made, ())| made) };
    let (made, code) = to_the_end(streams, status).await?;
    Ok((code, made))
}

/// Waits for the end of a command and of its streams. A connection that breaks ends the status, and no stream.
///
/// # Errors
///
/// It broke, or the streams were not taken.
pub(crate) async fn to_the_end<T>(
    streams: impl Future<Output = CliResult<T>>,
    status: Option<impl Future<Output = Option<Status>>>,
) -> CliResult<(T, u8)> {
    let ended = async {
        match status {
            Some(status) => status.await,
            None => None,
        }
    };
    tokio::pin!(streams, ended);
    tokio::select! {
        biased;
        made = &mut streams => {
            let made = made?;
            Ok((made, outcome(ended.await.as_ref())?))
        }
        status = &mut ended => {
            // Also of a command that failed all that it printed is shown.
            if status.is_none() {
                outcome(None)?;
            }
            let made = streams.await?;
            Ok((made, outcome(status.as_ref())?))
        }
    }
}

/// Starts a command.
pub(crate) async fn attach(
    pods: &Api<Pod>,
    pod: &str,
    command: Vec<String>,
    parameters: &AttachParams,
) -> CliResult<AttachedProcess> {
    pods.exec(pod, command, parameters).await.map_err(|error| match &error {
        kube::Error::UpgradeConnection(UpgradeConnectionError::ProtocolSwitch(code)) if code.as_u16() == 403 => {
            CliError::failure(format!("you may not run commands in the pod {pod} (get and create on pods/exec)"))
                .hint(RIGHTS)
        }
        kube::Error::UpgradeConnection(error) => CliError::failure(format!("the connection to the pod {pod}: {error}"))
            .hint("a proxy before the API server must let WebSockets through"),
        error => refused(&format!("run a command in the pod {pod}"), error),
    })
}

/// Hands on what is read until there is no more, or nobody takes it.
async fn pump(from: Option<impl AsyncRead + Unpin>, mut take: impl AsyncFnMut(&[u8]) -> bool) {
    let Some(mut from) = from else { return };
    let mut buffer = vec![0; CHUNK];
    // An end of any kind is one; the status tells which.
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if !take(&buffer[..length]).await {
            break;
        }
    }
}

/// Shows lines of another's standard error, so that a hostile name in them moves no cursor.
#[derive(Default)]
struct Lines(Vec<u8>);

impl Lines {
    fn add(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        while let Some(end) = self.0.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.0.drain(..=end).collect();
            eprintln!("{}", show_name(&line[..end]));
        }
    }

    fn end(&mut self) {
        if !self.0.is_empty() {
            eprintln!("{}", show_name(&self.0));
        }
    }
}

/// Tells from what kubelet says how a command ended: its exit code.
///
/// # Errors
///
/// It did not end by itself, or nothing is known.
fn outcome(status: Option<&Status>) -> CliResult<u8> {
    let Some(status) = status else {
        return Err(CliError::failure("the connection to the pod ended before the command did: what came is not all")
            .hint("call it again"));
    };
    if status.status.as_deref() == Some("Success") {
        return Ok(0);
    }
    let causes = status.details.as_ref().and_then(|details| details.causes.as_deref()).unwrap_or_default();
    let code = causes.iter().find(|cause| cause.reason.as_deref() == Some("ExitCode"));
    match code.and_then(|cause| cause.message.as_deref()?.parse::<u8>().ok()) {
        Some(code) => Ok(code),
        None => {
            let message = status.message.as_deref().unwrap_or("nothing is said why");
            Err(CliError::failure(format!("the command in the pod failed: {}", show_name(message.as_bytes()))))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn test_how_commands_end() {
        let exit = |code: &str| {
            json!({"status": "Failure", "reason": "NonZeroExitCode", "message": "a\nb",
                "details": {"causes": [{"reason": "ExitCode", "message": code}]}})
        };
        for (status, expected) in [
            (Some(json!({"status": "Success"})), Ok(0)),
            (Some(exit("3")), Ok(3)),
            (Some(exit("x")), Err("the command in the pod failed: a\\nb")),
            (Some(json!({"status": "Failure"})), Err("nothing is said why")),
            (None, Err("what came is not all")),
        ] {
            let status: Option<Status> = status.map(|status| serde_json::from_value(status).unwrap());
            match (outcome(status.as_ref()), expected) {
                (Ok(code), Ok(expected)) => assert_eq!(code, expected),
                (Err(error), Err(words)) => assert!(error.message.contains(words), "{error:?}"),
                (found, _) => panic!("{status:?}: {found:?}"),
            }
        }
    }

    #[tokio::test]
    async fn test_a_connection_that_breaks_is_no_end() {
        let good = || serde_json::from_value::<Status>(json!({"status": "Success"})).unwrap();
        let never = std::future::pending::<CliResult<()>>();
        let error = to_the_end(never, Some(std::future::ready(None))).await.unwrap_err();
        assert!(error.message.contains("what came is not all"), "{error:?}");
        let printed = async { Ok("all") };
        assert_eq!(to_the_end(printed, Some(std::future::ready(Some(good())))).await.unwrap(), ("all", 0));
        let slow = async {
            tokio::task::yield_now().await;
            Ok("all")
        };
        assert_eq!(to_the_end(slow, Some(std::future::ready(Some(good())))).await.unwrap(), ("all", 0));
        // The reader of our output went.
        let broken = async { Err::<(), _>(std::io::Error::from(std::io::ErrorKind::BrokenPipe).into()) };
        assert!(to_the_end(broken, Some(std::future::pending())).await.is_err());
    }

    #[tokio::test]
    async fn test_a_consumer_reads_every_byte_whatever_the_chunks() {
        let consumer = Consumer::start(|mut chunks| {
            let mut all = Vec::new();
            std::io::Read::read_to_end(&mut chunks, &mut all)?;
            Ok(all)
        });
        let all: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
        assert_eq!(consumer.take(Some(&all[..])).await.unwrap(), all);
    }
}

//! A shell in the pod, with the terminal of whoever calls if there is one.

use futures::SinkExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, AttachParams, TerminalSize};
use stash_fs::cli::{CliError, CliResult};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::exec::{Consumer, attach, print, to_the_end};
use crate::pod::CONTAINER;
use crate::terminal::{self, Raw};

/// Goes to the folder and becomes the shell; `$0` is the folder, `$1` the kind of terminal.
const SCRIPT: &str = "cd \"$0\" && TERM=\"$1\" exec sh";

/// Runs a shell in `folder` of the pod until it ends. Returns its exit code.
///
/// # Errors
///
/// It was not started, or the connection broke.
pub(crate) async fn shell(pods: &Api<Pod>, pod: &str, folder: &str) -> CliResult<u8> {
    let tty = Raw::is_possible();
    let term = std::env::var("TERM").unwrap_or_else(|_| "dumb".to_owned());
    let command = ["sh", "-c", SCRIPT, folder, &term].map(str::to_owned).into();
    let parameters = AttachParams::default().container(CONTAINER).stdin(true).stdout(true).stderr(!tty).tty(tty);
    let mut process = attach(pods, pod, command, &parameters).await?;
    let (status, stdout, stderr) = (process.take_status(), process.stdout(), process.stderr());
    let (stdin, sizes) = (process.stdin(), process.terminal_size());
    // Ends with this function, so that what is said afterwards is shown as it should.
    let _raw = if tty { Some(Raw::begin()?) } else { None };
    let input = async {
        if let Some(stdin) = stdin {
            hand_on_input(stdin).await;
        }
        // The shell ends, not we.
        std::future::pending::<()>().await;
    };
    let resizing = async {
        if let Some(sizes) = sizes {
            hand_on_sizes(sizes).await;
        }
        std::future::pending::<()>().await;
    };
    let consumer = Consumer::start(print);
    let errors = Consumer::start(|mut chunks| Ok(std::io::copy(&mut chunks, &mut std::io::stderr())?));
    let streams = async { tokio::try_join!(consumer.take(stdout), errors.take(stderr)) };
    tokio::select! {
        ended = to_the_end(streams, status) => ended.map(|(_, code)| code),
        () = input => Err(CliError::interrupted()),
        () = resizing => Err(CliError::interrupted()),
    }
}

/// Reads standard input on a thread of its own: nothing can end a read of a terminal, so that nobody waits for it.
async fn hand_on_input(mut to: impl AsyncWrite + Unpin) {
    let (sender, mut receiver) = mpsc::channel::<Vec<u8>>(16);
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = std::io::Read::read(&mut std::io::stdin(), &mut buffer) {
            if sender.blocking_send(buffer[..length].to_vec()).is_err() {
                break;
            }
        }
    });
    while let Some(bytes) = receiver.recv().await {
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
    // The shell sees the end of its input.
    drop(to.shutdown().await);
}

async fn hand_on_sizes(mut to: futures::channel::mpsc::Sender<TerminalSize>) {
    let Ok(mut changes) = signal(SignalKind::window_change()) else { return };
    loop {
        if let Some(size) = terminal::size()
            && to.send(size).await.is_err()
        {
            return;
        }
        if changes.recv().await.is_none() {
            return;
        }
    }
}

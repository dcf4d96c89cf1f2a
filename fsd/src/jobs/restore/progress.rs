//! Says how far a restore is to whoever asks.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::tell::Tell;

/// How long somebody who asks may take to read the answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Answers until it is dropped.
#[derive(Debug)]
pub(super) struct Progress(JoinHandle<()>);

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Begins to answer at an address. That it cannot is no reason not to restore.
pub(super) async fn serve(address: SocketAddr, tell: Arc<Tell>) -> Option<Progress> {
    match TcpListener::bind(address).await {
        Ok(listener) => Some(Progress(tokio::spawn(answer(listener, tell)))),
        Err(error) => {
            tracing::warn!(%address, %error, "nobody can ask how far it is");
            None
        }
    }
}

async fn answer(listener: TcpListener, tell: Arc<Tell>) {
    // One after the other: nobody has it made to do more than this.
    while let Ok((stream, _)) = listener.accept().await {
        let _ = timeout(PATIENCE, say(stream, &tell)).await;
    }
}

async fn say(mut stream: TcpStream, tell: &Tell) -> std::io::Result<()> {
    stream.write_all(&serde_json::to_vec(&tell.how_far())?).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;
    use crate::cli::Interrupt;
    use crate::restore::{Action, Observer as _};

    #[tokio::test]
    async fn test_who_asks_gets_counts() {
        let tell = Arc::new(Tell::new(Interrupt::default()));
        tell.found(2, 100);
        tell.done(Action::Unchanged, b"/a", 25);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = Progress(tokio::spawn(answer(listener, tell)));
        for _ in 0..3 {
            let mut text = String::new();
            TcpStream::connect(address).await.unwrap().read_to_string(&mut text).await.unwrap();
            let found: stash_proto::job::Progress = serde_json::from_str(&text).unwrap();
            assert_eq!((found.entries, found.bytes, found.of_bytes), (1, 25, 100));
        }
        drop(served);
    }
}

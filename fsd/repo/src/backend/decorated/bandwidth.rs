//! `--limit-download` and `--limit-upload`: so many bytes a second, over all calls together.
//!
//! A bucket that may be overdrawn: a call passes when nothing is owed, and owes what it moved. So the average holds for
//! any size of call, and no call waits for itself.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

use super::{Around, Attempt, BackendResult, Call, Operation, Payload};

/// The limits.
#[derive(Debug)]
pub(in super::super) struct Bandwidth {
    download: Option<Bucket>,
    upload: Option<Bucket>,
}

impl Bandwidth {
    /// Makes the limits, if there is one.
    pub(in super::super) fn new(download: Option<u64>, upload: Option<u64>) -> Option<Self> {
        let bucket = |limit: Option<u64>| limit.filter(|limit| *limit > 0).map(Bucket::new);
        let limits = Self { download: bucket(download), upload: bucket(upload) };
        (limits.download.is_some() || limits.upload.is_some()).then_some(limits)
    }
}

#[derive(Debug)]
struct Bucket {
    bytes_per_second: u64,
    /// When nothing will be owed.
    settled: Mutex<Instant>,
}

impl Bucket {
    fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, settled: Mutex::new(Instant::now()) }
    }

    /// Waits until nothing is owed, then owes `len_bytes`.
    async fn pass(&self, len_bytes: u64) {
        loop {
            let until = {
                let mut settled = self.settled.lock();
                let now = Instant::now();
                if *settled <= now {
                    *settled = now + self.cost(len_bytes);
                    return;
                }
                *settled
            };
            sleep_until(until).await;
        }
    }

    /// Owes what a call turned out to move.
    fn owe(&self, len_bytes: u64) {
        let mut settled = self.settled.lock();
        let from = (*settled).max(Instant::now());
        *settled = from + self.cost(len_bytes);
    }

    fn cost(&self, len_bytes: u64) -> Duration {
        let micros = u128::from(len_bytes) * 1_000_000 / u128::from(self.bytes_per_second.max(1));
        // An hour is longer than any call waits.
        Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX)).min(Duration::from_secs(3600))
    }
}

impl Around for Bandwidth {
    async fn around<'a, T: Payload + 'a>(
        &'a self,
        call: Call<'a>,
        attempt: impl Fn() -> Attempt<'a, T> + Send + Sync + 'a,
    ) -> BackendResult<T> {
        match (call.operation, &self.upload, &self.download) {
            (Operation::Write, Some(upload), _) => upload.pass(call.len_bytes.unwrap_or(0)).await,
            (Operation::Read, _, Some(download)) => download.pass(call.len_bytes.unwrap_or(0)).await,
            _ => {}
        }
        let result = attempt().await;
        if let (Ok(payload), Operation::Read, None, Some(download)) =
            (&result, call.operation, call.len_bytes, &self.download)
        {
            download.owe(payload.len_bytes());
        }
        result
    }
}

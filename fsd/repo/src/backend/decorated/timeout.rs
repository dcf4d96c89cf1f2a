//! Bounds each attempt, so that one which hangs leaves time for another.

use std::time::Duration;

use super::{Around, Attempt, BackendResult, Call, Operation, Payload};

/// The slowest that data may come or go before an attempt counts as hanging: 128 KiB/s, a tenth of a slow home uplink.
const SLOWEST_BYTES_PER_SECOND: u64 = 128 << 10;

/// How many times as long as another call a list may take: it is many requests, each of them bounded by the transport.
const LIST_FACTOR: u32 = 10;

/// How long a call may take as a whole.
pub(super) fn total(call: &Call<'_>, deadline: Duration) -> Duration {
    match call.operation {
        Operation::List => deadline.saturating_mul(LIST_FACTOR),
        // Nobody waits at a file for a write; a large pack over a slow line takes what it takes.
        Operation::Write => deadline.saturating_add(transfer(call)),
        Operation::Read | Operation::Remove | Operation::Create => deadline,
    }
}

/// For how long a call that fails is begun again.
pub(super) fn retrying(call: &Call<'_>, deadline: Duration) -> Duration {
    match call.operation {
        Operation::List => deadline,
        _ => total(call, deadline),
    }
}

fn transfer(call: &Call<'_>) -> Duration {
    Duration::from_millis(call.len_bytes.unwrap_or(0).saturating_mul(1000) / SLOWEST_BYTES_PER_SECOND)
}

/// The bound of each attempt.
#[derive(Debug)]
pub(in super::super) struct Timeout {
    /// For a call that moves nothing.
    pub(in super::super) attempt: Duration,
}

impl Around for Timeout {
    async fn around<'a, T: Payload + 'a>(
        &'a self,
        call: Call<'a>,
        attempt: impl Fn() -> Attempt<'a, T> + Send + Sync + 'a,
    ) -> BackendResult<T> {
        let bound = match call.operation {
            Operation::List => self.attempt.saturating_mul(LIST_FACTOR),
            _ => self.attempt.saturating_add(transfer(&call)),
        };
        match tokio::time::timeout(bound, attempt()).await {
            Ok(result) => result,
            Err(_) => Err(call.unavailable(format!("no answer within {:.1} s", bound.as_secs_f64()))),
        }
    }
}

//! Counts every attempt.

use std::sync::Arc;
use std::time::Instant;

use super::{Around, Attempt, BackendResult, Call, Operation, Payload};
use crate::metrics::Metrics;

/// Writes to the counters of a repository.
#[derive(Debug)]
pub(in super::super) struct Metered(pub(in super::super) Arc<Metrics>);

impl Metered {
    fn count<T>(&self, begun: Instant, result: &BackendResult<T>) {
        self.0.backend_requests.inc();
        self.0.backend_latency.observe(begun.elapsed());
        if result.is_err() {
            self.0.backend_errors.inc();
        }
    }
}

/// Counts an attempt that is dropped before it ends: one that ran into its timeout is an error too.
struct Unfinished<'a>(Option<&'a Metered>, Instant);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(metered) = self.0 {
            metered.0.backend_requests.inc();
            metered.0.backend_errors.inc();
            metered.0.backend_latency.observe(self.1.elapsed());
        }
    }
}

impl Around for Metered {
    async fn around<'a, T: Payload + 'a>(
        &'a self,
        call: Call<'a>,
        attempt: impl Fn() -> Attempt<'a, T> + Send + Sync + 'a,
    ) -> BackendResult<T> {
        let begun = Instant::now();
        let mut unfinished = Unfinished(Some(self), begun);
        let result = attempt().await;
        unfinished.0 = None;
        self.count(begun, &result);
        if let Ok(payload) = &result {
            self.0.backend_read_bytes.add(payload.len_bytes());
            if call.operation == Operation::Write {
                self.0.backend_written_bytes.add(call.len_bytes.unwrap_or(0));
            }
        }
        result
    }

    fn local(
        &self,
        len_bytes: usize,
        attempt: impl FnOnce() -> Option<BackendResult<()>>,
    ) -> Option<BackendResult<()>> {
        let begun = Instant::now();
        // What the store does not do is no request.
        let result = attempt()?;
        self.count(begun, &result);
        if result.is_ok() {
            self.0.backend_read_bytes.add(len_bytes as u64);
        }
        Some(result)
    }
}

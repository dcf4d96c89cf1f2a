//! Tries again what may pass, inside a total deadline. The only place that retries.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::super::Retry as Class;
use super::{Around, Attempt, BackendError, BackendResult, Call, Payload, timeout};
use crate::metrics::Metrics;

/// The first wait; each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// The longest wait, so that a store that comes back is noticed soon.
const LONGEST_WAIT: Duration = Duration::from_secs(3);

/// Keeps sums with the clock in range, whatever deadline is set.
const LONGEST_CALL: Duration = Duration::from_secs(365 * 24 * 3600);

/// When to try again.
#[derive(Debug)]
pub(in super::super) struct Retry {
    /// No call outlives this (see [`timeout::total`] for lists and writes).
    pub(in super::super) deadline: Duration,
    /// No more attempts than this, where a limit is set.
    pub(in super::super) max_attempts: Option<u32>,
    pub(in super::super) metrics: Arc<Metrics>,
}

impl Around for Retry {
    async fn around<'a, T: Payload + 'a>(
        &'a self,
        call: Call<'a>,
        attempt: impl Fn() -> Attempt<'a, T> + Send + Sync + 'a,
    ) -> BackendResult<T> {
        let total = timeout::total(&call, self.deadline);
        let begun = Instant::now();
        let end = begun + total.min(LONGEST_CALL);
        // A list may take long while it gets on, but a store that fails is not asked for longer than for others.
        let last_start = begun + timeout::retrying(&call, self.deadline).min(LONGEST_CALL);
        let mut last: Option<BackendError> = None;
        let mut attempts: u32 = 0;
        loop {
            let Ok(result) = timeout_at(end, attempt()).await else {
                // An earlier attempt's answer says more than that this one had no time left.
                let late = || call.unavailable(format!("no answer within {:.1} s", total.as_secs_f64()));
                return Err(last.unwrap_or_else(late));
            };
            attempts = attempts.saturating_add(1);
            let error = match result {
                Err(error) if error.retry == Class::Temporary => error,
                result => return result,
            };
            let wait = wait_after(attempts, rand::random());
            if self.max_attempts.is_some_and(|max| attempts >= max) || Instant::now() + wait >= last_start {
                return Err(error);
            }
            tracing::debug!(attempts, error = %error, "trying again");
            self.metrics.backend_retries.inc();
            last = Some(error);
            #[expect(clippy::disallowed_methods, reason = "the backoff of a retry: there is no condition to wait for")]
            tokio::time::sleep(wait).await;
        }
    }
}

/// The wait after so many attempts: doubling, bounded, and between half and all of that, so that callers that failed
/// together do not come back together.
fn wait_after(attempts: u32, random: u16) -> Duration {
    let doubled = FIRST_WAIT.saturating_mul(1 << attempts.saturating_sub(1).min(10)).min(LONGEST_WAIT);
    doubled / 2 + doubled / 2 * u32::from(random) / u32::from(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_waits_grow_to_a_bound_and_are_spread() {
        assert_eq!(wait_after(1, u16::MAX), FIRST_WAIT);
        assert_eq!(wait_after(1, 0), FIRST_WAIT / 2);
        assert_eq!(wait_after(3, u16::MAX), FIRST_WAIT * 4);
        assert_eq!(wait_after(u32::MAX, u16::MAX), LONGEST_WAIT);
        for attempts in 1..20 {
            assert!(wait_after(attempts, 0) <= wait_after(attempts + 1, 0));
        }
    }
}

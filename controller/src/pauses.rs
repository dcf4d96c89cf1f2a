//! Pauses between tries for which a right is missing that is about to be given.

use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

/// The first and the longest pause after a try that failed. A new right is known to the API server after milliseconds.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// How long a right is waited for: a Role that is made when something appears in a namespace that needs it.
const PATIENCE: Duration = Duration::from_secs(15);

/// Tries until it is allowed, for a while. `is_forbidden` tells failures that a right would end.
///
/// # Errors
///
/// Of the last try.
pub async fn until_allowed<T, E, F>(attempt: impl FnMut() -> F, is_forbidden: impl Fn(&E) -> bool) -> Result<T, E>
where
    F: Future<Output = Result<T, E>>,
{
    allowed_within(PATIENCE, attempt, is_forbidden).await
}

async fn allowed_within<T, E, F>(
    patience: Duration,
    mut attempt: impl FnMut() -> F,
    is_forbidden: impl Fn(&E) -> bool,
) -> Result<T, E>
where
    F: Future<Output = Result<T, E>>,
{
    let (begun, mut pauses) = (Instant::now(), Pauses::default());
    loop {
        match attempt().await {
            Err(error) if is_forbidden(&error) && begun.elapsed() < patience => pauses.pass().await,
            done => return done,
        }
    }
}

/// Pauses between tries that fail, each twice as long as the one before.
#[derive(Debug)]
pub struct Pauses {
    next: Duration,
}

impl Default for Pauses {
    fn default() -> Self {
        Self { next: PAUSES.0 }
    }
}

impl Pauses {
    fn take(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(PAUSES.1);
        pause
    }

    /// Waits.
    #[expect(clippy::disallowed_methods, reason = "a retry's backoff")]
    pub async fn pass(&mut self) {
        sleep(self.take()).await;
    }

    /// Waits, but for the news that it is worth a try.
    pub async fn rest(&mut self, retry: &Notify) {
        if timeout(self.take(), retry.notified()).await.is_ok() {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn test_what_is_forbidden_is_tried_again_for_a_while() {
        for (patience, answers, expected, tries) in [
            (PATIENCE, vec![Err("forbidden"), Ok(1)], Ok(1), 2),
            (PATIENCE, vec![Err("gone"), Ok(1)], Err("gone"), 1),
            (Duration::ZERO, vec![Err("forbidden"), Ok(1)], Err("forbidden"), 1),
        ] {
            let mut answers = answers.into_iter();
            let mut tried = 0;
            let attempt = || {
                tried += 1;
                std::future::ready(answers.next().unwrap())
            };
            assert_eq!(allowed_within(patience, attempt, |error| *error == "forbidden").await, expected);
            assert_eq!(tried, tries);
        }
    }

    #[test]
    fn test_pauses_grow_and_are_bounded() {
        let mut pauses = Pauses::default();
        let taken: Vec<u128> = (0..11).map(|_| pauses.take().as_millis()).collect();
        assert_eq!(taken, [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]);
    }
}

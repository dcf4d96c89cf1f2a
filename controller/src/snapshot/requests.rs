//! How many requests that write Snapshots are under way at once, and how fast they follow one another: a repository of ten thousand
//! snapshots must not take the API server from others.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until};

/// How many at once.
pub const AT_ONCE: usize = 8;
/// The shortest time from one to the next: 200 a second at most.
const PACE: Duration = Duration::from_millis(5);

/// Lets requests go, a few at once.
#[derive(Debug)]
pub struct Requests {
    places: Semaphore,
    // Never held across an await.
    next: Mutex<Instant>,
}

impl Default for Requests {
    fn default() -> Self {
        Self { places: Semaphore::new(AT_ONCE), next: Mutex::new(Instant::now()) }
    }
}

impl Requests {
    /// Waits until a request may be sent; it is under way until what is returned is dropped.
    pub async fn permit(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed.
        let permit = self.places.acquire().await.ok();
        let turn = {
            let mut next = self.next.lock();
            let turn = (*next).max(Instant::now());
            *next = turn + PACE;
            turn
        };
        sleep_until(turn).await;
        permit
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn test_a_few_at_once_and_not_too_fast() {
        let requests = Requests::default();
        let began = Instant::now();
        let mut held = Vec::new();
        for _ in 0..AT_ONCE {
            held.push(requests.permit().await);
        }
        assert!(began.elapsed() >= PACE * u32::try_from(AT_ONCE - 1).unwrap());
        assert!(requests.permit().now_or_never().is_none(), "no place is left");
        drop(held);
        assert!(requests.permit().await.is_some());
    }
}

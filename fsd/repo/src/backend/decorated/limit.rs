//! Limits how many attempts run at once.

use tokio::sync::Semaphore;

use super::{Around, Attempt, BackendResult, Call, Payload};

/// A number of permits, one for each attempt that runs.
#[derive(Debug)]
pub(in super::super) struct Limit(Semaphore);

impl Limit {
    pub(in super::super) fn new(parallel: usize) -> Self {
        Self(Semaphore::new(parallel.clamp(1, Semaphore::MAX_PERMITS)))
    }
}

impl Around for Limit {
    async fn around<'a, T: Payload + 'a>(
        &'a self,
        call: Call<'a>,
        attempt: impl Fn() -> Attempt<'a, T> + Send + Sync + 'a,
    ) -> BackendResult<T> {
        let _permit = self.0.acquire().await.map_err(|_| call.unavailable("the store was closed".to_owned()))?;
        attempt().await
    }
}

//! What is done before a blob is given up: past the caches, after a refresh of the index, in other packs.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::cpu::Priority;
use super::decode::{Decoded, Decoder, Order, Sealed};
use super::engine::Engine;
use super::flight::{Flight, Ticket};
use super::unit::local_bytes;
use super::{BlobData, BlobKind};
use crate::backend::{BackendErrorKind, Retry};
use crate::budget::Grant;
use crate::error::{RepoError, RepoResult};
use crate::index::BlobLocation;

/// The index is refreshed for missing or bad blobs at most this often: a list of the store for each lost blob of a large file
/// would hurt everybody.
const REFRESH_INTERVAL: Duration = Duration::from_secs(5);

impl Engine {
    /// Finds another way to a blob after `error`, and ends its flight. `order` says where it was tried.
    pub(super) fn heal(self: &Arc<Self>, ticket: Ticket, order: Option<Order>, error: RepoError) {
        let engine = Arc::clone(self);
        self.runtime.spawn(async move {
            let result = engine.within_deadline(engine.rescue(&ticket, order, error)).await;
            match &result {
                Ok(_) => engine.metrics.heals.inc(),
                Err(RepoError::Cancelled) => {}
                Err(error) => {
                    engine.metrics.blobs_lost.inc();
                    let location = engine.backend.location();
                    tracing::warn!(%error, blob = %ticket.id.0.short(), location, "a blob cannot be had");
                }
            }
            ticket.finish(result);
        });
    }

    async fn rescue(self: &Arc<Self>, flight: &Flight, order: Option<Order>, error: RepoError) -> RepoResult<BlobData> {
        let mut last = error;
        let mut tried = Vec::new();
        if let Some(order) = order {
            match &last {
                // All tries took as long as a reader waits: he is told that time is over, and nobody else would say of what.
                RepoError::Backend(error) if error.retry == Retry::Temporary => {
                    tracing::warn!(%error, blob = %flight.id.0.short(), "a blob is tried again after a deadline");
                }
                error => tracing::debug!(%error, blob = %flight.id.0.short(), "a blob is tried again elsewhere"),
            }
            self.windows.forget(&order.location);
            self.disk.remove(&order.id);
            tried.push(order.location);
            if !is_gone(&last) {
                match self.attempt(flight, order.location).await {
                    Ok(blob) => return Ok(blob),
                    Err(error) => last = error,
                }
            }
        }
        self.refresh_index().await;
        let places = self.locate.lookup_all(&flight.id).unwrap_or_else(|error| {
            last = error;
            Vec::new()
        });
        for location in places {
            if tried.contains(&location) {
                continue;
            }
            tried.push(location);
            match self.attempt(flight, location).await {
                Ok(blob) => return Ok(blob),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Refreshes the index, unless that was done a moment ago; waits for a refresh under way. At most half of the deadline:
    /// other packs are to be tried after it.
    async fn refresh_index(&self) {
        let mut refreshed = self.refreshed.lock().await;
        if refreshed.is_some_and(|at| at.elapsed() < REFRESH_INTERVAL) {
            return;
        }
        match tokio::time::timeout(self.deadline / 2, self.locate.refresh()).await {
            Ok(Ok(changed)) => tracing::info!(changed, "index refreshed because a blob was missing or bad"),
            Ok(Err(error)) => tracing::warn!(%error, "cannot refresh the index"),
            Err(_) => tracing::warn!("refreshing the index took too long"),
        }
        *refreshed = Some(Instant::now());
    }

    /// Reads a blob from one place, past all caches. The plain bytes are always hashed: something is wrong already.
    async fn attempt(self: &Arc<Self>, flight: &Flight, location: BlobLocation) -> RepoResult<BlobData> {
        let order = Order { id: flight.id, location, upto: usize::MAX, hash: true };
        order.check().map_err(|error| error.on(order.id, &location))?;
        let range = location.offset..location.offset.saturating_add(location.len_bytes);
        let bytes = order.sealed_bytes() + local_bytes(order.sealed_bytes(), &[order]);
        let mut grant = self.budget.reserve(bytes).await;
        // Not `read_local`: that one keeps files open, and a repaired file would not be seen.
        let sealed = self.fetch(location.pack, range).await?;
        self.metrics.blob_fetches.inc();
        let (done, result) = oneshot::channel();
        let (engine, kind) = (Arc::clone(self), flight.kind);
        self.cpu.push(
            Priority::Foreground,
            Box::new(move |decoder| {
                // The reader may have given up.
                drop(done.send(engine.decode_attempt(decoder, &order, kind, &sealed, &mut grant)));
            }),
        );
        let decoded = result.await.map_err(|_| RepoError::Cancelled)??;
        Ok(self.publish(flight, decoded, true))
    }

    fn decode_attempt(
        &self,
        decoder: &mut Decoder,
        order: &Order,
        kind: BlobKind,
        sealed: &[u8],
        grant: &mut Grant,
    ) -> RepoResult<Decoded> {
        let mut own = self.pool.take(sealed.len(), grant).ok_or(RepoError::Cancelled)?;
        own[..sealed.len()].copy_from_slice(sealed);
        let decoded = decoder
            .decode(&self.key, order, Sealed::Own(own), &self.pool, grant)
            .map_err(|error| error.on(order.id, &order.location))?;
        self.disk.put(&order.id, kind, sealed);
        Ok(decoded)
    }
}

/// Returns whether asking for the same bytes again is of no use.
fn is_gone(error: &RepoError) -> bool {
    matches!(error, RepoError::Backend(error) if matches!(error.kind, BackendErrorKind::NotFound | BackendErrorKind::Denied))
}

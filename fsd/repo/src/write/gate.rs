//! What stands between `rustic_core` and the store: every write and removal asks here first.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

use crate::error::{RepoError, RepoResult};
use crate::lock::Lease;

/// What becomes of the snapshots that `rustic_core` writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Snapshots {
    /// They are dropped: the caller writes its own once it knows that all ended well.
    Withhold,
    /// They are refused: this work writes none.
    Refuse,
}

/// Open until a stop, a lost lock, or the first write that failed; then shut for ever. Cheap to clone.
///
/// `rustic_core` goes on after some failures (a file whose chunks could not be stored is merely left out of its tree), so
/// the gate, not its result, says whether everything was stored.
#[derive(Debug, Clone)]
pub(crate) struct Gate(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    lease: Lease,
    snapshots: Snapshots,
    keep_tree_packs: bool,
    /// A leaf lock.
    state: Mutex<State>,
    idle: Condvar,
    shut: Notify,
}

#[derive(Debug, Default)]
struct State {
    shut: Option<RepoError>,
    in_flight: usize,
    tree_packs: Vec<Bytes>,
}

/// A write or removal under way.
#[derive(Debug)]
pub(crate) struct Pass<'a>(&'a Inner);

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.0.state.lock().in_flight -= 1;
        self.0.idle.notify_all();
    }
}

impl Gate {
    pub(crate) fn new(lease: Lease, snapshots: Snapshots) -> Self {
        Self::build(lease, snapshots, false)
    }

    /// A gate that keeps a copy of the packs of trees that passed: for work that writes few and small ones.
    pub(crate) fn keeping_tree_packs(lease: Lease, snapshots: Snapshots) -> Self {
        Self::build(lease, snapshots, true)
    }

    fn build(lease: Lease, snapshots: Snapshots, keep_tree_packs: bool) -> Self {
        let (state, idle, shut) = (Mutex::default(), Condvar::new(), Notify::new());
        Self(Arc::new(Inner { lease, snapshots, keep_tree_packs, state, idle, shut }))
    }

    /// A pack of trees passed.
    pub(crate) fn saw_tree_pack(&self, content: &Bytes) {
        if self.0.keep_tree_packs {
            self.0.state.lock().tree_packs.push(content.clone());
        }
    }

    /// Takes the packs of trees that passed.
    pub(crate) fn take_tree_packs(&self) -> Vec<Bytes> {
        std::mem::take(&mut self.0.state.lock().tree_packs)
    }

    /// Lets a write or removal through; the gate knows that it is under way until the pass is dropped.
    pub(crate) fn enter(&self) -> RepoResult<Pass<'_>> {
        let lease = self.0.lease.check();
        let mut state = self.0.state.lock();
        if let Err(error) = lease {
            state.shut.get_or_insert(error);
            self.0.shut.notify_waiters();
        }
        if let Some(reason) = &state.shut {
            return Err(reason.clone());
        }
        state.in_flight += 1;
        Ok(Pass(&self.0))
    }

    /// Shuts the gate; the first reason counts.
    pub(crate) fn shut(&self, reason: RepoError) {
        self.0.state.lock().shut.get_or_insert(reason);
        self.0.shut.notify_waiters();
    }

    /// Waits until the gate is shut.
    pub(crate) async fn wait_shut(&self) {
        loop {
            let shut = self.0.shut.notified();
            if self.check().is_err() {
                return;
            }
            shut.await;
        }
    }

    /// Fails with the reason once the gate is shut.
    pub(crate) fn check(&self) -> RepoResult<()> {
        self.0.state.lock().shut.as_ref().map_or(Ok(()), |reason| Err(reason.clone()))
    }

    /// Waits until no write or removal is under way. After a shut gate a write ends within [`super::adapter::LINGER`], a
    /// removal within one request's deadline.
    pub(crate) fn wait_idle(&self) {
        let mut state = self.0.state.lock();
        while state.in_flight > 0 {
            self.0.idle.wait(&mut state);
        }
    }

    pub(crate) fn snapshots(&self) -> Snapshots {
        self.0.snapshots
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_a_shut_gate_stays_shut_for_the_first_reason() {
        let gate = Gate::new(Lease::for_ever(), Snapshots::Refuse);
        let pass = gate.enter().unwrap();
        gate.shut(RepoError::Cancelled);
        gate.shut(RepoError::Deadline { seconds: 1 });
        assert!(matches!(gate.enter(), Err(RepoError::Cancelled)));
        assert!(matches!(gate.check(), Err(RepoError::Cancelled)));
        let waiter = std::thread::spawn({
            let gate = gate.clone();
            move || gate.wait_idle()
        });
        drop(pass);
        waiter.join().unwrap();
    }
}

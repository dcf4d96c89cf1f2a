//! Taking a volume away, whether it is served or waits to be.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::resume::Waiting;
use super::{Daemon, DaemonError, Volume, blocking};
use crate::keeper::message::Refusal;
use crate::keeper::{LinkError, Place, SessionName};

/// How long an unmounted session may take to end; one that is detached takes as long as its last open file.
const END_LIMIT: Duration = Duration::from_secs(5);

/// How a volume was unmounted.
pub(super) enum Unmounted {
    /// Nothing is mounted in its place, and its name is free.
    Gone,
    /// An overlay that was detached: its place is not free before its last file is closed.
    InUse,
}

impl Daemon {
    /// Unmounts at a place; that nothing is mounted there is no error.
    async fn unmount_at(&self, session: &SessionName, place: Option<&Place>, lazy: bool) -> Result<(), DaemonError> {
        let (link, session, place) = (self.inner.link.clone(), session.clone(), place.cloned());
        match blocking(move || link.unmount(&session, place.as_ref(), lazy)).await? {
            Ok(()) | Err(LinkError::Refused { kind: Refusal::NotFound, .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Unmounts a volume that waits to be served again, and lets go of its session with the last one.
    pub(super) async fn unmount_waiting(
        &self,
        name: &SessionName,
        Waiting { session, place, .. }: Waiting,
        lazy: bool,
    ) -> Result<(), DaemonError> {
        self.unmount_at(&session, place.as_ref(), lazy).await?;
        let is_last = {
            let mut left = self.inner.left.lock();
            let is_last = left.get_mut(&session).is_some_and(|left| {
                left.mounted.remove(name);
                left.mounted.is_empty()
            });
            if is_last {
                // Nobody goes on with it.
                left.remove(&session);
            }
            is_last
        };
        if !is_last {
            return Ok(());
        }
        let link = self.inner.link.clone();
        blocking(move || link.release(&session)).await
    }

    /// Unmounts a volume that is served; an error leaves it as it was.
    pub(super) async fn unmount_served(
        &self,
        Volume { spec, tree }: &Volume,
        lazy: bool,
    ) -> Result<Unmounted, DaemonError> {
        let turn = self.turn(spec);
        let _turn = match &turn {
            Some(turn) => Some(turn.lock().await),
            None => None,
        };
        self.unmount_at(&tree.session, Some(&spec.place), lazy).await?;
        let others = tree.others(&spec.name);
        if others.is_empty() && tree.fuse.ended_within(END_LIMIT).await {
            self.release(tree).await?;
            return Ok(Unmounted::Gone);
        }
        if spec.scratch_bytes.is_some() {
            tree.leaving.store(true, Relaxed);
            return Ok(Unmounted::InUse);
        }
        // Others show it; or it was detached in use, and is served and held until its last file is closed.
        let (link, own) = (self.inner.link.clone(), Arc::clone(tree));
        if let Err(error) = blocking(move || own.show(&link, others)).await?
            && !tree.fuse.has_ended()
        {
            tracing::warn!(volume = %spec.name, %error, "the keeper takes it for mounted");
        }
        Ok(Unmounted::Gone)
    }
}

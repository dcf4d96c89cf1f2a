//! Which objects have to be looked at: a set, so that an object that many things wake stands in it once.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;

use futures::Stream;
use kube::runtime::reflector::{Lookup, ObjectRef};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Objects of a kind that have to be looked at. It never holds more than there are, or were.
#[derive(Debug)]
pub struct Wakes<K: Lookup<DynamicType = ()> + 'static> {
    // Never held across an await.
    waiting: Mutex<HashSet<ObjectRef<K>>>,
    notify: Notify,
}

impl<K: Lookup<DynamicType = ()> + 'static> Default for Wakes<K> {
    fn default() -> Self {
        Self { waiting: Mutex::new(HashSet::new()), notify: Notify::new() }
    }
}

impl<K: Lookup<DynamicType = ()> + 'static> Wakes<K> {
    /// Has an object looked at.
    pub fn wake(&self, object: ObjectRef<K>) {
        if self.waiting.lock().insert(object) {
            self.notify.notify_one();
        }
    }

    fn next(&self) -> Option<ObjectRef<K>> {
        let mut waiting = self.waiting.lock();
        let next = waiting.iter().next().cloned()?;
        waiting.take(&next)
    }

    /// Returns the objects as they come. For one reader.
    pub fn stream(self: &Arc<Self>) -> impl Stream<Item = Result<ObjectRef<K>, Infallible>> + use<K> {
        futures::stream::unfold(Arc::clone(self), |wakes| async {
            loop {
                if let Some(next) = wakes.next() {
                    return Some((Ok(next), wakes));
                }
                wakes.notify.notified().await;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, StreamExt as _};
    use stash_crds::Repository;

    use super::*;

    #[test]
    fn test_an_object_waits_once() {
        let wakes = Arc::new(Wakes::<Repository>::default());
        let mut stream = Box::pin(wakes.stream());
        assert!(stream.next().now_or_never().is_none());
        for name in ["a", "b", "a"] {
            wakes.wake(ObjectRef::new(name).within("shop"));
        }
        let mut seen: Vec<String> = Vec::new();
        while let Some(Some(Ok(object))) = stream.next().now_or_never() {
            seen.push(object.name);
        }
        seen.sort();
        assert_eq!(seen, ["a", "b"]);
        wakes.wake(ObjectRef::new("a"));
        assert!(stream.next().now_or_never().is_some());
    }
}

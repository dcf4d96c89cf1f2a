//! One call for a volume at a time.
//!
//! CSI: "the CO SHOULD ensure that there are no other calls in flight to the plugin for a given volume", and a plugin that finds one all
//! the same "SHOULD return ABORTED". So nobody waits here: a second call is told to come back.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;

/// The keys that are held.
#[derive(Clone, Debug, Default)]
pub struct Locks(Arc<Mutex<BTreeSet<String>>>);

/// A key that is held until this is dropped.
#[derive(Debug)]
pub struct Held {
    locks: Locks,
    key: String,
}

impl Locks {
    /// Takes a key, unless somebody has it.
    pub fn try_hold(&self, key: &str) -> Option<Held> {
        self.0.lock().insert(key.to_owned()).then(|| Held { locks: self.clone(), key: key.to_owned() })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.locks.0.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_a_key_is_held_by_one() {
        let locks = Locks::default();
        let held = locks.try_hold("a").unwrap();
        assert!(locks.try_hold("a").is_none());
        assert!(locks.try_hold("b").is_some());
        drop(held);
        assert!(locks.try_hold("a").is_some());
    }
}

//! What a table of inodes takes of a memory budget that it shares with data.

use stash_repo::budget::{Budget, Staying};

/// What an inode takes: under 64 bytes of the process's memory, and 32 of the store.
const INODE_BYTES: usize = 96;
/// What is reserved at a time.
const STEP_BYTES: usize = 1 << 20;

/// The part of a budget that is reserved for a table.
#[derive(Debug)]
pub(crate) struct Room {
    budget: Budget,
    grants: Vec<Staying>,
}

impl Room {
    pub(crate) const fn new(budget: Budget) -> Self {
        Self { budget, grants: Vec::new() }
    }

    /// Returns whether a table of `inodes` may take in another one. A quarter of the budget is left to data, so that what the
    /// kernel holds can be read; what data has of the rest it gives back.
    pub(crate) fn admits(&mut self, inodes: u32) -> bool {
        let needed_bytes = (inodes as usize + 1).saturating_mul(INODE_BYTES);
        while self.grants.len().saturating_mul(STEP_BYTES) < needed_bytes {
            let most_bytes = self.budget.limit_bytes() / 4 * 3;
            let Some(grant) = self.budget.reserve_to_stay(STEP_BYTES, most_bytes) else { return false };
            self.grants.push(grant);
        }
        true
    }

    /// Gives back what a table of `inodes` does not need; a step is kept, so that a table that goes up and down does not.
    pub(crate) fn shrink(&mut self, inodes: u32) {
        let steps = (inodes as usize).saturating_mul(INODE_BYTES) / STEP_BYTES + 2;
        self.grants.truncate(steps);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_a_table_takes_and_gives_back() {
        let budget = Budget::new(32 << 20, std::sync::Arc::default());
        let mut room = Room::new(budget.clone());
        let fits = u32::try_from((24 << 20) / INODE_BYTES).unwrap();
        assert!(room.admits(0) && budget.used_bytes() == STEP_BYTES);
        assert!(room.admits(fits - 1) && !room.admits(fits), "a quarter is left to data");
        assert_eq!(budget.used_bytes(), 24 << 20);
        room.shrink(1_000);
        assert_eq!(budget.used_bytes(), 2 * STEP_BYTES);
        drop(room);
        assert_eq!(budget.used_bytes(), 0);
    }
}

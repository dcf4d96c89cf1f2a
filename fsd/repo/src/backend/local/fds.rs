//! File descriptors that stay open between reads, so that a read is one system call.

use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;

use parking_lot::Mutex;

use super::super::FileKind;
use crate::id::Id;

/// How many stay open. A soft limit of 1,024 descriptors is common; several mounts share a process.
const MAX_OPEN: usize = 128;

/// The most recently used open files.
#[derive(Debug, Default)]
pub(super) struct OpenFiles {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    files: HashMap<(FileKind, Id), (Arc<File>, u64)>,
    /// Counts uses; the file with the lowest was used longest ago.
    clock: u64,
}

impl OpenFiles {
    pub(super) fn get(&self, kind: FileKind, id: &Id) -> Option<Arc<File>> {
        let mut state = self.state.lock();
        state.clock += 1;
        let clock = state.clock;
        let (file, used) = state.files.get_mut(&(kind, *id))?;
        *used = clock;
        Some(Arc::clone(file))
    }

    pub(super) fn insert(&self, kind: FileKind, id: &Id, file: &Arc<File>) {
        let mut state = self.state.lock();
        state.clock += 1;
        let clock = state.clock;
        if state.files.len() >= MAX_OPEN && !state.files.contains_key(&(kind, *id)) {
            // Linear, but beside an open() and only when full.
            let oldest = state.files.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| *key);
            if let Some(oldest) = oldest {
                state.files.remove(&oldest);
            }
        }
        state.files.insert((kind, *id), (Arc::clone(file), clock));
    }

    pub(super) fn remove(&self, kind: FileKind, id: &Id) {
        self.state.lock().files.remove(&(kind, *id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_the_longest_unused_file_goes_first() {
        let open = OpenFiles::default();
        let file = Arc::new(tempfile::tempfile().unwrap());
        let id = |n: usize| Id::hash(&n.to_le_bytes());
        for n in 0..MAX_OPEN {
            open.insert(FileKind::Pack, &id(n), &file);
        }
        assert!(open.get(FileKind::Pack, &id(0)).is_some());
        open.insert(FileKind::Pack, &id(MAX_OPEN), &file);
        assert!(open.get(FileKind::Pack, &id(0)).is_some(), "used just before");
        assert!(open.get(FileKind::Pack, &id(1)).is_none(), "used longest ago");
        assert!(open.get(FileKind::Pack, &id(MAX_OPEN)).is_some());
        assert_eq!(Arc::strong_count(&file), MAX_OPEN + 1);
        open.remove(FileKind::Pack, &id(0));
        assert!(open.get(FileKind::Pack, &id(0)).is_none());
    }
}

#![no_main]

use libfuzzer_sys::fuzz_target;
use stash_repo::{Snapshot, SnapshotId};

fuzz_target!(|data: &[u8]| {
    let _ = Snapshot::parse(SnapshotId::default(), data);
});

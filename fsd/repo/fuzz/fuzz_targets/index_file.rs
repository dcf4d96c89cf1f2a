#![no_main]

use libfuzzer_sys::fuzz_target;
use stash_repo::format::index_file;

// Every entry that is let through lies inside of 32 bits of its pack.
fuzz_target!(|data: &[u8]| {
    let _ = index_file::parse(data, |blob| {
        assert!(blob.offset.checked_add(blob.len_bytes).is_some());
    });
});

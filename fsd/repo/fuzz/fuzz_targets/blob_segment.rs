#![no_main]

use libfuzzer_sys::fuzz_target;
use stash_repo::format::blob_segment::{self, RecordHeader};

// A segment of the disk cache that somebody else wrote: no panic.
fuzz_target!(|data: &[u8]| {
    if let Some(header) = data.first_chunk() {
        let _ = RecordHeader::decode(header).map(|header| header.next_offset(u32::MAX - 100));
    }
    if let Some((trailer, rest)) = data.split_first_chunk() {
        let _ = blob_segment::table_offset(trailer, rest.len() as u64);
    }
});

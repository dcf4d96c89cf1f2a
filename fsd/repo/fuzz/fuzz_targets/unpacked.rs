#![no_main]

use libfuzzer_sys::fuzz_target;
use stash_repo::format::unpacked;

const LIMIT_BYTES: usize = 1 << 20;

// However a frame lies about its length, no more than the limit comes out.
fuzz_target!(|data: &[u8]| {
    if let Ok(plain) = unpacked::decode(data, LIMIT_BYTES) {
        assert!(plain.len() <= LIMIT_BYTES.max(data.len()));
    }
});

#![no_main]

use libfuzzer_sys::fuzz_target;
use stash_repo::crypto::MasterKey;

// Bytes that nobody sealed with the key are never opened.
fuzz_target!(|data: &[u8]| {
    let key = MasterKey::from_parts(&mut [7; 64]);
    assert!(key.open_in_place(&mut data.to_vec()).is_err());
});

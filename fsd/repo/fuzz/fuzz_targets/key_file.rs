#![no_main]

use libfuzzer_sys::fuzz_target;
use stash_repo::key;

fuzz_target!(|data: &[u8]| {
    let _ = key::KeyFile::parse(data);
    let _ = key::parse_master_key(data);
});

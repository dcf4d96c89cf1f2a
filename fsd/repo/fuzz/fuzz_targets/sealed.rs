#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stash_repo_fuzz::sealed(data));

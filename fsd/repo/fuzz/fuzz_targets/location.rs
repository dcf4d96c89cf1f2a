#![no_main]

use libfuzzer_sys::fuzz_target;
use stash_repo::backend::location::Location;

fuzz_target!(|text: &str| {
    let _ = Location::parse(text);
});

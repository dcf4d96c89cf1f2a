#![no_main]

use libfuzzer_sys::fuzz_target;
use stash_repo::format::tree;

// A tree blob: no panic, memory bounded by the input, and every entry that is shown is one that a filesystem can show.
fuzz_target!(|data: &[u8]| {
    let Ok(tree) = tree::parse(data) else { return };
    assert!(tree.weight_bytes() <= 4096 + data.len() * 64);
    let mut last: Option<&[u8]> = None;
    for node in tree.iter() {
        let name = node.name();
        assert!(!name.is_empty() && name != b"." && name != b".." && !name.contains(&b'/') && !name.contains(&0));
        assert!(last.is_none_or(|last| last < name));
        assert_eq!(tree.find(name).map(|found| found.position), Some(node.position));
        assert!(node.mode() <= 0o7777);
        last = Some(name);
    }
});

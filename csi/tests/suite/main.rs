//! Checks of what is generated.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod generate;

#[test]
fn test_the_generated_code_is_that_of_the_messages() {
    let folder = tempfile::tempdir().unwrap();
    generate::write(folder.path()).unwrap();
    for name in generate::FILES {
        let made = std::fs::read_to_string(folder.path().join(name)).unwrap();
        let committed = std::fs::read_to_string(generate::folder().join(name)).unwrap();
        assert!(made == committed, "csi/proto/{name} is stale: make csi-proto");
    }
}

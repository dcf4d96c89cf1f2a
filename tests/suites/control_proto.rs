//! The checked-in messages of the control API are what their definition says.
//!
//! `STASH_FS_WRITE_GOLDEN=1` writes them anew.

use std::path::Path;

#[test]
fn test_generated_messages_are_not_stale() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("fsd/control");
    let out = tempfile::tempdir().unwrap();
    let definition = protox::compile(["control.proto"], [folder.join("proto")]).unwrap();
    tonic_prost_build::configure()
        .build_transport(false)
        .btree_map(".")
        // It holds secrets: the crate shows it itself.
        .skip_debug(["stash.fs.control.v1.Repository"])
        .out_dir(out.path())
        .compile_fds(definition)
        .unwrap();
    let generated = std::fs::read_to_string(out.path().join("stash.fs.control.v1.rs")).unwrap();
    let path = folder.join("src/generated.rs");
    if std::env::var_os("STASH_FS_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, &generated).unwrap();
    }
    let checked_in = std::fs::read_to_string(&path).unwrap();
    assert!(generated == checked_in, "{} is stale (CONTRIBUTING.md says how it is written anew)", path.display());
}

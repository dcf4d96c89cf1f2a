//! The kept inputs of the fuzz targets, through the same checks that libFuzzer makes of any input: `make fuzz` finds them, and
//! everybody runs them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

#[path = "../../fsd/repo/fuzz/src/lib.rs"]
#[allow(unreachable_pub, dead_code, reason = "a library of another workspace")]
mod checks;

/// All inputs of a target; more would make every clone of the repository pay.
const MOST_BYTES: u64 = 16 << 10;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("fsd/repo/fuzz")
}

fn names(folder: &Path) -> BTreeSet<String> {
    let stem = |path: PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
    std::fs::read_dir(folder).unwrap().map(|entry| stem(entry.unwrap().path())).collect()
}

#[test]
fn test_every_kept_input_passes_its_target() {
    for (name, check) in checks::TARGETS {
        let folder = fuzz().join("corpus").join(name);
        let (mut files, mut bytes) = (0, 0);
        for entry in std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.unwrap().path();
            let input = std::fs::read(&path).unwrap();
            (files, bytes) = (files + 1, bytes + input.len() as u64);
            let passed = std::panic::catch_unwind(|| check(&input));
            assert!(passed.is_ok(), "{} fails target {name}", path.display());
        }
        assert!(files > 2 && bytes <= MOST_BYTES, "{name}: {files} inputs of {bytes} bytes");
    }
}

#[test]
fn test_every_target_is_built_and_has_inputs() {
    let targets: BTreeSet<String> = checks::TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(&fuzz().join("fuzz_targets")), targets);
    assert_eq!(names(&fuzz().join("corpus")), targets);
    let manifest = std::fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    for name in &targets {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name} is not built");
    }
}

//! The arrows between the crates, the licences of what we depend on, and the documents' links.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use stash_tests::fixture::run;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// What is built here: of other platforms nothing was downloaded.
fn metadata() -> Value {
    let host = run(Command::new("rustc").args(["--print", "host-tuple"]).current_dir(root()));
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", host.trim()])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The direct, ordinary dependencies of each crate of ours.
fn direct(metadata: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let members: BTreeSet<&str> =
        metadata["workspace_members"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
    metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|package| members.contains(package["id"].as_str().unwrap()))
        .map(|package| {
            let dependencies = package["dependencies"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|d| d["kind"].is_null())
                .map(|d| d["name"].as_str().unwrap().to_owned())
                .collect();
            (package["name"].as_str().unwrap().to_owned(), dependencies)
        })
        .collect()
}

#[test]
fn test_arrows_between_crates_point_down() {
    let direct = direct(&metadata());
    let only = |dependency: &str, allowed: &[&str]| {
        for (name, dependencies) in &direct {
            assert!(
                !dependencies.contains(dependency) || allowed.contains(&name.as_str()) || name == "stash-tests",
                "{name} must not depend on {dependency}"
            );
        }
    };
    only("stash-fs", &["stash-kubectl"]);
    only("stash-proto", &["stash-fs", "stash-csi", "stash-controller", "stash-kubectl"]);
    only("stash-control", &["stash-fs", "stash-csi"]);
    for crate_of_messages in ["tonic", "tonic-prost", "prost"] {
        only(crate_of_messages, &["stash-control", "stash-csi"]);
    }
    only("stash-vfs", &["stash-fs"]);
    only("stash-repo", &["stash-controller", "stash-fs", "stash-vfs"]);
    only("fuser", &["stash-fs"]);
    only("rustic_core", &["stash-repo"]);
    only("opendal", &["stash-repo"]);
    only("reqwest", &["stash-repo"]);
    only("clap", &["stash-controller", "stash-csi", "stash-fs", "stash-kubectl"]);
    only("stash-csi", &["stash-kubectl"]);
    only("stash-kubectl", &[]);
    only("stash-controller", &[]);
    only("stash-crds", &["stash-controller", "stash-csi", "stash-kubectl"]);
    for crate_of_kubernetes in ["kube", "k8s-openapi", "schemars"] {
        only(crate_of_kubernetes, &["stash-crds", "stash-controller", "stash-csi", "stash-kubectl"]);
    }
    // Whoever asks what a Job takes gets no repository with it.
    let light = ["serde", "serde_json", "thiserror"].map(str::to_owned).into();
    assert!(direct["stash-proto"].is_subset(&light), "{:?}", direct["stash-proto"]);
}

#[test]
fn test_fuser_is_named_in_the_adapter_only() {
    let mut stack = vec![root().join("fsd/src")];
    while let Some(dir) = stack.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                stack.push(path);
                continue;
            }
            let inside = path.strip_prefix(root().join("fsd/src")).unwrap().to_string_lossy().into_owned();
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(inside.starts_with("fuse") || !text.contains("fuser::"), "{inside} names fuser");
        }
    }
}

#[test]
fn test_one_version_of_opendal_and_no_forbidden_licence() {
    let metadata = metadata();
    let mut opendal = BTreeSet::new();
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        if name == "opendal" || name == "opendal-core" {
            opendal.insert((name.to_owned(), package["version"].as_str().unwrap().to_owned()));
        }
        let licence = package["license"].as_str().unwrap_or_default();
        // Alternatives are joined by OR: one that we may use is enough.
        let usable = licence.split(" OR ").flat_map(|l| l.split('/')).any(|choice| {
            choice.split(" AND ").map(|l| l.trim().trim_matches(['(', ')'])).all(|l| {
                [
                    "0BSD",
                    "Apache-2.0",
                    "Apache-2.0 WITH LLVM-exception",
                    "BSD-1-Clause",
                    "BSD-2-Clause",
                    "BSD-3-Clause",
                    "BSL-1.0",
                    "CC0-1.0",
                    "CDLA-Permissive-2.0",
                    "ISC",
                    "MIT",
                    "MIT-0",
                    "MPL-2.0",
                    "Unicode-3.0",
                    "Unlicense",
                    "WTFPL",
                    "Zlib",
                ]
                .contains(&l)
            })
        });
        assert!(usable, "{name}: licence {licence:?}");
    }
    assert_eq!(opendal.len(), 2, "{opendal:?}");
}

#[test]
fn test_links_of_the_documents_lead_somewhere() {
    let mut files = vec![root().join("README.md"), root().join("CONTRIBUTING.md"), root().join("CHANGELOG.md")];
    for dir in ["docs", "docs/design"] {
        let entries = std::fs::read_dir(root().join(dir)).unwrap().map(|e| e.unwrap().path());
        files.extend(entries.filter(|p| p.extension().is_some_and(|e| e == "md")));
    }
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("http") || link.starts_with('#') {
                continue;
            }
            let target = file.parent().unwrap().join(link.split('#').next().unwrap());
            assert!(target.exists(), "{} links to {link}", file.display());
        }
    }
}

#[test]
fn test_every_suite_is_in_the_binary() {
    let main = std::fs::read_to_string(root().join("tests/suites/main.rs")).unwrap();
    for entry in std::fs::read_dir(root().join("tests/suites")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if path.extension().is_some_and(|e| e == "rs") && name != "main" {
            assert!(main.contains(&format!("mod {name};")), "tests/suites/{name}.rs is in no binary");
        }
    }
}

/// The claims of docs/semantics.md name tests as `suite::test_...` or, within a crate, `module::tests::test_...`.
#[test]
fn test_every_claim_has_its_test() {
    let places = ["tests/suites", "fsd/src", "fsd/control/src", "fsd/proto/src", "fsd/repo/src", "fsd/vfs/src"]
        .map(|place| root().join(place));
    let text = std::fs::read_to_string(root().join("docs/semantics.md")).unwrap();
    let mut found = BTreeSet::new();
    for name in text.split('`').skip(1).step_by(2) {
        let Some((modules, test)) = name.rsplit_once("::").filter(|(_, test)| test.contains("test_")) else { continue };
        let modules: Vec<&str> = modules.split("::").collect();
        // A module is a file, or a part of the file of a module above it.
        let mut files = (1..=modules.len()).map(|depth| format!("{}.rs", modules[..depth].join("/")));
        let found_in = |file: String| {
            let mut texts = places.iter().filter_map(|place| std::fs::read_to_string(place.join(&file)).ok());
            texts.any(|text| text.contains(&format!("fn {test}(")))
        };
        assert!(files.any(found_in), "docs/semantics.md names `{name}`, which is nowhere");
        found.insert(name);
    }
    assert!(found.len() > 30, "only {} claims name a test: {found:?}", found.len());
}

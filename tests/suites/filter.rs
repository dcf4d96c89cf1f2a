//! Our patterns against Debian's restic: the same tree, the same patterns, the same files restored.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use stash_tests::fixture::run;
use stash_tests::restic::Restic;

use crate::cli::ours;

/// Paths below `root` that are no directories: restic 0.14 also makes directories that nothing was restored into.
fn files(root: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut stack = vec![root.to_owned()];
    while let Some(dir) = stack.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                stack.push(entry.path());
            } else {
                found.insert(entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found
}

#[test]
fn test_patterns_select_what_restic_selects() {
    let source = tempfile::tempdir().unwrap();
    for path in [
        "top.txt",
        "TOP.TXT",
        "a/one.c",
        "a/one.o",
        "a/b/one.c",
        "a/b/two.C",
        "a/b/c/three.c",
        "a/b/c/keep.o",
        "b/a/x",
        "b/one.c",
        "foo/bar/baz",
        "foo/baz",
        "foo/x/bar/y/baz",
        "tmp/cache/x",
        "tmp/keep/x",
        "star*name",
        "br[ack]et",
        "ümlaut/ÄÖ",
        "dir.d/file",
        ".hidden/.file",
        "a b/c d",
        "deep/1/2/3/4/5/file",
    ] {
        let path = source.path().join("t").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, path.to_str().unwrap()).unwrap();
    }
    let restic = Restic::init();
    let id = {
        let mut command = restic.command();
        command.current_dir(source.path()).args(["backup", "--json", "t"]);
        run(&mut command)
    };
    assert!(id.contains("snapshot_id"));

    let table: &[(&str, &[&str])] = &[
        ("include", &["*.c"]),
        ("include", &["one.c", "top.txt"]),
        ("include", &["/t/a"]),
        ("include", &["/t/a/"]),
        ("include", &["a"]),
        ("include", &["a/b"]),
        ("include", &["/t/*/one.c"]),
        ("include", &["/t/**/one.c"]),
        ("include", &["/t/foo/**/baz"]),
        ("include", &["**/b*/**"]),
        ("include", &["foo/**/bar/**/baz"]),
        ("include", &["/t/foo/**/bar/**/baz"]),
        ("include", &["**"]),
        ("include", &["*"]),
        ("include", &["/t/foo/../a/one.c"]),
        ("include", &["?op.txt"]),
        ("include", &["[a-f]oo"]),
        ("include", &["[^a]*.c"]),
        ("include", &["star\\*name"]),
        ("include", &["br\\[ack\\]et"]),
        ("include", &["ü*"]),
        ("include", &["?mlaut/??"]),
        ("include", &[".*"]),
        ("include", &["a b"]),
        ("include", &["deep/**/4"]),
        ("include", &["nothing"]),
        ("include", &["*.c", "!one.c"]),
        ("include", &["/t/a", "!/t/a/b", "/t/a/b/c"]),
        ("iinclude", &["TOP.txt"]),
        ("iinclude", &["*.C"]),
        ("iinclude", &["ÜMLAUT"]),
        ("exclude", &["*.c"]),
        ("exclude", &["a"]),
        ("exclude", &["/t/a/b"]),
        ("exclude", &["/t/**/baz"]),
        ("exclude", &["a/**/c"]),
        ("exclude", &["*", "!top.txt"]),
        ("exclude", &["/t/tmp/*", "!/t/tmp/keep"]),
        ("exclude", &["*.o", "!keep.o"]),
        ("exclude", &["[ab]"]),
        ("exclude", &["**/x"]),
        ("exclude", &["foo/**"]),
        ("iexclude", &["*.c"]),
        ("iexclude", &["äö"]),
    ];
    let out = tempfile::tempdir().unwrap();
    let mut differ = Vec::new();
    for (number, (option, patterns)) in table.iter().enumerate() {
        let theirs = out.path().join(format!("theirs{number}"));
        let our = out.path().join(format!("ours{number}"));
        let arguments: Vec<String> =
            patterns.iter().flat_map(|pattern| [format!("--{option}"), (*pattern).to_owned()]).collect();
        run(restic.command().args(["restore", "latest", "--target"]).arg(&theirs).args(&arguments));
        run(ours(&restic).args(["restore", "latest", "--target"]).arg(&our).args(&arguments));
        let (theirs, our) = (files(&theirs), files(&our));
        if theirs != our {
            differ.push(format!("{option} {patterns:?}: restic {theirs:?}, ours {our:?}"));
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}

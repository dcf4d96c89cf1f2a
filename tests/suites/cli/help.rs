//! The command line as `--help` shows it, compared with files, so that a change of it is seen in review.
//!
//! `STASH_FS_WRITE_GOLDEN=1` writes the files anew.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::CommandFactory as _;
use stash_tests::mounted::{clean, sibling};

use super::outcome;

/// What stands before the options that every verb has: they are shown once, with the program itself.
const SHARED: &str = "\nOptions of every verb:\n";

/// All verbs and verbs of verbs, as words.
fn verbs(command: &clap::Command, above: &[String], into: &mut Vec<Vec<String>>) {
    for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
        let words = [above, &[verb.get_name().to_owned()]].concat();
        into.push(words.clone());
        verbs(verb, &words, into);
    }
}

#[test]
fn test_help_is_as_the_golden_files_show_it() {
    compare("stash-fs", "help", &stash_fs::cli::Cli::command(), 25);
}

#[test]
fn test_help_is_as_the_golden_files_show_it_of_kubectl_stash() {
    compare("kubectl-stash", "help-kubectl-stash", &stash_kubectl::Cli::command(), 8);
}

fn compare(program: &str, folder: &str, command: &clap::Command, least: usize) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(folder);
    let write = std::env::var_os("STASH_FS_WRITE_GOLDEN").is_some();
    let mut calls = vec![Vec::new()];
    verbs(command, &[], &mut calls);
    assert!(calls.len() > least, "{calls:?}");
    let mut wanted = BTreeSet::new();
    for words in &calls {
        let mut call = clean(std::process::Command::new(sibling(program)));
        let (code, stdout, stderr) = outcome(call.env("COLUMNS", "100").args(words).arg("--help"));
        assert_eq!((code, stderr.as_str()), (0, ""), "{words:?}");
        let shown = if words.is_empty() { stdout } else { without_shared(&stdout) };
        let name = if words.is_empty() { program.to_owned() } else { words.join("-") };
        let path = folder.join(format!("{name}.txt"));
        if write {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&path, &shown).unwrap();
        }
        let golden = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(
            shown,
            golden,
            "{} differs: if that is meant, write it anew (CONTRIBUTING.md says how)",
            path.display()
        );
        wanted.insert(path);
    }
    let found: BTreeSet<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(found, wanted, "a file of no verb");
}

/// Takes the options of every verb out. They are indented, and what follows them is not.
fn without_shared(help: &str) -> String {
    let (own, rest) = help.split_once(SHARED).unwrap_or_else(|| panic!("{SHARED} is not in {help}"));
    let after = rest.split_inclusive('\n').skip_while(|line| line.trim().is_empty() || line.starts_with(' '));
    std::iter::once(own).chain(after).collect()
}

//! The reading verbs against Debian's restic on the same repositories, and what every verb shares.

mod archive;
mod help;
mod output;
mod shared;

use std::process::{Command, Output};

use serde_json::Value;
use stash_tests::mounted::stash_fs;
use stash_tests::restic::Restic;

/// Our program on restic's repository.
pub(crate) fn ours(restic: &Restic) -> Command {
    let mut command = stash_fs();
    command.args(["--no-cache", "--repo"]).arg(restic.path()).env("RESTIC_PASSWORD", restic.password());
    command
}

/// Runs a command that must succeed; returns its standard output.
pub(crate) fn text(command: &mut Command) -> String {
    stash_tests::fixture::run(command)
}

/// Runs a command; returns its exit code, standard output and standard error.
pub(crate) fn outcome(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

/// Parses lines of JSON.
pub(crate) fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

//! Repositories made by Debian's restic.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::mounted::{MountBuilder, Mounted, clean};

/// A repository in a directory, and restic to work on it.
#[derive(Debug)]
pub struct Restic {
    folder: TempDir,
    repository: String,
    password: String,
}

impl Restic {
    /// Makes a repository of format 2 in a new directory.
    #[must_use]
    pub fn init() -> Self {
        Self::init_with(&["--repository-version", "2"])
    }

    /// Makes a repository in a new directory, with further arguments of `restic init`.
    #[must_use]
    pub fn init_with(arguments: &[&str]) -> Self {
        let folder = TempDir::with_prefix("stash-fs-restic-").unwrap();
        let repository = folder.path().join("repository").to_str().unwrap().to_owned();
        let restic = Self { folder, repository, password: "test password".to_owned() };
        restic.run(["init"].iter().chain(arguments));
        restic
    }

    /// Makes a repository of this format in a new directory, with our program.
    #[must_use]
    pub fn init_with_ours(version: &str) -> Self {
        let folder = TempDir::with_prefix("stash-fs-ours-").unwrap();
        let repository = folder.path().join("repository").to_str().unwrap().to_owned();
        let ours = Self { folder, repository, password: "test password".to_owned() };
        ours.stash_fs(["init", "--repository-version", version]);
        ours
    }

    /// Returns a call of our program on the repository, without a cache.
    #[must_use]
    pub fn stash_fs_command(&self) -> Command {
        let mut command = crate::mounted::stash_fs();
        command.args(["--no-cache", "--repo", &self.repository]).env("RESTIC_PASSWORD", &self.password);
        command
    }

    /// Runs our program, and returns its standard output; panics where it fails.
    pub fn stash_fs<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> String {
        crate::fixture::run(self.stash_fs_command().args(arguments))
    }

    /// Returns the names of all files of a kind (`locks`, `snapshots`, `index`, `keys`, `data`).
    #[must_use]
    pub fn files(&self, kind: &str) -> Vec<String> {
        let mut names = Vec::new();
        let mut folders = vec![self.path().join(kind)];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_dir() {
                    folders.push(entry.path());
                } else {
                    names.push(entry.file_name().into_string().unwrap());
                }
            }
        }
        names.sort();
        names
    }

    /// Lets restic read and check everything.
    pub fn check_all(&self) {
        self.run(["check", "--read-data"]);
    }

    /// Returns the snapshots as restic lists them.
    #[must_use]
    pub fn snapshots(&self) -> Vec<serde_json::Value> {
        let text = self.run(["snapshots", "--json", "--no-lock"]);
        serde_json::from_str::<Option<Vec<_>>>(&text).unwrap().unwrap_or_default()
    }

    /// Returns the paths and sizes of a snapshot's entries as restic lists them.
    #[must_use]
    pub fn entries(&self, snapshot: &str) -> std::collections::BTreeMap<String, serde_json::Value> {
        let text = self.run(["ls", "--json", "--no-lock", snapshot]);
        let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        lines
            .filter(|line| line["struct_type"] == "node")
            .map(|line| (line["path"].as_str().unwrap().to_owned(), line))
            .collect()
    }

    /// Returns the repository's directory.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(&self.repository)
    }

    /// Returns the password.
    #[must_use]
    pub fn password(&self) -> &str {
        &self.password
    }

    /// Returns a folder that is gone with the repository.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        self.folder.path()
    }

    /// Writes the password into a file, and returns it.
    #[must_use]
    pub fn password_file(&self) -> PathBuf {
        let path = self.folder.path().join("password");
        std::fs::write(&path, &self.password).unwrap();
        path
    }

    /// Returns a call of restic on the repository, without a cache.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = clean(Command::new("restic"));
        command.args(["--no-cache", "--quiet", "--repo", &self.repository]).env("RESTIC_PASSWORD", &self.password);
        command
    }

    /// Runs restic, and returns its standard output; panics where it fails.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> String {
        let output = self.command().args(arguments).output().expect("Debian's restic is installed");
        text_of(output)
    }

    /// Backs up directories, and returns the snapshot's id as restic prints it: of 0.14 only the beginning.
    pub fn backup<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> String {
        let output = self.command().args(["backup", "--json"]).args(arguments).output().expect("restic is installed");
        let text = text_of(output);
        let summary = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let id = summary.filter_map(|line| line["snapshot_id"].as_str().map(str::to_owned)).next_back();
        id.unwrap_or_else(|| panic!("restic named no snapshot: {text}"))
    }

    /// Prepares a mount of it.
    #[must_use]
    pub fn mount(&self) -> MountBuilder {
        Mounted::builder(&self.repository, &self.password)
    }
}

fn text_of(output: Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "restic ended with {}: {stderr}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

//! From restic's flags of `backup` and `restore`, as a user wrote them in `spec.target.args`, to what ours can be asked for.
//!
//! Stash appends `args` to restic's command line, so they are read as restic's own parser reads them (spf13/pflag):
//! `--flag value`, `--flag=value`, `-f value`, `-fvalue`, `-f=value`, short flags without values together. Every flag that
//! restic 0.17 has at the verb stands in its table (`flags`, `restore`): mapped, without effect here, or refused with the reason.
//! Nothing is left out silently. Pure: a controller asks here before it makes a Job.

mod flags;
mod restore;
mod table;
mod value;

use std::collections::BTreeMap;
use std::time::Duration;

pub use restore::{Overwrite, RestoreFlags, parse_restore};
use table::{Flag, Kind, Rule, Verb};

/// What a user's flags ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "restic's flags")]
pub struct BackupFlags {
    /// `--exclude`.
    pub exclude: Vec<String>,
    /// `--iexclude`.
    pub iexclude: Vec<String>,
    /// `--exclude-caches`.
    pub exclude_caches: bool,
    /// `--exclude-if-present`, each `NAME` or `NAME:HEADER`.
    pub exclude_if_present: Vec<String>,
    /// `--exclude-larger-than`, in bytes.
    pub exclude_larger_than: Option<u64>,
    /// `--one-file-system`.
    pub one_file_system: bool,
    /// `--with-atime`.
    pub with_atime: bool,
    /// `--ignore-inode`.
    pub ignore_inode: bool,
    /// `--ignore-ctime`.
    pub ignore_ctime: bool,
    /// `--tag`.
    pub tags: Vec<String>,
    /// `--time`, as `2012-11-01 22:08:41`.
    pub time: Option<String>,
    /// `--parent`.
    pub parent: Option<String>,
    /// `--force`.
    pub force: bool,
    /// `--group-by`.
    pub group_by: Option<GroupBy>,
    /// `--skip-if-unchanged`.
    pub skip_if_unchanged: bool,
    /// `--read-concurrency`.
    pub read_concurrency: Option<u32>,
    /// `--no-extra-verify`.
    pub no_extra_verify: bool,
    /// `--compression`.
    pub compression: Option<Compression>,
    /// `--pack-size`, in MiB.
    pub pack_size_mib: Option<u32>,
    /// `--limit-upload`, in KiB a second.
    pub limit_upload_kib: Option<u64>,
    /// `--limit-download`, in KiB a second.
    pub limit_download_kib: Option<u64>,
    /// `--key-hint`.
    pub key_hint: Option<String>,
    /// `--retry-lock`.
    pub retry_lock: Option<Duration>,
    /// `--option`.
    pub options: BTreeMap<String, String>,
}

/// What the parent must have in common with the new snapshot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GroupBy {
    /// The host.
    pub host: bool,
    /// The paths.
    pub paths: bool,
    /// The tags.
    pub tags: bool,
}

/// restic's compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Where the format can, at zstd's default level.
    Auto,
    /// Not at all.
    Off,
    /// As small as it gets.
    Max,
}

/// The flags that were refused, at least one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", shown(.refused))]
pub struct ArgsError {
    /// Each of them.
    pub refused: Vec<Refused>,
}

fn shown(refused: &[Refused]) -> String {
    refused.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// A flag that was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{flag}: {reason}")]
pub struct Refused {
    /// Its name, as `--stdin`; of a word that is no flag the word.
    pub flag: String,
    /// Why, and what to do instead.
    pub reason: String,
}

static BACKUP: Verb<BackupFlags> = Verb { name: "backup", place: "spec.target.paths", flags: flags::FLAGS };

/// Reads a user's flags of `backup`.
///
/// # Errors
/// Each flag that is not mapped, and each value that is wrong. After a flag that nobody knows the rest is not read: it may
/// be its value.
pub fn parse(args: &[String]) -> Result<BackupFlags, ArgsError> {
    read(&BACKUP, args)
}

fn read<F: Default + 'static>(verb: &'static Verb<F>, args: &[String]) -> Result<F, ArgsError> {
    let mut parser = Parser { verb, rest: args.iter(), flags: F::default(), refused: Vec::new() };
    while let Some(word) = parser.rest.next() {
        if !parser.word(word) {
            break;
        }
    }
    if parser.refused.is_empty() { Ok(parser.flags) } else { Err(ArgsError { refused: parser.refused }) }
}

struct Parser<'a, F: 'static> {
    verb: &'static Verb<F>,
    rest: std::slice::Iter<'a, String>,
    flags: F,
    refused: Vec<Refused>,
}

/// The most of a word that a message shows.
const SHOWN_CHARS: usize = 64;

impl<'a, F: 'static> Parser<'a, F> {
    /// Takes a word; false if what follows cannot be read.
    fn word(&mut self, word: &'a str) -> bool {
        if let Some(long) = word.strip_prefix("--").filter(|long| !long.is_empty()) {
            return self.long(long);
        }
        match word.strip_prefix('-').filter(|short| !short.is_empty() && !short.starts_with('-')) {
            Some(shorts) => self.shorts(shorts),
            None => {
                let place = self.verb.place;
                let reason = if word == "--" {
                    format!("what would follow it are paths; they belong into {place}")
                } else {
                    format!("it is no flag, and paths belong into {place}")
                };
                self.refuse(word, &reason);
                true
            }
        }
    }

    fn long(&mut self, word: &'a str) -> bool {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word, None),
        };
        match self.verb.long(name) {
            Some(flag) => self.take(flag, value),
            None => self.unknown(&format!("--{name}")),
        }
    }

    fn shorts(&mut self, word: &'a str) -> bool {
        let mut rest = word;
        while let Some(letter) = rest.chars().next() {
            rest = &rest[letter.len_utf8()..];
            let Some(flag) = self.verb.short(letter) else { return self.unknown(&format!("-{letter}")) };
            // As pflag: `-n=false` is a value also where none is needed, `-efoo` only where one is.
            let value = match rest.strip_prefix('=') {
                Some(value) => Some(value),
                None if flag.kind == Kind::Value && !rest.is_empty() => Some(rest),
                None => None,
            };
            if !self.take(flag, value) {
                return false;
            }
            if value.is_some() {
                return true;
            }
        }
        true
    }

    fn unknown(&mut self, flag: &str) -> bool {
        let reason = match flag.split_once(char::is_whitespace) {
            Some(_) => "a flag and its value are two items of args, or one with `=` between them".to_owned(),
            None => format!("restic 0.17 has no such flag at `{}`", self.verb.name),
        };
        self.refuse(flag, &reason);
        false
    }

    /// Takes a flag, with the value that stood in the same word.
    fn take(&mut self, flag: &'static Flag<F>, value: Option<&'a str>) -> bool {
        let name = format!("--{}", flag.name);
        let value = match (flag.kind, value) {
            (_, Some(value)) => value,
            (Kind::Switch, None) => "true",
            (Kind::Count, None) => "1",
            (Kind::Value, None) => match self.rest.next() {
                Some(value) => value,
                None => {
                    self.refuse(&name, "it needs a value");
                    return false;
                }
            },
        };
        let result = match flag.rule {
            Rule::Refused(reason) => {
                // A switch that is off asks for nothing.
                if flag.kind == Kind::Switch && value::switch(value) == Ok(false) { Ok(()) } else { Err(reason.into()) }
            }
            Rule::WithoutEffect => match flag.kind {
                Kind::Switch => value::switch(value).map(drop),
                Kind::Count | Kind::Value => Ok(()),
            },
            Rule::Mapped(set) => set(&mut self.flags, value),
        };
        if let Err(reason) = result {
            self.refuse(&name, &reason);
        }
        true
    }

    fn refuse(&mut self, flag: &str, reason: &str) {
        let flag = flag.chars().take(SHOWN_CHARS).filter(|c| !c.is_control()).collect();
        self.refused.push(Refused { flag, reason: reason.to_owned() });
    }
}

#[cfg(test)]
mod tests;

//! restic's patterns for `--include` and `--exclude`, here for backup, restore and find alike.
//!
//! A pattern is a path whose components are globs (Go's `filepath.Match`: `*`, `?`, `[a-z]`, `[^a-z]`, `\x`), and whose
//! component `**` stands for any number of directories, also none. One that begins with `/` is matched from the root, any
//! other at every place of a path. A pattern that matches a directory matches all below it. In a list the last word counts:
//! a pattern that begins with `!` takes back what those before it matched.
//!
//! Source: restic 0.14, `internal/filter/filter.go` and `doc/040_backup.rst` ("Excluding Files"); proved by a run against
//! Debian's restic in `tests/suites/filter.rs`. Paths are bytes: a name need not be UTF-8.

mod glob;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use glob::Glob;
use stash_repo::write::source::Exclude;

/// A pattern that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("pattern `{pattern}`: {reason}")]
pub struct PatternError {
    /// The pattern.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// One component of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// The `/` that an absolute pattern begins with.
    Root,
    /// `**`
    AnyDepth,
    /// A name or a glob.
    Name(Glob),
}

impl Part {
    fn matches(&self, component: Component<'_>) -> bool {
        match (self, component) {
            (Self::Root, Component::Root) => true,
            (Self::Name(glob), Component::Name(name)) => glob.matches(name),
            // A glob of stars alone is asked for the root where `**` stands between it and the root: it never fits.
            _ => false,
        }
    }
}

/// One component of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Component<'a> {
    Root,
    Name(&'a [u8]),
}

fn components(path: &[u8]) -> Vec<Component<'_>> {
    let absolute = path.first() == Some(&b'/');
    let mut list: Vec<_> = path.split(|&b| b == b'/').map(Component::Name).collect();
    if absolute {
        list[0] = Component::Root;
    }
    list
}

/// One parsed pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern {
    parts: Vec<Part>,
    negated: bool,
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, PatternError> {
        let (negated, body) = match text.strip_prefix('!') {
            Some(body) => (true, body),
            None => (false, text),
        };
        let clean = clean(body);
        let mut parts = Vec::new();
        for (i, part) in clean.split('/').enumerate() {
            parts.push(match part {
                "" if i == 0 => Part::Root,
                "**" => Part::AnyDepth,
                part => Part::Name(
                    Glob::parse(part.as_bytes()).map_err(|reason| PatternError { pattern: text.to_owned(), reason })?,
                ),
            });
        }
        Ok(Self { parts, negated })
    }

    fn is_absolute(&self) -> bool {
        self.parts.first() == Some(&Part::Root)
    }

    /// Returns whether the pattern fits the path or a directory above it.
    fn matches(&self, path: &[Component<'_>]) -> bool {
        // An absolute pattern fits at the root alone, any other at every place below the root.
        let places =
            if self.is_absolute() { 0..=0 } else { usize::from(path.first() == Some(&Component::Root))..=path.len() };
        places.into_iter().any(|place| self.matches_at(path, place))
    }

    /// Returns whether the pattern fits the components from `place` on.
    ///
    /// What stands between two `**` fits at the earliest place best: all that follows may come later. restic replaces one
    /// `**` after the other by stars, and gives up where the pattern, each `**` that is left counted as one, has more
    /// components than the whole path: so `/a/**/b/**/c` does not fit `/a/b/c`, and that is kept.
    fn matches_at(&self, path: &[Component<'_>], place: usize) -> bool {
        let mut length = self.parts.len();
        let mut at = place;
        let mut fitted = 0;
        for (i, run) in self.parts.split(|part| *part == Part::AnyDepth).enumerate() {
            let Some(found) = find_run(run, path, at, i == 0) else { return false };
            if i > 0 {
                length = length - 1 + (found - at);
                if length > path.len() {
                    return false;
                }
            }
            at = found + run.len();
            fitted += run.len();
        }
        // `**` alone stands for nothing or more, but an empty pattern fits nothing.
        fitted > 0 || at < path.len()
    }

    /// Returns whether something below the path may fit.
    fn may_match_below(&self, path: &[Component<'_>]) -> bool {
        !self.is_absolute()
            || self
                .parts
                .iter()
                .take_while(|part| **part != Part::AnyDepth)
                .zip(path)
                .all(|(part, component)| part.matches(*component))
    }
}

/// Finds the first place from `at` on where all parts of `run` fit, or looks at `at` alone.
fn find_run(run: &[Part], path: &[Component<'_>], at: usize, anchored: bool) -> Option<usize> {
    let last = path.len().checked_sub(run.len())?;
    let mut places = at..=if anchored { at.min(last) } else { last };
    places.find(|&place| run.iter().zip(&path[place..]).all(|(part, component)| part.matches(*component)))
}

/// Cleans a path as Go's `filepath.Clean` does: no `//`, no `.`, `..` resolved as far as it can be.
fn clean(path: &str) -> String {
    let absolute = path.starts_with('/');
    let mut names: Vec<&str> = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => match names.last() {
                Some(&last) if last != ".." => {
                    names.pop();
                }
                _ if absolute => {}
                _ => names.push(name),
            },
            name => names.push(name),
        }
    }
    let joined = names.join("/");
    match (absolute, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

/// A list of patterns, where the last word counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Patterns {
    list: Vec<Pattern>,
    ignore_case: bool,
}

impl Patterns {
    /// Parses a list; empty patterns are left out, as restic does.
    ///
    /// # Errors
    /// A pattern is malformed.
    pub fn parse<S: AsRef<str>>(
        patterns: impl IntoIterator<Item = S>,
        ignore_case: bool,
    ) -> Result<Self, PatternError> {
        let mut list = Vec::new();
        for pattern in patterns {
            let pattern = pattern.as_ref();
            if !pattern.is_empty() {
                list.push(Pattern::parse(&if ignore_case { pattern.to_lowercase() } else { pattern.to_owned() })?);
            }
        }
        Ok(Self { list, ignore_case })
    }

    /// Returns whether there is no pattern.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Returns whether the list matches `path`, and whether it may match something below it.
    #[must_use]
    pub fn matches(&self, path: &[u8]) -> (bool, bool) {
        if self.list.is_empty() {
            return (false, false);
        }
        let path = if self.ignore_case {
            Cow::Owned(String::from_utf8_lossy(path).to_lowercase().into_bytes())
        } else {
            Cow::Borrowed(path)
        };
        let path = components(&path);
        self.list.iter().fold((false, false), |(matched, below), pattern| {
            let fits = pattern.matches(&path);
            match pattern.negated {
                true => (matched && !fits, below && !fits),
                false => (matched || fits, below || pattern.may_match_below(&path)),
            }
        })
    }
}

/// What a [`Filter`] says of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Selection {
    /// The entry itself is taken.
    pub selected: bool,
    /// It is a directory, and something in it may be taken.
    pub descend: bool,
}

/// What is taken of a tree: everything, everything but what patterns exclude, or only what patterns include.
#[derive(Debug, Clone, Default)]
pub enum Filter {
    /// Everything.
    #[default]
    All,
    /// All but what one of the lists matches; nothing below an excluded directory is looked at.
    Exclude(Vec<Patterns>),
    /// Only what one of the lists matches.
    Include(Vec<Patterns>),
    /// What the filter says of a directory with all in it, where paths are counted from that directory.
    Below(Vec<u8>, Box<Self>),
}

impl Filter {
    /// Takes everything that neither list matches; `insensitive` ignores case.
    ///
    /// # Errors
    /// A pattern is malformed.
    pub fn exclude<S: AsRef<str>>(patterns: &[S], insensitive: &[S]) -> Result<Self, PatternError> {
        let lists = Self::lists(patterns, insensitive)?;
        Ok(if lists.is_empty() { Self::All } else { Self::Exclude(lists) })
    }

    /// Takes only what one of the lists matches; `insensitive` ignores case. Without patterns everything is taken.
    ///
    /// # Errors
    /// A pattern is malformed.
    pub fn include<S: AsRef<str>>(patterns: &[S], insensitive: &[S]) -> Result<Self, PatternError> {
        let lists = Self::lists(patterns, insensitive)?;
        Ok(if lists.is_empty() { Self::All } else { Self::Include(lists) })
    }

    /// Returns the filter for paths that are counted from `directory` on, which itself has the empty path.
    #[must_use]
    pub fn below(&self, directory: &[u8]) -> Self {
        match (self, directory) {
            (Self::All, _) | (_, b"" | b"/") => self.clone(),
            _ => Self::Below(directory.to_vec(), Box::new(self.clone())),
        }
    }

    fn lists<S: AsRef<str>>(patterns: &[S], insensitive: &[S]) -> Result<Vec<Patterns>, PatternError> {
        let mut lists = vec![Patterns::parse(patterns, false)?, Patterns::parse(insensitive, true)?];
        lists.retain(|list| !list.is_empty());
        Ok(lists)
    }

    /// Returns what is not taken, as the walk of a backup asks; `None` if everything is.
    #[must_use]
    pub fn excluded(&self) -> Option<Exclude> {
        if matches!(self, Self::All) {
            return None;
        }
        let filter = self.clone();
        // Whether it is a directory does not matter for what is left out.
        Some(Arc::new(move |path: &Path| !filter.select(path.as_os_str().as_bytes(), true).selected))
    }

    /// Says what to do with `path`, which begins with `/`.
    #[must_use]
    pub fn select(&self, path: &[u8], is_dir: bool) -> Selection {
        match self {
            Self::All => Selection { selected: true, descend: is_dir },
            Self::Exclude(lists) => {
                let selected = !lists.iter().any(|list| list.matches(path).0);
                Selection { selected, descend: selected && is_dir }
            }
            Self::Include(lists) => {
                let (selected, below) = lists.iter().fold((false, false), |(selected, below), list| {
                    let (matched, may) = list.matches(path);
                    (selected || matched, below || may)
                });
                Selection { selected, descend: below && is_dir }
            }
            Self::Below(directory, filter) => filter.select(&[directory, path].concat(), is_dir),
        }
    }
}

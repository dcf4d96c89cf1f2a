//! Checking a repository: its files, its structure, and on request its data.
//!
//! `rustic_core` checks packs against the index, trees and, on request, packs' bytes. It gives up at the first snapshot or
//! index file that it cannot read and does not hash them, so those are read here first.

use std::future::Future;

use futures::StreamExt as _;
use rustic_core::CheckOptions;

use super::access::Access;
use super::adapter::rustic_id;
use super::gate::Snapshots;
use super::session::{Session, rustic_error};
use super::snapshots;
use crate::backend::FileKind;
use crate::error::RepoResult;
use crate::format::{FormatError, INDEX_LIMIT_BYTES, index_file};

/// Which packs are read whole.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum ReadData {
    /// None.
    #[default]
    None,
    /// All.
    All,
    /// Those of one of `of` parts, numbered from 1.
    Part {
        /// Which.
        part: u32,
        /// Of how many.
        of: u32,
    },
    /// So many percent, by size, at random.
    Percent(f64),
    /// So many bytes, at random.
    Bytes(u64),
}

impl ReadData {
    /// Parses restic's `--read-data-subset`: `n/m`, `x%`, or a size, which `parse_bytes` reads.
    ///
    /// # Errors
    /// It is none of these.
    pub fn parse(text: &str, parse_bytes: impl Fn(&str) -> Result<u64, String>) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not n/m, x% or a size");
        if let Some((part, of)) = text.split_once('/') {
            let (part, of) = (part.parse().map_err(|_| wrong())?, of.parse().map_err(|_| wrong())?);
            // restic's bounds.
            return if (1..=of).contains(&part) && of <= 256 {
                Ok(Self::Part { part, of })
            } else {
                Err(format!("`{text}`: n/m needs 1 <= n <= m <= 256"))
            };
        }
        if let Some(percent) = text.strip_suffix('%') {
            let percent: f64 = percent.parse().map_err(|_| wrong())?;
            return if percent > 0.0 && percent <= 100.0 {
                Ok(Self::Percent(percent))
            } else {
                Err(format!("`{text}`: more than 0 % and at most 100 %"))
            };
        }
        match parse_bytes(text)? {
            0 => Err(wrong()),
            bytes => Ok(Self::Bytes(bytes)),
        }
    }

    fn apply(self, options: &mut CheckOptions) {
        use rustic_core::ReadSubsetOption as Subset;
        let subset = match self {
            Self::None => return,
            Self::All => Subset::All,
            Self::Part { part, of } => Subset::IdSubSet((part, of)),
            Self::Percent(percent) => Subset::Percentage(percent),
            Self::Bytes(bytes) => Subset::Size(bytes),
        };
        options.read_data = true;
        options.read_data_subset = subset;
    }
}

/// What a check found.
#[derive(Debug, Clone, Default)]
pub struct CheckReport {
    /// Damage, each with what it concerns.
    pub errors: Vec<String>,
    /// What is no damage, such as packs that no index file names: `prune` removes them.
    pub hints: Vec<String>,
    /// How many snapshots were checked.
    pub snapshots: usize,
}

/// Checks a repository.
///
/// # Errors
/// It could not be checked: the store failed, or `stop` ended. Damage is no error, but in the report.
pub async fn check(session: &Session, read_data: ReadData, stop: impl Future<Output = ()>) -> RepoResult<CheckReport> {
    let mut report = CheckReport::default();
    let access = session.access();
    // Snapshots first: what a backup adds meanwhile is in the index files that are read after.
    let mut trees = Vec::new();
    for (id, snapshot) in snapshots::try_read_all(access).await? {
        match snapshot {
            Ok(snapshot) => trees.push(rustic_core::TreeId::from(rustic_id(&snapshot.tree.0))),
            Err(error) => report.errors.push(format!("snapshot {}: {error}", id.0.short())),
        }
    }
    report.snapshots = trees.len();
    let damaged = damaged_indexes(access).await?;
    if !damaged.is_empty() {
        report.errors.extend(damaged);
        report.hints.push("packs and trees were not checked, because that needs all index files".to_owned());
        return Ok(report);
    }
    let gate = session.gate(Snapshots::Refuse);
    let (worker, worker_gate) = (session.clone(), gate.clone());
    let work = move |runtime| {
        let mut options = CheckOptions::default();
        read_data.apply(&mut options);
        let results = worker
            .open(&worker_gate, runtime)?
            .check_with_trees(options, trees)
            .map_err(|error| rustic_error(&worker_gate, "check the repository", &error))?;
        // The level's type has no public name.
        let lines = results.0.iter().map(|(level, finding)| (format!("{level:?}") == "Error", describe(finding)));
        Ok(lines.collect::<Vec<_>>())
    };
    for (is_error, line) in session.run(&gate, stop, work).await? {
        if is_error { &mut report.errors } else { &mut report.hints }.push(line);
    }
    Ok(report)
}

/// A finding with the causes below it, on one line.
fn describe(finding: &impl std::error::Error) -> String {
    let mut text = finding.to_string();
    let mut source = finding.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

async fn damaged_indexes(access: &Access) -> RepoResult<Vec<String>> {
    let entries = access.backend().list(FileKind::Index).await?;
    let reads = entries.into_iter().map(|entry| async move {
        let json = access.read_file(FileKind::Index, "index", entry.id, INDEX_LIMIT_BYTES).await;
        let parsed = json.and_then(|json| {
            let info = index_file::parse(&json, |_| ()).map_err(|error| error.of("index", entry.id))?;
            match info.rejected {
                0 => Ok(()),
                n => Err(FormatError::new(format!("{n} entries are not what an index may say")).of("index", entry.id)),
            }
        });
        parsed.err().map(|error| format!("index {}: {error}", entry.id.short()))
    });
    let reads = futures::stream::iter(reads).buffer_unordered(access.backend().concurrency().max(1));
    Ok(reads.filter_map(std::future::ready).collect().await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_subsets_parse_as_restics() {
        let bytes = |text: &str| text.parse().map_err(|_| format!("`{text}`"));
        for (text, expected) in [
            ("1/3", Some(ReadData::Part { part: 1, of: 3 })),
            ("3/3", Some(ReadData::Part { part: 3, of: 3 })),
            ("0/3", None),
            ("4/3", None),
            ("1/257", None),
            ("2.5%", Some(ReadData::Percent(2.5))),
            ("0%", None),
            ("101%", None),
            ("NaN%", None),
            ("500", Some(ReadData::Bytes(500))),
            ("0", None),
            ("x", None),
        ] {
            assert_eq!(ReadData::parse(text, bytes).ok(), expected, "{text}");
        }
    }
}

//! Prune: removing data that no snapshot needs.
//!
//! restic removes at once, under an exclusive lock, and so do we: new packs and index files are durable before old index
//! files go, and those before old packs. Where readers without locks must not be disturbed, `keep_marked` asks for
//! `rustic_core`'s two phases instead: packs are taken out of the index and marked, and removed by a later run.

use std::collections::BTreeSet;
use std::future::Future;

use futures::{StreamExt as _, TryStreamExt as _};
use jiff::Span;
use rustic_core::{LimitOption, PruneOptions as RusticOptions};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::access::Access;
use super::adapter::rustic_id;
use super::gate::{Gate, Snapshots};
use super::session::{Session, rustic_error};
use crate::backend::FileKind;
use crate::error::{RepoError, RepoResult};
use crate::format::INDEX_LIMIT_BYTES;
use crate::id::SnapshotId;

/// How much is tolerated or done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limit {
    /// Bytes.
    Bytes(u64),
    /// Percent of the whole.
    Percent(u64),
    /// Any amount.
    Unlimited,
}

impl Limit {
    /// Parses restic's limits: a size, which `parse_bytes` reads, `x%` or `unlimited`.
    ///
    /// # Errors
    /// It is none of these.
    pub fn parse(text: &str, parse_bytes: impl Fn(&str) -> Result<u64, String>) -> Result<Self, String> {
        if text == "unlimited" {
            return Ok(Self::Unlimited);
        }
        match text.strip_suffix('%') {
            // rustic_core counts whole percents; rounding down tolerates less, never more.
            Some(percent) => match percent.parse::<f64>() {
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within 0 and 100")]
                Ok(percent) if (0.0..100.0).contains(&percent) => Ok(Self::Percent(percent as u64)),
                _ => Err(format!("`{text}`: 0 % to less than 100 %")),
            },
            None => parse_bytes(text).map(Self::Bytes),
        }
    }

    fn to_rustic(self) -> RepoResult<LimitOption> {
        Ok(match self {
            Self::Percent(percent) => LimitOption::Percentage(percent),
            Self::Unlimited => LimitOption::Unlimited,
            // The type of sizes has no public name.
            Self::Bytes(bytes) => bytes
                .to_string()
                .parse()
                .map_err(|_| RepoError::Unsupported { reason: format!("a limit of {bytes} bytes") })?,
        })
    }
}

/// What prune does.
#[derive(Debug, Clone)]
pub struct PruneOptions {
    /// Unused data that may stay in packs with used data.
    pub max_unused: Limit,
    /// The most that is written anew.
    pub max_repack: Limit,
    /// Write anew only packs of trees.
    pub repack_cacheable_only: bool,
    /// Write anew packs that are much smaller than they should be.
    pub repack_small: bool,
    /// Write anew what is not compressed.
    pub repack_uncompressed: bool,
    /// Only mark packs, and remove those that were marked so long ago; `None`: remove at once.
    pub keep_marked: Option<std::time::Duration>,
    /// Snapshots that count as gone: what `forget --dry-run` would remove. Goes with `dry_run` only.
    pub without: BTreeSet<SnapshotId>,
    /// Plan only.
    pub dry_run: bool,
}

impl Default for PruneOptions {
    fn default() -> Self {
        Self {
            max_unused: Limit::Percent(5),
            max_repack: Limit::Unlimited,
            repack_cacheable_only: false,
            repack_small: false,
            repack_uncompressed: false,
            keep_marked: None,
            without: BTreeSet::new(),
            dry_run: false,
        }
    }
}

/// What prune found and did, or would do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// Blobs that snapshots need.
    pub used_blobs: u64,
    /// Their size in the store.
    pub used_bytes: u64,
    /// Blobs that no snapshot needs.
    pub unused_blobs: u64,
    /// Their size in the store.
    pub unused_bytes: u64,
    /// Packs that no index file names.
    pub unreferenced_packs: u64,
    /// Their size.
    pub unreferenced_bytes: u64,
    /// Blobs of packs that are written anew.
    pub repacked_blobs: u64,
    /// Their size.
    pub repacked_bytes: u64,
    /// Blobs that go: of packs without any used, and those that are left out when packs are written anew.
    pub removed_blobs: u64,
    /// Their size.
    pub removed_bytes: u64,
    /// Unused data that stays.
    pub remaining_unused_bytes: u64,
    /// Packs that are removed now.
    pub removed_packs: u64,
    /// Packs that stay marked for a later run.
    pub marked_packs: u64,
}

/// Removes data that no snapshot needs. The caller holds an exclusive lock.
///
/// # Errors
/// Something that a snapshot needs is missing, so nothing was removed; the store failed, the lock was lost, or `stop` ended:
/// what was removed until then was not needed, and the next run goes on.
pub async fn prune(
    session: &Session,
    options: &PruneOptions,
    stop: impl Future<Output = ()>,
) -> RepoResult<PruneReport> {
    if !options.dry_run {
        session.access().config().check_may_remove()?;
    }
    let gate = session.gate(Snapshots::Refuse);
    let (worker, worker_gate, options) = (session.clone(), gate.clone(), options.clone());
    session.run(&gate, stop, move |runtime| run(&worker, &worker_gate, &options, runtime)).await
}

/// Returns whether packs are marked that a later prune removes: `rustic_core`'s `packs_to_delete` of index files.
///
/// # Errors
/// The list or an index file cannot be read.
pub async fn has_marked(access: &Access) -> RepoResult<bool> {
    #[derive(Deserialize)]
    struct Marked {
        #[serde(default)]
        packs_to_delete: Vec<IgnoredAny>,
    }
    let entries = access.backend().list(FileKind::Index).await?;
    let reads = entries.into_iter().map(|entry| async move {
        let json = access.read_file(FileKind::Index, "index", entry.id, INDEX_LIMIT_BYTES).await?;
        // An index of another form, as restic before 0.2 wrote them, marks nothing.
        Ok(serde_json::from_slice::<Marked>(&json).is_ok_and(|index| !index.packs_to_delete.is_empty()))
    });
    let reads = futures::stream::iter(reads).buffer_unordered(access.backend().concurrency().max(1));
    reads.try_fold(false, |any, one| std::future::ready(Ok(any || one))).await
}

fn run(
    session: &Session,
    gate: &Gate,
    options: &PruneOptions,
    runtime: tokio::runtime::Handle,
) -> RepoResult<PruneReport> {
    if !options.without.is_empty() && !options.dry_run {
        return Err(RepoError::Unsupported { reason: "prune without snapshots that are there".to_owned() });
    }
    let repository = session.open(gate, runtime)?;
    let mut rustic = RusticOptions::default();
    rustic.max_unused = options.max_unused.to_rustic()?;
    rustic.max_repack = options.max_repack.to_rustic()?;
    rustic.repack_cacheable_only = Some(options.repack_cacheable_only);
    rustic.repack_uncompressed = options.repack_uncompressed;
    rustic.no_resize = !options.repack_small;
    rustic.ignore_snaps = options.without.iter().map(|id| rustic_id(&id.0).into()).collect();
    match options.keep_marked {
        None => rustic.instant_delete = true,
        Some(keep) => rustic.keep_delete = Span::try_from(keep).unwrap_or_else(|_| Span::new().hours(23)),
    }
    let plan = repository.prune_plan(&rustic).map_err(|error| rustic_error(gate, "plan what to prune", &error))?;
    let report = report(&plan.stats, options.keep_marked.is_some());
    if !options.dry_run {
        repository.prune(&rustic, plan).map_err(|error| rustic_error(gate, "prune", &error))?;
        gate.check()?;
    }
    Ok(report)
}

fn report(stats: &rustic_core::PruneStats, two_phases: bool) -> PruneReport {
    let (blobs, sizes) = (stats.blobs_sum(), stats.size_sum());
    let gone = stats.packs.unused + stats.packs.repack;
    let (removed_packs, marked_packs) = if two_phases {
        (stats.packs_to_delete.remove, gone + stats.packs_unref + stats.packs_to_delete.keep)
    } else {
        (gone + stats.packs_unref + stats.packs_to_delete.remove + stats.packs_to_delete.keep, 0)
    };
    PruneReport {
        used_blobs: blobs.used,
        used_bytes: sizes.used,
        unused_blobs: blobs.unused,
        unused_bytes: sizes.unused,
        unreferenced_packs: stats.packs_unref,
        unreferenced_bytes: stats.size_unref,
        repacked_blobs: blobs.repack,
        repacked_bytes: sizes.repack,
        removed_blobs: blobs.remove + blobs.repackrm,
        removed_bytes: sizes.remove + sizes.repackrm,
        remaining_unused_bytes: sizes.unused.saturating_sub(sizes.remove + sizes.repackrm),
        removed_packs,
        marked_packs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_limits_parse_as_restics() {
        let bytes = |text: &str| text.parse().map_err(|_| format!("`{text}`"));
        for (text, expected) in [
            ("unlimited", Some(Limit::Unlimited)),
            ("5%", Some(Limit::Percent(5))),
            ("0.9%", Some(Limit::Percent(0))),
            ("100%", None),
            ("-1%", None),
            ("0", Some(Limit::Bytes(0))),
            ("123", Some(Limit::Bytes(123))),
            ("x", None),
        ] {
            assert_eq!(Limit::parse(text, bytes).ok(), expected, "{text}");
        }
    }

    #[test]
    fn test_sizes_reach_rustic_core_unchanged() {
        let limit = Limit::Bytes(123_456_789).to_rustic().unwrap();
        assert!(matches!(limit, LimitOption::Size(size) if size.as_u64() == 123_456_789));
    }
}

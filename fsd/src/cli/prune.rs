//! `prune`: remove data that no snapshot needs.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::Args as ClapArgs;
use serde_json::json;
use stash_repo::write::Session;
use stash_repo::write::prune::{Limit, PruneOptions, PruneReport, prune};

use super::output::Out;
use super::units::{format_bytes, parse_bytes, parse_duration};
use super::writing::Lock;
use super::{CliError, CliResult, Context, Exit};

/// restic's options of prune, which `forget --prune` takes too.
#[derive(Debug, Clone, ClapArgs)]
pub(super) struct PruneArgs {
    /// Unused data that may stay: a size, `x%`, or `unlimited`
    #[arg(long, value_name = "LIMIT", default_value = "5%", value_parser = parse_limit)]
    max_unused: Limit,
    /// Write at most so much anew
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    max_repack_size: Option<u64>,
    /// Write anew only packs of directories
    #[arg(long)]
    repack_cacheable_only: bool,
    /// Write packs anew that are below 80 % of the target size
    #[arg(long)]
    repack_small: bool,
    /// Write anew what is not compressed
    #[arg(long)]
    repack_uncompressed: bool,
    /// Take packs out of the index now and remove them in a run so long after: readers of old indexes are not disturbed
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    keep_delete: Option<Duration>,
}

fn parse_limit(text: &str) -> Result<Limit, String> {
    Limit::parse(text, parse_bytes)
}

impl PruneArgs {
    pub(super) fn options(&self, dry_run: bool) -> PruneOptions {
        PruneOptions {
            max_unused: self.max_unused,
            max_repack: self.max_repack_size.map_or(Limit::Unlimited, Limit::Bytes),
            repack_cacheable_only: self.repack_cacheable_only,
            repack_small: self.repack_small,
            repack_uncompressed: self.repack_uncompressed,
            keep_marked: self.keep_delete,
            without: BTreeSet::new(),
            dry_run,
        }
    }
}

/// The arguments of `prune`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(flatten)]
    prune: PruneArgs,
    /// Change nothing, only show what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// Runs the verb.
pub(super) async fn run(args: Args, context: &Context) -> CliResult<Exit> {
    if context.global.no_lock && !args.dry_run {
        return Err(CliError::usage("--no-lock goes with prune --dry-run only: removing needs a lock"));
    }
    let access = context.access().await?;
    let lock = if args.dry_run { Lock::Shared } else { Lock::Exclusive };
    let work = async |session: &Session| prune(session, &args.prune.options(args.dry_run), context.stop()).await;
    let report = context.with_session(&access, lock, work).await?;
    let mut out = context.out();
    print(&report, args.dry_run, &mut out)?;
    out.finish()?;
    Ok(Exit::Success)
}

/// Prints what prune did, or would do.
pub(super) fn print(report: &PruneReport, dry_run: bool, out: &mut Out) -> CliResult<()> {
    if out.json {
        return out.json_line(&json!({
            "message_type": "prune", "dry_run": dry_run,
            "used_blobs": report.used_blobs, "used_bytes": report.used_bytes,
            "unused_blobs": report.unused_blobs, "unused_bytes": report.unused_bytes,
            "unreferenced_packs": report.unreferenced_packs, "unreferenced_bytes": report.unreferenced_bytes,
            "repacked_blobs": report.repacked_blobs, "repacked_bytes": report.repacked_bytes,
            "removed_blobs": report.removed_blobs, "removed_bytes": report.removed_bytes,
            "remaining_unused_bytes": report.remaining_unused_bytes,
            "removed_packs": report.removed_packs, "marked_packs": report.marked_packs,
        }));
    }
    let row = |what: &str, blobs: u64, bytes: u64| format!("{what:<18}{blobs:>8} blobs / {}", format_bytes(bytes));
    out.say(row("used:", report.used_blobs, report.used_bytes))?;
    out.say(row("unused:", report.unused_blobs, report.unused_bytes))?;
    out.say(format_args!(
        "{:<18}{:>8} packs / {}",
        "unreferenced:",
        report.unreferenced_packs,
        format_bytes(report.unreferenced_bytes)
    ))?;
    let (repack, remove) = if dry_run { ("would repack:", "would delete:") } else { ("repacked:", "deleted:") };
    out.say(row(repack, report.repacked_blobs, report.repacked_bytes))?;
    out.say(row(remove, report.removed_blobs, report.removed_bytes))?;
    out.say(format_args!("{:<18}{}", "unused that stays:", format_bytes(report.remaining_unused_bytes)))?;
    let verb = if dry_run { "would be removed" } else { "were removed" };
    out.say(format_args!("{} packs {verb}, {} are marked for a later run", report.removed_packs, report.marked_packs))
}

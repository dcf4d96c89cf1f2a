//! `stats`: what snapshots hold, counted in restic's four ways.

use clap::{Args as ClapArgs, ValueEnum as _};
use stash_repo::RepoError;

use super::output::{Out, show_name};
use super::progress::Progress;
use super::select::SnapshotFilter;
use super::units::format_bytes;
use super::{CliResult, Context, Exit};
use crate::stats::{Count, Counts, Mode};

/// The arguments of `stats`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Only these snapshots
    #[arg(value_name = "SNAPSHOT")]
    snapshots: Vec<String>,
    #[command(flatten)]
    filter: SnapshotFilter,
    /// What is counted
    #[arg(long, value_enum, default_value = "restore-size")]
    mode: Mode,
}

/// Runs the verb.
pub(super) async fn run(args: Args, context: &Context) -> CliResult<Exit> {
    let repository = context.open().await?;
    let snapshots = args.filter.select(&repository, &args.snapshots).await?;
    let mut out = context.out();
    out.say("scanning...")?;
    out.finish()?;
    let progress = Progress::items(&context.global, "snapshots");
    progress.add_total(0, snapshots.len() as u64);
    let mut count = Count::new(&repository, args.mode);
    for snapshot in &snapshots {
        let failed = |path: &[u8], error: &RepoError| {
            progress.note(&format!("stash-fs: count {}: {error}", show_name(path)));
        };
        count.snapshot(snapshot.tree, &failed).await?;
        progress.add(0, 1);
    }
    progress.finish();
    let failed = count.failed();
    print(&count.finish()?, args.mode, &mut out)?;
    out.finish()?;
    Ok(if failed == 0 { Exit::Success } else { Exit::Incomplete })
}

fn print(counts: &Counts, mode: Mode, out: &mut Out) -> CliResult<()> {
    if out.json {
        return out.json_line(counts);
    }
    let mode = mode.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    out.line(format_args!("Stats in {mode} mode:"))?;
    let line = |out: &mut Out, what: &str, value: String| out.line(format_args!("{what:>24}:  {value}"));
    line(out, "Snapshots processed", counts.snapshots_count.to_string())?;
    if counts.total_blob_count > 0 {
        line(out, "Total Blob Count", counts.total_blob_count.to_string())?;
    }
    if counts.total_file_count > 0 {
        line(out, "Total File Count", counts.total_file_count.to_string())?;
    }
    if counts.total_uncompressed_size > 0 {
        line(out, "Total Uncompressed Size", format_bytes(counts.total_uncompressed_size))?;
    }
    line(out, "Total Size", format_bytes(counts.total_size))?;
    let percentages = [
        ("Compression Progress", counts.compression_progress, "%"),
        ("Compression Ratio", counts.compression_ratio, "x"),
        ("Compression Space Saving", counts.compression_space_saving, "%"),
    ];
    for (what, value, unit) in percentages {
        if let Some(value) = value {
            line(out, what, format!("{value:.2}{unit}"))?;
        }
    }
    Ok(())
}

//! `find`: names, blobs, trees and packs in all snapshots.

mod names;
mod objects;

use clap::Args as ClapArgs;
use jiff::Timestamp;

use super::select::SnapshotFilter;
use super::{CliError, CliResult, Context, Exit};

/// The arguments of `find`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Names or patterns as `--include` takes them, or ids with --blob, --tree, --pack
    #[arg(value_name = "PATTERN", required = true)]
    patterns: Vec<String>,
    /// Only in these snapshots
    #[arg(short, long, value_name = "SNAPSHOT")]
    snapshot: Vec<String>,
    #[command(flatten)]
    filter: SnapshotFilter,
    /// Ignore case
    #[arg(short, long)]
    ignore_case: bool,
    /// Show mode, owner, size and time
    #[arg(short, long)]
    long: bool,
    /// Only what was modified at this time or earlier (`2026-01-31`, `2026-01-31 12:00:00`)
    #[arg(short = 'N', long, value_name = "TIME", value_parser = parse_time)]
    newest: Option<Timestamp>,
    /// Only what was modified at this time or later
    #[arg(short = 'O', long, value_name = "TIME", value_parser = parse_time)]
    oldest: Option<Timestamp>,
    /// Newest snapshots first
    #[arg(short = 'R', long)]
    reverse: bool,
    /// The patterns are ids of blobs or their beginnings
    #[arg(long, group = "object")]
    blob: bool,
    /// The patterns are ids of trees or their beginnings
    #[arg(long, group = "object")]
    tree: bool,
    /// The patterns are ids of packs or their beginnings
    #[arg(long, group = "object")]
    pack: bool,
    /// With --blob, --tree or --pack: say in which pack each object lies
    #[arg(long)]
    show_pack_id: bool,
}

/// Runs the verb.
pub(super) async fn run(args: Args, context: &Context) -> CliResult<Exit> {
    let repository = context.open().await?;
    let mut snapshots = args.filter.select(&repository, &args.snapshot).await?;
    snapshots.sort_by(|a, b| a.time.cmp(&b.time).then(a.id.cmp(&b.id)));
    if args.reverse {
        snapshots.reverse();
    }
    let mut out = context.out();
    let exit = if args.blob || args.tree || args.pack {
        objects::find(&args, &repository, &snapshots, &mut out).await?
    } else {
        names::find(&args, &repository, &snapshots, &mut out).await?
    };
    out.finish()?;
    Ok(exit)
}

/// Parses a date, or a date and a time of this machine's zone or of a named one.
///
/// Source: restic 0.14, `cmd/restic/cmd_find.go`, `timeFormats`.
fn parse_time(text: &str) -> Result<Timestamp, String> {
    use jiff::civil::{Date, DateTime};
    use jiff::tz::TimeZone;
    let local = |time: DateTime| time.to_zoned(TimeZone::system()).map(|zoned| zoned.timestamp()).ok();
    for date in ["%Y-%m-%d", "%d.%m.%Y"] {
        for format in [format!("{date} %H:%M:%S"), format!("{date} %H:%M")] {
            if let Some(time) = DateTime::strptime(&format, text).ok().and_then(local) {
                return Ok(time);
            }
            let with_offset = format!("{format} %z");
            if let Ok(time) = jiff::fmt::strtime::parse(&with_offset, text).and_then(|parsed| parsed.to_timestamp()) {
                return Ok(time);
            }
        }
        if let Some(time) = Date::strptime(date, text).ok().and_then(|date| local(date.at(0, 0, 0, 0))) {
            return Ok(time);
        }
    }
    text.parse::<Timestamp>().map_err(|_| format!("`{text}` is not a time like 2026-01-31 or `2026-01-31 12:00:00`"))
}

/// Tells that a directory could not be read, and goes on.
fn unreadable(path: &[u8], error: &stash_repo::RepoError) -> CliResult<()> {
    eprintln!("stash-fs: search {}: {error}", super::output::show_name(path));
    Ok(())
}

/// A pattern that is no id.
fn bad_id(text: &str) -> CliError {
    CliError::usage(format!("`{text}` is not an id or the beginning of one"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_parse_time() {
        for text in [
            "2026-01-31",
            "2026-01-31 12:30",
            "2026-01-31 12:30:01",
            "2026-01-31 12:30:01 +0200",
            "31.01.2026",
            "31.01.2026 12:30",
            "2026-01-31T12:30:01Z",
        ] {
            assert!(parse_time(text).is_ok(), "{text}");
        }
        assert_eq!(parse_time("1970-01-01 02:00:01 +0200").unwrap().as_second(), 1);
        assert!(parse_time("yesterday").is_err());
    }
}

//! `check`: is the repository whole?

use clap::Args as ClapArgs;
use serde_json::json;
use stash_repo::write::check::{ReadData, check};

use super::units::parse_bytes;
use super::writing::Lock;
use super::{CliError, CliResult, Context, Exit};

/// The arguments of `check`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Read all data as well
    #[arg(long)]
    read_data: bool,
    /// Read a part of the data as well: `n/m`, `x%`, or a size
    #[arg(long, value_name = "SUBSET", conflicts_with = "read_data", value_parser = parse_subset)]
    read_data_subset: Option<ReadData>,
}

fn parse_subset(text: &str) -> Result<ReadData, String> {
    ReadData::parse(text, parse_bytes)
}

/// Runs the verb.
pub(super) async fn run(args: Args, context: &Context) -> CliResult<Exit> {
    let read_data = match (args.read_data, args.read_data_subset) {
        (true, _) => ReadData::All,
        (false, subset) => subset.unwrap_or_default(),
    };
    let access = context.access().await?;
    let report = context
        .with_session(&access, Lock::Shared, async |session| check(session, read_data, context.stop()).await)
        .await?;
    let mut out = context.out();
    if out.json {
        out.json_line(&json!({
            "message_type": "summary", "num_errors": report.errors.len(), "errors": report.errors,
            "hints": report.hints, "snapshots": report.snapshots,
        }))?;
    } else {
        for hint in &report.hints {
            out.say(format_args!("note: {hint}"))?;
        }
        for error in &report.errors {
            out.line(format_args!("error: {error}"))?;
        }
    }
    if !report.errors.is_empty() {
        out.finish()?;
        let count = report.errors.len();
        return Err(CliError::failure(format!("the repository is damaged: {count} errors were found"))
            .hint("keep a copy of it; restic's `repair` commands can save what is whole"));
    }
    out.say(format_args!("no errors were found in {} snapshots", report.snapshots))?;
    out.finish()?;
    Ok(Exit::Success)
}

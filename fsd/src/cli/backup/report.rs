//! What `backup` says: losses as they come, and the summary.

use std::time::Duration;

use serde_json::{Value, json};
use stash_repo::write::backup::BackupReport;
use stash_repo::write::source::{Listener, Loss, Note};

use crate::cli::output::show_name;
use crate::cli::units::{format_bytes, format_duration};
use crate::cli::{CliResult, Context, Exit, GlobalArgs};

/// Tells of losses on standard error.
#[derive(Debug)]
pub(super) struct Tell {
    json: bool,
    quiet: bool,
}

impl Tell {
    pub(super) fn new(global: &GlobalArgs) -> Self {
        Self { json: global.json, quiet: global.quiet }
    }
}

/// Names an entry that is not in the snapshot, with what was being done and what happened.
pub(crate) fn show_loss(loss: &Loss) -> String {
    use std::os::unix::ffi::OsStrExt as _;
    format!("{} {}: {}", loss.during, show_name(loss.path.as_os_str().as_bytes()), loss.reason)
}

impl Listener for Tell {
    fn loss(&self, loss: &Loss) {
        if self.json {
            // restic's line (restic, `doc/075_scripting.rst`, "backup", "Error").
            let line = json!({
                "message_type": "error", "error": {"message": show_loss(loss)}, "during": "archival",
                "item": loss.path.to_string_lossy(),
            });
            eprintln!("{line}");
        } else {
            eprintln!("error: {}", show_loss(loss));
        }
    }

    fn note(&self, note: &Note) {
        if !self.json && !self.quiet {
            eprintln!("note: {}", show_loss(note));
        }
    }
}

/// Prints how the backup ended.
pub(super) fn print(report: &BackupReport, dry_run: bool, took: Duration, context: &Context) -> CliResult<Exit> {
    let mut out = context.out();
    let count = |name: &str| report.summary.get(name).and_then(Value::as_u64).unwrap_or(0);
    if out.json {
        let mut line = report.summary.clone();
        line.insert("message_type".to_owned(), "summary".into());
        line.insert("total_duration".to_owned(), took.as_secs_f64().into());
        line.insert("unreadable".to_owned(), report.loss_count.into());
        if dry_run {
            line.insert("dry_run".to_owned(), true.into());
        }
        if let Some(id) = report.snapshot {
            line.insert("snapshot_id".to_owned(), id.to_string().into());
        }
        out.json_line(&line)?;
    } else {
        let row = |name: &str, of: &str| {
            let [new, changed, unmodified] =
                ["new", "changed", "unmodified"].map(|what| count(&format!("{of}_{what}")));
            format!("{name:<12}{new:>6} new, {changed:>6} changed, {unmodified:>6} unmodified")
        };
        let verb = if dry_run { "Would add" } else { "Added" };
        out.say(row("Files:", "files"))?;
        out.say(row("Dirs:", "dirs"))?;
        let (added, stored) = (format_bytes(count("data_added")), format_bytes(count("data_added_packed")));
        out.say(format_args!("{verb} to the repository: {added} ({stored} stored)"))?;
        out.say("")?;
        let (files, bytes) = (count("total_files_processed"), format_bytes(count("total_bytes_processed")));
        out.say(format_args!("processed {files} files, {bytes} in {}", format_duration(took)))?;
        match report.snapshot {
            Some(id) => out.say(format_args!("snapshot {} saved", id.0.short()))?,
            None if dry_run => {}
            None => out.say("nothing changed: no snapshot was made")?,
        }
    }
    out.finish()?;
    if report.loss_count == 0 {
        return Ok(Exit::Success);
    }
    if !context.global.json {
        let (losses, what) = (report.loss_count, if report.loss_count == 1 { "entry" } else { "entries" });
        eprintln!("warning: {losses} {what} could not be read; the snapshot does not hold what is named above");
    }
    Ok(Exit::Incomplete)
}

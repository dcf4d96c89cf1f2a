//! Cuts a report to what a termination message holds. The numbers stay, and with them what a controller decides by.

use super::report::{JobReport, Outcome, Step};
use super::{JobError, REPORT_LIMIT_BYTES};

/// The longest texts, from one try to the next.
const TEXT_LIMITS_BYTES: [usize; 3] = [1024, 512, 128];
/// How many names stay, from one try to the next.
const NAME_LIMITS: [usize; 3] = [8, 3, 0];

/// Returns the report's JSON, of at most [`REPORT_LIMIT_BYTES`].
pub(super) fn fit(report: &JobReport) -> String {
    let mut report = report.clone();
    // Times are ours; from elsewhere they could be of any length.
    shorten(&mut report.started, 64);
    shorten(&mut report.finished, 64);
    for (text_bytes, names) in TEXT_LIMITS_BYTES.into_iter().zip(NAME_LIMITS) {
        each_text(&mut report, &mut |text| shorten(text, text_bytes));
        each_list(&mut report, &mut |list| {
            list.truncate(names);
            list.iter_mut().for_each(|name| shorten(name, text_bytes));
        });
        if let Some(json) = fitting(&report) {
            return json;
        }
    }
    while omit_snapshot(&mut report.outcome) {
        if let Some(json) = fitting(&report) {
            return json;
        }
    }
    // What is left is bounded: seven messages of which each byte may take six in JSON.
    each_text(&mut report, &mut |text| shorten(text, 16));
    fitting(&report).unwrap_or_default()
}

/// Leaves the last snapshot out; returns whether there was one.
fn omit_snapshot(outcome: &mut Outcome) -> bool {
    let (gone, omitted) = match outcome {
        Outcome::Backup(backup) => (backup.snapshots.pop().is_some(), &mut backup.omitted_snapshots),
        Outcome::Restore(restore) => (restore.snapshots.pop().is_some(), &mut restore.omitted_snapshots),
        Outcome::Nothing | Outcome::Maintain(_) => return false,
    };
    *omitted += u64::from(gone);
    gone
}

fn fitting(report: &JobReport) -> Option<String> {
    serde_json::to_string(report).ok().filter(|json| json.len() <= REPORT_LIMIT_BYTES)
}

/// Cuts a text at a character, with a sign that something is missing.
fn shorten(text: &mut String, limit_bytes: usize) {
    if text.len() > limit_bytes {
        text.truncate(text.floor_char_boundary(limit_bytes - '…'.len_utf8()));
        text.push('…');
    }
}

fn each_text(report: &mut JobReport, change: &mut dyn FnMut(&mut String)) {
    let mut error = |error: Option<&mut JobError>| {
        if let Some(error) = error {
            change(&mut error.message);
        }
    };
    error(report.error.as_mut());
    if let Outcome::Maintain(outcome) = &mut report.outcome {
        error(failed(&mut outcome.forget_snapshots));
        error(failed(&mut outcome.forget));
        error(failed(&mut outcome.prune));
        error(failed(&mut outcome.check));
        error(failed(&mut outcome.stats));
        error(failed(&mut outcome.wipe_out));
        if let Some(Step::Done(stats)) = &mut outcome.stats {
            stats.first_snapshot.iter_mut().chain(&mut stats.last_snapshot).for_each(|time| shorten(time, 64));
        }
    }
}

fn failed<T>(step: &mut Option<Step<T>>) -> Option<&mut JobError> {
    match step {
        Some(Step::Failed(error)) => Some(error),
        _ => None,
    }
}

fn each_list(report: &mut JobReport, change: &mut dyn FnMut(&mut Vec<String>)) {
    match &mut report.outcome {
        Outcome::Nothing => {}
        Outcome::Backup(outcome) => change(&mut outcome.unreadable.names),
        Outcome::Restore(outcome) => change(&mut outcome.failed.names),
        Outcome::Maintain(outcome) => {
            if let Some(Step::Done(checked)) = &mut outcome.check {
                change(&mut checked.first);
            }
        }
    }
}

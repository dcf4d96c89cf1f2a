//! Logs (tracing), and the figures that `--metrics` and SIGUSR1 show.
//!
//! Logs go to standard error, and, once a daemon has let go of its terminal, to syslog or a file. What is said is chosen by
//! `RUST_LOG`, or else by `-v` and `-q`.

mod metrics;
mod serve;
mod sink;

use std::io::IsTerminal as _;
use std::panic::PanicHookInfo;
use std::path::Path;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

pub use metrics::{METRICS, MetricDefinition, MetricKind, MountCounts, Sources};
pub use serve::{parse_address, serve};
use sink::Sink;

/// What is logged, and how.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogOptions {
    /// How many `-v`: 0 shows warnings, 1 what an operator wants to know, 2 single requests, 3 everything.
    pub verbosity: u8,
    /// Errors only.
    pub quiet: bool,
    /// One JSON object a line.
    pub json: bool,
    /// `RUST_LOG` goes before.
    pub environment: bool,
}

impl LogOptions {
    /// Returns the filter that stands in for `RUST_LOG`. Libraries talk about themselves at the highest level only.
    fn filter(self) -> &'static str {
        match (self.quiet, self.verbosity) {
            (true, _) => "error",
            (false, 0) => "warn",
            (false, 1) => "warn,stash_fs=info,stash_vfs=info,stash_repo=info",
            (false, 2) => "info,stash_fs=debug,stash_vfs=debug,stash_repo=debug",
            (false, _) => "trace",
        }
    }
}

/// Starts the log. A second call changes nothing.
pub fn init(options: LogOptions) {
    let wanted = std::env::var("RUST_LOG").ok().filter(|wanted| options.environment && !wanted.is_empty());
    let filter = EnvFilter::new(wanted.as_deref().unwrap_or_else(|| options.filter()));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_span_events(FmtSpan::NONE)
        .with_target(options.verbosity > 1)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(Sink::shared());
    // An error says that a subscriber is there already: a test's, or that of an earlier call.
    let started = if options.json { builder.json().try_init() } else { builder.try_init() };
    if started.is_ok() {
        std::panic::set_hook(Box::new(log_panic));
    }
}

/// From now on logs go to `file`, or to syslog without one: standard error is gone.
///
/// # Errors
/// The file cannot be opened for appending.
pub fn detach(file: Option<&Path>) -> std::io::Result<()> {
    Sink::shared().detach(file)
}

/// Writes lines that a person asked for (SIGUSR1) to wherever logs go, whatever the filter says.
pub fn say(text: &str) {
    Sink::shared().say(text);
}

fn log_panic(info: &PanicHookInfo<'_>) {
    let location = info.location().map(ToString::to_string).unwrap_or_default();
    let message = info.payload_as_str().unwrap_or("no message");
    tracing::error!(location, message, "panic");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_each_verbosity_is_a_filter() {
        for (quiet, verbosity) in [(true, 0), (false, 0), (false, 1), (false, 2), (false, 3), (false, 9)] {
            let options = LogOptions { verbosity, quiet, ..LogOptions::default() };
            assert!(EnvFilter::try_new(options.filter()).is_ok(), "{options:?}");
        }
    }
}

//! Logs: to standard error, as text or JSON.

use tracing_subscriber::EnvFilter;

/// Starts the log.
///
/// # Errors
///
/// The filter cannot be read, or a log was started before.
pub(crate) fn start(filter: &str, json: bool) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr);
    let started = if json { builder.json().try_init() } else { builder.try_init() };
    started.map_err(anyhow::Error::from_boxed)
}

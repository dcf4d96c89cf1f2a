//! Logs (tracing to stderr) and the figures that `--metrics` and SIGUSR1 show.

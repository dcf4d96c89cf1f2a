//! The command line: restic's verbs with restic's meaning, and ours.
//!
//! One file a verb under `cli/`, each with its `Args` (clap) and one `run`. Exit codes are in [`exit`].

mod exit;
mod global;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use exit::{CliError, CliResult, Exit};
pub use global::{Context, GlobalArgs};

/// Mounts restic-format backup repositories as filesystems, and backs up into them.
#[derive(Debug, Parser)]
#[command(name = "stash-fs", version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub global: GlobalArgs,
    #[command(subcommand)]
    pub command: Command,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {}

/// Parses the arguments and runs the verb.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {}
}

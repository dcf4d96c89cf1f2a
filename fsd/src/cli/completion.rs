//! `completion`: a shell's completion script.

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::{Cli, CliResult, Exit};

/// The arguments of `completion`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell: `source <(stash-fs completion bash)`
    shell: Shell,
}

/// Prints the script.
pub(super) fn run(args: &Args) -> CliResult<Exit> {
    use std::io::Write as _;
    // clap_complete panics when its writer fails: it writes to memory.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "stash-fs", &mut script);
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&script)?;
    stdout.flush()?;
    Ok(Exit::Success)
}

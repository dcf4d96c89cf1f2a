//! The command line: restic's verbs with restic's meaning, and ours.
//!
//! One file a verb under `cli/`, each with its `Args` (clap) and one `run`. What a verb prints goes through
//! [`output::Out`], so that text, JSON, quiet mode and a closed pipe are handled in one place. Exit codes are in [`exit`].

mod exit;
mod global;
mod interrupt;
pub mod output;
mod password;
pub mod progress;
pub mod select;
mod units;

mod backup;
mod cache;
mod cat;
mod check;
mod completion;
mod copy;
mod diff;
mod dump;
mod find;
mod forget;
mod from_repo;
mod init;
mod key;
mod ls;
mod man;
mod mount;
mod node;
mod prune;
mod restore;
mod snapshots;
mod stat;
mod stats;
mod tag;
mod umount;
mod unlock;
mod writing;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use exit::{CliError, CliResult, Exit};
pub use global::{Context, GlobalArgs};
pub use interrupt::Interrupt;

/// Mounts restic-format backup repositories as filesystems, and backs up into them.
#[derive(Debug, Parser)]
#[command(
    name = "stash-fs",
    version,
    propagate_version = true,
    max_term_width = 100,
    disable_help_subcommand = false,
    after_help = "The repository and its password are given as restic takes them: -r or RESTIC_REPOSITORY, and \
                  RESTIC_PASSWORD, RESTIC_PASSWORD_FILE or RESTIC_PASSWORD_COMMAND. Exit codes: 0 done, 1 failed, \
                  2 wrong arguments, 3 done in part, 10 no repository, 11 locked, 12 wrong password, 130 interrupted."
)]
pub struct Cli {
    #[command(flatten)]
    pub global: GlobalArgs,
    #[command(subcommand)]
    pub command: Command,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Mount snapshots as a read-only filesystem
    Mount(mount::Args),
    /// Unmount a filesystem that `mount` mounted
    Umount(umount::Args),
    /// List snapshots
    Snapshots(snapshots::Args),
    /// List the files of a snapshot
    Ls(ls::Args),
    /// Find files, directories, blobs, trees or packs in all snapshots
    Find(find::Args),
    /// Print an object of the repository, or a file of a snapshot
    Cat(cat::Args),
    /// Write a file, or a directory as an archive, to standard output
    Dump(dump::Args),
    /// Show what differs between two snapshots
    Diff(diff::Args),
    /// Show everything that is known of a file in a snapshot
    Stat(stat::Args),
    /// Copy the files of a snapshot into a directory
    Restore(restore::Args),
    /// Make a snapshot of files and directories
    Backup(backup::Args),
    /// Make a new repository
    Init(init::Args),
    /// Copy snapshots from another repository
    Copy(copy::Args),
    /// Change the tags of snapshots
    Tag(tag::Args),
    /// Remove snapshots, by a policy or by id
    Forget(forget::Args),
    /// Remove data that no snapshot needs
    Prune(prune::Args),
    /// Check a repository for damage
    Check(check::Args),
    /// Count what snapshots hold
    Stats(stats::Args),
    /// Manage the keys (passwords) of a repository
    Key(key::Args),
    /// Remove the locks that dead processes left
    Unlock(unlock::Args),
    /// Show or clean the local cache directories
    Cache(cache::Args),
    /// Print a shell's completion script
    Completion(completion::Args),
    /// Write the manual pages into a directory
    #[command(hide = true)]
    Man(man::Args),
}

/// Parses the arguments and runs the verb.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = match mount::helper::rewrite(std::env::args_os().collect()) {
        Ok(mount::helper::Arguments::Of(arguments)) => arguments,
        Ok(mount::helper::Arguments::Fake) => return Exit::Success.into(),
        Err(error) => {
            error.report(false, &mut std::io::stderr().lock());
            return error.exit.into();
        }
    };
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come as errors too, with exit code 0 and for standard output. A closed pipe is no matter.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Success.into() };
        }
    };
    let json = cli.global.json;
    match run(cli) {
        Ok(exit) => exit.into(),
        Err(error) => {
            error.report(json, &mut std::io::stderr().lock());
            let _ = std::io::stderr().flush();
            error.exit.into()
        }
    }
}

/// Runs one verb.
fn run(cli: Cli) -> CliResult<Exit> {
    let context = Context::new(cli.global)?;
    match cli.command {
        // These decide about processes, threads and the runtime themselves.
        Command::Mount(args) => mount::run(args, context),
        Command::Umount(args) => umount::run(args, context),
        Command::Completion(args) => completion::run(&args),
        Command::Man(args) => man::run(&args),
        // These stop where they stand on SIGINT: they only read.
        Command::Snapshots(args) => context.run(snapshots::run(args, &context)),
        Command::Ls(args) => context.run(ls::run(args, &context)),
        Command::Find(args) => context.run(find::run(args, &context)),
        Command::Cat(args) => context.run(cat::run(args, &context)),
        Command::Dump(args) => context.run(dump::run(args, &context)),
        Command::Diff(args) => context.run(diff::run(args, &context)),
        Command::Stat(args) => context.run(stat::run(args, &context)),
        Command::Stats(args) => context.run(stats::run(args, &context)),
        Command::Cache(args) => context.run(cache::run(args, &context)),
        // These end in order when [`Interrupt`] is set (partial files and locks are removed); a second signal stops them.
        Command::Restore(args) => context.run_to_end(restore::run(args, &context)),
        Command::Backup(args) => context.run_to_end(backup::run(args, &context)),
        Command::Init(args) => context.run_to_end(init::run(args, &context)),
        Command::Copy(args) => context.run_to_end(copy::run(args, &context)),
        Command::Tag(args) => context.run_to_end(tag::run(args, &context)),
        Command::Forget(args) => context.run_to_end(forget::run(args, &context)),
        Command::Prune(args) => context.run_to_end(prune::run(args, &context)),
        Command::Check(args) => context.run_to_end(check::run(args, &context)),
        Command::Key(args) => context.run_to_end(key::run(args, &context)),
        Command::Unlock(args) => context.run_to_end(unlock::run(args, &context)),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn test_command_tree_is_consistent() {
        Cli::command().debug_assert();
    }
}

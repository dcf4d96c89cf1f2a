//! The command line: restic's verbs with restic's meaning, and ours.
//!
//! One file a verb under `cli/`, each with its `Args` (clap) and one `run`. What a verb prints goes through
//! [`output::Out`], so that text, JSON, quiet mode and a closed pipe are handled in one place. Exit codes are in [`exit`].

mod descriptors;
mod exit;
mod given;
mod global;
mod interrupt;
pub mod output;
mod password;
pub mod progress;
pub mod select;
mod units;

mod access;
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
mod job;
mod keep;
mod key;
mod ls;
mod man;
mod mount;
mod node;
mod prune;
mod restore;
mod serve;
mod snapshots;
mod stat;
mod stats;
mod tag;
mod umount;
mod unlock;
mod writing;

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

pub(crate) use backup::{parse_time, show_loss};
pub use exit::{CliError, CliResult, Exit};
pub(crate) use forget::tag_lists;
pub use given::{Access, run_on};
pub(crate) use global::runtime;
pub use global::{Context, GlobalArgs};
pub use interrupt::Interrupt;
pub(crate) use interrupt::signal;
pub(crate) use writing::PROGRAM;

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
    /// Hold the mounts of a node, so that the daemon that serves them may end and another go on
    Keep(keep::Args),
    /// Serve the mounts of a node: the daemon that a keeper holds them for
    Serve(serve::Args),
    /// Serve one repository directory read-only over the network, to clients with a certificate
    Access(access::Args),
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
    /// Do the work of a Kubernetes Job
    #[command(hide = true)]
    Job(job::Args),
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
    let of_container = arguments.get(1).is_some_and(is_of_container);
    let cli = match parse(arguments, !of_container) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come as errors too, with exit code 0 and for standard output. A closed pipe is no matter.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Success.into() };
        }
    };
    let json = cli.global.json;
    match Context::new(cli.global, of_container).and_then(|context| run(cli.command, context)) {
        Ok(exit) => exit.into(),
        Err(error) => {
            error.report(json, &mut std::io::stderr().lock());
            let _ = std::io::stderr().flush();
            error.exit.into()
        }
    }
}

/// The verbs of a pod's container, which may hold any variable: none of them is for the program.
fn is_of_container(verb: &OsString) -> bool {
    verb == "job" || verb == "access"
}

/// Parses the arguments; `environment` says whether variables stand for options that are not given.
fn parse(arguments: Vec<OsString>, environment: bool) -> Result<Cli, clap::Error> {
    let mut command = Cli::command();
    if !environment {
        // An option cannot forget its variable, but take one that nobody sets.
        command = command.mut_args(|option| option.env("STASH_FS_NO_VARIABLE").hide_env(true));
        command =
            command.mut_subcommands(|verb| verb.mut_args(|option| option.env("STASH_FS_NO_VARIABLE").hide_env(true)));
    }
    Cli::from_arg_matches(&command.try_get_matches_from(arguments)?)
}

/// Runs one verb.
fn run(command: Command, context: Context) -> CliResult<Exit> {
    match command {
        // These decide about processes, threads and the runtime themselves.
        Command::Mount(args) => mount::run(args, context),
        Command::Umount(args) => umount::run(args, context),
        Command::Keep(args) => keep::run(args, &context),
        Command::Serve(args) => context.block_on(serve::run(args, &context)),
        Command::Access(args) => context.block_on(access::run(args)),
        Command::Job(args) => Ok(job::run(args, &context)),
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
    use super::*;

    #[test]
    fn test_command_tree_is_consistent() {
        Cli::command().debug_assert();
    }
}

//! `kubectl stash`: looks into snapshots, and starts and pauses backups, with the rights of whoever calls it.
//!
//! # Two ways to a snapshot
//!
//! * **By a pod** ([`pod`], [`start`], [`exec`], [`in_pod`]): a short-lived pod has the snapshot for a volume, and commands run in it. The
//!   node fetches the credentials; whoever calls needs none, and the store need not be reachable from here.
//! * **Here** ([`local`]): the Repository's Secret is read into memory, and the engine of `stash-fs` reads the store.
//!
//! # What must always hold
//!
//! * Credentials are in memory, nowhere else: not in arguments, variables, files, messages, nor in the pod's spec.
//! * A pod that was made is deleted however the call ends; what nothing can catch (SIGKILL, a machine that goes) is bounded by the pod's
//!   own deadline.
//! * The pod is one that a namespace under restricted Pod Security takes.

mod args;
mod backup;
mod cluster;
mod exec;
mod in_pod;
mod local;
pub mod pod;
mod shell;
pub mod snapshot;
pub mod start;
mod terminal;
mod unpack;

use std::process::ExitCode;

use clap::Parser as _;
use stash_fs::cli::{CliError, CliResult, Exit};

pub use args::Cli;
use args::{Command, Way};
use in_pod::Work;

/// Parses the arguments and runs the verb.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come as errors too. A closed pipe is no matter.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Success.into() };
        }
    };
    // A process has one cryptography; a second call of another part is no error.
    drop(rustls::crypto::ring::default_provider().install_default());
    match run(cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            report(&error, &mut std::io::stderr().lock());
            error.exit.into()
        }
    }
}

/// Tells the person what failed and what to do next. Says nothing where nobody reads any more.
fn report(error: &CliError, to: &mut impl std::io::Write) {
    if error.exit == Exit::BrokenPipe {
        return;
    }
    // There is nobody to tell that standard error cannot be written.
    let _ = writeln!(to, "kubectl stash: {}", error.message).and_then(|()| match &error.hint {
        Some(hint) => writeln!(to, "hint: {hint}"),
        None => Ok(()),
    });
    let _ = to.flush();
}

fn run(cli: Cli) -> CliResult<u8> {
    let options = cli.cluster;
    match cli.command {
        Command::Browse { what, pod } => in_pod::run(&options, &what, &pod, Work::Shell),
        Command::Ls { what, way } => read(&options, &what, &way, Work::List),
        Command::Cat { what, way } => read(&options, &what.into(), &way, Work::Print),
        Command::Download { what, target, way } => read(&options, &what.into(), &way, Work::Download(target)),
        Command::Mount { what, directory, store } => local::mount(&options, &what, &store, &directory),
        Command::Trigger { name, wait } => backup::trigger(&options, &name, wait),
        Command::Pause { name } => backup::pause(&options, &name, true),
        Command::Resume { name } => backup::pause(&options, &name, false),
    }
}

fn read(options: &args::ClusterArgs, what: &args::Place, way: &Way, work: Work) -> CliResult<u8> {
    if way.local { local::read(options, what, &way.store, work) } else { in_pod::run(options, what, &way.pod, work) }
}

/// Runs what asks the cluster.
fn block_on<T>(work: impl Future<Output = CliResult<T>>) -> CliResult<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| CliError::failure(format!("start threads: {error}")))?;
    let result = runtime.block_on(work);
    // A read of the terminal that nobody waits for does not hold the process.
    runtime.shutdown_background();
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_the_command_line_is_sound() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn test_errors_say_what_to_do_and_closed_pipes_nothing() {
        let said = |error: CliError| {
            let mut to = Vec::new();
            report(&error, &mut to);
            String::from_utf8(to).unwrap()
        };
        assert_eq!(said(CliError::failure("no x").hint("get x")), "kubectl stash: no x\nhint: get x\n");
        assert_eq!(said(std::io::Error::from(std::io::ErrorKind::BrokenPipe).into()), "");
    }
}

//! `man`: manual pages, one for the program and one for every verb, and completion scripts beside them. For packagers, thus
//! hidden.

use std::path::{Path, PathBuf};

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::{Cli, CliError, CliResult, Exit};

/// The arguments of `man`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The directory, made if need be
    directory: PathBuf,
}

/// Writes the pages.
pub(super) fn run(args: &Args) -> CliResult<Exit> {
    write(&args.directory)
        .map_err(|error| CliError::failure(format!("write manual pages to {}: {error}", args.directory.display())))?;
    Ok(Exit::Success)
}

fn write(directory: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)?;
    clap_mangen::generate_to(Cli::command().disable_help_subcommand(true), directory)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut Cli::command(), "stash-fs", directory)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_every_shown_verb_has_a_page() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path()).unwrap();
        let mut command = Cli::command();
        command.build();
        for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set() && verb.get_name() != "help") {
            let page = directory.path().join(format!("stash-fs-{}.1", verb.get_name()));
            let text = std::fs::read_to_string(&page).unwrap();
            assert!(text.contains(".SH OPTIONS"), "{}", page.display());
        }
        for script in ["stash-fs.bash", "_stash-fs", "stash-fs.fish"] {
            assert!(directory.path().join(script).is_file(), "{script}");
        }
    }
}

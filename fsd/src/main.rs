//! `stash-fs`: a backup is a filesystem.

use std::process::ExitCode;

fn main() -> ExitCode {
    stash_fs::cli::main()
}

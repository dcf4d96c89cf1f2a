//! `kubectl-stash`, which kubectl calls as `kubectl stash`.

use std::process::ExitCode;

fn main() -> ExitCode {
    stash_kubectl::main()
}

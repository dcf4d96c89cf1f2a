//! `stash-controller`: keeps Stash's Kubernetes API.

use std::process::ExitCode;

use clap::Parser as _;
use stash_controller::{Args, run};

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stash-controller: {error:#}");
            ExitCode::FAILURE
        }
    }
}

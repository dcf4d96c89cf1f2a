//! `stash-csi`: the CSI driver.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser as _;
use stash_csi::{Args, Control, run};

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let daemon = Arc::new(Control::new(args.daemon.clone()));
    match run(args, daemon).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stash-csi: {error:#}");
            ExitCode::FAILURE
        }
    }
}

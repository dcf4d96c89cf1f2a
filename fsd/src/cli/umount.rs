//! `umount`: also of a mount whose daemon is dead, which is never asked anything.

use std::path::PathBuf;

use super::{CliError, CliResult, Context, Exit};
use crate::fuse::{mount, mountinfo};

/// The arguments of `umount`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Detach it at once, although files are open; they can be read until they are closed
    #[arg(short, long)]
    lazy: bool,
    /// Where it is mounted
    mountpoint: PathBuf,
}

/// Runs the verb.
pub(super) fn run(args: Args, _context: Context) -> CliResult<Exit> {
    let current = std::env::current_dir()
        .map_err(|error| CliError::failure(format!("the current directory cannot be read: {error}")))?;
    let by_letters = mountinfo::absolute(&args.mountpoint, &current);
    match mount::unmount(&mountinfo::in_table(&args.mountpoint, &current), None, args.lazy) {
        // A symbolic link to a mountpoint that is alive.
        Err(mount::MountError::NotMounted(_)) => {
            let path = by_letters.canonicalize().unwrap_or(by_letters);
            mount::unmount(&path, None, args.lazy)?;
        }
        result => result?,
    }
    Ok(Exit::Success)
}

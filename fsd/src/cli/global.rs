//! The options that every verb has, and what they open.

use std::path::PathBuf;

use clap::Args;
use stash_repo::Repository;

use super::CliResult;

/// Options of every verb, restic's names and environment variables.
#[derive(Debug, Clone, Args)]
pub struct GlobalArgs {
    /// The repository, in restic's syntax; `mount` takes several
    #[arg(short = 'r', long = "repo", env = "RESTIC_REPOSITORY", global = true, value_name = "REPOSITORY")]
    pub repo: Vec<String>,
    /// Keep nothing on the local disk
    #[arg(long, global = true)]
    pub no_cache: bool,
    /// The folder of the caches (default: $XDG_CACHE_HOME/stash-fs)
    #[arg(long, env = "STASH_FS_CACHE_DIR", global = true, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// Print JSON instead of text
    #[arg(long, global = true)]
    pub json: bool,
    /// Say more; twice for debugging
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,
    /// Say only errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
}

/// What a verb runs with.
#[derive(Debug)]
pub struct Context {
    /// The options of every verb.
    pub global: GlobalArgs,
}

impl Context {
    /// Opens the one repository that is named, and loads its index.
    ///
    /// # Errors
    /// None or several are named; wrong address, password or credentials.
    pub async fn open(&self) -> CliResult<Repository> {
        todo!()
    }
}

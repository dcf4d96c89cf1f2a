//! `make bench`: us, the peers, the native filesystem and the physical floors, from one run on one repository.
//!
//! Every figure is taken `--runs` times; the table shows median, lowest and highest, and ends with the ratios that
//! `docs/performance.md` promises. Nothing here is a timed test: the exit code says whether the benchmark ran, unless
//! `--strict` asks for the ratios as well.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures for people; sizes are far below 2^52"
)]

mod data;
mod decode_floor;
mod fuse_floor;
mod index_scale;
mod local;
mod measure;
mod peers;
mod process;
mod remote;
mod report;
mod volume;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use stash_repo::backend::connect::{ConnectOptions, connect};
use stash_repo::backend::location::Location;
use stash_repo::{Repository, RepositoryOptions};

use crate::peers::Peer;
use crate::report::Report;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Local,
    Remote,
    Index,
    Volume,
}

/// Measures stash-fs against restic, rustic, the native filesystem and the physical floors.
#[derive(Debug, Parser)]
struct Args {
    /// The program to measure
    #[arg(long)]
    stash_fs: PathBuf,
    /// rustic, to measure it as well
    #[arg(long, env = "RUSTIC")]
    rustic: Option<PathBuf>,
    /// Where data, repositories, caches and mounts go (12 GB)
    #[arg(long, default_value = "/var/tmp/stash-fs-bench")]
    work: PathBuf,
    /// How often each figure is taken
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Leave the peers out
    #[arg(long)]
    alone: bool,
    /// Only these parts
    #[arg(long, value_enum, value_delimiter = ',', default_value = "local,remote,index,volume")]
    only: Vec<Part>,
    /// Blobs in the large index
    #[arg(long, default_value_t = 10_000_000)]
    blobs: u64,
    /// Where the figures go as JSON
    #[arg(long, default_value = "target/bench.json")]
    json: PathBuf,
    /// Fail if a ratio falls short
    #[arg(long)]
    strict: bool,
    /// Internal: measure lookups of the repository in this process, so that its memory can be read
    #[arg(long, hide = true)]
    lookups: Option<PathBuf>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(repo) = &args.lookups {
        return index_scale::lookups(repo, &args.work, args.blobs);
    }
    std::fs::create_dir_all(&args.work)?;
    let program = args.stash_fs.canonicalize().with_context(|| format!("find {}", args.stash_fs.display()))?;
    let mut peers = vec![Peer::Ours { program: program.clone() }];
    if !args.alone {
        peers.push(Peer::Restic);
        peers.extend(args.rustic.map(|program| Peer::Rustic { program }));
    }
    let mut report = Report::default();
    for peer in &peers {
        report.version(peer.name(), peer.version()?);
    }
    report.version("kernel", std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned());
    report.version("cores", std::thread::available_parallelism()?.to_string());
    for part in &args.only {
        match part {
            Part::Local => local::run(&args.work, &peers, args.runs, &mut report)?,
            Part::Remote => remote::run(&args.work, &peers, args.runs, &mut report)?,
            Part::Volume => volume::run(&args.work, &peers, args.runs, &mut report)?,
            Part::Index => index_scale::run(&args.work, args.blobs, args.runs, &mut report)?,
        }
    }
    report.print();
    if let Some(dir) = args.json.parent() {
        std::fs::create_dir_all(dir)?;
    }
    std::fs::write(&args.json, serde_json::to_vec_pretty(&report)?)?;
    println!("\nwritten to {}", args.json.display());
    anyhow::ensure!(!args.strict || report.all_hold(), "a ratio falls short");
    Ok(())
}

/// Opens a local repository through the engine; its index is loaded by `refresh`.
async fn open_local(repo: &Path, password: &str, cache: Option<PathBuf>) -> Result<Repository> {
    let location = Location::Local { path: repo.to_owned() };
    let options = ConnectOptions { deadline: std::time::Duration::from_secs(60), ..ConnectOptions::default() };
    let backend = connect(&location, &options).await.map_err(Arc::new)?;
    let options = RepositoryOptions { cache_dir: cache, ..RepositoryOptions::default() };
    Ok(Repository::open(backend, password, options).await?)
}

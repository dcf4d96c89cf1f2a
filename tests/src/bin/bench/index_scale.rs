//! A repository whose index names ten million blobs: how long a first and a second mount take, what a lookup costs, and how
//! much memory the process has had after 100,000 of them.
//!
//! The lookups run in a process of their own (this program with `--lookups`), so that its high water mark is the engine's.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use stash_tests::big_index;
use stash_tests::forge::{Forge, PASSWORD};

use crate::data::Random;
use crate::measure::percentile;
use crate::process::memory_high_water;
use crate::report::Report;

const LOOKUPS: usize = 100_000;

/// What the process with the lookups found.
#[derive(Debug, Serialize, Deserialize)]
struct Found {
    key_seconds: f64,
    index_seconds: f64,
    lookup_p50_micros: f64,
    lookup_p99_micros: f64,
    memory_bytes: u64,
}

pub(crate) fn run(work: &Path, blobs: u64, runs: usize, report: &mut Report) -> Result<()> {
    let repo = work.join(format!("index-{blobs}"));
    let cache = work.join("cache-index");
    if !repo.join("forged").exists() {
        eprintln!("forging an index of {blobs} blobs");
        if repo.exists() {
            std::fs::remove_dir_all(&repo)?;
        }
        let mut forge = Forge::create(&repo);
        big_index::write(&mut forge, blobs);
        std::fs::write(repo.join("forged"), blobs.to_string())?;
    }
    for _ in 0..runs {
        if cache.exists() {
            std::fs::remove_dir_all(&cache)?;
        }
        for mount in ["first", "second"] {
            let what = |name: &str| format!("{blobs} blobs, {mount} mount: {name}");
            let output = Command::new(std::env::current_exe()?)
                .arg("--lookups")
                .arg(&repo)
                .arg("--blobs")
                .arg(blobs.to_string())
                .arg("--work")
                .arg(work)
                .output()?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let found: Found = serde_json::from_slice(&output.stdout).context("the lookups' report")?;
            report.add("stash-fs", &what("key derivation"), "s", found.key_seconds);
            report.add("stash-fs", &what("index ready after it"), "s", found.index_seconds);
            report.add("stash-fs", &what("lookup, p50"), "us", found.lookup_p50_micros);
            report.add("stash-fs", &what("lookup, p99"), "us", found.lookup_p99_micros);
            report.add("stash-fs", &what("memory after 100,000 lookups"), "MB", found.memory_bytes as f64 / 1e6);
        }
    }
    let us = |name: &str| report.median("stash-fs", &format!("{blobs} blobs, second mount: {name}"));
    let (ready, p99, memory) = (us("index ready after it"), us("lookup, p99"), us("memory after 100,000 lookups"));
    report.at_most("10 M blobs, second mount: ready (s)", ready, "0.3 s", 0.3, 1.0);
    report.at_most("10 M blobs, second mount: lookup p99 (us)", p99, "50 us", 50.0, 1.0);
    report.at_most("10 M blobs, second mount: memory (MB)", memory, "120 MB", 120.0, 1.0);
    Ok(())
}

/// Opens the repository and looks blobs up; prints [`Found`].
pub(crate) fn lookups(repo: &Path, work: &Path, blobs: u64) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let found = runtime.block_on(async {
        let started = Instant::now();
        let repository = crate::open_local(repo, PASSWORD, Some(work.join("cache-index"))).await?;
        let key = started.elapsed();
        let started = Instant::now();
        repository.refresh().await?;
        let ready = started.elapsed();
        let index = repository.index();
        let mut random = Random::new(5);
        let mut durations = Vec::with_capacity(LOOKUPS);
        for _ in 0..LOOKUPS {
            let n = random.below(blobs);
            let (id, wanted) = (big_index::blob_id(n), big_index::location(n));
            let started = Instant::now();
            let found = index.lookup_kind(&id, wanted.kind)?;
            durations.push(started.elapsed());
            ensure!(found == Some(wanted), "blob {n} was not found where it lies");
        }
        let micros = |d: Duration| d.as_secs_f64() * 1e6;
        anyhow::Ok(Found {
            key_seconds: key.as_secs_f64(),
            index_seconds: ready.as_secs_f64(),
            lookup_p50_micros: micros(percentile(&mut durations, 50)),
            lookup_p99_micros: micros(percentile(&mut durations, 99)),
            memory_bytes: memory_high_water(std::process::id())?,
        })
    })?;
    println!("{}", serde_json::to_string(&found)?);
    Ok(())
}

//! Measures the index: building it from index files, opening it, searching it, and the memory that this takes.
//!
//! `index-bench generate REPO BLOBS` forges a repository; `index-bench run REPO CACHE` builds or opens its index below
//! CACHE, searches 100,000 random blobs, and prints one line of JSON. The first run builds, a second opens.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a benchmark fails by panicking")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use clap::Parser;
use rand::RngExt as _;
use stash_repo::crypto::MasterKey;
use stash_repo::format::index_file::IndexedBlob;
use stash_repo::format::{INDEX_LIMIT_BYTES, index_file, unpacked};
use stash_repo::index::IndexSource;
use stash_repo::{FileKind, Id, Index, IndexId, ListEntry, RepoError, RepoResult};
use stash_tests::big_index;
use stash_tests::forge::Forge;
use stash_tests::reference::Key;

const LOOKUPS: usize = 100_000;

#[derive(Parser)]
enum Arguments {
    /// Forge a repository whose index names this many blobs.
    Generate { repo: PathBuf, blobs: u64 },
    /// Bring the index in CACHE up to date and search it.
    Run { repo: PathBuf, cache: PathBuf },
}

struct Files {
    dir: PathBuf,
    key: MasterKey,
}

#[async_trait]
impl IndexSource for Files {
    fn concurrency(&self) -> usize {
        2
    }

    async fn fetch(&self, id: IndexId) -> RepoResult<Bytes> {
        let path = self.dir.join(id.to_string());
        let local = |error: std::io::Error| RepoError::Local { what: "read".to_owned(), reason: error.to_string() };
        tokio::task::spawn_blocking(move || std::fs::read(path)).await.unwrap().map(Bytes::from).map_err(local)
    }

    fn parse(&self, id: IndexId, stored: Bytes, each: &mut dyn FnMut(IndexedBlob)) -> RepoResult<()> {
        let actual = Id::hash(&stored);
        if actual != id.0 {
            return Err(RepoError::WrongHash { what: "index", id: id.0, actual });
        }
        let mut sealed = Vec::from(stored);
        let plain = self.key.open_in_place(&mut sealed).map_err(|_| RepoError::WrongMac { what: "index", id: id.0 })?;
        let json = unpacked::decode(plain, INDEX_LIMIT_BYTES).map_err(|error| error.of("index", id.0))?;
        index_file::parse(&json, each).map_err(|error| error.of("index", id.0))?;
        Ok(())
    }
}

fn main() {
    match Arguments::parse() {
        Arguments::Generate { repo, blobs } => {
            let start = Instant::now();
            let mut forge = Forge::create(&repo);
            big_index::write(&mut forge, blobs);
            println!(
                r#"{{"blobs":{blobs},"generate_seconds":{:.2},"hwm_mb":{}}}"#,
                start.elapsed().as_secs_f64(),
                hwm_mb()
            );
        }
        Arguments::Run { repo, cache } => run(&repo, &cache),
    }
}

fn run(repo: &Path, cache: &Path) {
    let dir = repo.join(FileKind::Index.dirname());
    let listed: Vec<_> = std::fs::read_dir(&dir)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let id = entry.file_name().to_str().unwrap().parse().unwrap();
            ListEntry { id, len_bytes: entry.metadata().unwrap().len() }
        })
        .collect();
    let Key { encrypt, mac_k, mac_r } = Forge::master_key();
    let mut parts = [0; 64];
    parts[..32].copy_from_slice(&encrypt);
    parts[32..48].copy_from_slice(&mac_k);
    parts[48..].copy_from_slice(&mac_r);
    let key = MasterKey::from_parts(&mut parts);

    let start = Instant::now();
    let index = Index::open(Some(cache.to_owned()), &key, Arc::default());
    let open = start.elapsed();
    let start = Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let built = runtime.block_on(index.refresh(&listed, Arc::new(Files { dir, key }))).unwrap();
    let refresh = start.elapsed();
    let built_hwm = hwm_mb();

    let stats = index.stats();
    let mut rng = rand::rng();
    let mut nanos: Vec<_> = (0..LOOKUPS)
        .map(|_| {
            let n = rng.random_range(0..stats.blobs);
            let (id, expected) = (big_index::blob_id(n), big_index::location(n));
            let start = Instant::now();
            let found = index.lookup_kind(&id, expected.kind).unwrap();
            let elapsed = start.elapsed();
            assert_eq!(found, Some(expected), "blob {n}");
            u64::try_from(elapsed.as_nanos()).unwrap()
        })
        .collect();
    let start = Instant::now();
    for n in 0..LOOKUPS as u64 {
        assert_eq!(index.lookup(&big_index::blob_id(u64::MAX - n)).unwrap(), None);
    }
    let miss = start.elapsed() / u32::try_from(LOOKUPS).unwrap();
    nanos.sort_unstable();
    let micros = |part: usize| nanos[(nanos.len() - 1) * part / 1000] as f64 / 1000.0;
    println!(
        r#"{{"blobs":{},"files":{},"segments":{},"built":{built},"open_ms":{:.1},"refresh_seconds":{:.2},"lookup_p50_us":{:.1},"lookup_p99_us":{:.1},"lookup_p999_us":{:.1},"miss_us":{:.1},"index_memory_kb":{},"hwm_built_mb":{built_hwm},"hwm_mb":{}}}"#,
        stats.blobs,
        stats.index_files,
        stats.segments,
        open.as_secs_f64() * 1e3,
        refresh.as_secs_f64(),
        micros(500),
        micros(990),
        micros(999),
        miss.as_secs_f64() * 1e6,
        stats.memory_bytes / 1024,
        hwm_mb(),
    );
}

/// The most memory that this process has had (`VmHWM` of proc(5)).
fn hwm_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() / 1024
}

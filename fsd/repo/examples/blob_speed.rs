//! Prints how fast the blob engine is beside what the decoder alone can do, on this machine, from one run.
//!
//! `cargo run --release -p stash-repo --example blob_speed [FOLDER]`; FOLDER (default: a temporary one) takes some 300 MB of packs.

#![allow(clippy::cast_precision_loss, reason = "figures for people")]

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use stash_repo::backend::local::LocalBackend;
use stash_repo::cache::disk::DiskCache;
use stash_repo::crypto::MasterKey;
use stash_repo::index::BlobLocation;
use stash_repo::{
    Backend, BlobData, BlobId, BlobKind, Blobs, BlobsConfig, FileKind, Id, Locate, Metrics, PackId, RepoResult,
};

const PACK_BYTES: usize = 16 << 20;

#[derive(Debug, Default)]
struct Places(HashMap<BlobId, BlobLocation>);

#[async_trait]
impl Locate for Places {
    fn lookup(&self, id: &BlobId) -> RepoResult<Option<BlobLocation>> {
        Ok(self.0.get(id).copied())
    }

    fn lookup_all(&self, id: &BlobId) -> RepoResult<Vec<BlobLocation>> {
        Ok(self.0.get(id).copied().into_iter().collect())
    }

    async fn refresh(&self) -> RepoResult<bool> {
        Ok(false)
    }
}

/// A repository's packs and the order in which its blobs are read.
struct Set {
    name: &'static str,
    places: Arc<Places>,
    order: Vec<(BlobId, BlobLocation)>,
    plain_bytes: usize,
}

fn main() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let temporary = tempfile::tempdir().expect("a temporary folder");
    let root = std::env::args().nth(1).map_or_else(|| temporary.path().to_owned(), Into::into);
    let key = MasterKey::generate();
    let sets = [
        write(&root, &key, "text, 0.5-2 MiB", 192 << 20, &|n| (512 << 10) + ((n * 7919 % 1536) << 10), true),
        write(&root, &key, "random, 0.5-2 MiB", 192 << 20, &|n| (512 << 10) + ((n * 7919 % 1536) << 10), false),
        write(&root, &key, "text, 0.5-64 KiB", 96 << 20, &|n| 512 + (n * 7919 % 64_000), true),
    ];
    let backend: Arc<dyn Backend> = Arc::new(LocalBackend::new(&root));
    for set in &sets {
        let kib = set.plain_bytes / set.order.len() / 1024;
        println!("\n{}: {} blobs, {kib} KiB each, {} MB plain", set.name, set.order.len(), set.plain_bytes / 1_000_000);
        show(set, "floor, 1 thread", floor(&backend, &key, set, 1));
        show(set, "floor, 2 threads", floor(&backend, &key, set, 2));
        for (name, run) in [("one after the other", 0), ("with prefetch", 1), ("4 readers", 2)] {
            let metrics = Arc::new(Metrics::default());
            let blobs = Blobs::new(BlobsConfig {
                backend: Arc::clone(&backend),
                locate: Arc::clone(&set.places) as Arc<dyn Locate>,
                key: Arc::new(key.clone()),
                metrics: Arc::clone(&metrics),
                disk: DiskCache::disabled(),
                runtime: runtime.handle().clone(),
                memory_bytes: 64 << 20,
                budget: None,
                verify: false,
                deadline: Duration::from_secs(30),
            })
            .expect("threads");
            let begun = (Instant::now(), cpu_time());
            match run {
                0 => runtime.block_on(read(&blobs, set, 0)),
                1 => runtime.block_on(read(&blobs, set, 12 << 20)),
                _ => runtime.block_on(readers(&blobs, set, 4)),
            }
            show(set, name, (begun.0.elapsed(), cpu_time() - begun.1));
        }
        random(&runtime, &backend, &key, set);
    }
    println!("\npeak memory (with the floor's buffers): {}", peak());
}

/// Reads all blobs in order, asking for the next `ahead` bytes as the mount's reader does.
async fn read(blobs: &Blobs, set: &Set, ahead: usize) {
    let ids: Vec<_> = set.order.iter().map(|(id, _)| *id).collect();
    let (mut asked, mut asked_bytes) = (0, 0);
    let mut sum = 0_usize;
    for (place, (id, location)) in set.order.iter().enumerate() {
        asked_bytes -= if asked > place { location.plain_bytes() as usize } else { 0 };
        if ahead > 0 && asked_bytes < ahead / 2 {
            asked = asked.max(place + 1);
            let mut end = asked;
            let mut bytes = asked_bytes;
            while end < ids.len() && bytes < ahead {
                bytes += set.order[end].1.plain_bytes() as usize;
                end += 1;
            }
            let taken = blobs.prefetch(&ids[asked..end], BlobKind::Data);
            asked_bytes += set.order[asked..asked + taken].iter().map(|(_, l)| l.plain_bytes() as usize).sum::<usize>();
            asked += taken;
        }
        let blob: BlobData = match blobs.try_get(id, usize::MAX) {
            Some(blob) => blob,
            None => blobs.get(*id, BlobKind::Data, usize::MAX).await.expect("a blob"),
        };
        sum += blob.len();
    }
    assert_eq!(sum, set.plain_bytes);
}

async fn readers(blobs: &Blobs, set: &Set, count: usize) {
    let tasks: Vec<_> = (0..count)
        .map(|reader| {
            let blobs = blobs.clone();
            let ids: Vec<_> = set.order.iter().skip(reader).step_by(count).map(|(id, _)| *id).collect();
            tokio::spawn(async move {
                for id in ids {
                    drop(blobs.get(id, BlobKind::Data, usize::MAX).await.expect("a blob"));
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("a reader");
    }
}

/// Reads 4 KiB at random places of blobs that are not cached.
fn random(runtime: &tokio::runtime::Runtime, backend: &Arc<dyn Backend>, key: &MasterKey, set: &Set) {
    const COUNT: usize = 300;
    let mut figures = Vec::new();
    for whole in [true, false] {
        let blobs = Blobs::new(BlobsConfig {
            backend: Arc::clone(backend),
            locate: Arc::clone(&set.places) as Arc<dyn Locate>,
            key: Arc::new(key.clone()),
            metrics: Arc::default(),
            disk: DiskCache::disabled(),
            runtime: runtime.handle().clone(),
            memory_bytes: 0,
            budget: None,
            verify: false,
            deadline: Duration::from_secs(30),
        })
        .expect("threads");
        let begun = Instant::now();
        runtime.block_on(async {
            for n in 0..COUNT {
                let (id, location) = set.order[n * 7919 % set.order.len()];
                let end = 4096 + n * 104_729 % (location.plain_bytes() as usize);
                drop(blobs.get(id, BlobKind::Data, if whole { usize::MAX } else { end }).await.expect("a blob"));
            }
        });
        figures.push(begun.elapsed().div_f64(COUNT as f64));
    }
    println!("  {:24} {:?} for 4 KiB, {:?} for the whole blob", "random reads", figures[1], figures[0]);
}

/// Reads, decrypts in place and decompresses into a kept buffer, and does nothing else.
fn floor(backend: &Arc<dyn Backend>, key: &MasterKey, set: &Set, threads: usize) -> (Duration, Duration) {
    let begun = (Instant::now(), cpu_time());
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                let mut zstd = zstd::bulk::Decompressor::new().expect("a context");
                let (mut sealed, mut plain) = (vec![0; 3 << 20], Vec::with_capacity(3 << 20));
                for (_, location) in set.order.iter().skip(thread).step_by(threads) {
                    let sealed = &mut sealed[..location.len_bytes as usize];
                    let offset = u64::from(location.offset);
                    let read = backend.read_local(FileKind::Pack, &location.pack.0, offset, sealed);
                    read.expect("a local store").expect("the pack");
                    let packed = key.open_in_place(sealed).expect("the MAC");
                    if location.uncompressed_bytes.is_some() {
                        zstd.decompress_to_buffer(packed, &mut plain).expect("zstd");
                    }
                }
            });
        }
    });
    (begun.0.elapsed(), cpu_time() - begun.1)
}

fn show(set: &Set, name: &str, (wall, cpu): (Duration, Duration)) {
    let speed = set.plain_bytes as f64 / wall.as_secs_f64() / 1e6;
    let each = cpu / u32::try_from(set.order.len()).expect("a count");
    let rate = set.order.len() as f64 / wall.as_secs_f64();
    println!("  {name:24} {speed:7.0} MB/s, {rate:7.0} blobs/s, {each:?} of CPU each");
}

fn cpu_time() -> Duration {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(spent.tv_sec.unsigned_abs(), u32::try_from(spent.tv_nsec).unwrap_or(0))
}

fn peak() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("unknown").trim().to_owned()
}

fn write(
    root: &Path,
    key: &MasterKey,
    name: &'static str,
    total_bytes: usize,
    size: &dyn Fn(usize) -> usize,
    text: bool,
) -> Set {
    let mut places = Places::default();
    let mut order = Vec::new();
    let mut plain_bytes = 0;
    let mut pack = (Vec::new(), Vec::new());
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    while plain_bytes < total_bytes {
        let plain = content(&mut random, size(order.len() + pack.1.len()), text);
        plain_bytes += plain.len();
        let packed = if text { zstd::bulk::compress(&plain, 3).expect("zstd") } else { plain.clone() };
        let sealed = key.seal(&packed);
        let claim = text.then(|| u32::try_from(plain.len()).expect("short"));
        pack.1.push((BlobId(Id::hash(&plain)), pack.0.len(), sealed.len(), claim));
        pack.0.extend_from_slice(&sealed);
        if pack.0.len() < PACK_BYTES && plain_bytes < total_bytes {
            continue;
        }
        let (bytes, blobs) = std::mem::take(&mut pack);
        let id = PackId(Id::hash(&bytes));
        let path = root.join(FileKind::Pack.path(&id.0));
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, bytes).expect("a pack");
        for (blob, offset, len, uncompressed_bytes) in blobs {
            let short = |n: usize| u32::try_from(n).expect("short");
            let kind = BlobKind::Data;
            let location =
                BlobLocation { pack: id, offset: short(offset), len_bytes: short(len), uncompressed_bytes, kind };
            places.0.insert(blob, location);
            order.push((blob, location));
        }
    }
    Set { name, places: Arc::new(places), order, plain_bytes }
}

/// Phrases and numbers, which zstd packs some four to one as it does source code and logs; or noise.
fn content(random: &mut u64, len: usize, text: bool) -> Vec<u8> {
    let mut next = || {
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        *random
    };
    let mut bytes = Vec::with_capacity(len + 64);
    while bytes.len() < len {
        let word = next();
        if text {
            let mut letters = (word % 8192).wrapping_mul(0x2545_f491_4f6c_dd1d);
            for _ in 0..16 + word % 8192 % 32 {
                letters = letters.rotate_left(7).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                bytes.push(b"etaoin srhldcum "[(letters >> 60) as usize]);
            }
            bytes.extend_from_slice(format!("{}\n", word >> 48).as_bytes());
        } else {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
    }
    bytes.truncate(len);
    bytes
}

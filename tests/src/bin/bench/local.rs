//! The benchmark on a local disk: one repository that Debian's restic wrote, every program, every floor.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::data;
use crate::decode_floor::Sealed;
use crate::fuse_floor;
use crate::measure::{percentile, random_4k, random_offsets, read_into_page_cache, sequential, small_files, walk};
use crate::peers::{Peer, Target};
use crate::report::Report;
use stash_tests::reference::Key;

const GIB: f64 = (1u64 << 30) as f64;
const RANDOM_READS: usize = 500;

pub(crate) fn run(work: &Path, peers: &[Peer], runs: usize, report: &mut Report) -> Result<()> {
    let source = work.join("tree");
    data::make(&source, &data::LOCAL)?;
    let repo = work.join("repo");
    let target = Target {
        address: repo.to_string_lossy().into_owned(),
        env: vec![("RESTIC_PASSWORD".into(), "bench".into())],
        inside: source.strip_prefix("/")?.to_owned(),
        work: work.join("local"),
    };
    std::fs::create_dir_all(&target.work)?;
    target.prepare(&source)?;

    let offsets = random_offsets(data::LOCAL.big_bytes, RANDOM_READS);
    let key = Key::from_restic(&[("RESTIC_REPOSITORY".into(), target.address.clone().into()), target.env[0].clone()])?;
    let sealed = load_big(&repo, &source)?;
    for run in 0..runs {
        eprintln!("run {} of {runs}", run + 1);
        read_into_page_cache(&repo.join("data"))?;
        native(&source, report)?;
        for threads in [1, 2] {
            let (bytes, elapsed) = sealed.decode_all(&key, threads)?;
            report.add(
                "floor",
                &format!("decode, {threads} threads"),
                "s/GiB",
                elapsed.as_secs_f64() * GIB / bytes as f64,
            );
        }
        let mut blobs = sealed.decode_at(&key, &offsets)?;
        report.add("floor", "decode a random read's blob, p50", "ms", percentile(&mut blobs, 50).as_secs_f64() * 1e3);
        let (bytes, elapsed) = fuse_floor::read_through_kernel(&target.work.join("mnt-floor"))?;
        report.add("floor", "fuse, from memory", "s/GiB", elapsed.as_secs_f64() * GIB / bytes as f64);
        for peer in peers {
            measure(peer, &target, &source, &offsets, report).with_context(|| format!("measure {}", peer.name()))?;
        }
    }
    goals(peers, report);
    Ok(())
}

/// Finds the blobs of `big.bin` and loads their ciphertext.
fn load_big(repo: &Path, source: &Path) -> Result<Sealed> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let repository = crate::open_local(repo, "bench", None).await?;
        repository.refresh().await?;
        let snapshot = repository.snapshots().await?.pop().context("no snapshot")?;
        let mut tree = repository.tree(snapshot.tree).await?;
        let path = source.join("big/big.bin");
        let names: Vec<_> = path.strip_prefix("/")?.components().collect();
        for name in &names[..names.len() - 1] {
            use std::os::unix::ffi::OsStrExt;
            let subtree =
                tree.find(name.as_os_str().as_bytes()).and_then(|node| node.subtree()).context("no such directory")?;
            tree = repository.tree(subtree).await?;
        }
        let content = tree.find(b"big.bin").context("no big.bin")?.content().to_vec();
        Sealed::load(repo, &repository, &content)
    })
}

fn native(source: &Path, report: &mut Report) -> Result<()> {
    // The first pass brings everything into memory: the figure is the kernel's own best.
    walk(source)?;
    let (entries, elapsed) = walk(source)?;
    report.add("native", "entries", "", entries as f64);
    report.add("native", "walk, again", "s", elapsed.as_secs_f64());
    let big = source.join("big/big.bin");
    sequential(&big)?;
    let (bytes, elapsed) = sequential(&big)?;
    report.add("native", "sequential, again", "s/GiB", elapsed.as_secs_f64() * GIB / bytes as f64);
    small_files(source, source)?;
    let (_, elapsed) = small_files(source, source)?;
    report.add("native", "small files, again", "s", elapsed.as_secs_f64());
    Ok(())
}

fn measure(peer: &Peer, target: &Target, source: &Path, offsets: &[u64], report: &mut Report) -> Result<()> {
    let who = peer.name();
    let tree = peer.tree(target);
    let big: PathBuf = tree.join("big/big.bin");
    // An earlier mount leaves index and trees in the cache directory, no file data.
    peer.drop_cache(target)?;
    {
        let mount = peer.mount(target, true)?;
        report.add(who, "mount ready, empty cache", "s", mount.ready.as_secs_f64());
        walk(&tree)?;
    }
    {
        let mount = peer.mount(target, true)?;
        report.add(who, "mount ready", "s", mount.ready.as_secs_f64());
        let (entries, elapsed) = walk(&tree)?;
        report.add(who, "entries", "", entries as f64);
        report.add(who, "walk, cold", "s", elapsed.as_secs_f64());
        report.add(who, "walk, again", "s", walk(&tree)?.1.as_secs_f64());
        report.add(who, "memory, walk", "MB", mount.memory_high_water()? as f64 / 1e6);
    }
    {
        let mount = peer.mount(target, true)?;
        let before = mount.cpu()?;
        let (bytes, elapsed) = sequential(&big)?;
        let gib = bytes as f64 / GIB;
        report.add(who, "cpu, sequential", "s/GiB", (mount.cpu()? - before).as_secs_f64() / gib);
        report.add(who, "sequential, cold", "s/GiB", elapsed.as_secs_f64() / gib);
        report.add(who, "sequential, again", "s/GiB", sequential(&big)?.1.as_secs_f64() / gib);
        let (bytes, elapsed) = sequential(&tree.join("big/random.bin"))?;
        report.add(who, "sequential incompressible, cold", "s/GiB", elapsed.as_secs_f64() * GIB / bytes as f64);
        report.add(who, "memory, sequential", "MB", mount.memory_high_water()? as f64 / 1e6);
    }
    {
        let mount = peer.mount(target, true)?;
        report.add(who, "small files, cold", "s", small_files(source, &tree)?.1.as_secs_f64());
        report.add(who, "small files, again", "s", small_files(source, &tree)?.1.as_secs_f64());
        report.add(who, "memory, small files", "MB", mount.memory_high_water()? as f64 / 1e6);
    }
    {
        let mount = peer.mount(target, true)?;
        let mut reads = random_4k(&big, offsets)?;
        report.add(who, "random 4 KiB, cold, p50", "ms", percentile(&mut reads, 50).as_secs_f64() * 1e3);
        report.add(who, "random 4 KiB, cold, p99", "ms", percentile(&mut reads, 99).as_secs_f64() * 1e3);
        report.add(who, "memory, random", "MB", mount.memory_high_water()? as f64 / 1e6);
        // The whole run in one process: what an operator sees after a day.
        walk(&tree)?;
        sequential(&big)?;
        small_files(source, &tree)?;
        report.add(who, "memory, everything in one process", "MB", mount.memory_high_water()? as f64 / 1e6);
    }
    Ok(())
}

fn goals(peers: &[Peer], report: &mut Report) {
    if !peers.iter().any(|p| matches!(p, Peer::Ours { .. })) {
        return;
    }
    let (us, restic) = ("stash-fs", "restic");
    for (what, times) in [
        ("walk, cold", 10.0),
        ("walk, again", 10.0),
        ("sequential, cold", 4.0),
        ("small files, cold", 5.0),
        ("small files, again", 10.0),
        ("cpu, sequential", 3.0),
    ] {
        report.faster(what, report.median(us, what), "restic", report.median(restic, what), times);
    }
    report.at_most(
        "walk, again",
        report.median(us, "walk, again"),
        "native, again",
        report.median("native", "walk, again"),
        1.5,
    );
    let floor = report.median("floor", "decode, 2 threads")
        + report.median("floor", "fuse, from memory")
        + report.median("native", "sequential, again");
    let ours = report.median(us, "sequential, cold");
    report.at_most("sequential, cold", ours, "decode (2 threads) + fuse + reader", floor, 1.0 / 0.6);
    let ours = report.median(us, "sequential, again");
    report.at_most(
        "sequential, again",
        ours,
        "native, again",
        report.median("native", "sequential, again"),
        1.0 / 0.55,
    );
    let ours = report.median(us, "random 4 KiB, cold, p50");
    report.at_most("random 4 KiB, cold, p50", ours, "restic", report.median(restic, "random 4 KiB, cold, p50"), 0.6);
    let blob = report.median("floor", "decode a random read's blob, p50");
    report.at_most("random 4 KiB, cold, p50", ours, "decoding that read's blob", blob, 1.3);
    let memory = report.highest(us, "memory, everything in one process");
    report.at_most("memory, high water (MB)", memory, "150 MB", 150.0, 1.0);
}

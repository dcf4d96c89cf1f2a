//! The benchmark over a network: MinIO behind a proxy that adds latency.

use std::ffi::OsString;
use std::path::Path;

use anyhow::Result;
use stash_tests::servers::{Minio, Toxiproxy};

use crate::data;
use crate::measure::{sequential, small_files, walk};
use crate::peers::{Peer, Target};
use crate::process::machine_busy;
use crate::report::Report;

const GIB: f64 = (1u64 << 30) as f64;
/// What a region away costs.
const LATENCY_MILLISECONDS: u64 = 20;

pub(crate) fn run(work: &Path, peers: &[Peer], runs: usize, report: &mut Report) -> Result<()> {
    let source = work.join("tree-remote");
    data::make(&source, &data::REMOTE)?;
    let minio = Minio::start();
    minio.create_bucket("bench");
    let toxiproxy = Toxiproxy::start();
    let proxy = toxiproxy.proxy(minio.address());
    let mut env: Vec<(String, OsString)> = vec![("RESTIC_PASSWORD".into(), "bench".into())];
    env.extend(minio.environment().into_iter().map(|(name, value)| (name, value.into())));
    let inside = source.strip_prefix("/")?.to_owned();
    let direct = Target { address: minio.repository("bench", "repo"), env, inside, work: work.join("remote") };
    std::fs::create_dir_all(&direct.work)?;
    direct.prepare(&source)?;
    proxy.latency(LATENCY_MILLISECONDS);
    let target = Target { address: Minio::repository_at(proxy.address(), "bench", "repo"), ..direct };
    for run in 0..runs {
        eprintln!("remote run {} of {runs}", run + 1);
        for peer in peers {
            // rustic's mount needs OpenDAL's own address syntax and did not end the walk in 280 s: not measured here.
            if matches!(peer, Peer::Rustic { .. }) {
                continue;
            }
            measure(peer, &target, &source, false, "no cache", report)?;
            peer.drop_cache(&target)?;
            measure(peer, &target, &source, true, "first mount", report)?;
            measure(peer, &target, &source, true, "second mount", report)?;
        }
    }
    let (us, restic) = ("stash-fs", "restic");
    for (state, walk_times) in [("no cache", 20.0), ("second mount", 3.0)] {
        for (what, times) in [("walk", walk_times), ("sequential", 6.0), ("small files", 15.0)] {
            let what = format!("S3 + 20 ms, {state}: {what}");
            report.faster(&what, report.median(us, &what), "restic", report.median(restic, &what), times);
        }
    }
    Ok(())
}

fn measure(peer: &Peer, target: &Target, source: &Path, cache: bool, state: &str, report: &mut Report) -> Result<()> {
    let who = peer.name();
    let tree = peer.tree(target);
    let what = |name: &str| format!("S3 + 20 ms, {state}: {name}");
    {
        let mount = peer.mount(target, cache)?;
        report.add(who, &what("mount ready"), "s", mount.ready.as_secs_f64());
        report.add(who, &what("walk"), "s", walk(&tree)?.1.as_secs_f64());
    }
    {
        let mount = peer.mount(target, cache)?;
        let busy = machine_busy()?;
        let (bytes, elapsed) = sequential(&tree.join("big/big.bin"))?;
        let busy = machine_busy()?.saturating_sub(busy);
        report.add(who, &what("sequential"), "s/GiB", elapsed.as_secs_f64() * GIB / bytes as f64);
        // Store, proxy, reader and mount share the processors: what they worked is what no pipeline can undercut.
        report.add(who, &what("sequential, processors"), "s/GiB", busy.as_secs_f64() * GIB / bytes as f64);
        report.add(who, &what("memory, sequential"), "MB", mount.memory_high_water()? as f64 / 1e6);
    }
    {
        let _mount = peer.mount(target, cache)?;
        report.add(who, &what("small files"), "s", small_files(source, &tree)?.1.as_secs_f64());
    }
    Ok(())
}

//! Every figure that a mount shows, with its name and meaning (`docs/metrics.md` lists them, held by a test).

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use stash_repo::Metrics;
use stash_repo::metrics::{Histogram, LATENCY_BOUNDS_MICROS};

use crate::fuse::{FuseMetrics, Op};

/// What kind of figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by upper bounds.
    Histogram,
}

/// One figure.
#[derive(Debug, Clone, Copy)]
pub struct MetricDefinition {
    /// Its name in Prometheus' form.
    pub name: &'static str,
    /// What kind.
    pub kind: MetricKind,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// What it means.
    pub help: &'static str,
    read: Read,
}

#[derive(Clone, Copy)]
enum Read {
    /// One figure of the mount.
    Mount(fn(&FuseMetrics) -> u64),
    /// One figure a kind of request.
    Op(fn(&FuseMetrics, Op) -> u64),
    /// Latencies a kind of request.
    OpLatency,
    /// One figure a repository.
    Repository(fn(&Metrics) -> u64),
    /// Latencies a repository.
    RepositoryLatency(fn(&Metrics) -> &Histogram),
    /// How many mounts a node daemon has, by state.
    Mounts,
    /// One figure of the process, by its line in `/proc/self/status` (in KiB).
    Process(&'static str),
}

impl std::fmt::Debug for Read {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Read")
    }
}

const fn of_mount(
    name: &'static str,
    kind: MetricKind,
    read: fn(&FuseMetrics) -> u64,
    help: &'static str,
) -> MetricDefinition {
    MetricDefinition { name, kind, labels: &[], help, read: Read::Mount(read) }
}

const fn of_op(name: &'static str, read: fn(&FuseMetrics, Op) -> u64, help: &'static str) -> MetricDefinition {
    MetricDefinition { name, kind: MetricKind::Counter, labels: &["op"], help, read: Read::Op(read) }
}

const fn of_repository(name: &'static str, read: fn(&Metrics) -> u64, help: &'static str) -> MetricDefinition {
    MetricDefinition { name, kind: MetricKind::Counter, labels: &["repository"], help, read: Read::Repository(read) }
}

/// All figures, in the order in which they are shown.
pub const METRICS: &[MetricDefinition] = &[
    MetricDefinition {
        name: "stash_fs_fuse_request_seconds",
        kind: MetricKind::Histogram,
        labels: &["op"],
        help: "Time from reading a FUSE request to writing its answer.",
        read: Read::OpLatency,
    },
    of_op(
        "stash_fs_fuse_deferred_total",
        |fuse, op| fuse.op(op).deferred.get(),
        "FUSE requests that memory could not answer.",
    ),
    of_op(
        "stash_fs_fuse_failures_total",
        |fuse, op| fuse.op(op).failures.get(),
        "FUSE requests that were answered EIO because data could not be had.",
    ),
    of_mount(
        "stash_fs_fuse_read_bytes_total",
        MetricKind::Counter,
        |fuse| fuse.read_bytes.get(),
        "Bytes given to readers (what the kernel's page cache gives is not seen here).",
    ),
    of_mount(
        "stash_fs_fuse_in_flight",
        MetricKind::Gauge,
        |fuse| fuse.in_flight.load(Relaxed),
        "FUSE requests that wait for I/O now.",
    ),
    of_mount(
        "stash_fs_fuse_deadlines_total",
        MetricKind::Counter,
        |fuse| fuse.deadlines.get(),
        "FUSE requests that the deadline ended.",
    ),
    of_mount(
        "stash_fs_fuse_panics_total",
        MetricKind::Counter,
        |fuse| fuse.panics.get(),
        "FUSE requests that were answered EIO because of a bug.",
    ),
    of_repository(
        "stash_fs_backend_requests_total",
        |repo| repo.backend_requests.get(),
        "Requests to the store, each attempt counted.",
    ),
    of_repository("stash_fs_backend_errors_total", |repo| repo.backend_errors.get(), "Attempts that failed."),
    of_repository(
        "stash_fs_backend_retries_total",
        |repo| repo.backend_retries.get(),
        "Attempts that were made again.",
    ),
    of_repository("stash_fs_backend_read_bytes_total", |repo| repo.backend_read_bytes.get(), "Bytes from the store."),
    of_repository(
        "stash_fs_backend_written_bytes_total",
        |repo| repo.backend_written_bytes.get(),
        "Bytes to the store.",
    ),
    MetricDefinition {
        name: "stash_fs_backend_request_seconds",
        kind: MetricKind::Histogram,
        labels: &["repository"],
        help: "How long an attempt took.",
        read: Read::RepositoryLatency(|repo| &repo.backend_latency),
    },
    of_repository("stash_fs_blob_memory_hits_total", |repo| repo.blob_memory_hits.get(), "Blobs that memory held."),
    of_repository("stash_fs_blob_disk_hits_total", |repo| repo.blob_disk_hits.get(), "Blobs that the disk cache held."),
    of_repository("stash_fs_blob_fetches_total", |repo| repo.blob_fetches.get(), "Blobs fetched from the store."),
    of_repository(
        "stash_fs_blob_joined_total",
        |repo| repo.blob_joined.get(),
        "Blobs that another reader was already fetching.",
    ),
    of_repository(
        "stash_fs_blob_prefetched_total",
        |repo| repo.blob_prefetched.get(),
        "Blobs asked for ahead of their reader.",
    ),
    of_repository("stash_fs_decoded_bytes_total", |repo| repo.decoded_bytes.get(), "Plain bytes that were decoded."),
    of_repository("stash_fs_tree_memory_hits_total", |repo| repo.tree_memory_hits.get(), "Trees that memory held."),
    of_repository("stash_fs_tree_decodes_total", |repo| repo.tree_decodes.get(), "Trees that were decoded."),
    of_repository(
        "stash_fs_heals_total",
        |repo| repo.heals.get(),
        "Reads that a first source failed and another served.",
    ),
    of_repository("stash_fs_blobs_lost_total", |repo| repo.blobs_lost.get(), "Blobs that no source could serve."),
    of_repository(
        "stash_fs_cache_damage_total",
        |repo| repo.cache_damage.get(),
        "Damaged pieces of our caches that were dropped and rebuilt.",
    ),
    MetricDefinition {
        name: "stash_fs_budget_used_bytes",
        kind: MetricKind::Gauge,
        labels: &["repository"],
        help: "Bytes of the memory budget in use now.",
        read: Read::Repository(|repo| repo.budget_used_bytes.load(Relaxed)),
    },
    MetricDefinition {
        name: "stash_fs_mounts",
        kind: MetricKind::Gauge,
        labels: &["state"],
        help: "Mounts of the node daemon: served, or waiting to be gone on with after an earlier daemon.",
        read: Read::Mounts,
    },
    MetricDefinition {
        name: "stash_fs_process_resident_bytes",
        kind: MetricKind::Gauge,
        labels: &[],
        help: "Memory of the process now.",
        read: Read::Process("VmRSS:"),
    },
    MetricDefinition {
        name: "stash_fs_process_resident_max_bytes",
        kind: MetricKind::Gauge,
        labels: &[],
        help: "Memory of the process at its highest.",
        read: Read::Process("VmHWM:"),
    },
];

/// How many mounts a node daemon has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MountCounts {
    /// Those that are served.
    pub served: u64,
    /// Those of an earlier daemon that are not served yet: their readers wait.
    pub waiting: u64,
}

/// Where the figures of a process come from.
#[derive(Debug, Clone)]
pub struct Sources {
    /// The FUSE side.
    pub fuse: Arc<FuseMetrics>,
    /// The repositories by name.
    pub repositories: Vec<(String, Arc<Metrics>)>,
    /// How many mounts there are, where it is more than the one that the process is for.
    pub mounts: Option<MountCounts>,
}

impl Sources {
    /// Returns all figures in Prometheus' text format, version 0.0.4.
    #[must_use]
    pub fn prometheus(&self) -> String {
        let mut out = String::with_capacity(16 << 10);
        for metric in METRICS {
            // Writing into a string cannot fail.
            let _ = self.write_metric(&mut out, metric);
        }
        out
    }

    fn write_metric(&self, out: &mut String, metric: &MetricDefinition) -> std::fmt::Result {
        let kind = match metric.kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
        };
        let name = metric.name;
        writeln!(out, "# HELP {name} {}\n# TYPE {name} {kind}", metric.help)?;
        match metric.read {
            Read::Mount(read) => writeln!(out, "{name} {}", read(&self.fuse))?,
            Read::Op(read) => {
                for op in Op::ALL {
                    writeln!(out, "{name}{{op=\"{}\"}} {}", op.name(), read(&self.fuse, op))?;
                }
            }
            Read::OpLatency => {
                for op in Op::ALL {
                    write_histogram(out, name, &format!("op=\"{}\"", op.name()), &self.fuse.op(op).latency)?;
                }
            }
            Read::Repository(read) => {
                for (repository, metrics) in &self.repositories {
                    writeln!(out, "{name}{{repository=\"{}\"}} {}", escaped(repository), read(metrics))?;
                }
            }
            Read::RepositoryLatency(read) => {
                for (repository, metrics) in &self.repositories {
                    write_histogram(out, name, &format!("repository=\"{}\"", escaped(repository)), read(metrics))?;
                }
            }
            Read::Mounts => {
                if let Some(mounts) = self.mounts {
                    for (state, count) in [("served", mounts.served), ("waiting", mounts.waiting)] {
                        writeln!(out, "{name}{{state=\"{state}\"}} {count}")?;
                    }
                }
            }
            Read::Process(line) => {
                if let Some(bytes) = process_bytes(line) {
                    writeln!(out, "{name} {bytes}")?;
                }
            }
        }
        Ok(())
    }

    /// Returns what a person wants to see at a glance: requests with latencies, hit rates, bytes fetched against served.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut out = String::new();
        let _ = self.write_summary(&mut out);
        out
    }

    fn write_summary(&self, out: &mut String) -> std::fmt::Result {
        for op in Op::ALL {
            let metrics = self.fuse.op(op);
            let (counts, sum) = metrics.latency.snapshot();
            let requests: u64 = counts.iter().sum();
            if requests > 0 {
                let mean_micros = sum.as_micros() / u128::from(requests);
                writeln!(
                    out,
                    "{}: {requests} requests, {} needed I/O, {} failed, mean {mean_micros} us, p50 {}, p99 {}",
                    op.name(),
                    metrics.deferred.get(),
                    metrics.failures.get(),
                    quantile(&counts, 50),
                    quantile(&counts, 99),
                )?;
            }
        }
        let served = self.fuse.read_bytes.get();
        writeln!(out, "served {served} bytes; {} requests in flight", self.fuse.in_flight.load(Relaxed))?;
        for (name, repo) in &self.repositories {
            let (memory, disk, fetched) =
                (repo.blob_memory_hits.get(), repo.blob_disk_hits.get(), repo.blob_fetches.get());
            writeln!(
                out,
                "{name}: {} bytes from the store in {} requests ({} failed, {} repeated), {} written",
                repo.backend_read_bytes.get(),
                repo.backend_requests.get(),
                repo.backend_errors.get(),
                repo.backend_retries.get(),
                repo.backend_written_bytes.get(),
            )?;
            writeln!(
                out,
                "{name}: blobs {memory} from memory ({}), {disk} from disk, {fetched} fetched, {} joined, {} ahead; \
                 trees {} from memory, {} decoded",
                share(memory, memory + disk + fetched),
                repo.blob_joined.get(),
                repo.blob_prefetched.get(),
                repo.tree_memory_hits.get(),
                repo.tree_decodes.get(),
            )?;
            writeln!(
                out,
                "{name}: {} heals, {} blobs lost, {} damaged cache pieces, {} bytes of the budget in use",
                repo.heals.get(),
                repo.blobs_lost.get(),
                repo.cache_damage.get(),
                repo.budget_used_bytes.load(Relaxed),
            )?;
        }
        Ok(())
    }
}

fn share(part: u64, whole: u64) -> String {
    match (part * 100).checked_div(whole) {
        Some(percent) => format!("{percent} %"),
        None => "none asked for".to_owned(),
    }
}

/// Returns the bound under which so many percent of the counts lie.
fn quantile(counts: &[u64], percent: u64) -> String {
    let all: u64 = counts.iter().sum();
    let mut seen = 0;
    for (place, count) in counts.iter().enumerate() {
        seen += count;
        if seen * 100 >= all * percent {
            return match LATENCY_BOUNDS_MICROS.get(place) {
                Some(bound) => format!("<= {bound} us"),
                None => "> 30 s".to_owned(),
            };
        }
    }
    "unknown".to_owned()
}

fn write_histogram(out: &mut String, name: &str, label: &str, histogram: &Histogram) -> std::fmt::Result {
    let (counts, sum) = histogram.snapshot();
    let mut below = 0;
    for (bound, count) in LATENCY_BOUNDS_MICROS.iter().zip(&counts) {
        below += count;
        // Microseconds below 2^53 are exact.
        let seconds = std::time::Duration::from_micros(*bound).as_secs_f64();
        writeln!(out, "{name}_bucket{{{label},le=\"{seconds}\"}} {below}")?;
    }
    let all: u64 = counts.iter().sum();
    writeln!(out, "{name}_bucket{{{label},le=\"+Inf\"}} {all}")?;
    writeln!(out, "{name}_sum{{{label}}} {}", sum.as_secs_f64())?;
    writeln!(out, "{name}_count{{{label}}} {all}")
}

/// Label values: backslash, quote and newline are escaped.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn process_bytes(line: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib = status
        .lines()
        .find_map(|text| text.strip_prefix(line))?
        .trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;

    fn sources() -> Sources {
        Sources {
            fuse: Arc::new(FuseMetrics::default()),
            repositories: vec![("a\"b".to_owned(), Arc::new(Metrics::default()))],
            mounts: Some(MountCounts { served: 3, waiting: 1 }),
        }
    }

    #[test]
    fn test_documentation_lists_every_metric_and_no_other() {
        let documentation = include_str!("../../../docs/metrics.md");
        let listed: BTreeSet<&str> = documentation.split('`').filter(|word| word.starts_with("stash_fs_")).collect();
        let defined: BTreeSet<&str> = METRICS.iter().map(|metric| metric.name).collect();
        assert_eq!(listed, defined);
        for metric in METRICS {
            assert!(documentation.contains(metric.help), "docs/metrics.md says of {}: {}", metric.name, metric.help);
        }
    }

    #[test]
    fn test_names_end_in_their_unit() {
        for metric in METRICS {
            let known = match metric.kind {
                MetricKind::Counter => metric.name.ends_with("_total"),
                MetricKind::Gauge => ["_bytes", "_in_flight", "_mounts"].iter().any(|unit| metric.name.ends_with(unit)),
                MetricKind::Histogram => metric.name.ends_with("_seconds"),
            };
            assert!(known, "{}", metric.name);
        }
    }

    #[test]
    fn test_text_holds_every_metric_and_counts_add_up() {
        let sources = sources();
        sources.fuse.observe(Op::Read, Duration::from_micros(40));
        sources.fuse.observe(Op::Read, Duration::from_secs(100));
        sources.fuse.read_bytes.add(7);
        let text = sources.prometheus();
        for metric in METRICS {
            assert!(text.contains(&format!("# TYPE {} ", metric.name)), "{}", metric.name);
        }
        for line in [
            "stash_fs_fuse_request_seconds_bucket{op=\"read\",le=\"0.00005\"} 1",
            "stash_fs_fuse_request_seconds_bucket{op=\"read\",le=\"30\"} 1",
            "stash_fs_fuse_request_seconds_bucket{op=\"read\",le=\"+Inf\"} 2",
            "stash_fs_fuse_request_seconds_count{op=\"read\"} 2",
            "stash_fs_fuse_read_bytes_total 7",
            "stash_fs_heals_total{repository=\"a\\\"b\"} 0",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} in\n{text}");
        }
    }

    #[test]
    fn test_summary_names_what_was_asked() {
        let sources = sources();
        sources.fuse.observe(Op::Lookup, Duration::from_micros(40));
        let summary = sources.summary();
        assert!(summary.contains("lookup: 1 requests, 0 needed I/O, 0 failed, mean 40 us, p50 <= 50 us"), "{summary}");
        assert!(!summary.contains("readlink"), "{summary}");
    }
}

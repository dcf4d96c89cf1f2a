//! What is measured, and what it has to be.

use std::collections::HashMap;

use jiff::Timestamp;
use serde::Serialize;
use tokio::time::Instant;

use crate::world::World;

/// All figures of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    /// How many configurations there were.
    pub(crate) configurations: usize,
    /// How many minutes they were due in.
    pub(crate) minutes: u64,
    /// How long it took until all were Ready, in seconds.
    pub(crate) ready_seconds: f64,
    /// Requests beside watches while nothing was due.
    pub(crate) idle_requests_per_second: f64,
    /// The controller's VmHWM, in MB.
    pub(crate) memory_mb: f64,
    /// The controller's processor time over all, in seconds.
    pub(crate) cpu_seconds: f64,
    /// How late sessions were made.
    pub(crate) lateness: Lateness,
    /// How many sessions ended, by phase.
    pub(crate) ended: HashMap<String, usize>,
}

/// How late sessions were made, in seconds after their time.
#[derive(Debug, Serialize)]
pub(crate) struct Lateness {
    /// How many sessions were made.
    pub(crate) made: usize,
    /// The median.
    pub p50: f64,
    /// Of a hundred one is later.
    pub p99: f64,
    /// The latest.
    pub(crate) max: f64,
    /// The configurations of which fewer were made than minutes passed.
    pub(crate) missed: Vec<String>,
}

impl Figures {
    /// Prints them beside what they have to be; returns whether all hold.
    pub(crate) fn print(&self) -> bool {
        let expected = self.configurations * usize::try_from(self.minutes).unwrap();
        let late = &self.lateness;
        let rows = [
            ("sessions made", late.made as f64, ">=", expected as f64, late.made >= expected),
            ("made late, p99 (s)", late.p99, "<=", 2.0, late.p99 <= 2.0),
            ("memory, VmHWM (MB)", self.memory_mb, "<", 150.0, self.memory_mb < 150.0),
            ("requests/s, idle", self.idle_requests_per_second, "<=", 2.0, self.idle_requests_per_second <= 2.0),
        ];
        println!("made late: p50 {:.3} s, p99 {:.3} s, latest {:.3} s", late.p50, late.p99, late.max);
        late.missed.iter().for_each(|missed| println!("missed: {missed}"));
        println!("processor: {:.1} s in all; ended: {:?}", self.cpu_seconds, self.ended);
        println!("{:<22} {:>10}    {:>10}", "", "measured", "allowed");
        for (what, measured, relation, allowed, holds) in rows {
            let said = if holds { "holds" } else { "MISSES" };
            println!("{what:<22} {measured:>10.2} {relation:>2} {allowed:>10.2}  {said}");
        }
        rows.iter().all(|row| row.4)
    }
}

/// Returns how late the sessions of which the time is from `begin` to before `end` were made.
pub(crate) fn lateness(sessions: &HashMap<String, f64>, begin: Timestamp, end: Timestamp) -> Lateness {
    let due = |name: &str| name.rsplit_once('-').and_then(|(_, time)| time.parse::<i64>().ok()).unwrap_or(0);
    let counted = sessions.iter().filter(|(name, _)| (begin.as_second()..end.as_second()).contains(&due(name)));
    let mut late: Vec<f64> = counted.map(|(_, late)| *late).collect();
    late.sort_by(f64::total_cmp);
    let at = |share: usize| late.get((late.len() * share / 100).min(late.len().saturating_sub(1))).copied();
    Lateness {
        made: late.len(),
        p50: at(50).unwrap_or(f64::NAN),
        p99: at(99).unwrap_or(f64::NAN),
        missed: missed(sessions, begin, end),
        max: late.last().copied().unwrap_or(f64::NAN),
    }
}

fn missed(sessions: &HashMap<String, f64>, begin: Timestamp, end: Timestamp) -> Vec<String> {
    let mut times: HashMap<&str, Vec<i64>> = HashMap::new();
    for name in sessions.keys() {
        if let Some((configuration, time)) = name.rsplit_once('-') {
            times.entry(configuration).or_default().extend(time.parse::<i64>());
        }
    }
    let minutes = usize::try_from((end.as_second() - begin.as_second()) / 60).unwrap();
    let mut missed: Vec<String> = Vec::new();
    for (configuration, times) in times {
        let mut within: Vec<i64> = times.iter().map(|time| time - begin.as_second()).collect();
        within.sort_unstable();
        if within.iter().filter(|time| (0..end.as_second() - begin.as_second()).contains(*time)).count() < minutes {
            missed.push(format!("{configuration} was begun at {within:?} s"));
        }
    }
    missed
}

/// Returns when the next minute of the clock begins.
pub(crate) fn next_minute(now: Timestamp) -> Timestamp {
    Timestamp::from_second((now.as_second() / 60 + 1) * 60).unwrap()
}

/// How many requests an API server has answered, beside watches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Requests {
    count: f64,
    at: Instant,
}

impl Requests {
    /// Reads the API server's own figures.
    pub(crate) async fn count(world: &World) -> Self {
        let text = world.metrics().await;
        let lines = text.lines().filter(|line| line.starts_with("apiserver_request_total{"));
        let counted = lines.filter(|line| !line.contains("verb=\"WATCH\"") && !line.contains("/metrics"));
        let count = counted.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum();
        Self { count, at: Instant::now() }
    }

    /// Returns what came after `before`.
    pub(crate) fn since(self, before: &Self) -> Rate {
        Rate { count: self.count - before.count, seconds: (self.at - before.at).as_secs_f64() }
    }
}

/// Requests over a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    count: f64,
    seconds: f64,
}

impl Rate {
    /// Returns them by second.
    pub(crate) fn per_second(self) -> f64 {
        self.count / self.seconds
    }
}

//! What happened and what is, as Prometheus reads it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use kube::runtime::reflector::ObjectRef;
use parking_lot::Mutex;

use crate::backup_session::history;
use crate::stores::Stores;
use exposition::Exposition;

mod exposition;
mod of_restores;
mod of_stash;

/// The bounds of the histograms, in seconds.
const BOUNDS: [f64; 8] = [0.01, 0.05, 0.25, 1.0, 2.0, 5.0, 15.0, 60.0];

/// Counters of the controller.
#[derive(Debug, Default)]
pub struct Metrics {
    /// By kind and outcome, each one of a few constants.
    reconciliations: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
    /// How late sessions were made.
    lateness: Mutex<Histogram>,
    /// By hook and outcome, each one of a few constants.
    hooks: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
}

#[derive(Debug, Default)]
struct Histogram {
    buckets: [u64; BOUNDS.len()],
    count: u64,
    sum: f64,
}

impl Histogram {
    fn add(&mut self, seconds: f64) {
        for (bound, bucket) in BOUNDS.iter().zip(&mut self.buckets) {
            *bucket += u64::from(seconds <= *bound);
        }
        self.count += 1;
        self.sum += seconds;
    }

    fn write(&self, name: &str, help: &str, text: &mut String) {
        // Writing to a String cannot fail.
        let _infallible = writeln!(text, "# HELP {name} {help}\n# TYPE {name} histogram");
        for (bound, bucket) in BOUNDS.iter().zip(&self.buckets) {
            let _infallible = writeln!(text, "{name}_bucket{{le=\"{bound}\"}} {bucket}");
        }
        let _infallible = writeln!(text, "{name}_bucket{{le=\"+Inf\"}} {}", self.count);
        let _infallible = writeln!(text, "{name}_sum {}\n{name}_count {}", self.sum, self.count);
    }
}

impl Metrics {
    /// Counts a look at an object of `kind`; `outcome` is `ok` or the reason of an error.
    pub fn count(&self, kind: &'static str, outcome: &'static str) {
        *self.reconciliations.lock().entry((kind, outcome)).or_default() += 1;
    }

    /// Counts a hook that ended; `outcome` is `ok` or `failed`.
    pub fn count_hook(&self, hook: &'static str, outcome: &'static str) {
        *self.hooks.lock().entry((hook, outcome)).or_default() += 1;
    }

    /// Takes note of how long after its time a session was made.
    pub fn made_late(&self, late: Duration) {
        self.lateness.lock().add(late.as_secs_f64());
    }

    /// Writes all figures as text; those of objects are in `stores`.
    pub fn render(&self, stores: Option<&Stores>) -> String {
        let mut text = String::from(
            "# HELP stash_controller_reconciliations_total Looks at objects, by kind and outcome.\n\
             # TYPE stash_controller_reconciliations_total counter\n",
        );
        for ((kind, outcome), count) in &*self.reconciliations.lock() {
            // Writing to a String cannot fail.
            let _infallible = writeln!(
                text,
                "stash_controller_reconciliations_total{{kind=\"{kind}\",outcome=\"{outcome}\"}} {count}"
            );
        }
        text.push_str(
            "# HELP stash_controller_hooks_total Hooks that ended, by hook and outcome.\n\
             # TYPE stash_controller_hooks_total counter\n",
        );
        for ((hook, outcome), count) in &*self.hooks.lock() {
            let _infallible =
                writeln!(text, "stash_controller_hooks_total{{hook=\"{hook}\",outcome=\"{outcome}\"}} {count}");
        }
        let help = "How long after their time sessions were made.";
        self.lateness.lock().write("stash_controller_session_lateness_seconds", help, &mut text);
        if let Some(stores) = stores {
            self.objects(stores).write(&mut text);
        }
        text
    }

    fn objects(&self, stores: &Stores) -> Exposition {
        let mut all = Exposition::default();
        let mut phases: BTreeMap<String, u32> = BTreeMap::new();
        for session in stores.sessions.state() {
            *phases.entry(history::phase(&session).map_or_else(String::new, ToString::to_string)).or_default() += 1;
        }
        for (phase, count) in phases {
            let name = "stash_controller_sessions";
            all.gauge(name, "How many BackupSessions there are, by phase.", &vec![("phase", phase)], f64::from(count));
        }
        stores.repositories.state().iter().for_each(|repository| of_stash::repository(repository, &mut all));
        let configurations = stores.configurations.state();
        configurations.iter().for_each(|configuration| of_stash::configuration(configuration, &mut all));
        let mut by_invoker = stores.sessions_by_invoker();
        let of = |configuration: &stash_crds::BackupConfiguration| {
            by_invoker.remove(&ObjectRef::from_obj(configuration)).unwrap_or_default()
        };
        of_stash::sessions(&configurations, of, &mut all);
        stores.restores.state().iter().for_each(|session| of_restores::restore(session, &mut all));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_looks_are_counted() {
        let metrics = Metrics::default();
        metrics.count("Repository", "ok");
        metrics.count("Repository", "ok");
        metrics.count("BackupSession", "Stale");
        let text = metrics.render(None);
        assert!(text.contains("{kind=\"Repository\",outcome=\"ok\"} 2\n"), "{text}");
        assert!(text.contains("{kind=\"BackupSession\",outcome=\"Stale\"} 1\n"), "{text}");
        metrics.count_hook("preBackup", "ok");
        let text = metrics.render(None);
        assert!(text.contains("stash_controller_hooks_total{hook=\"preBackup\",outcome=\"ok\"} 1\n"), "{text}");
        metrics.made_late(Duration::from_millis(30));
        metrics.made_late(Duration::from_secs(3));
        let text = metrics.render(None);
        for line in [
            "_bucket{le=\"0.01\"} 0",
            "_bucket{le=\"0.05\"} 1",
            "_bucket{le=\"5\"} 2",
            "_bucket{le=\"+Inf\"} 2",
            "_sum 3.03",
            "_count 2",
        ] {
            assert!(text.contains(&format!("stash_controller_session_lateness_seconds{line}\n")), "{line}: {text}");
        }
    }
}

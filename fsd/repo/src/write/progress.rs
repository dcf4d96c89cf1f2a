//! `rustic_core`'s progress bars as ours.

use std::fmt::Debug;
use std::sync::Arc;

use rustic_core::{Progress, ProgressBars, ProgressType, RusticProgress};

/// What a step of the work counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Nothing: it begins and ends.
    None,
    /// Files, packs, trees.
    Items,
    /// Bytes.
    Bytes,
}

/// Where steps of the work are shown.
pub trait ProgressSink: Debug + Send + Sync + 'static {
    /// A step begins. Called from any thread.
    fn begin(&self, unit: Unit, title: &str) -> Arc<dyn Meter>;

    /// Returns whether nobody looks: totals need not be found out.
    fn is_hidden(&self) -> bool;
}

/// One step of the work. All methods may be called from any thread.
pub trait Meter: Debug + Send + Sync + 'static {
    /// Sets how much there is to do.
    fn set_total(&self, amount: u64);
    /// Work was done.
    fn add(&self, amount: u64);
    /// The step is over.
    fn finish(&self);
}

/// Shows nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl ProgressSink for NoProgress {
    fn begin(&self, _unit: Unit, _title: &str) -> Arc<dyn Meter> {
        Arc::new(Self)
    }

    fn is_hidden(&self) -> bool {
        true
    }
}

impl Meter for NoProgress {
    fn set_total(&self, _amount: u64) {}
    fn add(&self, _amount: u64) {}
    fn finish(&self) {}
}

/// The sink, as `rustic_core` sees it.
#[derive(Debug, Clone)]
pub(crate) struct Bars(pub(crate) Arc<dyn ProgressSink>);

impl ProgressBars for Bars {
    fn progress(&self, progress_type: ProgressType, prefix: &str) -> Progress {
        // Steps without a title are not meant to be seen.
        if prefix.is_empty() || self.0.is_hidden() {
            return Progress::hidden();
        }
        let unit = match progress_type {
            ProgressType::Spinner => Unit::None,
            ProgressType::Counter => Unit::Items,
            ProgressType::Bytes => Unit::Bytes,
        };
        Progress::new(Bar(self.0.begin(unit, prefix.trim_end_matches('.'))))
    }
}

#[derive(Debug)]
struct Bar(Arc<dyn Meter>);

impl RusticProgress for Bar {
    fn is_hidden(&self) -> bool {
        false
    }

    fn set_length(&self, len: u64) {
        self.0.set_total(len);
    }

    fn set_title(&self, _title: &str) {}

    fn inc(&self, inc: u64) {
        self.0.add(inc);
    }

    fn finish(&self) {
        self.0.finish();
    }
}

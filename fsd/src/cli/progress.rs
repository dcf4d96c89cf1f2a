//! Progress of long work: a bar with the time that is left at a terminal, status lines with `--json`, else nothing.

use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::GlobalArgs;

/// How often a status line is printed with `--json`, as restic does without a terminal's refresh rate.
const JSON_EVERY: Duration = Duration::from_secs(1);

/// A running count of bytes and items against what is known of the whole. Cheap to clone; all methods may be called from
/// any thread.
#[derive(Debug, Clone)]
pub struct Progress(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bar: Option<ProgressBar>,
    json: bool,
    /// When the last status line was printed. A leaf lock.
    last_line: Mutex<Instant>,
    started: Instant,
    bytes: AtomicU64,
    total_bytes: AtomicU64,
    files: AtomicU64,
    total_files: AtomicU64,
}

/// What a status line says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Seconds since the beginning.
    pub seconds_elapsed: u64,
    /// Bytes done.
    pub bytes: u64,
    /// Bytes in all, as far as they are known.
    pub total_bytes: u64,
    /// Files done.
    pub files: u64,
    /// Files in all, as far as they are known.
    pub total_files: u64,
}

impl Progress {
    /// Progress of work that is measured in bytes.
    #[must_use]
    pub fn bytes(global: &GlobalArgs, what: &str) -> Self {
        Self::new(
            global,
            what,
            "{prefix} [{elapsed_precise}] {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {msg} ETA {eta}",
        )
    }

    /// Progress of work that is measured in items.
    #[must_use]
    pub fn items(global: &GlobalArgs, what: &str) -> Self {
        Self::new(global, what, "{prefix} [{elapsed_precise}] {wide_bar} {pos}/{len} {msg} ETA {eta}")
    }

    fn new(global: &GlobalArgs, what: &str, template: &str) -> Self {
        let bar = (!global.quiet && !global.json && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(5));
            bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_prefix(what.to_owned());
            bar
        });
        let now = Instant::now();
        Self(Arc::new(Inner {
            bar,
            json: global.json && !global.quiet,
            last_line: Mutex::new(now),
            started: now,
            bytes: AtomicU64::new(0),
            total_bytes: AtomicU64::new(0),
            files: AtomicU64::new(0),
            total_files: AtomicU64::new(0),
        }))
    }

    /// The whole grew.
    pub fn add_total(&self, files: u64, bytes: u64) {
        self.0.total_files.fetch_add(files, Relaxed);
        self.0.total_bytes.fetch_add(bytes, Relaxed);
        if let Some(bar) = &self.0.bar {
            bar.inc_length(bytes);
        }
    }

    /// Work was done.
    pub fn add(&self, files: u64, bytes: u64) {
        self.0.bytes.fetch_add(bytes, Relaxed);
        let done = self.0.files.fetch_add(files, Relaxed) + files;
        if let Some(bar) = &self.0.bar {
            bar.inc(bytes);
            if files > 0 {
                bar.set_message(format!("{done}/{} files", self.0.total_files.load(Relaxed)));
            }
        }
    }

    /// Returns the counts now.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            seconds_elapsed: self.0.started.elapsed().as_secs(),
            bytes: self.0.bytes.load(Relaxed),
            total_bytes: self.0.total_bytes.load(Relaxed),
            files: self.0.files.load(Relaxed),
            total_files: self.0.total_files.load(Relaxed),
        }
    }

    /// Returns the counts if a status line of JSON is due.
    #[must_use]
    pub fn due(&self) -> Option<Counts> {
        if !self.0.json {
            return None;
        }
        let mut last = self.0.last_line.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        (last.elapsed() >= JSON_EVERY).then(|| {
            *last = Instant::now();
            self.counts()
        })
    }

    /// Prints a line on standard error without disturbing the bar.
    pub fn note(&self, line: &str) {
        match &self.0.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    /// Takes the bar off the screen.
    pub fn finish(&self) {
        if let Some(bar) = &self.0.bar {
            bar.finish_and_clear();
        }
    }
}

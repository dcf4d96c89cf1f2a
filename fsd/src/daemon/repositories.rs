//! Opened repositories, one for all mounts of the same: they share its index, its caches and its connections.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use stash_repo::backend::connect::{ConnectOptions, connect};
use stash_repo::backend::location::Location;
use stash_repo::budget::Budget;
use stash_repo::{Metrics, RepoError, Repository, RepositoryOptions};
use tokio::sync::OnceCell;

use super::DaemonError;
use super::spec::{RepositorySpec, SpecError};
use crate::kept::KeptRepository;

/// How long a repository stays open that nobody mounts: the pods of the next job find it open.
const IDLE: Duration = Duration::from_secs(15 * 60);

/// How repositories are opened.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// The folder of all caches.
    pub cache_dir: Option<PathBuf>,
    /// The most that the disk cache of a repository takes.
    pub cache_size_bytes: u64,
    /// No request to a store takes longer.
    pub deadline: Duration,
    /// Repositories may lie in directories of this machine, behind programs that are started, and on its own addresses.
    pub allow_local: bool,
}

/// A repository that is opened once.
#[derive(Debug)]
pub(super) struct Entry {
    spec: RepositorySpec,
    pub(super) metrics: Arc<Metrics>,
    opened: OnceCell<Repository>,
    /// Since when nobody has mounted it.
    idle_since: Mutex<Option<Instant>>,
}

impl Entry {
    /// Returns the address, without secrets.
    pub(super) fn address(&self) -> &str {
        &self.spec.address
    }
}

/// All that are open.
#[derive(Debug)]
pub(super) struct Repositories {
    options: OpenOptions,
    budget: Budget,
    entries: Mutex<Vec<Arc<Entry>>>,
}

impl Repositories {
    pub(super) fn new(options: OpenOptions, budget: Budget) -> Self {
        Self { options, budget, entries: Mutex::default() }
    }

    /// Returns the entry of a repository; the same for equal addresses and credentials.
    pub(super) fn entry(&self, spec: &RepositorySpec) -> Arc<Entry> {
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.iter().find(|entry| entry.spec == *spec) {
            return Arc::clone(entry);
        }
        let entry = Arc::new(Entry {
            spec: spec.clone(),
            metrics: Arc::default(),
            opened: OnceCell::new(),
            idle_since: Mutex::default(),
        });
        entries.push(Arc::clone(&entry));
        entry
    }

    /// Opens a repository, or returns it where that was done; by an earlier daemon's key where there is one.
    pub(super) async fn open(
        &self,
        entry: &Arc<Entry>,
        known: Option<&KeptRepository>,
    ) -> Result<Repository, DaemonError> {
        let opened = entry.opened.get_or_try_init(|| self.try_open(entry, known)).await;
        let mut entries = self.entries.lock();
        if opened.is_err() {
            // Who waits for it besides has it, and puts it back if it opens for him.
            entries.retain(|other| !Arc::ptr_eq(other, entry));
        } else if !entries.iter().any(|other| other.spec == entry.spec) {
            entries.push(Arc::clone(entry));
        }
        opened.cloned()
    }

    async fn try_open(&self, entry: &Entry, known: Option<&KeptRepository>) -> Result<Repository, DaemonError> {
        let spec = &entry.spec;
        let field = |reason: String| SpecError::Field { field: "repository.address", reason };
        let location = Location::from_str(&spec.address).map_err(|error| field(error.to_string()))?;
        let local = matches!(location, Location::Local { .. } | Location::Sftp { .. } | Location::Rclone { .. });
        if local && !self.options.allow_local {
            let reason = "it is reached through this machine's files or programs, which the daemon does not do";
            return Err(field(reason.to_owned()).into());
        }
        let allow_local = self.options.allow_local;
        let connect_options = ConnectOptions {
            environment: spec.environment.clone(),
            extended: spec.options.clone(),
            ca_certificates: Some(spec.ca_certificates.clone()).filter(|pem| !pem.is_empty()),
            refused: Some(Arc::new(move |_: &str, address: IpAddr| !allow_local && is_own(address))),
            deadline: self.options.deadline,
            metrics: Arc::clone(&entry.metrics),
            ..ConnectOptions::default()
        };
        let backend = connect(&location, &connect_options).await.map_err(RepoError::from)?;
        let options = RepositoryOptions {
            cache_dir: self.options.cache_dir.clone(),
            cache_size_bytes: self.options.cache_size_bytes,
            memory_bytes: self.budget.limit_bytes(),
            budget: Some(self.budget.clone()),
            deadline: self.options.deadline,
            metrics: Arc::clone(&entry.metrics),
            ..RepositoryOptions::default()
        };
        let repository = match known.map(KeptRepository::key).transpose() {
            Ok(Some(key)) => Repository::open_with_key(backend, key, options).await?,
            // A damaged key is not the end: the password is known as well.
            Ok(None) | Err(_) => Repository::open(backend, &spec.password, options).await?,
        };
        repository.refresh().await?;
        Ok(repository)
    }

    /// Forgets repositories with this address that nobody mounts; returns how many.
    pub(super) fn forget(&self, address: &str) -> u32 {
        self.drop_unused(|entry| entry.spec.address == address)
    }

    /// Forgets repositories that nobody has mounted for a while: each has threads, connections and caches, and where credentials change
    /// there is one for each that there ever were. Called every now and then; returns how many.
    pub(super) fn let_go_of_idle(&self, now: Instant) -> usize {
        let mut entries = self.entries.lock();
        let before = entries.len();
        entries.retain(|entry| {
            let mut since = entry.idle_since.lock();
            if Arc::strong_count(entry) > 1 {
                *since = None;
                return true;
            }
            now.saturating_duration_since(*since.get_or_insert(now)) < IDLE
        });
        before - entries.len()
    }

    /// Mounts and operations hold an entry as long as they need it.
    fn drop_unused(&self, wanted: impl Fn(&Entry) -> bool) -> u32 {
        let mut entries = self.entries.lock();
        let before = entries.len();
        entries.retain(|entry| Arc::strong_count(entry) > 1 || !wanted(entry));
        u32::try_from(before - entries.len()).unwrap_or(u32::MAX)
    }

    /// Returns the figures of all, by what they are called.
    pub(super) fn figures(&self) -> Vec<(String, Arc<Metrics>)> {
        let mut figures = Vec::new();
        for entry in self.entries.lock().iter() {
            figures.push((called(&entry.spec.address, &figures), Arc::clone(&entry.metrics)));
        }
        figures
    }

    /// Returns all.
    pub(super) fn all(&self) -> Vec<Arc<Entry>> {
        self.entries.lock().clone()
    }
}

/// Returns what figures call a repository: its address without what opens it, and which of several of the same it is.
fn called(address: &str, before: &[(String, Arc<Metrics>)]) -> String {
    let address = Location::from_str(address).map_or_else(|_| "?".to_owned(), |location| location.to_string());
    let same =
        |(name, _): &&(String, _)| *name == address || name.strip_prefix(&address).is_some_and(|n| n.starts_with('#'));
    match before.iter().filter(same).count() {
        0 => address,
        others => format!("{address}#{}", others + 1),
    }
}

/// Whether an address is this machine's or its link's: metadata services of clouds are at the latter.
fn is_own(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local() || v4.is_unspecified() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unspecified() || v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn test_figures_name_each_repository_once_and_no_password() {
        let mut figures = Vec::new();
        let address = "rest:https://user:geheim@store.example.org/a/";
        for address in [address, "s3:s3.example.org/b", address, "nonsense:", address] {
            let name = called(address, &figures);
            figures.push((name, Arc::default()));
        }
        let names: Vec<&str> = figures.iter().map(|(name, _)| name.as_str()).collect();
        assert!(names.iter().all(|name| !name.contains("geheim")), "{names:?}");
        assert_eq!(names.iter().collect::<std::collections::BTreeSet<_>>().len(), 5, "{names:?}");
        assert!(names[2].ends_with("#2") && names[4].ends_with("#3"), "{names:?}");
    }

    #[test]
    fn test_what_nobody_mounts_is_let_go_of_after_a_while() {
        let options = OpenOptions { cache_dir: None, cache_size_bytes: 0, deadline: IDLE, allow_local: false };
        let repositories = Repositories::new(options, Budget::new(0, Arc::default()));
        let spec = |address: &str| RepositorySpec {
            address: address.to_owned(),
            password: String::new(),
            environment: BTreeMap::new(),
            options: BTreeMap::new(),
            ca_certificates: String::new(),
        };
        let (held, start) = (repositories.entry(&spec("s3:h/a")), Instant::now());
        drop(repositories.entry(&spec("s3:h/b")));
        let after = |time: Duration| repositories.let_go_of_idle(start + time);
        assert_eq!((after(Duration::ZERO), after(IDLE - Duration::from_secs(1)), after(IDLE)), (0, 0, 1));
        assert_eq!((repositories.all().len(), after(IDLE * 2)), (1, 0), "one is mounted");
        drop(held);
        assert_eq!((after(IDLE * 3), after(IDLE * 4)), (0, 1));
        assert_eq!(repositories.all().len(), 0);
    }

    #[test]
    fn test_addresses_of_the_machine_itself() {
        for (text, own) in [
            ("127.0.0.1", true),
            ("127.8.8.8", true),
            ("169.254.169.254", true),
            ("0.0.0.0", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("fe80::1", true),
            ("10.0.0.1", false),
            ("8.8.8.8", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(is_own(text.parse().unwrap()), own, "{text}");
        }
    }
}

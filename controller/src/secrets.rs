//! The Secrets that Repositories name: what is known of them.
//!
//! The controller reads no other. In each namespace with Repositories it keeps a Role that names theirs ([`crate::rights`]), and watches
//! the metadata of each by its name ([`watch`]), which is all that such a right allows. What is in one is read by name, when it is needed.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use kube::runtime::reflector::ObjectRef;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::stores::as_ref_of;

pub mod watch;

/// What is known of a Secret that a Repository names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// It has not been looked at yet. Whoever asks waits: the answer wakes the Repository, and what depends on it.
    NotYet,
    /// It could not be looked at for a while: the API server does not allow it, or does not answer.
    Unknown,
    /// There is none.
    Absent,
    /// There is one, and this is its version.
    Version(String),
}

impl Known {
    /// Returns the version of the Secret, if there is one.
    pub fn version(self) -> Option<String> {
        match self {
            Self::Version(version) => Some(version),
            Self::NotYet | Self::Unknown | Self::Absent => None,
        }
    }

    /// Whether it has been seen that there is one, or none.
    pub fn is_certain(&self) -> bool {
        matches!(self, Self::Absent | Self::Version(_))
    }
}

/// The Secrets that Repositories name, each with its watch. There is one for each name in a namespace.
#[derive(Clone, Debug, Default)]
pub struct NamedSecrets {
    // Never held across an await.
    entries: Arc<Mutex<HashMap<ObjectRef<Secret>, Entry>>>,
}

#[derive(Debug)]
struct Entry {
    known: Known,
    /// Tells the watch that it is worth a try.
    retry: Arc<Notify>,
    watch: AbortHandle,
}

impl NamedSecrets {
    /// Returns what is known of a Secret.
    pub fn get(&self, reference: &ObjectRef<Secret>) -> Known {
        self.entries.lock().get(reference).map_or(Known::NotYet, |entry| entry.known.clone())
    }

    /// Has those Secrets of `namespace` watched that are `named`, and no others of it. `start` starts a watch.
    pub fn keep(
        &self,
        namespace: &str,
        named: &BTreeSet<String>,
        start: impl Fn(&ObjectRef<Secret>, &Arc<Notify>) -> AbortHandle,
    ) {
        let mut entries = self.entries.lock();
        entries.retain(|reference, entry| {
            let stays = reference.namespace.as_deref() != Some(namespace) || named.contains(&reference.name);
            if !stays {
                entry.watch.abort();
            }
            stays
        });
        for name in named {
            entries.entry(as_ref_of(name, Some(namespace))).or_insert_with_key(|reference| {
                let retry = Arc::new(Notify::new());
                Entry { known: Known::NotYet, watch: start(reference, &retry), retry }
            });
        }
    }

    /// Has the watches of those Secrets of `namespace` that are `granted` tried at once, if they wait.
    pub fn retry(&self, namespace: &str, granted: &BTreeSet<String>) {
        let entries = self.entries.lock();
        for entry in granted.iter().filter_map(|name| entries.get(&as_ref_of(name, Some(namespace)))) {
            entry.retry.notify_one();
        }
    }

    /// Takes note of what the watch that has `retry` saw. Returns whether that is news. One that was ended has nothing to say.
    fn note(&self, reference: &ObjectRef<Secret>, retry: &Arc<Notify>, known: Known) -> bool {
        let mut entries = self.entries.lock();
        let Some(entry) = entries.get_mut(reference).filter(|entry| Arc::ptr_eq(&entry.retry, retry)) else {
            return false;
        };
        let is_news = entry.known != known;
        entry.known = known;
        is_news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    fn of(namespace: &str, name: &str) -> ObjectRef<Secret> {
        as_ref_of(name, Some(namespace))
    }

    #[tokio::test]
    async fn test_each_named_secret_has_one_watch() {
        let secrets = NamedSecrets::default();
        let started = Mutex::new(Vec::new());
        let start = |reference: &ObjectRef<Secret>, retry: &Arc<Notify>| {
            started.lock().push((reference.clone(), Arc::clone(retry)));
            tokio::spawn(std::future::pending::<()>()).abort_handle()
        };
        let watched = || {
            let mut all: Vec<String> = secrets
                .entries
                .lock()
                .keys()
                .map(|key| format!("{}/{}", key.namespace.as_deref().unwrap(), key.name))
                .collect();
            all.sort();
            all
        };
        for (namespace, named, count, expected) in [
            ("shop", names(&["a"]), 1, vec!["shop/a"]),
            ("shop", names(&["a"]), 1, vec!["shop/a"]),
            ("shop", names(&["a", "b"]), 2, vec!["shop/a", "shop/b"]),
            ("bank", names(&["a"]), 3, vec!["bank/a", "shop/a", "shop/b"]),
            ("shop", names(&["b"]), 3, vec!["bank/a", "shop/b"]),
            ("shop", names(&[]), 3, vec!["bank/a"]),
            ("shop", names(&["a"]), 4, vec!["bank/a", "shop/a"]),
        ] {
            secrets.keep(namespace, &named, start);
            assert_eq!(
                (started.lock().len(), watched()),
                (count, expected.iter().map(|&key| key.to_owned()).collect())
            );
        }
        let started = started.into_inner();
        let (first, last) = (Arc::clone(&started[0].1), Arc::clone(&started[3].1));
        let (one, known) = (of("shop", "a"), Known::Version("1".to_owned()));
        assert_eq!((secrets.get(&one), secrets.get(&of("shop", "b"))), (Known::NotYet, Known::NotYet));
        // The watch of the same Secret that was ended before has nothing to say.
        assert!(!secrets.note(&one, &first, Known::Absent));
        assert_eq!(secrets.get(&one), Known::NotYet);
        assert!(secrets.note(&one, &last, known.clone()));
        assert!(!secrets.note(&one, &last, known.clone()));
        assert_eq!(secrets.get(&one), known);
    }

    #[tokio::test]
    async fn test_a_watch_that_waits_is_told_of_its_right() {
        let secrets = NamedSecrets::default();
        let told = Mutex::new(Vec::new());
        secrets.keep("shop", &names(&["a", "b"]), |reference, retry| {
            told.lock().push((reference.name.clone(), Arc::clone(retry)));
            tokio::spawn(std::future::pending::<()>()).abort_handle()
        });
        secrets.retry("shop", &names(&["b", "another"]));
        secrets.retry("bank", &names(&["a"]));
        for (name, retry) in told.into_inner() {
            let is_told = futures::FutureExt::now_or_never(retry.notified()).is_some();
            assert_eq!(is_told, name == "b", "{name}");
        }
    }

    #[test]
    fn test_what_is_known() {
        for (known, version, certain) in [
            (Known::NotYet, None, false),
            (Known::Unknown, None, false),
            (Known::Absent, None, true),
            (Known::Version("7".to_owned()), Some("7".to_owned()), true),
        ] {
            assert_eq!((known.is_certain(), known.version()), (certain, version));
        }
    }
}

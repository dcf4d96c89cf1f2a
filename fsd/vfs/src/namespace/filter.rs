//! Which snapshots are shown, and which one a name means.

use std::sync::Arc;

use stash_repo::{RepoError, Snapshot};

use crate::error::{VfsError, VfsResult};

/// restic's `--host`, `--tag` and `--path`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SnapshotFilter {
    hosts: Vec<String>,
    tags: Vec<Vec<String>>,
    paths: Vec<String>,
}

impl SnapshotFilter {
    /// Makes a filter; an empty list admits all.
    #[must_use]
    pub fn new(hosts: &[String], tags: &[String], paths: &[String]) -> Self {
        Self {
            hosts: hosts.to_vec(),
            tags: tags.iter().map(|list| list.split(',').map(|tag| tag.trim().to_owned()).collect()).collect(),
            paths: paths.iter().map(|path| trim_path(path).to_owned()).collect(),
        }
    }

    /// Returns whether a snapshot is of one of the hosts, has all tags of one of the lists (the empty tag: has none), and
    /// has all the paths. Source: restic's `--help` of `snapshots`.
    #[must_use]
    pub fn admits(&self, snapshot: &Snapshot) -> bool {
        let has = |tag: &String| if tag.is_empty() { snapshot.tags.is_empty() } else { snapshot.tags.contains(tag) };
        (self.hosts.is_empty() || self.hosts.contains(&snapshot.hostname))
            && (self.tags.is_empty() || self.tags.iter().any(|list| list.iter().all(has)))
            && self.paths.iter().all(|path| snapshot.paths.iter().any(|own| trim_path(own) == path))
    }
}

fn trim_path(path: &str) -> &str {
    match path.trim_end_matches('/') {
        "" => path,
        trimmed => trimmed,
    }
}

/// `SNAPSHOT[:PATH]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootSpec {
    /// As it was given, for messages.
    spec: String,
    which: Which,
    /// The components of the path.
    path: Vec<Vec<u8>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Which {
    /// The newest, or the newest but so many.
    Latest(usize),
    /// An id or the beginning of one, in lower case.
    Id(String),
}

impl RootSpec {
    /// Parses `latest`, `latest~N`, an id or the beginning of one, each with `:PATH` or without.
    ///
    /// # Errors
    /// It is none of these, or the path has a `..`.
    pub fn parse(spec: &str) -> VfsResult<Self> {
        let bad = |reason: &str| VfsError::Option { option: "SNAPSHOT[:PATH]", reason: format!("{spec:?}: {reason}") };
        let (name, path) = spec.split_once(':').unwrap_or((spec, ""));
        let which = match name.split_once('~') {
            None if name == "latest" => Which::Latest(0),
            Some(("latest", back)) => Which::Latest(back.parse().map_err(|_| bad("after \"latest~\" comes a number"))?),
            _ if !name.is_empty() && name.len() <= 64 && name.bytes().all(|digit| digit.is_ascii_hexdigit()) => {
                Which::Id(name.to_ascii_lowercase())
            }
            _ => return Err(bad("a snapshot is \"latest\", \"latest~N\", or an id or its first digits")),
        };
        let path: Vec<Vec<u8>> =
            path.split('/').filter(|part| !matches!(*part, "" | ".")).map(|part| part.as_bytes().to_vec()).collect();
        if path.iter().any(|part| part == b"..") {
            return Err(bad("the path must not have \"..\""));
        }
        Ok(Self { spec: spec.to_owned(), which, path })
    }

    /// Returns the components of the path below the snapshot.
    #[must_use]
    pub fn path(&self) -> &[Vec<u8>] {
        &self.path
    }

    /// Finds the snapshot. `latest` counts among those that the filter admits; an id is sought among all, as restic does.
    ///
    /// # Errors
    /// `SnapshotNotFound`, `SnapshotAmbiguous`.
    pub fn find(&self, snapshots: &[Arc<Snapshot>], filter: &SnapshotFilter) -> Result<Arc<Snapshot>, RepoError> {
        let not_found = || RepoError::SnapshotNotFound { spec: self.spec.clone() };
        match &self.which {
            Which::Latest(back) => {
                let mut admitted: Vec<_> = snapshots.iter().filter(|snapshot| filter.admits(snapshot)).collect();
                admitted.sort_by_key(|snapshot| (snapshot.time.timestamp(), snapshot.id));
                admitted.iter().rev().nth(*back).map(|snapshot| Arc::clone(snapshot)).ok_or_else(not_found)
            }
            Which::Id(prefix) => {
                let mut found = snapshots.iter().filter(|snapshot| snapshot.id.to_string().starts_with(prefix));
                let first = found.next().ok_or_else(not_found)?;
                match found.count() {
                    0 => Ok(Arc::clone(first)),
                    more => Err(RepoError::SnapshotAmbiguous { spec: self.spec.clone(), count: more + 1 }),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::snapshot;

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn test_filter() {
        let mut it = snapshot(1, "2024-01-01T00:00:00+00:00[UTC]");
        "h".clone_into(&mut it.hostname);
        it.tags = strings(&["a", "b"]);
        it.paths = strings(&["/x", "/y/z"]);
        for (hosts, tags, paths, expected) in [
            (&[][..], &[][..], &[][..], true),
            (&["h"], &[], &[], true),
            (&["g", "h"], &[], &[], true),
            (&["g"], &[], &[], false),
            (&[], &["a"], &[], true),
            (&[], &["a,b"], &[], true),
            (&[], &["a,c"], &[], false),
            (&[], &["c", "b"], &[], true),
            (&[], &[""], &[], false),
            (&[], &[], &["/x"], true),
            (&[], &[], &["/x", "/y/z/"], true),
            (&[], &[], &["/y"], false),
            (&["h"], &["a"], &["/y"], false),
        ] {
            let filter = SnapshotFilter::new(&strings(hosts), &strings(tags), &strings(paths));
            assert_eq!(filter.admits(&it), expected, "{filter:?}");
        }
        it.tags.clear();
        assert!(SnapshotFilter::new(&[], &strings(&[""]), &[]).admits(&it));
    }

    #[test]
    fn test_root_spec_finds() {
        let all: Vec<Arc<Snapshot>> = [
            snapshot(3, "2024-01-03T00:00:00+00:00[UTC]"),
            snapshot(1, "2024-01-01T00:00:00+00:00[UTC]"),
            snapshot(2, "2024-01-02T00:00:00+00:00[UTC]"),
        ]
        .map(Arc::new)
        .to_vec();
        let find = |spec: &str| {
            RootSpec::parse(spec).unwrap().find(&all, &SnapshotFilter::default()).map(|snapshot| snapshot.time.day())
        };
        assert_eq!(find("latest").unwrap(), 3);
        assert_eq!(find("latest~2:/a").unwrap(), 1);
        assert!(matches!(find("latest~3"), Err(RepoError::SnapshotNotFound { .. })));
        let id = all[1].id.to_string();
        assert_eq!(find(&id).unwrap(), 1);
        assert_eq!(find(&id[..8].to_uppercase()).unwrap(), 1);
        assert!(matches!(find(&"0".repeat(64)), Err(RepoError::SnapshotNotFound { .. })));
    }

    #[test]
    fn test_ambiguous_prefix_says_how_many() {
        let all: Vec<Arc<Snapshot>> =
            (0..40).map(|n| Arc::new(snapshot(n, "2024-01-01T00:00:00+00:00[UTC]"))).collect();
        // 40 ids over 16 first digits: one digit is shared.
        let digit = "0123456789abcdef"
            .chars()
            .map(String::from)
            .find(|digit| all.iter().filter(|snapshot| snapshot.id.to_string().starts_with(digit)).count() > 1)
            .unwrap();
        let found = RootSpec::parse(&digit).unwrap().find(&all, &SnapshotFilter::default());
        assert!(matches!(found, Err(RepoError::SnapshotAmbiguous { count, .. }) if count > 1), "{found:?}");
    }

    #[test]
    fn test_root_spec_syntax() {
        let path = |spec: &str| RootSpec::parse(spec).map(|spec| spec.path().join(&b'/')).ok();
        assert_eq!(path("latest:/home//./user/"), Some(b"home/user".to_vec()));
        assert_eq!(path("abc123:with:colon"), Some(b"with:colon".to_vec()));
        assert_eq!(path("latest"), Some(Vec::new()));
        for bad in ["", "latest~", "latest~x", "first", "latest:../x", "latest:a/../b", &"a".repeat(65)] {
            assert!(path(bad).is_none(), "{bad}");
        }
    }
}

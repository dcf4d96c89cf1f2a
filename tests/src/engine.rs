//! The engine without a kernel: opens a local repository and reads everything that its tree shows.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use stash_repo::backend::connect::{ConnectOptions, connect};
use stash_repo::backend::location::Location;
use stash_repo::{Backend, Id, RepoResult, Repository, RepositoryOptions};
use stash_vfs::{DirSink, Entry, FileType, Ino, Mounted, NamespaceOptions, Vfs, VfsOptions, VfsResult};

/// More entries than any test's tree has: a cycle must not run for ever.
const MAX_ENTRIES: usize = 200_000;

/// What a reader finds at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A file: its size by `stat`, and the hash of its bytes or what went wrong.
    File(u64, Result<Id, String>),
    /// A directory: how many entries it lists, or what went wrong.
    Dir(Result<usize, String>),
    /// A symbolic link's target.
    Link(Vec<u8>),
    /// Anything else.
    Other(FileType),
}

impl Found {
    /// Returns what went wrong.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        match self {
            Self::File(_, Err(error)) | Self::Dir(Err(error)) => Some(error),
            _ => None,
        }
    }
}

/// Reaches a local directory.
pub async fn backend(root: &Path) -> Arc<dyn Backend> {
    let location = Location::Local { path: root.to_owned() };
    let options = ConnectOptions { deadline: Duration::from_secs(20), ..ConnectOptions::default() };
    connect(&location, &options).await.expect("a local directory is always reached")
}

/// Opens a local repository with its index loaded.
///
/// # Errors
/// As the engine says.
pub async fn open(root: &Path, password: &str, cache_dir: Option<PathBuf>) -> RepoResult<Repository> {
    // Two packs of one layout that changed places are told apart by hashes alone, which a local directory needs `verify` for.
    let deadline = Duration::from_secs(20);
    let options = RepositoryOptions { cache_dir, deadline, verify: true, ..RepositoryOptions::default() };
    let repository = Repository::open(backend(root).await, password, options).await?;
    repository.refresh().await?;
    Ok(repository)
}

/// Builds the tree with the newest snapshot as its root.
///
/// # Errors
/// As the engine says.
pub async fn latest(repository: &Repository) -> VfsResult<Vfs> {
    let namespace = NamespaceOptions { root: Some("latest".to_owned()), ..NamespaceOptions::default() };
    let mounted = Mounted { name: String::new(), repository: repository.clone(), namespace };
    Vfs::new(vec![mounted], VfsOptions { prefetch: true, ..VfsOptions::default() }).await
}

#[derive(Debug, Default)]
struct Names {
    entries: Vec<(Ino, FileType, Vec<u8>, u64)>,
    next: u64,
}

impl DirSink for Names {
    fn add(&mut self, ino: Ino, next: u64, kind: FileType, name: &[u8], _: Option<&Entry>) -> bool {
        self.next = next;
        if name != b"." && name != b".." {
            self.entries.push((ino, kind, name.to_vec(), next));
        }
        false
    }
}

/// Reads a file from end to end.
///
/// # Errors
/// As the engine says.
pub async fn read_file(vfs: &Vfs, ino: Ino, size: u64) -> VfsResult<Vec<u8>> {
    const PIECE: u32 = 128 << 10;
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < size {
        let data = match vfs.try_read(ino, bytes.len() as u64, PIECE) {
            Some(data) => data?,
            None => vfs.read(ino, bytes.len() as u64, PIECE).await?,
        };
        if data.is_empty() {
            break;
        }
        bytes.extend(data.to_vec());
    }
    Ok(bytes)
}

/// Walks from the root and reads every file and link: what each path holds, or what went wrong there.
///
/// # Panics
/// The tree has more entries than any honest test's.
pub async fn read_everything(vfs: &Vfs) -> BTreeMap<Vec<u8>, Found> {
    let mut found = BTreeMap::new();
    let mut stack = vec![(Ino::ROOT, Vec::new())];
    while let Some((dir, path)) = stack.pop() {
        let mut names = Names::default();
        let listed = vfs.readdir(dir, 0, true, &mut names).await;
        let listed = listed.map(|()| names.entries.len()).map_err(|e| e.to_string());
        found.insert(path.clone(), Found::Dir(listed));
        for (ino, kind, name, _) in names.entries {
            let mut path = path.clone();
            path.push(b'/');
            path.extend_from_slice(&name);
            assert!(found.len() < MAX_ENTRIES, "more than {MAX_ENTRIES} entries: a cycle?");
            let what = match kind {
                FileType::Dir => {
                    stack.push((ino, path));
                    continue;
                }
                FileType::File => match vfs.getattr(ino).await {
                    Ok(entry) => {
                        let bytes = read_file(vfs, ino, entry.attr.size).await;
                        Found::File(entry.attr.size, bytes.map(|b| Id::hash(&b)).map_err(|e| e.to_string()))
                    }
                    Err(error) => Found::File(0, Err(error.to_string())),
                },
                FileType::Symlink => match vfs.readlink(ino).await {
                    Ok(target) => Found::Link(target.to_vec()),
                    Err(error) => Found::File(0, Err(error.to_string())),
                },
                other => Found::Other(other),
            };
            found.insert(path, what);
        }
    }
    found
}

/// Runs a test's future with a deadline: a hang is a failure.
///
/// # Panics
/// The deadline passed.
pub fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(120), future).await.expect("the engine hangs") })
}

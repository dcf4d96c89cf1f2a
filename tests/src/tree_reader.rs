//! Reads a [`Vfs`] as a filesystem's user would, without a mount.

use std::collections::BTreeMap;
use std::path::Path;

use stash_repo::backend::local::LocalBackend;
use stash_repo::{Repository, RepositoryOptions};
use stash_vfs::{Attr, DirSink, Entry, FileType, Ino, Mounted, NamespaceOptions, Vfs, VfsOptions, VfsResult};

/// One entry as a sink got it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its id.
    pub ino: Ino,
    /// The offset after it.
    pub next: u64,
    /// Its kind.
    pub kind: FileType,
    /// Its name.
    pub name: Vec<u8>,
    /// Its attributes, if they were asked for.
    pub entry: Option<Entry>,
}

/// A sink that holds so many entries.
#[derive(Debug)]
pub struct Collect {
    /// What it got.
    pub entries: Vec<Listed>,
    limit: usize,
}

impl Collect {
    /// Makes a sink.
    #[must_use]
    pub const fn new(limit: usize) -> Self {
        Self { entries: Vec::new(), limit }
    }
}

impl DirSink for Collect {
    fn add(&mut self, ino: Ino, next: u64, kind: FileType, name: &[u8], entry: Option<&Entry>) -> bool {
        if self.entries.len() >= self.limit {
            return true;
        }
        self.entries.push(Listed { ino, next, kind, name: name.to_vec(), entry: entry.copied() });
        false
    }
}

/// Opens a repository in a directory, with default limits and no cache.
pub async fn open(path: &Path, password: &str) -> Repository {
    let repository =
        Repository::open(std::sync::Arc::new(LocalBackend::new(path)), password, RepositoryOptions::default())
            .await
            .unwrap();
    repository.refresh().await.unwrap();
    repository
}

/// Shows a repository.
pub async fn show(repository: &Repository, namespace: NamespaceOptions) -> VfsResult<Vfs> {
    let mounted = Mounted { name: "repository".into(), repository: repository.clone(), namespace };
    Vfs::new(vec![mounted], VfsOptions { prefetch: true, ..VfsOptions::default() }).await
}

/// Lists a directory, `chunk` entries at a time, without `.` and `..`.
pub async fn list(vfs: &Vfs, dir: Ino, chunk: usize, plus: bool) -> VfsResult<Vec<Listed>> {
    let mut all: Vec<Listed> = Vec::new();
    let mut offset = 0;
    loop {
        let mut sink = Collect::new(chunk);
        vfs.readdir(dir, offset, plus, &mut sink).await?;
        let Some(last) = sink.entries.last() else { break };
        offset = last.next;
        all.append(&mut sink.entries);
    }
    all.retain(|entry| entry.name != b"." && entry.name != b"..");
    Ok(all)
}

/// Lists everything below a directory with its attributes, by path; directories that cannot be read are errors.
pub async fn walk(vfs: &Vfs, root: Ino) -> BTreeMap<Vec<u8>, Attr> {
    let mut found = BTreeMap::new();
    let mut left = vec![(Vec::new(), root)];
    while let Some((path, dir)) = left.pop() {
        for entry in list(vfs, dir, 1_000, true).await.unwrap() {
            let mut path = path.clone();
            path.push(b'/');
            path.extend_from_slice(&entry.name);
            let attr = entry.entry.unwrap().attr;
            if attr.kind == FileType::Dir {
                left.push((path.clone(), attr.ino));
            }
            found.insert(path, attr);
        }
    }
    found
}

/// Reads a file to its end, so many bytes at a time.
pub async fn read_all(vfs: &Vfs, ino: Ino, step: u32) -> VfsResult<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        let read = match vfs.try_read(ino, bytes.len() as u64, step) {
            Some(read) => read?,
            None => vfs.read(ino, bytes.len() as u64, step).await?,
        };
        bytes.extend(read.to_vec());
        if read.len() < step as usize {
            return Ok(bytes);
        }
    }
}

//! Reads a part of a tree so that it lies in the caches.

use stash_vfs::{DirSink, Entry, FileType, Ino, Vfs, VfsResult};

/// What is read at a time.
const STEP_BYTES: u32 = 1 << 20;
/// Names that are held at a time.
const NAMES: usize = 1_000;

/// Reads the file at `path`, or all files below it; returns how many files and bytes.
pub(super) async fn warm(tree: &Vfs, path: &[u8]) -> VfsResult<(u64, u64)> {
    let top = tree.resolve(path).await?;
    let mut done = (0, 0);
    let mut held = vec![(top.ino, top.kind)];
    let mut result = Ok(());
    // Each inode is counted as looked up until it was read, as the kernel does.
    while let Some((ino, kind)) = held.pop() {
        if result.is_ok() {
            result = match kind {
                FileType::File => read(tree, ino, &mut done).await,
                FileType::Dir => list(tree, ino, &mut held).await,
                _ => Ok(()),
            };
        }
        if ino != Ino::ROOT {
            tree.forget(ino, 1);
        }
    }
    result.map(|()| done)
}

async fn read(tree: &Vfs, ino: Ino, done: &mut (u64, u64)) -> VfsResult<()> {
    let mut offset = 0;
    loop {
        let data = tree.read(ino, offset, STEP_BYTES).await?;
        let len = data.len() as u64;
        if len == 0 {
            done.0 += 1;
            done.1 += offset;
            return Ok(());
        }
        offset += len;
    }
}

/// Lists a directory and looks its files and directories up.
async fn list(tree: &Vfs, dir: Ino, held: &mut Vec<(Ino, FileType)>) -> VfsResult<()> {
    let mut offset = 0;
    loop {
        let mut names = Names { names: Vec::new(), next: offset };
        tree.readdir(dir, offset, false, &mut names).await?;
        if names.next == offset {
            return Ok(());
        }
        offset = names.next;
        for name in names.names {
            let found = tree.lookup(dir, &name).await?.attr;
            held.push((found.ino, found.kind));
        }
    }
}

struct Names {
    names: Vec<Vec<u8>>,
    next: u64,
}

impl DirSink for Names {
    fn add(&mut self, _ino: Ino, next: u64, kind: FileType, name: &[u8], _entry: Option<&Entry>) -> bool {
        if self.names.len() == NAMES {
            return true;
        }
        self.next = next;
        if matches!(kind, FileType::File | FileType::Dir) && !matches!(name, b"." | b"..") {
            self.names.push(name.to_vec());
        }
        false
    }
}

//! The damage matrix: (delete, truncate, flip, swap) x (key, config, snapshot, index, pack), with cold and with warm caches.
//!
//! In every cell: no byte that was not stored, no panic, no hang. What the damage did not hit stays whole.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use stash_repo::{FileKind, Id};
use stash_tests::engine::{self, Found, latest, open, read_everything};
use stash_tests::fixture::{pattern, run};
use stash_tests::forge::{Forge, PASSWORD, dir_node, file_node};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    Delete,
    Empty,
    Truncate,
    FlipFirst,
    FlipMiddle,
    FlipLast,
    Swap,
}

const DAMAGES: [Damage; 7] = [
    Damage::Delete,
    Damage::Empty,
    Damage::Truncate,
    Damage::FlipFirst,
    Damage::FlipMiddle,
    Damage::FlipLast,
    Damage::Swap,
];

/// A repository of two keys, two snapshots, two index files and four packs; the files of each.
struct Whole {
    root: tempfile::TempDir,
    /// By path: the right hash.
    files: BTreeMap<Vec<u8>, Id>,
}

fn whole() -> Whole {
    let root = tempfile::tempdir().unwrap();
    let mut forge = Forge::create(root.path());
    forge.key_file(1 << 11, 8, 1);
    let mut files = BTreeMap::new();
    let mut dirs = Vec::new();
    for round in 0..2u8 {
        let mut nodes = Vec::new();
        for file in 0..3u8 {
            let bytes = pattern(400_000 + usize::from(file), u64::from(round * 3 + file) + 1);
            let blobs: Vec<_> = bytes.chunks(150_000).map(|piece| forge.blob("data", piece)).collect();
            nodes.push(file_node(&format!("f{file}"), bytes.len() as u64, &blobs));
            files.insert(format!("/d{round}/f{file}").into_bytes(), Id::hash(&bytes));
        }
        forge.finish_pack();
        let dir = forge.tree(&nodes);
        dirs.push(dir_node(&format!("d{round}"), Some(dir)));
        let top = forge.tree(&dirs);
        forge.snapshot(top);
    }
    Whole { root, files }
}

fn list(root: &Path, kind: FileKind) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut stack = vec![root.join(kind.dirname())];
    while let Some(path) = stack.pop() {
        if path.is_dir() {
            stack.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn damage(root: &Path, kind: FileKind, which: usize, damage: Damage) {
    let files = list(root, kind);
    let path = &files[which % files.len()];
    let mut bytes = fs::read(path).unwrap();
    let flip = |bytes: &mut Vec<u8>, at: usize| bytes[at] ^= 0x10;
    match damage {
        Damage::Delete => return fs::remove_file(path).unwrap(),
        Damage::Empty => bytes.clear(),
        Damage::Truncate => bytes.truncate(bytes.len() / 2),
        Damage::FlipFirst => flip(&mut bytes, 0),
        Damage::FlipMiddle => {
            let middle = bytes.len() / 2;
            flip(&mut bytes, middle);
        }
        Damage::FlipLast => {
            let last = bytes.len() - 1;
            flip(&mut bytes, last);
        }
        // Another file of the kind; for the lone config, a file that decrypts but is none.
        Damage::Swap => {
            let other = files.get((which + 1) % files.len()).filter(|other| *other != path);
            let other = other.cloned().unwrap_or_else(|| list(root, FileKind::Snapshot)[0].clone());
            let theirs = fs::read(&other).unwrap();
            if kind != FileKind::Config {
                fs::write(&other, &bytes).unwrap();
            }
            bytes = theirs;
        }
    }
    fs::write(path, bytes).unwrap();
}

fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    run(std::process::Command::new("cp").arg("-a").arg(format!("{}/.", from.display())).arg(to.path()));
    to
}

/// Reads everything; `Err` where the repository does not open or shows no snapshot.
fn read(root: &Path, cache: Option<PathBuf>) -> Result<BTreeMap<Vec<u8>, Found>, String> {
    engine::run(async {
        let repository = open(root, PASSWORD, cache).await.map_err(|e| e.to_string())?;
        let vfs = latest(&repository).await.map_err(|e| e.to_string())?;
        let found = read_everything(&vfs).await;
        // A root that cannot be listed shows nothing.
        match found.get(&b""[..]).and_then(Found::error) {
            Some(error) => Err(error.to_owned()),
            None => Ok(found),
        }
    })
}

/// How many files read right; panics where one reads wrong.
fn right(whole: &Whole, found: &BTreeMap<Vec<u8>, Found>, cell: &str) -> usize {
    let mut right = 0;
    for (path, found) in found {
        if let Found::File(_, Ok(hash)) = found {
            let name = String::from_utf8_lossy(path);
            assert_eq!(Some(hash), whole.files.get(path), "{cell}: {name} has bytes that were not stored");
            right += 1;
        }
    }
    right
}

fn matrix(kind: FileKind, judge: impl Fn(&str, Damage, Result<usize, String>)) {
    let whole = whole();
    for which in 0..list(whole.root.path(), kind).len() {
        for how in DAMAGES {
            for warm in [false, true] {
                let cell = format!("{kind:?} {which}, {how:?}, {} cache", if warm { "warm" } else { "cold" });
                let root = copy(whole.root.path());
                let cache = tempfile::tempdir().unwrap();
                if warm {
                    let found = read(root.path(), Some(cache.path().to_owned())).unwrap();
                    assert_eq!(right(&whole, &found, &cell), 6);
                }
                damage(root.path(), kind, which, how);
                let found = read(root.path(), Some(cache.path().to_owned()));
                judge(&cell, how, found.map(|found| right(&whole, &found, &cell)));
            }
        }
    }
}

#[test]
fn test_damage_one_of_two_keys_costs_nothing() {
    matrix(FileKind::Key, |cell, how, files| {
        // Two swapped key files are still two key files; their names are hashes that restic does not check.
        let _ = how;
        assert_eq!(files, Ok(6), "{cell}");
    });
}

#[test]
fn test_damage_of_the_config_is_named() {
    matrix(FileKind::Config, |cell, how, files| {
        let error = files.expect_err(cell);
        let wanted = if how == Damage::Delete { "no repository" } else { "config" };
        assert!(error.contains(wanted), "{cell}: {error}");
    });
}

#[test]
fn test_damage_of_a_snapshot_leaves_the_other() {
    matrix(FileKind::Snapshot, |cell, how, files| match (how, files) {
        // Both files are damaged by a swap, and neither may be shown under the other's name; a cache has the right ones.
        (Damage::Swap, files) => {
            assert!(files.is_err() || (files == Ok(6) && cell.contains("warm")), "{cell}: {files:?}");
        }
        // The newest that is left has one directory or two.
        (_, files) => assert!(matches!(files, Ok(3 | 6)), "{cell}: {files:?}"),
    });
}

#[test]
fn test_damage_of_an_index_costs_at_most_what_it_names() {
    matrix(FileKind::Index, |cell, how, files| match files {
        Ok(_) => {}
        // The tree at the top was named by that index alone, or both index files are damaged.
        Err(error) => assert!(how == Damage::Swap || !error.is_empty(), "{cell}: {error}"),
    });
}

#[test]
fn test_damage_of_a_pack_costs_the_files_in_it() {
    matrix(FileKind::Pack, |cell, how, files| match files {
        Ok(files) => assert!(how == Damage::Swap || files >= 3 || how == Damage::Empty, "{cell}: {files} files read"),
        // The pack held the root.
        Err(error) => assert!(!error.is_empty(), "{cell}"),
    });
}

//! The tree that is measured, from a fixed seed: the same bytes on every machine.
//!
//! `big/big.bin` is made of pieces that zstd shrinks about three times, as program files do: runs of new bytes, copies
//! of what came before at mixed distances, and text of a vocabulary. `big/random.bin` does not shrink. `src/` is a tree of
//! sources: many directories, distinct small files. No two files share a blob: every file begins with its own number.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Changes with what the generator makes, so that an older tree is made anew.
const GENERATOR: &str = "stash-fs bench tree 2";

/// What to make.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub big_bytes: u64,
    pub random_bytes: u64,
    pub dirs: usize,
    /// Files of 0.5 to 64 KiB.
    pub small_files: usize,
    /// Files below 512 bytes, and symbolic links, to reach the number of entries.
    pub tiny_files: usize,
    pub symlinks: usize,
}

/// The local benchmark.
pub(crate) const LOCAL: Shape = Shape {
    big_bytes: 2 << 30,
    random_bytes: 512 << 20,
    dirs: 13_000,
    small_files: 25_000,
    tiny_files: 36_000,
    symlinks: 6_000,
};

/// The benchmark over a network: the same large file, fewer of the rest.
pub(crate) const REMOTE: Shape = Shape {
    big_bytes: 2 << 30,
    random_bytes: 32 << 20,
    dirs: 4_500,
    small_files: 1_000,
    tiny_files: 22_000,
    symlinks: 2_500,
};

/// xorshift64*: small, fast, and fixed for ever (Vigna, "An experimental exploration of Marsaglia's xorshift generators").
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `n`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }

    fn fill(&mut self, buf: &mut [u8]) {
        for chunk in buf.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }
}

/// Appends at least `len` bytes that shrink two to four times, then cuts.
fn compressible(random: &mut Random, vocabulary: &[Vec<u8>], out: &mut Vec<u8>, len: usize) {
    let end = out.len() + len;
    while out.len() < end {
        match random.below(16) {
            // New bytes: 24 to 280.
            0..=3 => {
                let n = 24 + random.below(256) as usize;
                let start = out.len();
                out.resize(start + n, 0);
                random.fill(&mut out[start..]);
            }
            // Text.
            4..=7 => {
                for _ in 0..16 {
                    out.extend_from_slice(&vocabulary[random.below(vocabulary.len() as u64) as usize]);
                    out.push(b' ');
                }
            }
            // A copy of what came before.
            _ => {
                let n = 32 + random.below(480) as usize;
                let reach = out.len().min(192 << 10);
                if reach > n {
                    let from = out.len() - n - random.below((reach - n) as u64) as usize;
                    out.extend_from_within(from..from + n);
                }
            }
        }
    }
    out.truncate(end);
}

fn vocabulary() -> Vec<Vec<u8>> {
    let mut random = Random::new(7);
    (0..2048)
        .map(|_| {
            let n = 3 + random.below(9) as usize;
            (0..n).map(|_| b'a' + random.below(26) as u8).collect()
        })
        .collect()
}

fn big_file(path: &Path, bytes: u64, seed: u64, shrinks: bool, words: &[Vec<u8>]) -> Result<()> {
    const PIECE: u64 = 4 << 20;
    let mut file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    let mut random = Random::new(seed);
    let mut piece = Vec::new();
    let mut left = bytes;
    while left > 0 {
        let n = left.min(PIECE) as usize;
        piece.clear();
        if shrinks {
            compressible(&mut random, words, &mut piece, n);
        } else {
            piece.resize(n, 0);
            random.fill(&mut piece);
        }
        file.write_all(&piece)?;
        left -= n as u64;
    }
    Ok(())
}

/// The small files in the order of a walk: made with the tree, kept beside it.
pub(crate) fn small_list(root: &Path) -> PathBuf {
    root.with_extension("small")
}

/// Makes the tree unless it is there already.
pub(crate) fn make(root: &Path, shape: &Shape) -> Result<()> {
    let stamp = root.with_extension("stamp");
    let wanted = format!("{GENERATOR} {shape:?}");
    if fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        return Ok(());
    }
    eprintln!("making the tree in {}", root.display());
    if root.exists() {
        fs::remove_dir_all(root)?;
    }
    let words = vocabulary();
    fs::create_dir_all(root.join("big"))?;
    big_file(&root.join("big/big.bin"), shape.big_bytes, 1, true, &words)?;
    big_file(&root.join("big/random.bin"), shape.random_bytes, 2, false, &words)?;

    let mut random = Random::new(3);
    let mut dirs = vec![PathBuf::from("src")];
    fs::create_dir_all(root.join("src"))?;
    while dirs.len() < shape.dirs - 2 {
        // A new directory below one of the last few hundred: a tree of sources' depth and breadth.
        let reach = dirs.len().min(300) as u64;
        let parent = &dirs[dirs.len() - 1 - random.below(reach) as usize];
        let parent = if parent.components().count() > 12 { &dirs[0] } else { parent };
        let dir = parent.join(format!("d{:05}-{}", dirs.len(), word(&mut random, &words)));
        fs::create_dir(root.join(&dir))?;
        dirs.push(dir);
    }
    let mut small = Vec::with_capacity(shape.small_files);
    let mut content = Vec::new();
    let total = shape.small_files + shape.tiny_files + shape.symlinks;
    for number in 0..total {
        let dir = &dirs[random.below(dirs.len() as u64) as usize];
        let name = format!("{}-{number:06}", word(&mut random, &words));
        let kind = number % total;
        if kind < shape.small_files {
            // 0.5 to 64 KiB, evenly in the logarithm.
            let bytes = (512.0 * 2f64.powf(random.below(7_000) as f64 / 1_000.0)) as usize;
            content.clear();
            writeln!(content, "// file {number}")?;
            compressible(&mut random, &words, &mut content, bytes);
            let path = dir.join(format!("{name}.go"));
            write_file(&root.join(&path), &content)?;
            small.push(path);
        } else if kind < shape.small_files + shape.tiny_files {
            content.clear();
            writeln!(content, "tiny {number}")?;
            let bytes = 16 + random.below(400) as usize;
            compressible(&mut random, &words, &mut content, bytes);
            write_file(&root.join(dir.join(format!("{name}.txt"))), &content)?;
        } else {
            std::os::unix::fs::symlink(format!("../{number}"), root.join(dir.join(format!("{name}.lnk"))))?;
        }
    }
    small.sort();
    let mut list = BufWriter::new(File::create(small_list(root))?);
    for path in small {
        writeln!(list, "{}", path.display())?;
    }
    list.flush()?;
    fs::write(&stamp, wanted)?;
    Ok(())
}

fn word(random: &mut Random, words: &[Vec<u8>]) -> String {
    String::from_utf8_lossy(&words[random.below(words.len() as u64) as usize]).into_owned()
}

fn write_file(path: &Path, content: &[u8]) -> Result<()> {
    fs::write(path, content).with_context(|| format!("write {}", path.display()))
}

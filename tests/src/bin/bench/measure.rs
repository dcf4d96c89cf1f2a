//! What a reader does, timed: the same code for every filesystem.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::data::{Random, small_list};

/// A buffer to read into that begins at a page: where it does not, as `malloc`'s large blocks (16 bytes after one), the kernel's copy
/// takes 1.7 times as long on some processors, and the figure would say where the allocator had room.
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    const PAGE_BYTES: usize = 4096;

    fn new(len_bytes: usize) -> Self {
        let bytes = vec![0; len_bytes + Self::PAGE_BYTES];
        let start = bytes.as_ptr().align_offset(Self::PAGE_BYTES);
        Self { bytes, start }
    }

    fn get(&mut self) -> &mut [u8] {
        let end = self.bytes.len() - Self::PAGE_BYTES + self.start;
        &mut self.bytes[self.start..end]
    }
}

/// Walks a tree and stats every entry; returns how many there were and how long it took.
pub(crate) fn walk(root: &Path) -> Result<(u64, Duration)> {
    let started = Instant::now();
    let mut entries = 0;
    let mut stack = vec![root.to_path_buf()];
    while let Some(dir) = stack.pop() {
        for entry in fs::read_dir(&dir).with_context(|| format!("read directory {}", dir.display()))? {
            let entry = entry?;
            // lstat, as `find -printf %s` and `ls -l` do.
            let metadata = entry.metadata()?;
            entries += 1;
            if metadata.is_dir() {
                stack.push(entry.path());
            }
        }
    }
    Ok((entries, started.elapsed()))
}

/// Reads a file from end to end in pieces of 1 MiB; returns its length and how long it took.
pub(crate) fn sequential(path: &Path) -> Result<(u64, Duration)> {
    let mut buf = Buffer::new(1 << 20);
    let mut file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let started = Instant::now();
    let mut bytes = 0;
    loop {
        let n = file.read(buf.get()).with_context(|| format!("read {}", path.display()))?;
        if n == 0 {
            return Ok((bytes, started.elapsed()));
        }
        bytes += n as u64;
    }
}

/// Opens, reads and closes every small file in the order of a walk; returns how many bytes and how long.
pub(crate) fn small_files(source: &Path, root: &Path) -> Result<(u64, Duration)> {
    let list = fs::read_to_string(small_list(source))?;
    let mut buf = Buffer::new(128 << 10);
    let mut bytes = 0;
    let started = Instant::now();
    for path in list.lines() {
        let mut file = File::open(root.join(path)).with_context(|| format!("open {path}"))?;
        loop {
            let n = file.read(buf.get()).with_context(|| format!("read {path}"))?;
            if n == 0 {
                break;
            }
            bytes += n as u64;
        }
    }
    Ok((bytes, started.elapsed()))
}

/// The offsets of the random reads: the same for every filesystem.
pub(crate) fn random_offsets(file_bytes: u64, count: usize) -> Vec<u64> {
    let mut random = Random::new(11);
    (0..count).map(|_| random.below(file_bytes / 4096) * 4096).collect()
}

/// Reads 4 KiB at each offset with the kernel's read-ahead off; returns the durations.
pub(crate) fn random_4k(path: &Path, offsets: &[u64]) -> Result<Vec<Duration>> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    advise(&file, rustix::fs::Advice::Random)?;
    let mut buf = [0; 4096];
    offsets
        .iter()
        .map(|offset| {
            let started = Instant::now();
            file.read_exact_at(&mut buf, *offset)?;
            Ok(started.elapsed())
        })
        .collect()
}

fn advise(file: &File, advice: rustix::fs::Advice) -> Result<()> {
    ensure!(file.as_raw_fd() >= 0, "closed file");
    Ok(rustix::fs::fadvise(file, 0, None, advice)?)
}

/// Reads every file below `dir` once, so that the kernel has it.
pub(crate) fn read_into_page_cache(dir: &Path) -> Result<()> {
    let mut buf = vec![0; 1 << 20];
    let mut stack = vec![dir.to_path_buf()];
    while let Some(dir) = stack.pop() {
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                stack.push(entry.path());
            } else {
                let mut file = File::open(entry.path())?;
                while file.read(&mut buf)? > 0 {}
            }
        }
    }
    Ok(())
}

/// The middle one.
pub(crate) fn percentile(durations: &mut [Duration], of_hundred: usize) -> Duration {
    durations.sort();
    durations[(durations.len() * of_hundred / 100).min(durations.len() - 1)]
}

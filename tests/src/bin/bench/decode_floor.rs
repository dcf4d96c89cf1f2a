//! The floor of decoding: ciphertext in memory, in-place AEAD and zstd into a kept buffer, and nothing else.
//!
//! The cipher is `stash_tests::reference`, not the engine's, so that a slow engine cannot hide behind a slow floor. The engine is used
//! only to find the blobs of a file.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use stash_tests::reference::Key;

/// The ciphertext of a file's blobs, in order.
#[derive(Debug)]
pub(crate) struct Sealed {
    blobs: Vec<Blob>,
}

#[derive(Debug)]
struct Blob {
    sealed: Vec<u8>,
    compressed: bool,
    plain_bytes: usize,
    /// Where its plain bytes begin in the file.
    file_offset: u64,
}

impl Sealed {
    /// Loads the blobs of `content` from the packs of a local repository.
    pub(crate) fn load(
        repo: &Path,
        repository: &stash_repo::Repository,
        content: &[stash_repo::BlobId],
    ) -> Result<Self> {
        use std::os::unix::fs::FileExt;
        let index = repository.index();
        let mut file_offset = 0;
        let mut blobs = Vec::with_capacity(content.len());
        for id in content {
            let at = index.lookup(id)?.with_context(|| format!("blob {id} is not in the index"))?;
            let file = std::fs::File::open(repo.join(stash_repo::FileKind::Pack.path(&at.pack.0)))?;
            let mut sealed = vec![0; at.len_bytes as usize];
            file.read_exact_at(&mut sealed, u64::from(at.offset))?;
            let plain_bytes = at.plain_bytes() as usize;
            blobs.push(Blob { sealed, compressed: at.uncompressed_bytes.is_some(), plain_bytes, file_offset });
            file_offset += plain_bytes as u64;
        }
        Ok(Self { blobs })
    }

    /// Decodes all blobs once on `threads` threads; returns the plain bytes and how long it took.
    pub(crate) fn decode_all(&self, key: &Key, threads: usize) -> Result<(u64, Duration)> {
        let next = AtomicUsize::new(0);
        let longest = self.blobs.iter().map(|b| b.sealed.len().max(b.plain_bytes)).max().unwrap_or(0);
        let started = Instant::now();
        let bytes = std::thread::scope(|scope| -> Result<u64> {
            let workers: Vec<_> = (0..threads)
                .map(|_| {
                    scope.spawn(|| -> Result<u64> {
                        let mut decoder = Decoder::new(longest)?;
                        let mut bytes = 0;
                        while let Some(blob) = self.blobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                            bytes += decoder.decode(key, blob)? as u64;
                        }
                        Ok(bytes)
                    })
                })
                .collect();
            workers.into_iter().map(|w| w.join().map_err(|_| anyhow::anyhow!("a decoder panicked"))?).sum()
        })?;
        Ok((bytes, started.elapsed()))
    }

    /// Decodes, for each offset, the one blob that holds it.
    pub(crate) fn decode_at(&self, key: &Key, offsets: &[u64]) -> Result<Vec<Duration>> {
        let longest = self.blobs.iter().map(|b| b.sealed.len().max(b.plain_bytes)).max().unwrap_or(0);
        let mut decoder = Decoder::new(longest)?;
        offsets
            .iter()
            .map(|offset| {
                let blob = &self.blobs[self.blobs.partition_point(|b| b.file_offset <= *offset) - 1];
                let started = Instant::now();
                decoder.decode(key, blob)?;
                Ok(started.elapsed())
            })
            .collect()
    }
}

/// One thread's kept buffers.
struct Decoder {
    cipher: Vec<u8>,
    plain: Vec<u8>,
    zstd: zstd::bulk::Decompressor<'static>,
}

impl Decoder {
    fn new(longest: usize) -> Result<Self> {
        Ok(Self {
            cipher: vec![0; longest],
            plain: Vec::with_capacity(longest),
            zstd: zstd::bulk::Decompressor::new()?,
        })
    }

    fn decode(&mut self, key: &Key, blob: &Blob) -> Result<usize> {
        // The copy stands for the read of the pack: an engine cannot decrypt in the page cache either.
        let cipher = &mut self.cipher[..blob.sealed.len()];
        cipher.copy_from_slice(&blob.sealed);
        let range = key.open_in_place(cipher)?;
        if !blob.compressed {
            return Ok(range.len());
        }
        self.plain.clear();
        let n = self.zstd.decompress_to_buffer(&cipher[range], &mut self.plain)?;
        ensure!(n == blob.plain_bytes, "a blob has {n} bytes, the index says {}", blob.plain_bytes);
        Ok(n)
    }
}

//! Holes: what is known to be zeros without reading it.
//!
//! A backup does not store holes; it stores their zeros. restic's chunker (and rustic's, the same) cuts a run of zeros at
//! its least chunk length, 512 KiB, because the rolling hash of a window of zeros is 0 and 0 is a cut. So every such piece
//! is one blob with one well-known id, and a hole is known from the list of a file's blobs alone.
//!
//! Exactly this is claimed, by `st_blocks`, `SEEK_HOLE` and `SEEK_DATA` alike: each blob of [`ZERO_BYTES`] zeros is a hole,
//! and nothing else is. The ends of a hole, up to 512 KiB each, share a blob with data and count as data, as do runs of
//! zeros shorter than that and those of writers with other chunk lengths: reading them is right all the same.

use std::sync::LazyLock;

use bytes::Bytes;
use stash_repo::{BlobId, Id};

/// The length of the pieces that restic's chunker cuts zeros into: `MinSize` of its `chunker` package.
pub(crate) const ZERO_BYTES: u32 = 512 << 10;

static ZEROS: [u8; ZERO_BYTES as usize] = [0; ZERO_BYTES as usize];

static ZERO_ID: LazyLock<BlobId> = LazyLock::new(|| BlobId(Id::hash(&ZEROS)));

/// Returns whether a blob is known to be [`ZERO_BYTES`] zeros.
pub(crate) fn is_zeros(id: &BlobId) -> bool {
    *id == *ZERO_ID
}

/// Returns zeros, at most [`ZERO_BYTES`], without copying any.
pub(crate) fn zeros(len: usize) -> Bytes {
    Bytes::from_static(&ZEROS[..len.min(ZEROS.len())])
}

/// Returns how many 512-byte blocks of a file are not holes.
pub(crate) fn blocks(size: u64, content: &[BlobId]) -> u64 {
    let holes = if size < u64::from(ZERO_BYTES) {
        0
    } else {
        let zero = &*ZERO_ID;
        content.iter().filter(|id| *id == zero).count() as u64 * u64::from(ZERO_BYTES)
    };
    size.saturating_sub(holes).div_ceil(512)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_zero_id_is_the_well_known_one() {
        // `head -c 524288 /dev/zero | sha256sum`
        assert_eq!(ZERO_ID.to_string(), "07854d2fef297a06ba81685e660c332de36d5d18d546927d30daad6d7fda1541");
    }

    #[test]
    fn test_blocks() {
        let (zero, data) = (*ZERO_ID, BlobId(Id::hash(b"data")));
        for (size, content, expected) in [
            (0, &[][..], 0),
            (1, &[data], 1),
            (513, &[data], 2),
            (524_288, &[zero], 0),
            (524_289, &[zero, data], 1),
            (3 << 19, &[zero, zero, zero], 0),
            (4 << 20, &[data, zero, data], 7_168),
            // A size that its content contradicts.
            (600_000, &[zero, zero], 0),
        ] {
            assert_eq!(blocks(size, content), expected, "{size}");
        }
    }
}

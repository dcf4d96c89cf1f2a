//! Buffers for answers that stay mapped.
//!
//! A fresh buffer of some MiB costs a page fault for every 4 KiB when it is filled: measured, a tenth of all processor time
//! of a sequential read over a network. So the last few are kept for the next answers.

use bytes::Bytes;
use parking_lot::Mutex;

/// Smaller buffers are left to the allocator, which keeps such blocks by itself.
const SMALLEST_BYTES: usize = 128 << 10;

/// Buffers are multiples of this, so that an answer of about the same length fits.
const STEP_BYTES: usize = 512 << 10;

/// How much is kept while nobody uses it: two answers of the greatest length that is asked for at once.
const KEPT_BYTES: usize = 16 << 20;

static KEPT: Kept = Kept(Mutex::new(Vec::new()));

/// Buffers that nobody uses, empty.
#[derive(Debug)]
struct Kept(Mutex<Vec<Vec<u8>>>);

impl Kept {
    /// Takes the smallest buffer that `bytes` fit into and use half of.
    fn take(&self, bytes: usize) -> Option<Vec<u8>> {
        let mut kept = self.0.lock();
        let fits = |buffer: &Vec<u8>| (bytes..=bytes.saturating_mul(2)).contains(&buffer.capacity());
        let (place, _) =
            kept.iter().enumerate().filter(|(_, buffer)| fits(buffer)).min_by_key(|(_, buffer)| buffer.capacity())?;
        Some(kept.swap_remove(place))
    }

    /// Keeps a buffer, in the place of older ones if need be.
    fn give_back(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        let mut gone = Vec::new();
        let mut kept = self.0.lock();
        kept.push(buffer);
        let mut sum_bytes: usize = kept.iter().map(Vec::capacity).sum();
        while sum_bytes > KEPT_BYTES {
            let oldest = kept.remove(0);
            sum_bytes -= oldest.capacity();
            gone.push(oldest);
        }
        // The allocator works outside of the lock.
        drop(kept);
        drop(gone);
    }
}

/// A buffer that an answer is collected in.
#[derive(Debug)]
pub(super) struct Buffer(Vec<u8>);

impl Buffer {
    /// Takes an empty buffer for about `bytes`.
    pub(super) fn take(bytes: usize) -> Self {
        if bytes < SMALLEST_BYTES {
            return Self(Vec::with_capacity(bytes));
        }
        Self(KEPT.take(bytes).unwrap_or_else(|| Vec::with_capacity(bytes.next_multiple_of(STEP_BYTES))))
    }

    /// Returns how many bytes have come.
    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }

    /// Adds bytes.
    pub(super) fn extend(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Makes the bytes read-only. The buffer is kept when the last slice of them is gone.
    pub(super) fn freeze(mut self) -> Bytes {
        if self.0.capacity() < SMALLEST_BYTES {
            return std::mem::take(&mut self.0).into();
        }
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if (SMALLEST_BYTES..=KEPT_BYTES).contains(&self.0.capacity()) {
            KEPT.give_back(std::mem::take(&mut self.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_a_buffer_is_used_again_by_what_is_about_as_long() {
        let kept = Kept(Mutex::default());
        kept.give_back(Vec::with_capacity(1 << 20));
        kept.give_back(Vec::with_capacity(3 << 20));
        assert!(kept.take((3 << 20) + 1).is_none(), "too short");
        assert!(kept.take(256 << 10).is_none(), "most of it would lie idle, and nobody pays for it");
        assert_eq!(kept.take(1 << 20).unwrap().capacity(), 1 << 20, "the smallest that fits");
        assert_eq!(kept.take(2 << 20).unwrap().capacity(), 3 << 20);
        assert!(kept.take(2 << 20).is_none(), "each is taken once");
    }

    #[test]
    fn test_what_is_kept_is_empty_and_bounded() {
        let kept = Kept(Mutex::default());
        for length in (1..40).map(|step| step * STEP_BYTES / 2) {
            kept.give_back(vec![1; length]);
            let sum: usize = kept.0.lock().iter().map(Vec::capacity).sum();
            assert!(sum <= KEPT_BYTES && kept.0.lock().iter().all(Vec::is_empty), "{sum}");
        }
    }

    #[test]
    fn test_bytes_are_what_was_added() {
        for length in [0, 1, SMALLEST_BYTES - 1, SMALLEST_BYTES, 3 * STEP_BYTES, KEPT_BYTES, KEPT_BYTES + 1] {
            for _ in 0..2 {
                let mut buffer = Buffer::take(length);
                let content: Vec<u8> = (0..=250).cycle().take(length).collect();
                content.chunks(100_000).for_each(|chunk| buffer.extend(chunk));
                assert_eq!(buffer.len(), length);
                let bytes = buffer.freeze();
                let slice = bytes.slice(length / 2..);
                drop(bytes);
                assert_eq!(slice, content[length / 2..]);
            }
        }
    }
}

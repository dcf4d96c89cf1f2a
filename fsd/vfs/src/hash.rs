//! The hash that node ids are made of: SipHash-2-4, as its paper specifies it.
//!
//! Node ids must be the same in every build, in every process and after every remount, so the algorithm is written down
//! here instead of taken from a library that may change its mind. Source: J.-P. Aumasson and D. J. Bernstein, "SipHash: a
//! fast short-input PRF", 2012, with the reference vectors in the tests.

/// The state of a hash that is fed piece by piece.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SipHash {
    v: [u64; 4],
    tail: u64,
    tail_bytes: u32,
    total_bytes: u64,
}

impl SipHash {
    /// Starts a hash under a key of two words.
    pub(crate) const fn new(k0: u64, k1: u64) -> Self {
        Self {
            v: [
                k0 ^ 0x736f_6d65_7073_6575,
                k1 ^ 0x646f_7261_6e64_6f6d,
                k0 ^ 0x6c79_6765_6e65_7261,
                k1 ^ 0x7465_6462_7974_6573,
            ],
            tail: 0,
            tail_bytes: 0,
            total_bytes: 0,
        }
    }

    const fn round(&mut self) {
        let [mut a, mut b, mut c, mut d] = self.v;
        a = a.wrapping_add(b);
        b = b.rotate_left(13) ^ a;
        a = a.rotate_left(32);
        c = c.wrapping_add(d);
        d = d.rotate_left(16) ^ c;
        a = a.wrapping_add(d);
        d = d.rotate_left(21) ^ a;
        c = c.wrapping_add(b);
        b = b.rotate_left(17) ^ c;
        c = c.rotate_left(32);
        self.v = [a, b, c, d];
    }

    const fn word(&mut self, word: u64) {
        self.v[3] ^= word;
        self.round();
        self.round();
        self.v[0] ^= word;
    }

    /// Feeds bytes.
    pub(crate) fn bytes(mut self, mut data: &[u8]) -> Self {
        self.total_bytes = self.total_bytes.wrapping_add(data.len() as u64);
        if self.tail_bytes == 0 {
            while let Some((word, rest)) = data.split_first_chunk::<8>() {
                self.word(u64::from_le_bytes(*word));
                data = rest;
            }
        }
        for byte in data {
            self.tail |= u64::from(*byte) << (8 * self.tail_bytes);
            self.tail_bytes += 1;
            if self.tail_bytes == 8 {
                let word = self.tail;
                self.word(word);
                self.tail = 0;
                self.tail_bytes = 0;
            }
        }
        self
    }

    /// Feeds a number.
    pub(crate) fn u64(self, value: u64) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    /// Ends the hash.
    pub(crate) const fn finish(mut self) -> u64 {
        let last = self.tail | ((self.total_bytes & 0xff) << 56);
        self.word(last);
        self.v[2] ^= 0xff;
        let mut rounds = 0;
        while rounds < 4 {
            self.round();
            rounds += 1;
        }
        self.v[0] ^ self.v[1] ^ self.v[2] ^ self.v[3]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key and some of the outputs of the reference implementation (`vectors_sip64`): input is 0, 1, 2, ... n-1.
    #[test]
    fn test_reference_vectors() {
        let key = SipHash::new(0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908);
        let input: Vec<u8> = (0..64).collect();
        for (len, expected) in [
            (0_usize, 0x726f_db47_dd0e_0e31_u64),
            (1, 0x74f8_39c5_93dc_67fd),
            (7, 0xab02_00f5_8b01_d137),
            (8, 0x93f5_f579_9a93_2462),
            (15, 0xa129_ca61_49be_45e5),
        ] {
            assert_eq!(key.bytes(&input[..len]).finish(), expected, "{len}");
        }
    }

    #[test]
    fn test_pieces_hash_as_one() {
        let input: Vec<u8> = (0..=255).collect();
        let key = SipHash::new(1, 2);
        let whole = key.bytes(&input).finish();
        for cut in 0..=input.len() {
            let (a, b) = input.split_at(cut);
            assert_eq!(key.bytes(a).bytes(b).finish(), whole, "{cut}");
        }
    }
}

//! The checksum of everything that we keep on disk: Poly1305-AES under a key that is derived from the repository's key.
//!
//! A plain checksum would find accidents as well. A keyed one costs the same (about 2 GB/s) and takes from whoever can
//! write the cache the chance to make up a page: he can only damage, remove or replay what we wrote ourselves, for the
//! same repository and purpose. `docs/format.md` says what that leaves him.
//!
//! Invariant: a nonce is used once under a key. Each format says what its nonce is made of.

use std::fmt;

use aes::Aes128;
use aes::cipher::{BlockEncrypt as _, KeyInit as _};
use poly1305::Poly1305;
use poly1305::universal_hash::UniversalHash as _;
use sha2::{Digest as _, Sha256};
use zeroize::{Zeroize as _, Zeroizing};

use crate::crypto::MasterKey;

/// The bytes of a seal.
pub const SEAL_BYTES: usize = 16;
/// The bytes of a nonce.
pub const NONCE_BYTES: usize = 16;

/// A seal: 128 bits that nobody without the key can make.
pub type Seal = [u8; SEAL_BYTES];

/// What a key is for. Keys of different purposes are unrelated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Pages of index segments.
    IndexPage,
    /// Records of the blob cache.
    BlobRecord,
    /// Tables of contents of the blob cache.
    BlobTable,
}

impl Purpose {
    /// Returns the label that goes into the derivation. Part of the format: never changed.
    const fn label(self) -> &'static [u8; 16] {
        match self {
            Self::IndexPage => b"stash index page",
            Self::BlobRecord => b"stash blob recrd",
            Self::BlobTable => b"stash blob table",
        }
    }
}

/// Seals bytes and checks seals.
#[derive(Clone)]
pub struct SealKey {
    /// Turns a nonce into the second half of the one-time key.
    nonce_cipher: Aes128,
    /// The first half.
    r: Zeroizing<[u8; 16]>,
}

impl SealKey {
    /// Derives the key of a purpose: SHA-256 over label and secret, split in two.
    ///
    /// The secret is the repository's master key, all of it, thus of full entropy and always of one length.
    #[must_use]
    pub fn derive(master_key: &MasterKey, purpose: Purpose) -> Self {
        let hash = Sha256::new().chain_update(purpose.label()).chain_update(master_key.expose_parts());
        let mut digest: [u8; 32] = hash.finalize().into();
        let mut r = Zeroizing::new([0; 16]);
        let mut k = Zeroizing::new([0; 16]);
        r.copy_from_slice(&digest[..16]);
        k.copy_from_slice(&digest[16..]);
        digest.zeroize();
        Self { nonce_cipher: Aes128::new((&*k).into()), r }
    }

    /// Seals the concatenation of `parts`, each of whose lengths is a multiple of 16.
    #[must_use]
    pub fn seal(&self, nonce: &[u8; NONCE_BYTES], parts: &[&[u8]]) -> Seal {
        self.hash(nonce, parts).finalize().into()
    }

    /// Returns whether `seal` is right, in constant time.
    #[must_use]
    pub fn check(&self, nonce: &[u8; NONCE_BYTES], parts: &[&[u8]], seal: &Seal) -> bool {
        self.hash(nonce, parts).verify(seal.into()).is_ok()
    }

    fn hash(&self, nonce: &[u8; NONCE_BYTES], parts: &[&[u8]]) -> Poly1305 {
        let mut key = Zeroizing::new([0; 32]);
        key[..16].copy_from_slice(&*self.r);
        key[16..].copy_from_slice(nonce);
        self.nonce_cipher.encrypt_block((&mut key[16..]).into());
        let mut hash = Poly1305::new((&*key).into());
        for part in parts {
            debug_assert_eq!(part.len() % 16, 0, "parts of other lengths would not be told apart");
            hash.update_padded(part);
        }
        hash
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn master_key(byte: u8) -> MasterKey {
        MasterKey::from_parts(&mut [byte; 64])
    }

    #[test]
    fn test_seal_binds_key_purpose_nonce_and_content() {
        let key = SealKey::derive(&master_key(7), Purpose::IndexPage);
        let content = [3; 64];
        let seal = key.seal(&[1; 16], &[&content]);
        assert!(key.check(&[1; 16], &[&content[..32], &content[32..]], &seal), "parts are one message");
        assert!(!key.check(&[2; 16], &[&content], &seal));
        assert!(!key.check(&[1; 16], &[&content[..48]], &seal));
        for bit in 0..content.len() * 8 {
            let mut changed = content;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(!key.check(&[1; 16], &[&changed], &seal), "bit {bit}");
        }
        for other in
            [SealKey::derive(&master_key(7), Purpose::BlobTable), SealKey::derive(&master_key(8), Purpose::IndexPage)]
        {
            assert!(!other.check(&[1; 16], &[&content], &seal));
        }
    }

    #[test]
    fn test_seal_is_the_one_that_the_format_description_gives() {
        // Golden: a change here is a change of every format that is sealed.
        let key = SealKey::derive(&master_key(0), Purpose::IndexPage);
        assert_eq!(hex::encode(key.seal(&[0; 16], &[&[0; 32]])), "116c8f013dc2fba79d04387f64c1bc3a");
    }
}

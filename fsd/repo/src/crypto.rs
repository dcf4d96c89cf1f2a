//! restic's authenticated encryption: AES-256 in counter mode under Poly1305-AES.
//!
//! Sealed bytes are `nonce (16) | ciphertext | MAC (16)`. The MAC is Poly1305 over the ciphertext under the one-time key
//! `r | AES-128_k(nonce)`. Source: restic, `doc/design.rst`, "Keys, Encryption and MAC".
//!
//! The MAC says that somebody who holds the key wrote these bytes. It does not say what they are: it binds neither an id nor
//! a place, so that a blob, swapped for another of the same repository, passes. Callers hash where that matters.
//!
//! AES-NI and AVX2 are found at run time by the `aes` and `poly1305` crates; there is a portable fall-back.

use std::fmt;
use std::sync::Arc;

use aes::cipher::generic_array::GenericArray;
use aes::cipher::{BlockEncrypt as _, InnerIvInit as _, KeyInit as _, StreamCipher as _, StreamCipherCoreWrapper};
use aes::{Aes128Enc, Aes256Enc};
use poly1305::Poly1305;
use poly1305::universal_hash::UniversalHash as _;
use zeroize::{Zeroize as _, Zeroizing};

/// The length of the nonce before the ciphertext.
pub const NONCE_BYTES: usize = 16;
/// The length of the MAC after the ciphertext.
pub const MAC_BYTES: usize = 16;
/// How much longer sealed bytes are than plain ones.
pub const OVERHEAD_BYTES: usize = NONCE_BYTES + MAC_BYTES;

/// The length of all parts of a master key: 32 to encrypt, 16 and 16 for the MAC.
pub const MASTER_KEY_BYTES: usize = 64;

/// Bytes that are authenticated and then decrypted while they lie in the first-level cache.
const PIECE_BYTES: usize = 16 << 10;

/// Why sealed bytes were not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CryptoError {
    /// There is no room for nonce and MAC.
    #[error("{len_bytes} bytes, an encrypted piece has at least {OVERHEAD_BYTES}")]
    TooShort {
        /// How many there were.
        len_bytes: usize,
    },
    /// The message authentication code does not match.
    #[error("wrong MAC, the data was changed or belongs to another key")]
    WrongMac,
}

/// The key that all data of a repository is sealed with. Cheap to clone; its memory is overwritten when the last clone goes.
#[derive(Clone)]
pub struct MasterKey {
    /// Encryption key, MAC key `k`, MAC key `r`, in the order of restic's key derivation.
    parts: Arc<Zeroizing<[u8; MASTER_KEY_BYTES]>>,
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(..)")
    }
}

impl MasterKey {
    /// Takes the three parts, one after the other: 32 bytes to encrypt, 16 of `k`, 16 of `r`. The argument is overwritten.
    #[must_use]
    pub fn from_parts(parts: &mut [u8; MASTER_KEY_BYTES]) -> Self {
        let key = Self { parts: Arc::new(Zeroizing::new(*parts)) };
        parts.zeroize();
        key
    }

    /// Makes a new key from the system's random numbers.
    #[must_use]
    pub fn generate() -> Self {
        let mut parts = [0; MASTER_KEY_BYTES];
        random_bytes(&mut parts);
        Self::from_parts(&mut parts)
    }

    /// Returns the three parts as [`MasterKey::from_parts`] takes them: for a process that keeps keys for another, and for
    /// `rustic_core`. They must go nowhere else.
    #[must_use]
    pub fn expose_parts(&self) -> &[u8; MASTER_KEY_BYTES] {
        &self.parts
    }

    fn encrypt_key(&self) -> &[u8; 32] {
        self.parts.first_chunk().expect("64 bytes hold 32")
    }

    /// Starts a MAC under the one-time key of `nonce`.
    fn mac(&self, nonce: &[u8; NONCE_BYTES]) -> Poly1305 {
        let mut one_time = Zeroizing::new([0; 32]);
        one_time[..16].copy_from_slice(&self.parts[48..]);
        one_time[16..].copy_from_slice(nonce);
        Aes128Enc::new(GenericArray::from_slice(&self.parts[32..48]))
            .encrypt_block(GenericArray::from_mut_slice(&mut one_time[16..]));
        Poly1305::new(GenericArray::from_slice(one_time.as_slice()))
    }

    /// Returns the stream that sealed bytes with this nonce are decrypted with, from their beginning on.
    #[must_use]
    pub fn keystream(&self, nonce: &[u8; NONCE_BYTES]) -> Keystream {
        let cipher = Aes256Enc::new(GenericArray::from_slice(self.encrypt_key()));
        let core = ctr::CtrCore::inner_iv_init(cipher, GenericArray::from_slice(nonce));
        Keystream { inner: StreamCipherCoreWrapper::from_core(core) }
    }

    /// Checks the MAC and decrypts nothing.
    ///
    /// # Errors
    /// The bytes are too short or the MAC does not match.
    pub fn verify(&self, sealed: &[u8]) -> Result<(), CryptoError> {
        let (nonce, ciphertext, mac) = split(sealed)?;
        let mut poly = self.mac(nonce);
        let (blocks, tail) = whole_blocks(ciphertext);
        poly.update_padded(blocks);
        check(poly, tail, mac)
    }

    /// Checks the MAC, decrypts in place and returns the plain bytes, which begin 16 bytes into `sealed`.
    ///
    /// # Errors
    /// As [`MasterKey::verify`]; the buffer's content is of no use then.
    pub fn open_in_place<'b>(&self, sealed: &'b mut [u8]) -> Result<&'b mut [u8], CryptoError> {
        let (nonce, mac) = {
            let (nonce, _, mac) = split(sealed)?;
            (*nonce, *mac)
        };
        let end = sealed.len() - MAC_BYTES;
        let text = &mut sealed[NONCE_BYTES..end];
        let (mut poly, mut keystream) = (self.mac(&nonce), self.keystream(&nonce));
        let mut tail = [0; 16];
        let mut tail_len = 0;
        for piece in text.chunks_mut(PIECE_BYTES) {
            // Only the last piece has a tail.
            let (blocks, rest) = whole_blocks(piece);
            poly.update_padded(blocks);
            tail_len = rest.len();
            tail[..tail_len].copy_from_slice(rest);
            keystream.apply(piece);
        }
        match check(poly, &tail[..tail_len], &mac) {
            Ok(()) => Ok(text),
            Err(error) => {
                // Nobody may see what was decrypted before the MAC was known to be wrong.
                text.fill(0);
                Err(error)
            }
        }
    }

    /// Checks the MAC of everything and decrypts, in place, only the first `upto` bytes; returns those.
    ///
    /// # Errors
    /// As [`MasterKey::verify`]; the buffer is unchanged then.
    pub fn open_prefix_in_place<'b>(&self, sealed: &'b mut [u8], upto: usize) -> Result<&'b mut [u8], CryptoError> {
        self.verify(sealed)?;
        let nonce = *split(sealed)?.0;
        let len = upto.min(sealed.len() - OVERHEAD_BYTES);
        let text = &mut sealed[NONCE_BYTES..NONCE_BYTES + len];
        self.keystream(&nonce).apply(text);
        Ok(text)
    }

    /// Seals `plain` under a random nonce.
    #[must_use]
    pub fn seal(&self, plain: &[u8]) -> Vec<u8> {
        let mut nonce = [0; NONCE_BYTES];
        random_bytes(&mut nonce);
        self.seal_with_nonce(&nonce, plain)
    }

    /// Seals `plain` under a given nonce, which must never be used twice with one key.
    fn seal_with_nonce(&self, nonce: &[u8; NONCE_BYTES], plain: &[u8]) -> Vec<u8> {
        let mut sealed = Vec::with_capacity(plain.len() + OVERHEAD_BYTES);
        sealed.extend_from_slice(nonce);
        sealed.extend_from_slice(plain);
        let text = &mut sealed[NONCE_BYTES..];
        self.keystream(nonce).apply(text);
        let mut poly = self.mac(nonce);
        let (blocks, tail) = whole_blocks(text);
        poly.update_padded(blocks);
        let mac = poly.compute_unpadded(tail);
        sealed.extend_from_slice(&mac);
        sealed
    }
}

/// The key stream of one sealed piece, from its beginning on.
pub struct Keystream {
    inner: StreamCipherCoreWrapper<ctr::CtrCore<Aes256Enc, ctr::flavors::Ctr128BE>>,
}

impl fmt::Debug for Keystream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keystream(..)")
    }
}

impl Keystream {
    /// Decrypts (or encrypts) the next bytes in place. They must have been authenticated before they are used.
    pub fn apply(&mut self, text: &mut [u8]) {
        // The counter has 128 bits: it never runs out.
        self.inner.apply_keystream(text);
    }
}

/// Fills `bytes` from a generator that the system seeds and that is fit for keys.
pub(crate) fn random_bytes(bytes: &mut [u8]) {
    use rand::Rng as _;
    rand::rng().fill_bytes(bytes);
}

/// Nonce, ciphertext and MAC.
type Parts<'a> = (&'a [u8; NONCE_BYTES], &'a [u8], &'a [u8; MAC_BYTES]);

/// Splits sealed bytes.
fn split(sealed: &[u8]) -> Result<Parts<'_>, CryptoError> {
    let short = CryptoError::TooShort { len_bytes: sealed.len() };
    let (nonce, rest) = sealed.split_first_chunk().ok_or(short)?;
    let (ciphertext, mac) = rest.split_last_chunk().ok_or(short)?;
    Ok((nonce, ciphertext, mac))
}

/// Splits into whole blocks of the MAC and the rest.
fn whole_blocks(bytes: &[u8]) -> (&[u8], &[u8]) {
    bytes.split_at(bytes.len() - bytes.len() % poly1305::BLOCK_SIZE)
}

/// Finishes the MAC and compares it in constant time.
fn check(poly: Poly1305, tail: &[u8], mac: &[u8; MAC_BYTES]) -> Result<(), CryptoError> {
    let computed = poly.compute_unpadded(tail);
    let difference = computed.iter().zip(mac).fold(0, |difference, (a, b)| difference | (a ^ b));
    if std::hint::black_box(difference) == 0 { Ok(()) } else { Err(CryptoError::WrongMac) }
}

#[cfg(test)]
mod tests;

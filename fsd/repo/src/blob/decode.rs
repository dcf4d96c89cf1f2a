//! From the sealed bytes of a blob to its plain bytes: MAC, decryption, zstd, hash.

use std::fmt;
use std::sync::Arc;

use zstd::zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer, get_error_name};

use super::pool::{Buffer, Pool, size_class};
use crate::budget::Grant;
use crate::crypto::{CryptoError, MAC_BYTES, MasterKey, NONCE_BYTES};
use crate::error::RepoError;
use crate::id::{BlobId, Id};
use crate::index::{BlobLocation, CIPHER_OVERHEAD_BYTES};

/// The longest blob, plain or sealed. restic's chunks end at 8 MiB; a directory of some 100,000 entries is longer.
pub(crate) const MAX_BLOB_BYTES: u32 = 64 << 20;

/// Below this a prefix is not worth a second decoding of the whole later.
const SMALLEST_SPLIT_BYTES: usize = 128 << 10;

/// A prefix ends at a multiple of this, so that the next small read beside it is served by it too.
const PREFIX_STEP_BYTES: usize = 64 << 10;

/// How much is decrypted at once for a prefix: one block of zstd is at most 128 KiB of plain bytes.
const PREFIX_PIECE_BYTES: usize = 32 << 10;

/// The largest window (2^23 = 8 MiB, restic's largest chunk) that decompressing a prefix keeps memory for. Whole blobs need
/// none: their output is the window.
const PREFIX_WINDOW_LOG: u32 = 23;

/// Why bytes are not the blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DecodeError {
    /// Changed, or sealed with another key.
    WrongMac,
    /// Authentic, but another blob.
    WrongHash(Id),
    /// A length or zstd.
    Format(String),
}

impl DecodeError {
    /// Says on which blob.
    pub(crate) fn on(self, id: BlobId, location: &BlobLocation) -> RepoError {
        match self {
            Self::WrongMac => RepoError::WrongMac { what: "blob", id: id.0 },
            Self::WrongHash(actual) => RepoError::WrongHash { what: "blob", id: id.0, actual },
            Self::Format(reason) => RepoError::BadBlob { id, pack: location.pack, reason },
        }
    }
}

/// What is to be decoded, and how far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Order {
    pub(crate) id: BlobId,
    pub(crate) location: BlobLocation,
    /// How many plain bytes are needed.
    pub(crate) upto: usize,
    /// Whether the plain bytes must hash to the id; then all are decoded.
    pub(crate) hash: bool,
}

/// How an [`Order`] is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The bytes are stored as they are: decrypted in the buffer that they came in, up to so many of them.
    Stored { upto: usize },
    /// Decompressed as a whole.
    Whole,
    /// Decompressed up to this many bytes.
    Prefix(usize),
}

impl Order {
    /// Checks the lengths that the index claims, before anything is allocated by them.
    pub(crate) fn check(&self) -> Result<(), DecodeError> {
        let BlobLocation { offset, len_bytes, .. } = self.location;
        let plain_bytes = self.location.plain_bytes();
        if len_bytes < CIPHER_OVERHEAD_BYTES || offset.checked_add(len_bytes).is_none() {
            return Err(DecodeError::Format(format!("{len_bytes} bytes at {offset} cannot be a sealed blob")));
        }
        if len_bytes > MAX_BLOB_BYTES || plain_bytes > MAX_BLOB_BYTES {
            let longest = len_bytes.max(plain_bytes);
            return Err(DecodeError::Format(format!("{longest} bytes, more than the limit of {MAX_BLOB_BYTES}")));
        }
        Ok(())
    }

    fn way(&self) -> Way {
        let plain_bytes = self.location.plain_bytes() as usize;
        let prefix_bytes = self.upto.min(plain_bytes).next_multiple_of(PREFIX_STEP_BYTES);
        let split = !self.hash && plain_bytes >= SMALLEST_SPLIT_BYTES && prefix_bytes <= plain_bytes / 4 * 3;
        match (self.location.uncompressed_bytes, split) {
            (None, true) => Way::Stored { upto: prefix_bytes },
            (None, false) => Way::Stored { upto: plain_bytes },
            (Some(_), true) => Way::Prefix(prefix_bytes),
            (Some(_), false) => Way::Whole,
        }
    }

    /// Returns how long the sealed bytes are.
    pub(crate) fn sealed_bytes(&self) -> usize {
        self.location.len_bytes as usize
    }

    /// Returns how much memory decoding takes from its grant if the sealed bytes lie in a buffer of their own, beside that.
    pub(crate) fn output_bytes(&self) -> usize {
        match self.way() {
            Way::Stored { .. } => 0,
            Way::Whole => size_class(self.location.plain_bytes() as usize),
            Way::Prefix(bytes) => size_class(bytes),
        }
    }

    /// Returns how much it takes if the sealed bytes lie among others.
    pub(crate) fn copied_output_bytes(&self) -> usize {
        match self.way() {
            Way::Stored { .. } => size_class(self.sealed_bytes()),
            Way::Whole | Way::Prefix(_) => self.output_bytes(),
        }
    }

    /// Returns whether the plain bytes are stored as they are.
    pub(crate) fn is_stored(&self) -> bool {
        self.location.uncompressed_bytes.is_none()
    }
}

/// Where sealed bytes lie. They are overwritten.
#[derive(Debug)]
pub(crate) enum Sealed<'a> {
    /// At the beginning of a buffer of their own, which becomes the blob's if it is not compressed.
    Own(Buffer),
    /// Somewhere else.
    Piece(&'a mut [u8]),
}

/// The plain bytes of a blob, in the buffer that they were decoded into.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) buffer: Buffer,
    /// Where they begin in it.
    pub(crate) start: usize,
    pub(crate) len_bytes: usize,
    /// Whether these are all.
    pub(crate) whole: bool,
}

/// How much a thread keeps of the buffer that blobs of the disk cache are read into.
pub(crate) const KEPT_BYTES: usize = 2 << 20;

/// A thread's kept zstd context, and its buffer for the disk cache.
pub(crate) struct Decoder {
    zstd: DCtx<'static>,
    kept: Vec<u8>,
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder").finish_non_exhaustive()
    }
}

impl Decoder {
    pub(crate) fn new() -> Self {
        Self { zstd: DCtx::create(), kept: Vec::new() }
    }

    /// Lends the kept buffer.
    pub(crate) fn take_kept(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.kept)
    }

    /// Takes the kept buffer back.
    pub(crate) fn keep(&mut self, mut kept: Vec<u8>) {
        kept.clear();
        kept.shrink_to(KEPT_BYTES);
        self.kept = kept;
    }

    /// Decodes a blob. The output is paid out of `grant`.
    ///
    /// The MAC of all sealed bytes is checked before anything else is done with them.
    pub(crate) fn decode(
        &mut self,
        key: &MasterKey,
        order: &Order,
        sealed: Sealed<'_>,
        pool: &Arc<Pool>,
        grant: &mut Grant,
    ) -> Result<Decoded, DecodeError> {
        let mut sealed = match (sealed, order.is_stored()) {
            (Sealed::Piece(piece), true) => {
                let mut own = pool.take(piece.len(), grant).ok_or_else(|| short("the grant"))?;
                own[..piece.len()].copy_from_slice(piece);
                Sealed::Own(own)
            }
            (sealed, _) => sealed,
        };
        let bytes = match &mut sealed {
            Sealed::Own(buffer) => &mut **buffer,
            Sealed::Piece(piece) => piece,
        };
        let bytes = bytes.get_mut(..order.sealed_bytes()).ok_or_else(|| short("the buffer"))?;
        let plain_bytes = order.location.plain_bytes() as usize;
        let decoded = match order.way() {
            Way::Stored { upto } => {
                let len_bytes = if upto < plain_bytes {
                    key.open_prefix_in_place(bytes, upto)?.len()
                } else {
                    key.open_in_place(bytes)?.len()
                };
                let Sealed::Own(buffer) = sealed else { return Err(short("the buffer")) };
                Decoded { buffer, start: NONCE_BYTES, len_bytes, whole: len_bytes == plain_bytes }
            }
            Way::Whole => {
                let packed = key.open_in_place(bytes)?;
                let mut buffer = pool.take(plain_bytes, grant).ok_or_else(|| short("the grant"))?;
                self.whole(packed, &mut buffer[..plain_bytes])?;
                Decoded { buffer, start: 0, len_bytes: plain_bytes, whole: true }
            }
            Way::Prefix(len_bytes) => {
                key.verify(bytes)?;
                let mut buffer = pool.take(len_bytes, grant).ok_or_else(|| short("the grant"))?;
                self.prefix(key, bytes, &mut buffer[..len_bytes])?;
                Decoded { buffer, start: 0, len_bytes, whole: false }
            }
        };
        if order.hash {
            let actual = Id::hash(&decoded.buffer[decoded.start..decoded.start + decoded.len_bytes]);
            if actual != order.id.0 {
                return Err(DecodeError::WrongHash(actual));
            }
        }
        Ok(decoded)
    }

    fn whole(&mut self, packed: &[u8], out: &mut [u8]) -> Result<(), DecodeError> {
        let len_bytes = self.zstd.decompress(out, packed).map_err(zstd_error)?;
        if len_bytes != out.len() {
            return Err(DecodeError::Format(format!("{len_bytes} plain bytes instead of {}", out.len())));
        }
        Ok(())
    }

    /// Decrypts and decompresses, piece by piece, until `out` is full. The MAC must have been checked.
    fn prefix(&mut self, key: &MasterKey, sealed: &mut [u8], out: &mut [u8]) -> Result<(), DecodeError> {
        self.zstd.init().map_err(zstd_error)?;
        self.zstd.set_parameter(DParameter::WindowLogMax(PREFIX_WINDOW_LOG)).map_err(zstd_error)?;
        let (nonce, rest) = sealed.split_first_chunk_mut::<NONCE_BYTES>().ok_or_else(|| short("the buffer"))?;
        let text_bytes = rest.len().saturating_sub(MAC_BYTES);
        let mut keystream = key.keystream(nonce);
        let wanted = out.len();
        let mut output = OutBuffer::around(out);
        for piece in rest[..text_bytes].chunks_mut(PREFIX_PIECE_BYTES) {
            keystream.apply(piece);
            let mut input = InBuffer::around(&*piece);
            loop {
                let before = (input.pos(), output.pos());
                self.zstd.decompress_stream(&mut output, &mut input).map_err(zstd_error)?;
                if output.pos() == wanted {
                    return Ok(());
                }
                if (input.pos(), output.pos()) == before {
                    break;
                }
            }
        }
        Err(DecodeError::Format(format!("ends after {} plain bytes of {wanted} or more", output.pos())))
    }
}

impl From<CryptoError> for DecodeError {
    fn from(error: CryptoError) -> Self {
        match error {
            CryptoError::WrongMac => Self::WrongMac,
            CryptoError::TooShort { .. } => Self::Format(error.to_string()),
        }
    }
}

fn short(what: &str) -> DecodeError {
    DecodeError::Format(format!("{what} is smaller than the order"))
}

fn zstd_error(code: usize) -> DecodeError {
    DecodeError::Format(format!("zstd: {}", get_error_name(code)))
}

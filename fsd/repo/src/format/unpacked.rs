//! Files that are not packs (config, snapshots, index files) after decryption: JSON, or the byte 2 and zstd of JSON.
//!
//! Source: restic, `doc/design.rst`, "Unpacked Data Format" (repository version 2).

use std::borrow::Cow;

use zstd::stream::raw::{Decoder, InBuffer, Operation as _, OutBuffer};

use super::FormatError;

/// The first byte of a compressed file.
const COMPRESSED: u8 = 2;
/// How much more room a stream of unknown length gets at a time, at first; it doubles.
const FIRST_STEP_BYTES: usize = 64 << 10;

/// Returns the JSON of a decrypted file, of which at most `limit_bytes` are unpacked.
///
/// # Errors
/// The first byte is neither, the compressed bytes are damaged, or they unpack to more than the limit.
pub fn decode(plain: &[u8], limit_bytes: usize) -> Result<Cow<'_, [u8]>, FormatError> {
    match plain.first() {
        Some(b'{' | b'[') if plain.len() <= limit_bytes => Ok(Cow::Borrowed(plain)),
        Some(b'{' | b'[') => Err(too_long(limit_bytes)),
        Some(&COMPRESSED) => decompress(&plain[1..], limit_bytes).map(Cow::Owned),
        Some(other) => Err(FormatError::new(format!("unknown encoding {other:#04x}, expected JSON or zstd"))),
        None => Err(FormatError::new("the file is empty")),
    }
}

/// Unpacks all frames. Memory grows with what comes out, never by what a frame's header claims.
fn decompress(packed: &[u8], limit_bytes: usize) -> Result<Vec<u8>, FormatError> {
    let damaged = |error: std::io::Error| FormatError::new(format!("damaged zstd data: {error}"));
    let mut decoder = Decoder::new().map_err(damaged)?;
    let mut source = InBuffer::around(packed);
    // One byte more than the limit: output that reaches it is too long.
    let room = limit_bytes.saturating_add(1);
    let mut plain = vec![0; FIRST_STEP_BYTES.min(room)];
    let (mut len, mut frame_open) = (0, false);
    while frame_open || source.pos() < packed.len() {
        if len == plain.len() {
            plain.resize(len.saturating_mul(2).min(room), 0);
        }
        let before = (source.pos(), len);
        let mut sink = OutBuffer::around_pos(&mut plain[..], len);
        frame_open = decoder.run(&mut source, &mut sink).map_err(damaged)? != 0;
        len = sink.pos();
        if len > limit_bytes {
            return Err(too_long(limit_bytes));
        }
        if frame_open && before == (source.pos(), len) {
            return Err(FormatError::new("damaged zstd data: it ends early"));
        }
    }
    plain.truncate(len);
    plain.shrink_to_fit();
    Ok(plain)
}

#[cold]
fn too_long(limit_bytes: usize) -> FormatError {
    FormatError::new(format!("more than the {limit_bytes} bytes that are read of such a file"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decoded(plain: &[u8], limit_bytes: usize) -> Result<Vec<u8>, FormatError> {
        decode(plain, limit_bytes).map(Cow::into_owned)
    }

    fn packed(plain: &[u8], level: i32) -> Vec<u8> {
        let mut bytes = vec![COMPRESSED];
        bytes.extend(zstd::encode_all(plain, level).unwrap());
        bytes
    }

    #[test]
    fn test_decode_tells_json_from_zstd() {
        assert_eq!(decoded(b"{}", 2).unwrap(), b"{}");
        assert_eq!(decoded(b"[]", 2).unwrap(), b"[]");
        assert_eq!(decoded(&packed(b"{\"a\":1}", 3), 100).unwrap(), b"{\"a\":1}");
        for bad in [&b""[..], b"\x02garbage", b"\x01{}", b"\x03{}", b" {}"] {
            assert!(decoded(bad, 100).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn test_decode_stops_at_the_limit() {
        assert!(decoded(b"{ }", 2).is_err());
        let zeros = vec![0; 300_000];
        for limit in [0, 1, 65_535, 65_536, 65_537, 299_999] {
            let error = decoded(&packed(&zeros, 3), limit).unwrap_err();
            assert_eq!(error, too_long(limit), "{limit}");
        }
        for limit in [300_000, 300_001, usize::MAX] {
            assert_eq!(decoded(&packed(&zeros, 3), limit).unwrap(), zeros, "{limit}");
        }
    }

    #[test]
    fn test_decode_of_a_bomb_takes_no_more_than_the_limit() {
        // 1 GiB of zeros in 33 KiB, one frame after the other.
        let frame = zstd::encode_all(&vec![0; 16 << 20][..], 19).unwrap();
        let mut bomb = vec![COMPRESSED];
        (0..64).for_each(|_| bomb.extend_from_slice(&frame));
        assert_eq!(decoded(&bomb, 1 << 20).unwrap_err(), too_long(1 << 20));
    }

    #[test]
    fn test_decode_reads_several_frames_and_refuses_half_ones() {
        let mut two = packed(b"{\"a\":", 1);
        two.extend(zstd::encode_all(&b"1}"[..], 1).unwrap());
        assert_eq!(decoded(&two, 100).unwrap(), b"{\"a\":1}");
        let one = packed(&b"{}".repeat(50_000), 1);
        for cut in [2, 5, one.len() / 2, one.len() - 1] {
            assert!(decoded(&one[..cut], 1 << 20).is_err(), "{cut}");
        }
        two.push(7);
        assert!(decoded(&two, 100).is_err());
    }

    proptest! {
        #[test]
        fn prop_packed_bytes_come_back(plain in prop::collection::vec(0_u8..4, 0..200_000), level in 1..6) {
            let limit = plain.len();
            prop_assert_eq!(decoded(&packed(&plain, level), limit).unwrap(), plain);
        }

        #[test]
        fn prop_damage_ends_within_the_limit(plain: Vec<u8>, at: prop::sample::Index, byte: u8, limit in 0_usize..300) {
            let mut bytes = packed(&plain, 1);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(out) = decoded(&bytes, limit) {
                prop_assert!(out.len() <= limit);
            }
        }
    }
}

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;

use super::*;

/// The master key and the `config` file of a repository that restic 0.14.0 made (`restic init --repository-version 1`,
/// `restic cat masterkey`).
const RESTIC_ENCRYPT: &str = "ItG2/03uOwltBPbBpEN1oLoWya14uR22aMJD/6kfL0c=";
const RESTIC_MAC_K: &str = "0kKXpVZeiBvMb2aMlcQ6lQ==";
const RESTIC_MAC_R: &str = "7VIBD0RUrgbY9Z0OIKHFCA==";
const RESTIC_CONFIG: &str = "pOoTNuv6vouHv2K+XNqmJftMMdz+JLMUutwxZKOROT43Hh951CDoTz3eZW9hXiXsP9BdneCs5rg3zwXURpnsq3takKjaTcAExI49tIQWLd8BsNWEKTTYZyezRLTEA8gPaewMTxzO3zqREmJzdJTnhvIv9esBRgljujKPndkAnrnyhRyPaPYeyQQcu8ePGcP9087LHrohv5qUpGw=";
const RESTIC_CONFIG_PLAIN: &str = r#"{"version":1,"id":"e7040001802f2f2911b365aaf341d7625aaa1947fd45d6db16fb142997106b3e","chunker_polynomial":"26b0a1164226ed"}"#;

fn restics_key() -> MasterKey {
    let mut parts = [0; MASTER_KEY_BYTES];
    parts[..32].copy_from_slice(&STANDARD.decode(RESTIC_ENCRYPT).unwrap());
    parts[32..48].copy_from_slice(&STANDARD.decode(RESTIC_MAC_K).unwrap());
    parts[48..].copy_from_slice(&STANDARD.decode(RESTIC_MAC_R).unwrap());
    MasterKey::from_parts(&mut parts)
}

#[test]
fn test_open_reads_what_restic_wrote() {
    let mut sealed = STANDARD.decode(RESTIC_CONFIG).unwrap();
    let key = restics_key();
    key.verify(&sealed).unwrap();
    let nonce = *sealed.first_chunk().unwrap();
    assert_eq!(key.seal_with_nonce(&nonce, RESTIC_CONFIG_PLAIN.as_bytes()), sealed);
    assert_eq!(key.open_in_place(&mut sealed).unwrap(), RESTIC_CONFIG_PLAIN.as_bytes());
}

#[test]
fn test_every_flipped_bit_is_found_and_nothing_is_shown() {
    let key = MasterKey::generate();
    let sealed = key.seal(b"seventeen bytes..");
    for bit in 0..sealed.len() * 8 {
        let mut bad = sealed.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(key.verify(&bad), Err(CryptoError::WrongMac), "bit {bit}");
        assert_eq!(key.open_prefix_in_place(&mut bad.clone(), 5), Err(CryptoError::WrongMac), "bit {bit}");
        assert_eq!(key.open_in_place(&mut bad), Err(CryptoError::WrongMac), "bit {bit}");
        assert_eq!(bad[16..33], [0; 17], "bit {bit}");
    }
    assert_eq!(MasterKey::generate().verify(&sealed), Err(CryptoError::WrongMac));
}

#[test]
fn test_short_input_is_an_error() {
    let key = MasterKey::generate();
    for len in 0..OVERHEAD_BYTES {
        let mut bytes = vec![0; len];
        assert_eq!(key.verify(&bytes), Err(CryptoError::TooShort { len_bytes: len }));
        assert_eq!(key.open_in_place(&mut bytes), Err(CryptoError::TooShort { len_bytes: len }));
        assert_eq!(key.open_prefix_in_place(&mut bytes, 1), Err(CryptoError::TooShort { len_bytes: len }));
    }
    assert_eq!(key.open_in_place(&mut key.seal(b"")).unwrap(), b"");
}

#[test]
fn test_debug_shows_no_key() {
    let key = MasterKey::from_parts(&mut [0x41; 64]);
    assert_eq!(format!("{key:?} {:?}", key.keystream(&[0; 16])), "MasterKey(..) Keystream(..)");
}

#[test]
fn test_from_parts_overwrites_its_argument() {
    let mut parts = [7; MASTER_KEY_BYTES];
    let key = MasterKey::from_parts(&mut parts);
    assert_eq!(parts, [0; MASTER_KEY_BYTES]);
    assert_eq!(key.expose_parts(), &[7; MASTER_KEY_BYTES]);
}

#[test]
fn test_what_is_derived_from_a_key_is_overwritten_when_it_goes() {
    fn overwritten<T: zeroize::ZeroizeOnDrop>() {}
    overwritten::<Aes128Enc>();
    overwritten::<Aes256Enc>();
    overwritten::<StreamCipherCoreWrapper<ctr::CtrCore<Aes256Enc, ctr::flavors::Ctr128BE>>>();
    // The MAC's crate overwrites its state, too, but says so by nothing else.
    assert!(std::mem::needs_drop::<Poly1305>());
}

#[test]
fn test_two_seals_of_one_text_differ() {
    let key = MasterKey::generate();
    assert_ne!(key.seal(b"text"), key.seal(b"text"));
}

/// Not a bound, which a busy machine would break, but a figure for whoever looks (`--nocapture`).
#[test]
fn test_open_is_not_a_bit_at_a_time() {
    let key = MasterKey::generate();
    let plain = vec![7; 1 << 20];
    let mut sealed = vec![key.seal(&plain); 8];
    let began = std::time::Instant::now();
    for piece in &mut sealed {
        key.open_in_place(piece).unwrap();
    }
    let open = began.elapsed();
    let sealed = key.seal(&plain);
    let began = std::time::Instant::now();
    for _ in 0..8 {
        key.verify(&sealed).unwrap();
    }
    let verify = began.elapsed();
    let mut stream = plain.clone();
    let began = std::time::Instant::now();
    for _ in 0..8 {
        key.keystream(&[0; 16]).apply(&mut stream);
    }
    let gib_per_second = |elapsed: std::time::Duration| 8.0 / 1024.0 / elapsed.as_secs_f64();
    println!(
        "open {:.2} GiB/s, verify {:.2} GiB/s, decrypt {:.2} GiB/s",
        gib_per_second(open),
        gib_per_second(verify),
        gib_per_second(began.elapsed())
    );
    assert!(gib_per_second(open) > 0.05, "one core opens 8 MiB in {open:?}");
}

proptest! {
    #[test]
    fn prop_sealed_opens_at_every_length(plain in prop::collection::vec(any::<u8>(), 0..100_000), upto in 0_usize..100_000) {
        let key = MasterKey::generate();
        let sealed = key.seal(&plain);
        prop_assert_eq!(sealed.len(), plain.len() + OVERHEAD_BYTES);
        key.verify(&sealed).unwrap();
        let mut whole = sealed.clone();
        prop_assert_eq!(&*key.open_in_place(&mut whole).unwrap(), plain.as_slice());
        let prefix = &plain[..upto.min(plain.len())];
        let mut part = sealed.clone();
        prop_assert_eq!(&*key.open_prefix_in_place(&mut part, upto).unwrap(), prefix);
        let mut stream = key.keystream(sealed.first_chunk().unwrap());
        let mut pieces = sealed[16..16 + plain.len()].to_vec();
        pieces.chunks_mut(777).for_each(|piece| stream.apply(piece));
        prop_assert_eq!(pieces, plain);
    }

    #[test]
    fn prop_any_bytes_end(mut bytes: Vec<u8>) {
        prop_assert!(MasterKey::generate().open_in_place(&mut bytes).is_err());
    }
}

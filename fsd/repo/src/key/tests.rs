use proptest::prelude::*;

use super::*;

/// A key file that restic 0.14.0 made for the password "geheim", and its repository's master key (`restic cat masterkey`).
const RESTIC_KEY_FILE: &str = r#"{"created":"2026-11-22T19:52:21.623533528Z","username":"root","hostname":"vm","kdf":"scrypt","N":32768,"r":8,"p":1,"salt":"OCuMLjucNYez73yoD9oz/b0G81xF1GgBya79Znm7kOzTMjl5HfPnJmdZxul7wtlg0ODRmnkGscCpNbU/5BZGGQ==","data":"laHUTOvylY6ePEVNzgsOoVDuFfJIJooypj3aYHi/fuYYwSSt8++qpWnk/D7gHpKx9rkriKUGq1wcY0Ch8EyNeXShmaHpV2sIEa4D2Y09JVVNR6vAl5hXYAW/1fM5WeiI1FTFDkv4VpWAjOg+0AQAtE5JnLI6KuEYz7VD8VWCJPz4nWmn7kCDDX3PTLpsGX7txrPL7JYj1ieDEd/cO185Jw=="}"#;
const RESTIC_MASTER_KEY: &str = r#"{
  "mac": {"k": "0kKXpVZeiBvMb2aMlcQ6lQ==", "r": "7VIBD0RUrgbY9Z0OIKHFCA=="},
  "encrypt": "ItG2/03uOwltBPbBpEN1oLoWya14uR22aMJD/6kfL0c="
}"#;

fn with(field: &str, value: &str) -> Vec<u8> {
    let mut file: serde_json::Value = serde_json::from_str(RESTIC_KEY_FILE).unwrap();
    let fields = file.as_object_mut().unwrap();
    if value.is_empty() {
        fields.remove(field).unwrap();
    } else {
        fields[field] = serde_json::from_str(value).unwrap();
    }
    serde_json::to_vec(&file).unwrap()
}

#[test]
fn test_restics_key_file_opens() {
    let file = KeyFile::parse(RESTIC_KEY_FILE.as_bytes()).unwrap();
    assert_eq!((file.username.as_str(), file.scrypt), ("root", Scrypt { log_n: 15, r: 8, p: 1 }));
    let key = file.open(b"geheim").unwrap();
    let expected = parse_master_key(RESTIC_MASTER_KEY.as_bytes()).unwrap();
    assert_eq!(key.expose_parts(), expected.expose_parts());
    assert_eq!(file.open(b"geheim ").unwrap_err(), KeyError::WrongPassword);
    assert_eq!(KeyFile::parse(&file.to_json().unwrap()).unwrap(), file);
}

#[test]
fn test_created_key_file_opens() {
    let master = MasterKey::generate();
    let file = KeyFile::create(&master, b"new", "user", "host", "2026-01-02T03:04:05Z").unwrap();
    let read = KeyFile::parse(&file.to_json().unwrap()).unwrap();
    assert_eq!(read, file);
    assert_eq!(read.open(b"new").unwrap().expose_parts(), master.expose_parts());
    assert_eq!(read.open(b"").unwrap_err(), KeyError::WrongPassword);
}

#[test]
fn test_parameters_are_bounded_before_work() {
    for (field, value, message) in [
        ("N", "1099511627776", "more memory than the 268435456 bytes that a key may take"),
        ("N", "18446744073709551615", "N must be a power of two above 1"),
        ("N", "9223372036854775808", "more memory than the 268435456 bytes that a key may take"),
        ("N", "524288", "more memory than the 268435456 bytes that a key may take"),
        ("N", "32767", "N must be a power of two above 1"),
        ("N", "1", "N must be a power of two above 1"),
        ("N", "0", "N must be a power of two above 1"),
        ("r", "18446744073709551615", "more memory than the 268435456 bytes that a key may take"),
        ("r", "0", "more memory than the 268435456 bytes that a key may take"),
        ("p", "17", "p must be 1 to 16"),
        ("p", "0", "p must be 1 to 16"),
        ("p", "18446744073709551615", "out of range"),
    ] {
        let error = KeyFile::parse(&with(field, value)).unwrap_err().to_string();
        assert!(error.starts_with("scrypt N=") && error.ends_with(message), "{field}={value}: {error}");
    }
    KeyFile::parse(&with("N", "262144")).unwrap();
    KeyFile::parse(&with("p", "16")).unwrap();
}

#[test]
fn test_damaged_key_files_are_named_errors() {
    let long = format!("\"{}\"", "A".repeat(5000));
    for (field, value) in [
        ("N", "-1"),
        ("N", "1.5"),
        ("N", ""),
        ("kdf", "\"argon2\""),
        ("kdf", ""),
        ("salt", "\"*\""),
        ("salt", ""),
        ("salt", &long),
        ("data", &long),
        ("data", "[[[[]]]]"),
    ] {
        assert!(KeyFile::parse(&with(field, value)).is_err(), "{field}={value}");
    }
    assert!(KeyFile::parse(&vec![b' '; SMALL_FILE_LIMIT_BYTES + 1]).is_err());
    // Nothing sealed inside is no panic, and cannot be told from a wrong password.
    let empty = KeyFile::parse(&with("data", "\"\"")).unwrap();
    assert_eq!(empty.open(b"geheim").unwrap_err(), KeyError::WrongPassword);
}

#[test]
fn test_bad_master_key_is_an_error_that_quotes_nothing() {
    for bad in ["", "{}", r#"{"mac":{"k":"AAAA","r":"AAAA"},"encrypt":"AAAA"}"#, &RESTIC_MASTER_KEY.replace('=', "*")] {
        let error = parse_master_key(bad.as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), "the key file opens, but holds no master key");
    }
    let key = MasterKey::generate();
    let json = master_key_json(&key).unwrap();
    assert_eq!(parse_master_key(&json).unwrap().expose_parts(), key.expose_parts());
}

proptest! {
    #[test]
    fn prop_any_bytes_end(bytes: Vec<u8>) {
        drop(KeyFile::parse(&bytes));
        drop(parse_master_key(&bytes));
    }

    #[test]
    fn prop_damaged_files_end(at: prop::sample::Index, byte: u8) {
        let mut bytes = RESTIC_KEY_FILE.as_bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        drop(KeyFile::parse(&bytes));
        drop(KeyFile::parse(&bytes[..at]));
    }

    #[test]
    fn prop_accepted_parameters_are_within_the_limits(log_n in 0_u32..64, r: u64, p: u64, small_r in 0_u64..64, small_p in 0_u64..20) {
        for (r, p) in [(r, p), (small_r, small_p)] {
            if let Ok(scrypt) = Scrypt::check(1 << log_n, r, p) {
                prop_assert!((128_u64 << scrypt.log_n) * u64::from(scrypt.r) <= SCRYPT_LIMIT_BYTES);
                prop_assert!(scrypt.p <= SCRYPT_LIMIT_P);
            }
        }
    }
}

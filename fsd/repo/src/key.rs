//! Key files: from a password to the master key.
//!
//! A key file is plain JSON: scrypt parameters and the master key, sealed with what scrypt makes of the password. The
//! parameters are whatever the file's writer chose, so they are bounded before any work is done.
//!
//! Source: restic, `doc/design.rst`, "Keys, Encryption and MAC", and `internal/repository/key.go`.

pub mod search;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use crate::crypto::{MASTER_KEY_BYTES, MasterKey, random_bytes};
use crate::format::{FormatError, SMALL_FILE_LIMIT_BYTES};

/// The most memory that scrypt may take, `128 * N * r`. restic's own parameters take 32 MiB.
pub const SCRYPT_LIMIT_BYTES: u64 = 256 << 20;
/// The most rounds over that memory. restic's own parameters have 1 to 5.
pub const SCRYPT_LIMIT_P: u32 = 16;
/// The longest salt and sealed key; real ones have 64 and less than 200 bytes.
const FIELD_LIMIT_BYTES: usize = 4 << 10;
/// The parameters of keys that are made here: restic's defaults before it measures the machine.
const NEW_SCRYPT: Scrypt = Scrypt { log_n: 15, r: 8, p: 1 };

/// Why a key file did not give the master key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It belongs to another password.
    #[error("wrong password")]
    WrongPassword,
    /// It is not what its format or a limit asks for.
    #[error(transparent)]
    Format(#[from] FormatError),
}

/// Checked scrypt parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Scrypt {
    log_n: u8,
    r: u32,
    p: u32,
}

/// A key file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFile {
    /// The host that it was made on, if it says so.
    pub hostname: String,
    /// The user that made it, if it says so.
    pub username: String,
    /// When it was made, as it says.
    pub created: String,
    scrypt: Scrypt,
    salt: Vec<u8>,
    data: Vec<u8>,
}

/// The file's JSON.
#[derive(Serialize, Deserialize)]
struct KeyFileJson {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    username: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hostname: Option<String>,
    kdf: String,
    #[serde(rename = "N")]
    n: u64,
    r: u64,
    p: u64,
    salt: String,
    data: String,
}

/// The master key's JSON, inside.
#[derive(Serialize, Deserialize)]
struct MasterKeyJson {
    mac: MacJson,
    encrypt: String,
}

#[derive(Serialize, Deserialize)]
struct MacJson {
    k: String,
    r: String,
}

impl Drop for MasterKeyJson {
    fn drop(&mut self) {
        for secret in [&mut self.mac.k, &mut self.mac.r, &mut self.encrypt] {
            secret.zeroize();
        }
    }
}

impl KeyFile {
    /// Reads a key file and checks that its parameters are within the limits; does no work that they ask for.
    ///
    /// # Errors
    /// It is no key file, or beyond a limit, which the message names.
    pub fn parse(json: &[u8]) -> Result<Self, FormatError> {
        if json.len() > SMALL_FILE_LIMIT_BYTES {
            return Err(FormatError::new(format!("{} bytes, at most {SMALL_FILE_LIMIT_BYTES} are read", json.len())));
        }
        let file: KeyFileJson = serde_json::from_slice(json).map_err(|error| FormatError::new(error.to_string()))?;
        if file.kdf != "scrypt" {
            return Err(FormatError::new(format!("key derivation {:.20?} is not supported, only scrypt is", file.kdf)));
        }
        Ok(Self {
            scrypt: Scrypt::check(file.n, file.r, file.p)?,
            salt: decode_field("salt", &file.salt)?,
            data: decode_field("data", &file.data)?,
            hostname: file.hostname.unwrap_or_default(),
            username: file.username.unwrap_or_default(),
            created: file.created.unwrap_or_default(),
        })
    }

    /// Derives the file's own key from `password` and opens the master key with it. Takes some hundred milliseconds of CPU
    /// and up to [`SCRYPT_LIMIT_BYTES`] of memory: for a blocking thread.
    ///
    /// # Errors
    /// Another password, or no master key inside.
    pub fn open(&self, password: &[u8]) -> Result<MasterKey, KeyError> {
        let key = self.scrypt.derive(password, &self.salt)?;
        let mut data = Zeroizing::new(self.data.clone());
        let json = key.open_in_place(&mut data).map_err(|_| KeyError::WrongPassword)?;
        Ok(parse_master_key(json)?)
    }

    /// Makes a key file that opens with `password`. Takes as long as [`KeyFile::open`].
    ///
    /// # Errors
    /// None that a caller can act on: the parameters are fixed.
    pub fn create(
        master: &MasterKey,
        password: &[u8],
        username: &str,
        hostname: &str,
        created: &str,
    ) -> Result<Self, FormatError> {
        let mut salt = vec![0; 64];
        random_bytes(&mut salt);
        let key = NEW_SCRYPT.derive(password, &salt)?;
        let json = master_key_json(master)?;
        Ok(Self {
            hostname: hostname.to_owned(),
            username: username.to_owned(),
            created: created.to_owned(),
            scrypt: NEW_SCRYPT,
            salt,
            data: key.seal(&json),
        })
    }

    /// Returns the file's bytes; their hash is its name.
    ///
    /// # Errors
    /// None that a caller can act on.
    pub fn to_json(&self) -> Result<Vec<u8>, FormatError> {
        let text = |text: &String| (!text.is_empty()).then(|| text.clone());
        let file = KeyFileJson {
            created: text(&self.created),
            username: text(&self.username),
            hostname: text(&self.hostname),
            kdf: "scrypt".to_owned(),
            n: 1 << self.scrypt.log_n,
            r: self.scrypt.r.into(),
            p: self.scrypt.p.into(),
            salt: STANDARD.encode(&self.salt),
            data: STANDARD.encode(&self.data),
        };
        serde_json::to_vec(&file).map_err(|error| FormatError::new(error.to_string()))
    }
}

impl Scrypt {
    fn check(n: u64, r: u64, p: u64) -> Result<Self, FormatError> {
        let refuse = |reason: String| FormatError::new(format!("scrypt N={n} r={r} p={p}: {reason}"));
        if n < 2 || !n.is_power_of_two() {
            return Err(refuse("N must be a power of two above 1".to_owned()));
        }
        let memory = n.checked_mul(r).and_then(|blocks| blocks.checked_mul(128));
        if r == 0 || memory.is_none_or(|bytes| bytes > SCRYPT_LIMIT_BYTES) {
            return Err(refuse(format!("more memory than the {SCRYPT_LIMIT_BYTES} bytes that a key may take")));
        }
        let (Ok(r), Ok(p)) = (u32::try_from(r), u32::try_from(p)) else {
            return Err(refuse("out of range".to_owned()));
        };
        if !(1..=SCRYPT_LIMIT_P).contains(&p) {
            return Err(refuse(format!("p must be 1 to {SCRYPT_LIMIT_P}")));
        }
        // Below 2^64, so the logarithm is below 64.
        Ok(Self { log_n: u8::try_from(n.trailing_zeros()).unwrap_or(u8::MAX), r, p })
    }

    fn derive(self, password: &[u8], salt: &[u8]) -> Result<MasterKey, FormatError> {
        let invalid = |reason: String| FormatError::new(format!("scrypt parameters: {reason}"));
        // The length is that of the crate's own password records and unused here; 64 is its maximum.
        let params = scrypt::Params::new(self.log_n, self.r, self.p, MASTER_KEY_BYTES)
            .map_err(|error| invalid(error.to_string()))?;
        let mut parts = Zeroizing::new([0; MASTER_KEY_BYTES]);
        scrypt::scrypt(password, salt, &params, parts.as_mut_slice()).map_err(|error| invalid(error.to_string()))?;
        Ok(MasterKey::from_parts(&mut parts))
    }
}

/// Decodes base64 of bounded length.
fn decode_field(name: &str, text: &str) -> Result<Vec<u8>, FormatError> {
    if text.len() > FIELD_LIMIT_BYTES {
        return Err(FormatError::new(format!("{name}: {} bytes, at most {FIELD_LIMIT_BYTES} are read", text.len())));
    }
    STANDARD.decode(text).map_err(|error| FormatError::new(format!("{name}: {error}")))
}

/// Reads the JSON that a master key is stored and handed on as: `{"mac": {"k", "r"}, "encrypt"}`, all base64.
///
/// # Errors
/// It is not a master key.
pub fn parse_master_key(json: &[u8]) -> Result<MasterKey, FormatError> {
    // serde's message could quote a part of the key.
    let bad = || FormatError::new("the key file opens, but holds no master key");
    let fields: MasterKeyJson = serde_json::from_slice(json).map_err(|_| bad())?;
    let mut parts = Zeroizing::new([0; MASTER_KEY_BYTES]);
    for (text, part) in [(&fields.encrypt, 0..32), (&fields.mac.k, 32..48), (&fields.mac.r, 48..64)] {
        let bytes = Zeroizing::new(STANDARD.decode(text.as_bytes()).map_err(|_| bad())?);
        if bytes.len() != part.len() {
            return Err(bad());
        }
        parts[part].copy_from_slice(&bytes);
    }
    Ok(MasterKey::from_parts(&mut parts))
}

/// Returns the JSON of a master key, as [`parse_master_key`] reads it.
///
/// # Errors
/// None that a caller can act on.
pub fn master_key_json(key: &MasterKey) -> Result<Zeroizing<Vec<u8>>, FormatError> {
    let parts = key.expose_parts();
    let encode = |range: std::ops::Range<usize>| STANDARD.encode(&parts[range]);
    let json = MasterKeyJson { mac: MacJson { k: encode(32..48), r: encode(48..64) }, encrypt: encode(0..32) };
    // Enough room from the start: a buffer that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(512));
    serde_json::to_writer(&mut *bytes, &json).map_err(|error| FormatError::new(error.to_string()))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;

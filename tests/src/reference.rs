//! restic's cryptography, written a second time and as plainly as the format's description, to judge and to forge with.
//!
//! Source: restic, `doc/design.rst`, "Keys, Encryption and MAC": AES-256 in counter mode under Poly1305-AES; what is
//! stored is nonce (16 bytes), ciphertext, MAC (16 bytes).

use std::ffi::OsString;
use std::ops::Range;
use std::process::Command;

use aes::cipher::{BlockEncrypt, KeyInit, KeyIvInit, StreamCipher};
use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use poly1305::Poly1305;

type Aes256Ctr = ctr::Ctr128BE<aes::Aes256>;

/// A key of restic's authenticated encryption.
#[derive(Clone, Debug)]
pub struct Key {
    /// For AES-256.
    pub encrypt: [u8; 32],
    /// For the AES-128 of the MAC.
    pub mac_k: [u8; 16],
    /// Poly1305's `r`.
    pub mac_r: [u8; 16],
}

impl Key {
    /// Takes the 64 bytes that scrypt derives from a password.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 64]) -> Self {
        let part = |range: Range<usize>| bytes[range].to_vec();
        Self {
            encrypt: part(0..32).try_into().expect("32 bytes"),
            mac_k: part(32..48).try_into().expect("16 bytes"),
            mac_r: part(48..64).try_into().expect("16 bytes"),
        }
    }

    /// Asks restic for a repository's master key.
    ///
    /// # Errors
    /// restic failed.
    pub fn from_restic(env: &[(String, OsString)]) -> Result<Self> {
        let output = Command::new("restic")
            .args(["cat", "masterkey", "--quiet", "--no-cache"])
            .envs(env.iter().map(|(k, v)| (k, v)))
            .output()?;
        ensure!(output.status.success(), "restic cat masterkey: {}", String::from_utf8_lossy(&output.stderr));
        Self::from_json(&serde_json::from_slice(&output.stdout)?)
    }

    /// Takes a master key as restic prints and stores it.
    ///
    /// # Errors
    /// A part is missing or has another length.
    pub fn from_json(json: &serde_json::Value) -> Result<Self> {
        fn part<const N: usize>(value: &serde_json::Value) -> Result<[u8; N]> {
            let bytes = STANDARD.decode(value.as_str().context("a string")?)?;
            bytes.try_into().map_err(|_| anyhow::anyhow!("wrong length"))
        }
        Ok(Self { encrypt: part(&json["encrypt"])?, mac_k: part(&json["mac"]["k"])?, mac_r: part(&json["mac"]["r"])? })
    }

    /// Returns the key as restic stores it.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "encrypt": STANDARD.encode(self.encrypt),
            "mac": { "k": STANDARD.encode(self.mac_k), "r": STANDARD.encode(self.mac_r) },
        })
    }

    /// Verifies and decrypts in place; the plain bytes lie in the range.
    ///
    /// # Errors
    /// Too short, or the MAC is wrong.
    pub fn open_in_place(&self, sealed: &mut [u8]) -> Result<Range<usize>> {
        let end = sealed.len().checked_sub(16).filter(|end| *end >= 16).context("shorter than nonce and MAC")?;
        let nonce: [u8; 16] = sealed[..16].try_into()?;
        ensure!(self.tag(&nonce, &sealed[16..end]) == sealed[end..], "wrong MAC");
        Aes256Ctr::new(&self.encrypt.into(), &nonce.into()).apply_keystream(&mut sealed[16..end]);
        Ok(16..end)
    }

    /// Encrypts.
    #[must_use]
    pub fn seal(&self, nonce: [u8; 16], plain: &[u8]) -> Vec<u8> {
        let mut sealed = nonce.to_vec();
        sealed.extend_from_slice(plain);
        Aes256Ctr::new(&self.encrypt.into(), &nonce.into()).apply_keystream(&mut sealed[16..]);
        let tag = self.tag(&nonce, &sealed[16..]);
        sealed.extend_from_slice(&tag);
        sealed
    }

    fn tag(&self, nonce: &[u8; 16], ciphertext: &[u8]) -> [u8; 16] {
        let mut s = aes::Block::from(*nonce);
        aes::Aes128::new(&self.mac_k.into()).encrypt_block(&mut s);
        let mut key = [0; 32];
        key[..16].copy_from_slice(&self.mac_r);
        key[16..].copy_from_slice(&s);
        Poly1305::new(&key.into()).compute_unpadded(ciphertext).into()
    }
}

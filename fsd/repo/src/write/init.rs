//! Making a repository: its place, its first key and its config.

use std::sync::Arc;

use serde_json::json;

use super::access::Access;
use super::users;
use crate::backend::{Backend, BackendErrorKind, FileKind};
use crate::crypto::{MasterKey, random_bytes};
use crate::error::{RepoError, RepoResult};
use crate::format::SMALL_FILE_LIMIT_BYTES;
use crate::id::Id;
use crate::lock::hostname;

/// What a new repository is made with.
#[derive(Debug, Clone)]
pub struct InitOptions {
    /// The format: 1 or 2.
    pub version: u32,
    /// The polynomial that files are cut by, from another repository, so that both cut alike; else a random one.
    pub chunker_polynomial: Option<String>,
}

impl Default for InitOptions {
    fn default() -> Self {
        Self { version: 2, chunker_polynomial: None }
    }
}

/// Makes a repository and opens it. The config is written last: without it there is no repository.
///
/// # Errors
/// There is a repository already, or something that looks like a part of one; the store failed.
pub async fn init(backend: Arc<dyn Backend>, password: &str, options: &InitOptions) -> RepoResult<Access> {
    if !(1..=2).contains(&options.version) {
        let reason = format!("repository version {}: 1 and 2 are supported", options.version);
        return Err(RepoError::Unsupported { reason });
    }
    let exists = |what: &str| RepoError::Unsupported {
        reason: format!("there is a repository at {} already: it has {what}", backend.location()),
    };
    match backend.read_full(FileKind::Config, &Id::default(), SMALL_FILE_LIMIT_BYTES as u64).await {
        Ok(_) => return Err(exists("a config file")),
        Err(error) if error.kind == BackendErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    backend.create().await?;
    if !backend.list(FileKind::Key).await?.is_empty() {
        return Err(exists("keys, though no config file"));
    }
    let polynomial = match &options.chunker_polynomial {
        Some(polynomial) => polynomial.clone(),
        None => format!("{:x}", random_polynomial()),
    };
    let key = MasterKey::generate();
    super::key::write_new(&backend, &key, password, &users::current_name(), &hostname()).await?;
    let mut id = [0; 32];
    random_bytes(&mut id);
    let config = json!({"version": options.version, "id": Id::new(id), "chunker_polynomial": polynomial});
    backend.write(FileKind::Config, &Id::default(), key.seal(config.to_string().as_bytes()).into()).await?;
    Access::open(backend, password, None).await
}

/// The degree of the polynomials that files are cut by (restic, `doc/design.rst`, "Content Defined Chunking").
const DEGREE: u32 = 53;

/// Finds a random irreducible polynomial over GF(2). One in 53 is, so this ends soon.
fn random_polynomial() -> u64 {
    loop {
        let mut bytes = [0; 8];
        random_bytes(&mut bytes);
        let polynomial = (u64::from_le_bytes(bytes) & ((1 << DEGREE) - 1)) | (1 << DEGREE) | 1;
        if is_irreducible(polynomial) {
            return polynomial;
        }
    }
}

/// Rabin's test for a polynomial of a degree that is prime: it divides `x^(2^53) - x`, and has no root.
fn is_irreducible(polynomial: u64) -> bool {
    let has_root = polynomial & 1 == 0 || polynomial.count_ones().is_multiple_of(2);
    let x = 2;
    !has_root && (0..DEGREE).fold(x, |power, _| multiply(power, power, polynomial)) == x
}

/// Multiplies modulo a polynomial of degree [`DEGREE`].
fn multiply(mut a: u64, mut b: u64, modulus: u64) -> u64 {
    let mut product = 0;
    while b != 0 {
        if b & 1 == 1 {
            product ^= a;
        }
        a <<= 1;
        if a >> DEGREE == 1 {
            a ^= modulus;
        }
        b >>= 1;
    }
    product
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_irreducible_polynomials_are_told_from_others() {
        // restic's own example, and the one of its chunker's tests.
        assert!(is_irreducible(0x3D_A335_8B4D_C173));
        assert!(is_irreducible(0x25_B468_838D_CB75));
        // x^53 + 1 has the root 1; the square of a polynomial is none; a product of two factors.
        assert!(!is_irreducible((1 << 53) | 1));
        let factor_26 = (1_u64 << 26) | 0b1000111;
        let factor_27 = (1_u64 << 27) | 0b100111;
        let product = (0..28).filter(|bit| factor_27 >> bit & 1 == 1).fold(0, |sum, bit| sum ^ (factor_26 << bit));
        assert_eq!(63 - product.leading_zeros(), 53);
        assert!(!is_irreducible(product));
    }

    #[test]
    fn test_random_polynomials_have_the_degree() {
        let polynomial = random_polynomial();
        assert_eq!(63 - polynomial.leading_zeros(), DEGREE);
        assert!(is_irreducible(polynomial));
        assert_ne!(polynomial, random_polynomial());
    }
}

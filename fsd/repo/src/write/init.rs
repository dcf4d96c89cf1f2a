//! Making a repository: its place, its first key and its config.

use std::sync::Arc;

use bytes::Bytes;
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

/// Makes a repository and opens it. The config is written last: without it there is no repository. Of two that do this at once one has
/// made it, and the other is told that there is one.
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
    let key_id = super::key::write_new(&backend, &key, password, &users::current_name(), &hostname()).await?;
    let mut id = [0; 32];
    random_bytes(&mut id);
    let config = json!({"version": options.version, "id": Id::new(id), "chunker_polynomial": polynomial});
    let written = write_config(&backend, key.seal(config.to_string().as_bytes()).into()).await;
    let is_of_use = match &written {
        Ok(is_ours) => *is_ours,
        // Nobody knows which config is there: without its key ours would open with none.
        Err((_, is_absent)) => !is_absent,
    };
    if !is_of_use {
        // It opens nothing. While it is there it is in the way of whoever opens the repository, or makes one.
        if let Err(error) = backend.remove(FileKind::Key, &key_id.0).await {
            tracing::warn!(key = %key_id.0.short(), %error, "our key, which is of no use, cannot be removed");
        }
    }
    if !written.map_err(|(error, _)| error)? {
        return Err(exists("a config file that another has just written"));
    }
    // Another's key, which opens with the same password, may still be there.
    Access::open(backend, password, Some(&key_id.0.to_hex())).await
}

/// Writes a config unless there is one; returns whether ours is there then. Two that make a repository at once end up with one:
/// where the store does not tell them apart the config that was written last is it, and each reads which that is.
///
/// # Errors
/// The store failed; and whether there is no config, as far as it told.
async fn write_config(backend: &Arc<dyn Backend>, sealed: Bytes) -> Result<bool, (RepoError, bool)> {
    let none = Id::default();
    let written = backend.write_new(FileKind::Config, &none, sealed.clone()).await;
    match (backend.read_full(FileKind::Config, &none, SMALL_FILE_LIMIT_BYTES as u64).await, written) {
        // Also where an attempt was answered that did not come through.
        (Ok(found), _) => Ok(found == sealed),
        (Err(unread), Err(error)) => Err((error.into(), unread.kind == BackendErrorKind::NotFound)),
        (Err(unread), Ok(())) => Err((unread.into(), false)),
    }
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
    use std::ops::Range;

    use async_trait::async_trait;

    use super::*;
    use crate::backend::Operation;
    use crate::backend::faulty::{Fault, FaultyBackend, Rule};
    use crate::backend::memory::MemoryBackend;
    use crate::backend::{BackendResult, ListEntry};

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

    /// A store on which another is a moment faster: its files are there when ours are looked for.
    #[derive(Debug)]
    struct Raced {
        store: Arc<MemoryBackend>,
        config: Bytes,
        /// Whether the store overwrites what is there.
        overwrites: bool,
    }

    #[async_trait]
    impl Backend for Raced {
        fn location(&self) -> &str {
            self.store.location()
        }
        fn concurrency(&self) -> usize {
            1
        }
        fn is_remote(&self) -> bool {
            true
        }
        async fn list(&self, kind: FileKind) -> BackendResult<Vec<ListEntry>> {
            self.store.list(kind).await
        }
        async fn read_full(&self, kind: FileKind, id: &Id, limit_bytes: u64) -> BackendResult<Bytes> {
            self.store.read_full(kind, id, limit_bytes).await
        }
        async fn read_range(&self, kind: FileKind, id: &Id, range: Range<u64>) -> BackendResult<Bytes> {
            self.store.read_range(kind, id, range).await
        }
        async fn write(&self, kind: FileKind, id: &Id, content: Bytes) -> BackendResult<()> {
            self.store.write(kind, id, content).await
        }
        async fn write_new(&self, kind: FileKind, id: &Id, content: Bytes) -> BackendResult<()> {
            self.store.write(kind, id, self.config.clone()).await?;
            // One that overwrites says that ours was written, and the other's came after it.
            if self.overwrites { Ok(()) } else { self.store.write(kind, id, content).await }
        }
        async fn remove(&self, kind: FileKind, id: &Id) -> BackendResult<()> {
            self.store.remove(kind, id).await
        }
        async fn create(&self) -> BackendResult<()> {
            self.store.create().await
        }
    }

    #[tokio::test]
    async fn test_whoever_comes_second_leaves_no_key_and_says_so() {
        for overwrites in [false, true] {
            let store = Arc::new(MemoryBackend::default());
            let raced = Arc::new(Raced { store: store.clone(), config: "the other's".into(), overwrites });
            let made = init(raced, "p", &InitOptions::default()).await;
            assert!(matches!(&made, Err(RepoError::Unsupported { reason }) if reason.contains("another")), "{made:?}");
            assert_eq!(store.list(FileKind::Key).await.unwrap(), []);
        }
    }

    #[tokio::test]
    async fn test_a_config_that_may_be_there_is_told_from_one_that_is_not() {
        let (write, read) = (Operation::Write, Operation::Read);
        for (failing, is_absent) in [(vec![write], true), (vec![read], false), (vec![write, read], false)] {
            let store = FaultyBackend::new(Arc::new(MemoryBackend::default()));
            store.set(failing.iter().map(|&operation| Rule::every(Fault::Denied).on(operation)));
            let store: Arc<dyn Backend> = store;
            let (_, told) = write_config(&store, "ours".into()).await.unwrap_err();
            assert_eq!(told, is_absent, "{failing:?}");
        }
    }

    #[tokio::test]
    async fn test_an_own_config_that_is_there_already_is_ours() {
        // The first attempt's answer was lost.
        let store: Arc<dyn Backend> = Arc::new(MemoryBackend::default());
        store.write(FileKind::Config, &Id::default(), "ours".into()).await.unwrap();
        assert!(write_config(&store, "ours".into()).await.unwrap());
        assert!(!write_config(&store, "another's".into()).await.unwrap());
    }

    #[test]
    fn test_random_polynomials_have_the_degree() {
        let polynomial = random_polynomial();
        assert_eq!(63 - polynomial.leading_zeros(), DEGREE);
        assert!(is_irreducible(polynomial));
        assert_ne!(polynomial, random_polynomial());
    }
}

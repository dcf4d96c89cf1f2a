//! An opened repository, for files that are read and written whole.

use std::sync::Arc;

use bytes::Bytes;

use crate::backend::{Backend, BackendErrorKind, FileKind};
use crate::config::Config;
use crate::crypto::MasterKey;
use crate::error::{RepoError, RepoResult};
use crate::format::{SMALL_FILE_LIMIT_BYTES, unpacked};
use crate::id::{Id, KeyId};
use crate::key::search::search_for_config;

/// The first byte of a compressed file (repository version 2).
const COMPRESSED: u8 = 2;

/// An opened repository: its store and its key. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Access(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    backend: Arc<dyn Backend>,
    key: MasterKey,
    key_id: KeyId,
    config: Config,
}

impl Access {
    /// Opens a repository with a password; tries the keys first whose id begins with `key_hint`.
    ///
    /// # Errors
    /// `NoRepository`, `WrongPassword`, `Unsupported`, or the store failed.
    pub async fn open(backend: Arc<dyn Backend>, password: &str, key_hint: Option<&str>) -> RepoResult<Self> {
        let limit = SMALL_FILE_LIMIT_BYTES as u64;
        let sealed = match backend.read_full(FileKind::Config, &Id::default(), limit).await {
            Ok(sealed) => sealed,
            Err(error) if error.kind == BackendErrorKind::NotFound => {
                return Err(RepoError::NoRepository { location: backend.location().to_owned() });
            }
            Err(error) => return Err(error.into()),
        };
        let (key_id, key) = search_for_config(&backend, password, key_hint, &sealed).await?;
        let config = Config::open(sealed.to_vec(), &key)?;
        Ok(Self(Arc::new(Inner { backend, key, key_id, config })))
    }

    /// Returns the store.
    #[must_use]
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.0.backend
    }

    /// Returns the config.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// Returns which key file the password opened.
    #[must_use]
    pub fn key_id(&self) -> KeyId {
        self.0.key_id
    }

    /// Returns the master key.
    pub(crate) fn key(&self) -> &MasterKey {
        &self.0.key
    }

    /// Reads an encrypted file and returns its JSON, hashed and authenticated.
    ///
    /// # Errors
    /// The store failed; `WrongHash`, `WrongMac`, `Format`.
    pub(crate) async fn read_file(
        &self,
        kind: FileKind,
        what: &'static str,
        id: Id,
        limit_bytes: usize,
    ) -> RepoResult<Vec<u8>> {
        let sealed = self.backend().read_full(kind, &id, limit_bytes as u64).await?;
        let actual = Id::hash(&sealed);
        if actual != id {
            return Err(RepoError::WrongHash { what, id, actual });
        }
        let mut sealed = sealed.to_vec();
        let plain = self.key().open_in_place(&mut sealed).map_err(|_| RepoError::WrongMac { what, id })?;
        let json = unpacked::decode(plain, limit_bytes).map_err(|error| error.of(what, id))?;
        Ok(json.into_owned())
    }

    /// Writes JSON as an encrypted file, compressed where the repository's version has that, and returns its id.
    ///
    /// # Errors
    /// The store failed.
    pub(crate) async fn write_file(&self, kind: FileKind, json: &[u8]) -> RepoResult<Id> {
        let sealed = self.seal_file(json)?;
        let id = Id::hash(&sealed);
        self.backend().write(kind, &id, sealed).await?;
        Ok(id)
    }

    /// Encrypts the JSON of a file, compressed where the repository's version has that.
    pub(crate) fn seal_file(&self, json: &[u8]) -> RepoResult<Bytes> {
        if self.config().version < 2 {
            return Ok(self.key().seal(json).into());
        }
        let mut plain = vec![COMPRESSED];
        zstd::stream::copy_encode(json, &mut plain, zstd::DEFAULT_COMPRESSION_LEVEL)
            .map_err(|error| RepoError::Local { what: "compress a file".to_owned(), reason: error.to_string() })?;
        Ok(self.key().seal(&plain).into())
    }
}

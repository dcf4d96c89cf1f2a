//! Finding the key file that a password opens.

use std::sync::Arc;

use futures::StreamExt as _;
use zeroize::Zeroizing;

use super::{KeyError, KeyFile};
use crate::backend::{Backend, BackendErrorKind, FileKind};
use crate::crypto::MasterKey;
use crate::error::{RepoError, RepoResult};
use crate::format::{FormatError, SMALL_FILE_LIMIT_BYTES};
use crate::id::{Id, KeyId};

/// The most key files that are tried: each costs the work of a scrypt, which its writer chose.
pub const TRIED_KEYS_LIMIT: usize = 16;
/// How many key files are read ahead of the one that is tried.
const READ_AHEAD: usize = 4;

/// Tries the key files of a repository, those first whose id begins with `hint`, and returns the first that opens.
///
/// scrypt runs on a blocking thread, one at a time, and gives its memory back before this returns.
///
/// # Errors
/// `WrongPassword` where every key file that could be used belongs to another password; `Format` where none could be used;
/// `Unsupported` where there are more than are tried; the store's own error where it may have hidden the right one.
pub async fn search(backend: &Arc<dyn Backend>, password: &str, hint: Option<&str>) -> RepoResult<(KeyId, MasterKey)> {
    search_for(backend, password, hint, |_| true).await
}

/// The same for the key that opens `config`, as it is stored: two that make a repository at once have a key each for a moment, which
/// the same password opens, and one of them is of no use.
///
/// # Errors
/// As [`search`]; `WrongMac` where the password opens keys, and none of them the config.
pub async fn search_for_config(
    backend: &Arc<dyn Backend>,
    password: &str,
    hint: Option<&str>,
    config: &[u8],
) -> RepoResult<(KeyId, MasterKey)> {
    search_for(backend, password, hint, |key| key.verify(config).is_ok()).await
}

async fn search_for(
    backend: &Arc<dyn Backend>,
    password: &str,
    hint: Option<&str>,
    is_right: impl Fn(&MasterKey) -> bool,
) -> RepoResult<(KeyId, MasterKey)> {
    let mut ids: Vec<Id> = backend.list(FileKind::Key).await?.into_iter().map(|entry| entry.id).collect();
    ids.sort_unstable();
    if let Some(hint) = hint.filter(|hint| !hint.is_empty()) {
        ids.sort_by_key(|id| !id.to_hex().starts_with(hint));
    }
    let found = ids.len();
    ids.truncate(TRIED_KEYS_LIMIT);

    let mut reads = futures::stream::iter(ids)
        .map(|id| async move { (id, backend.read_full(FileKind::Key, &id, SMALL_FILE_LIMIT_BYTES as u64).await) })
        .buffered(READ_AHEAD);
    let mut failures = Failures::default();
    while let Some((id, read)) = reads.next().await {
        let bytes = match read {
            Ok(bytes) => bytes,
            // Removed since the list was made.
            Err(error) if error.kind == BackendErrorKind::NotFound => continue,
            Err(error) => {
                tracing::warn!(key = %id.short(), %error, "a key file cannot be read");
                failures.store.get_or_insert_with(|| error.into());
                continue;
            }
        };
        let intact = Id::hash(&bytes) == id;
        let secret = Zeroizing::new(password.as_bytes().to_vec());
        let opened = tokio::task::spawn_blocking(move || KeyFile::parse(&bytes)?.open(&secret)).await;
        match opened {
            Ok(Ok(key)) if !is_right(&key) => {
                tracing::warn!(key = %id.short(), "the password opens a key that does not open the config");
                failures.foreign = true;
            }
            Ok(Ok(key)) => {
                if !intact {
                    // What matters, the master key, has its own MAC.
                    tracing::warn!(key = %id.short(), "the key file was changed after it was written, but opens");
                }
                return Ok((KeyId(id), key));
            }
            Ok(Err(KeyError::WrongPassword)) => failures.wrong += 1,
            Ok(Err(KeyError::Format(error))) => {
                tracing::warn!(key = %id.short(), %error, "a key file cannot be used");
                failures.format.get_or_insert_with(|| error.of("key", id));
            }
            Err(_) => {
                failures.format.get_or_insert_with(|| FormatError::new("the key derivation stopped").of("key", id));
            }
        }
    }
    Err(failures.into_error(found))
}

/// Why the keys so far did not open.
#[derive(Default)]
struct Failures {
    wrong: usize,
    foreign: bool,
    store: Option<RepoError>,
    format: Option<RepoError>,
}

impl Failures {
    fn into_error(self, found: usize) -> RepoError {
        if let Some(error) = self.store {
            return error;
        }
        if self.foreign {
            return RepoError::WrongMac { what: "config", id: Id::default() };
        }
        if found > TRIED_KEYS_LIMIT {
            let reason = format!(
                "no key opens among the first {TRIED_KEYS_LIMIT} of {found}: \
                 name the one that belongs to the password (key hint)"
            );
            return RepoError::Unsupported { reason };
        }
        match self.format {
            Some(error) if self.wrong == 0 => error,
            _ => RepoError::WrongPassword { tried: self.wrong },
        }
    }
}

#[cfg(test)]
mod tests;

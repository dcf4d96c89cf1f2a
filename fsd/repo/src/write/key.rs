//! The keys of a repository: several passwords for one master key.

use std::sync::Arc;

use futures::StreamExt as _;
use jiff::Zoned;
use zeroize::Zeroizing;

use super::access::Access;
use super::snapshots::format_time;
use super::users;
use crate::backend::{Backend, FileKind};
use crate::crypto::MasterKey;
use crate::error::{RepoError, RepoResult};
use crate::format::SMALL_FILE_LIMIT_BYTES;
use crate::id::{Id, KeyId};
use crate::key::KeyFile;
use crate::lock::{Lease, hostname};

/// A key file, without its secret.
#[derive(Debug, Clone)]
pub struct KeyInfo {
    /// Its id.
    pub id: KeyId,
    /// Who made it, on which host and when; or why it cannot be read.
    pub content: RepoResult<KeyFile>,
}

/// Lists the keys, by id.
///
/// # Errors
/// The list failed.
pub async fn list(access: &Access) -> RepoResult<Vec<KeyInfo>> {
    let backend = access.backend();
    let ids = backend.list(FileKind::Key).await?.into_iter().map(|entry| entry.id);
    let reads = futures::stream::iter(ids).map(|id| async move {
        let content = async {
            let json = backend.read_full(FileKind::Key, &id, SMALL_FILE_LIMIT_BYTES as u64).await?;
            KeyFile::parse(&json).map_err(|error| error.of("key", id))
        };
        KeyInfo { id: KeyId(id), content: content.await }
    });
    let mut keys: Vec<_> = reads.buffer_unordered(backend.concurrency().max(1)).collect().await;
    keys.sort_by_key(|key| key.id);
    Ok(keys)
}

/// Adds a password, and checks that it opens the repository before this returns.
///
/// # Errors
/// The store failed, or the new key does not open.
pub async fn add(access: &Access, lease: &Lease, password: &str, username: &str, host: &str) -> RepoResult<KeyId> {
    lease.check()?;
    let id = write_new(access.backend(), access.key(), password, username, host).await?;
    // A key that does not open would be found out when it is needed.
    let json = access.backend().read_full(FileKind::Key, &id.0, SMALL_FILE_LIMIT_BYTES as u64).await?;
    let file = KeyFile::parse(&json).map_err(|error| error.of("key", id.0))?;
    let secret = Zeroizing::new(password.as_bytes().to_vec());
    let opened = blocking(move || file.open(&secret)).await?;
    match opened {
        Ok(key) if key.expose_parts() == access.key().expose_parts() => Ok(id),
        _ => {
            let reason = "it was written, but does not open with its password".to_owned();
            Err(RepoError::Format { what: "key", id: id.0, reason })
        }
    }
}

/// Removes a key, which must not be the one that this was opened with.
///
/// # Errors
/// No key or several begin like that; it is the one in use; the store failed.
pub async fn remove(access: &Access, lease: &Lease, prefix: &str) -> RepoResult<KeyId> {
    let prefix = prefix.to_ascii_lowercase();
    let entries = access.backend().list(FileKind::Key).await?;
    let mut fitting = entries.iter().filter(|entry| !prefix.is_empty() && entry.id.to_hex().starts_with(&prefix));
    let unsupported = |reason: String| RepoError::Unsupported { reason };
    let id = match (fitting.next(), fitting.next()) {
        (None, _) => return Err(unsupported(format!("no key begins with {prefix:?}; `key list` shows them"))),
        (Some(_), Some(_)) => return Err(unsupported(format!("several keys begin with {prefix:?}; give more digits"))),
        (Some(entry), None) => KeyId(entry.id),
    };
    if id == access.key_id() {
        return Err(unsupported(format!("key {} is the one in use; open the repository with another", id.0.short())));
    }
    remove_id(access, lease, id).await?;
    Ok(id)
}

/// Replaces the key that this was opened with by one with another password.
///
/// # Errors
/// The store failed: the old key works unless the new one does.
pub async fn change_password(access: &Access, lease: &Lease, password: &str) -> RepoResult<KeyId> {
    let id = add(access, lease, password, &users::current_name(), &hostname()).await?;
    if id != access.key_id() {
        remove_id(access, lease, access.key_id()).await?;
    }
    Ok(id)
}

async fn remove_id(access: &Access, lease: &Lease, id: KeyId) -> RepoResult<()> {
    access.config().check_may_remove()?;
    lease.check()?;
    Ok(access.backend().remove(FileKind::Key, &id.0).await?)
}

/// Writes a key file for a master key.
pub(super) async fn write_new(
    backend: &Arc<dyn Backend>,
    key: &MasterKey,
    password: &str,
    username: &str,
    host: &str,
) -> RepoResult<KeyId> {
    let (key, username, host) = (key.clone(), username.to_owned(), host.to_owned());
    let secret = Zeroizing::new(password.as_bytes().to_vec());
    let created = format_time(&Zoned::now());
    let json = blocking(move || KeyFile::create(&key, &secret, &username, &host, &created)?.to_json()).await?;
    let json = json.map_err(|error| error.of("key", Id::default()))?;
    let id = Id::hash(&json);
    backend.write(FileKind::Key, &id, json.into()).await?;
    Ok(KeyId(id))
}

/// scrypt takes some hundred milliseconds of CPU.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> RepoResult<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| RepoError::Local { what: "derive a key".to_owned(), reason: error.to_string() })
}

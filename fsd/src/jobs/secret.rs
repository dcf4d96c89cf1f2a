//! The Repository's Secret, as Kubernetes mounts it: a directory with one file a key.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use stash_proto::job::secret::{self as keys, Connection, PASSWORD, SecretError};
use stash_proto::job::{ErrorCode, JobError};
use zeroize::Zeroizing;

/// Kubernetes takes no larger Secret.
const KEY_LIMIT_BYTES: u64 = 1 << 20;

/// What a Job takes from the Secret.
pub(super) struct Secret {
    /// The repository's password.
    pub(super) password: Zeroizing<String>,
    /// How the store is reached.
    pub(super) connection: Connection,
}

impl Secret {
    /// Reads the Secret.
    ///
    /// # Errors
    /// `BadSecret`: there is no password, or a key cannot be read. The message names the key alone.
    pub(super) fn read(dir: &Path) -> Result<Self, JobError> {
        let mut values: BTreeMap<&str, Zeroizing<Vec<u8>>> = BTreeMap::new();
        for key in keys::keys() {
            match read_file(&dir.join(key), KEY_LIMIT_BYTES) {
                Ok(bytes) => drop(values.insert(key, bytes)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(bad(&format!("read {key}: {error}"))),
            }
        }
        let value = |key: &str| values.get(key).map(|bytes| bytes.as_slice());
        let wrong = |error: SecretError| bad(&error.to_string());
        let password = Zeroizing::new(keys::password(value(PASSWORD)).map_err(wrong)?.to_owned());
        Ok(Self { password, connection: keys::connection(value).map_err(wrong)? })
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secret").finish_non_exhaustive()
    }
}

fn bad(reason: &str) -> JobError {
    JobError::new(ErrorCode::BadSecret, format!("the Repository's Secret: {reason}"))
}

/// Reads a small file.
pub(super) fn read_file(path: &Path, limit_bytes: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
    File::open(path)?.take(limit_bytes + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit_bytes {
        return Err(io::Error::other(format!("it is longer than {limit_bytes} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(keys: &[(&str, &[u8])]) -> Result<Secret, String> {
        let folder = tempfile::tempdir().unwrap();
        for (key, value) in keys {
            std::fs::write(folder.path().join(key), value).unwrap();
        }
        Secret::read(folder.path()).map_err(|error| {
            assert_eq!(error.code, ErrorCode::BadSecret);
            error.message
        })
    }

    #[test]
    fn test_files_are_keys() {
        let read = secret(&[
            ("RESTIC_PASSWORD", b" with a line feed\n"),
            ("REST_SERVER_USERNAME", b"user\n"),
            ("AWS_ACCESS_KEY_ID", b"id"),
            ("GOOGLE_SERVICE_ACCOUNT_JSON_KEY", b"{}"),
            ("CA_CERT_DATA", b"pem"),
            ("RESTIC_REPOSITORY", b"elsewhere"),
            ("..data", b"x"),
        ])
        .unwrap();
        assert_eq!(read.password.as_str(), " with a line feed\n");
        let names: Vec<_> = read.connection.environment.keys().map(String::as_str).collect();
        assert_eq!(names, ["AWS_ACCESS_KEY_ID", "GOOGLE_SERVICE_ACCOUNT_JSON_KEY", "RESTIC_REST_USERNAME"]);
        assert_eq!(read.connection.ca_certificates.as_deref(), Some("pem"));
    }

    #[test]
    fn test_what_is_wrong_is_named_by_key_and_not_by_value() {
        for (keys, words) in [
            (&[][..], "it has no RESTIC_PASSWORD"),
            (&[("RESTIC_PASSWORD", &b""[..])], "RESTIC_PASSWORD is empty"),
            (&[("RESTIC_PASSWORD", b"geheim\xff")], "RESTIC_PASSWORD is not text"),
            (&[("RESTIC_PASSWORD", b"p"), ("ST_KEY", b"geheim\0")], "ST_KEY is not text"),
        ] {
            let message = secret(keys).unwrap_err();
            assert!(message.contains(words) && !message.contains("geheim"), "{message}");
        }
    }
}

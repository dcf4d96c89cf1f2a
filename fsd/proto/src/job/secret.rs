//! The keys of a Repository's Secret that are read, and what they say. A Job has each as a file of the directory that the
//! Secret is mounted at.
//!
//! Source: Stash's keys of each backend, and those that restic's environment has beside them. Other keys are not read, so a
//! copy of the Secret for a Job needs no others.

use std::collections::BTreeMap;

/// The repository's password: without it nothing is opened.
pub const PASSWORD: &str = "RESTIC_PASSWORD";
/// PEM of the certificates that are trusted instead of the machine's.
pub const CA_CERTIFICATES: &str = "CA_CERT_DATA";
/// The JSON of a Google service account.
pub const GOOGLE_SERVICE_ACCOUNT: &str = "GOOGLE_SERVICE_ACCOUNT_JSON_KEY";

/// Keys that are settings of the connection, with restic's name of each.
pub const SETTINGS: &[(&str, &str)] = &[
    ("AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY_ID"),
    ("AWS_SECRET_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY"),
    ("AWS_SESSION_TOKEN", "AWS_SESSION_TOKEN"),
    ("AWS_DEFAULT_REGION", "AWS_DEFAULT_REGION"),
    ("AZURE_ACCOUNT_NAME", "AZURE_ACCOUNT_NAME"),
    ("AZURE_ACCOUNT_KEY", "AZURE_ACCOUNT_KEY"),
    ("AZURE_ACCOUNT_SAS", "AZURE_ACCOUNT_SAS"),
    ("AZURE_ENDPOINT_SUFFIX", "AZURE_ENDPOINT_SUFFIX"),
    ("B2_ACCOUNT_ID", "B2_ACCOUNT_ID"),
    ("B2_ACCOUNT_KEY", "B2_ACCOUNT_KEY"),
    ("GOOGLE_ACCESS_TOKEN", "GOOGLE_ACCESS_TOKEN"),
    ("GOOGLE_PROJECT_ID", "GOOGLE_PROJECT_ID"),
    ("OS_APPLICATION_CREDENTIAL_ID", "OS_APPLICATION_CREDENTIAL_ID"),
    ("OS_APPLICATION_CREDENTIAL_NAME", "OS_APPLICATION_CREDENTIAL_NAME"),
    ("OS_APPLICATION_CREDENTIAL_SECRET", "OS_APPLICATION_CREDENTIAL_SECRET"),
    ("OS_AUTH_TOKEN", "OS_AUTH_TOKEN"),
    ("OS_AUTH_URL", "OS_AUTH_URL"),
    ("OS_PASSWORD", "OS_PASSWORD"),
    ("OS_PROJECT_DOMAIN_ID", "OS_PROJECT_DOMAIN_ID"),
    ("OS_PROJECT_DOMAIN_NAME", "OS_PROJECT_DOMAIN_NAME"),
    ("OS_PROJECT_ID", "OS_PROJECT_ID"),
    ("OS_PROJECT_NAME", "OS_PROJECT_NAME"),
    ("OS_REGION_NAME", "OS_REGION_NAME"),
    ("OS_STORAGE_URL", "OS_STORAGE_URL"),
    ("OS_TENANT_ID", "OS_TENANT_ID"),
    ("OS_TENANT_NAME", "OS_TENANT_NAME"),
    ("OS_TRUST_ID", "OS_TRUST_ID"),
    ("OS_USERNAME", "OS_USERNAME"),
    ("OS_USER_DOMAIN_ID", "OS_USER_DOMAIN_ID"),
    ("OS_USER_DOMAIN_NAME", "OS_USER_DOMAIN_NAME"),
    ("OS_USER_ID", "OS_USER_ID"),
    ("REST_SERVER_USERNAME", "RESTIC_REST_USERNAME"),
    ("REST_SERVER_PASSWORD", "RESTIC_REST_PASSWORD"),
    ("ST_AUTH", "ST_AUTH"),
    ("ST_KEY", "ST_KEY"),
    ("ST_USER", "ST_USER"),
];

/// Returns the keys that are read.
pub fn keys() -> impl Iterator<Item = &'static str> {
    [PASSWORD, CA_CERTIFICATES, GOOGLE_SERVICE_ACCOUNT].into_iter().chain(SETTINGS.iter().map(|(key, _)| *key))
}

/// Returns whether a key is read.
#[must_use]
pub fn is_read(key: &str) -> bool {
    keys().any(|known| known == key)
}

/// Why a Secret is not enough. Names the key, never its value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// A key without which nothing is opened is not there.
    #[error("it has no {0}")]
    Missing(&'static str),
    /// It is there, and empty.
    #[error("{0} is empty")]
    Empty(&'static str),
    /// It is not UTF-8, or holds a NUL byte.
    #[error("{0} is not text")]
    NotText(&'static str),
}

/// How a store is reached, as a Secret says it: all but the password.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Connection {
    /// Settings of the connection by restic's names; the JSON of a Google service account by Stash's
    /// ([`GOOGLE_SERVICE_ACCOUNT`]).
    pub environment: BTreeMap<String, String>,
    /// PEM of the certificates that are trusted instead of the machine's.
    pub ca_certificates: Option<String>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Credentials: never printed.
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

/// Reads the password, to the byte: Stash hands it to restic as it is, and so some repository's ends in a line feed.
///
/// # Errors
/// It is not there, empty, or not text.
pub fn password(value: Option<&[u8]>) -> Result<&str, SecretError> {
    match value {
        None => Err(SecretError::Missing(PASSWORD)),
        Some([]) => Err(SecretError::Empty(PASSWORD)),
        Some(bytes) => text(PASSWORD, bytes),
    }
}

/// Reads what a Secret says of the connection; `value` returns what lies under a key.
///
/// # Errors
/// A key is not text.
pub fn connection<'a>(value: impl Fn(&str) -> Option<&'a [u8]>) -> Result<Connection, SecretError> {
    let filled = |key: &'static str| value(key).filter(|bytes| !bytes.is_empty()).map(|bytes| text(key, bytes));
    let mut environment = BTreeMap::new();
    for (key, variable) in SETTINGS {
        if let Some(bytes) = value(key) {
            // No credential ends in a line feed, but many a file does.
            environment.insert((*variable).to_owned(), text(key, bytes)?.trim_end_matches(['\r', '\n']).to_owned());
        }
    }
    if let Some(account) = filled(GOOGLE_SERVICE_ACCOUNT).transpose()? {
        environment.insert(GOOGLE_SERVICE_ACCOUNT.to_owned(), account.to_owned());
    }
    Ok(Connection { environment, ca_certificates: filled(CA_CERTIFICATES).transpose()?.map(str::to_owned) })
}

fn text<'a>(key: &'static str, bytes: &'a [u8]) -> Result<&'a str, SecretError> {
    std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0')).ok_or(SecretError::NotText(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of<'a>(pairs: &'a [(&'a str, &'a [u8])]) -> impl Fn(&str) -> Option<&'a [u8]> {
        |key| pairs.iter().find(|(name, _)| *name == key).map(|(_, value)| *value)
    }

    #[test]
    fn test_keys_become_settings_by_restics_names() {
        let read = connection(of(&[
            ("REST_SERVER_USERNAME", b"user\n"),
            ("AWS_ACCESS_KEY_ID", b"id"),
            ("GOOGLE_SERVICE_ACCOUNT_JSON_KEY", b"{}"),
            ("CA_CERT_DATA", b"pem"),
            ("RESTIC_PASSWORD", b"secret"),
            ("RESTIC_REPOSITORY", b"elsewhere"),
        ]))
        .unwrap();
        let names: Vec<_> = read.environment.keys().map(String::as_str).collect();
        assert_eq!(names, ["AWS_ACCESS_KEY_ID", "GOOGLE_SERVICE_ACCOUNT_JSON_KEY", "RESTIC_REST_USERNAME"]);
        assert_eq!(read.environment["RESTIC_REST_USERNAME"], "user");
        assert_eq!(read.ca_certificates.as_deref(), Some("pem"));
        assert!(!format!("{read:?}").contains("user"));
        let none = connection(of(&[("CA_CERT_DATA", b""), ("GOOGLE_SERVICE_ACCOUNT_JSON_KEY", b"")])).unwrap();
        assert_eq!(none, Connection::default());
    }

    #[test]
    fn test_what_is_wrong_is_named_by_key_and_not_by_value() {
        assert_eq!(password(Some(b" with a line feed\n")), Ok(" with a line feed\n"));
        for (value, words) in [
            (None, "it has no RESTIC_PASSWORD"),
            (Some(&b""[..]), "RESTIC_PASSWORD is empty"),
            (Some(b"geheim\xff"), "RESTIC_PASSWORD is not text"),
        ] {
            assert_eq!(password(value).unwrap_err().to_string(), words);
        }
        for key in ["ST_KEY", "CA_CERT_DATA", "GOOGLE_SERVICE_ACCOUNT_JSON_KEY"] {
            assert_eq!(connection(of(&[(key, b"geheim\0")])).unwrap_err().to_string(), format!("{key} is not text"));
        }
    }

    #[test]
    fn test_what_is_read() {
        assert!(keys().all(is_read) && !is_read("RESTIC_REPOSITORY"));
    }
}

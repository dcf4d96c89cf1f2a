//! From a Repository and its Secret to what opens it. Pure.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;
use stash_crds::Repository;
use stash_crds::access::{self, AddressRule, BackendProblem};
use stash_crds::location::{Settings, location, settings};
use stash_proto::job::secret::{self, PASSWORD, SecretError};
use zeroize::Zeroizing;

use crate::cluster::SecretData;
use crate::daemon::RepositoryAccess;

/// Keys of a Secret whose values are addresses of servers.
const ADDRESS_KEYS: [&str; 3] = ["OS_AUTH_URL", "OS_STORAGE_URL", "ST_AUTH"];

/// Why a repository cannot be opened. Without secrets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// It is a volume.
    #[error(
        "the Repository {0} is a volume of the cluster (spec.backend.local), which only pods that mount it can open"
    )]
    Local(String),
    /// Its address holds credentials where none can be.
    #[error("the address of the Repository {0} holds an @: credentials belong in its Secret")]
    UserInAddress(String),
    /// Its backend cannot be used.
    #[error("the Repository {repository}: {problem}")]
    Backend {
        /// The Repository, with its namespace.
        repository: String,
        /// What is wrong.
        problem: BackendProblem,
    },
    /// It has no Secret.
    #[error(
        "the Repository {repository} needs its Secret {secret:?} (spec.backend.storageSecretName), which is not there"
    )]
    NoSecret {
        /// The Repository, with its namespace.
        repository: String,
        /// The Secret's name.
        secret: String,
    },
    /// The Secret lacks something.
    #[error("the Secret of the Repository {repository}: {problem}")]
    Secret {
        /// The Repository, with its namespace.
        repository: String,
        /// What is wrong.
        problem: SecretError,
    },
}

/// Returns the name of a Repository's Secret.
pub fn secret_name(repository: &Repository) -> &str {
    repository.spec.backend.storage_secret_name.as_deref().unwrap_or_default()
}

/// Returns what opens a repository. Of the Secret only those keys are read that the backend has.
///
/// # Errors
///
/// The backend is none that a node may open, or the Secret is not enough.
pub fn access(
    repository: &Repository,
    secret: Option<&SecretData>,
    rule: &AddressRule,
) -> Result<RepositoryAccess, AccessError> {
    let metadata = &repository.metadata;
    let shown = || [metadata.namespace.as_deref(), metadata.name.as_deref()].map(Option::unwrap_or_default).join("/");
    let backend = &repository.spec.backend;
    let refuse = |problem: BackendProblem| AccessError::Backend { repository: shown(), problem };
    let provider = access::provider(backend).map_err(refuse)?;
    if backend.local.is_some() {
        return Err(AccessError::Local(shown()));
    }
    if backend.s3.as_ref().is_some_and(|s3| s3.endpoint.contains('@')) {
        return Err(AccessError::UserInAddress(shown()));
    }
    access::check_address(backend, rule).map_err(refuse)?;
    let (address, user) = without_user(location(backend).map_err(refuse)?);
    let secret = secret
        .ok_or_else(|| AccessError::NoSecret { repository: shown(), secret: secret_name(repository).to_owned() })?;
    let lacks = |problem: SecretError| AccessError::Secret { repository: shown(), problem };
    let keys: Vec<&str> = access::secret_keys(provider).collect();
    let value = |key: &str| secret.get(key).filter(|_| keys.contains(&key)).map(|value| value.as_slice());
    let password = Zeroizing::new(secret::password(value(PASSWORD)).map_err(lacks)?.to_owned());
    let connection = secret::connection(value).map_err(lacks)?;
    for key in ADDRESS_KEYS {
        if let Some(address) = connection.environment.get(key) {
            access::check_url(address, rule).map_err(refuse)?;
        }
    }
    let Settings { options, environment: plain, insecure_tls } = settings(backend);
    // What the Secret says counts for more.
    let mut environment: BTreeMap<String, String> = user.into_iter().collect();
    environment.extend(connection.environment);
    environment.extend(plain);
    let ca_certificates = connection.ca_certificates;
    let environment = environment.into_iter().map(|(key, value)| (key, Zeroizing::new(value))).collect();
    Ok(RepositoryAccess { address, password, environment, options, ca_certificates, insecure_tls })
}

/// Takes the user and the password out of the address of a REST server; returns them as restic's variables.
fn without_user(address: String) -> (String, Vec<(String, String)>) {
    let split = || {
        let (scheme, rest) = address.strip_prefix("rest:")?.split_once("://")?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (user, host) = rest[..end].rsplit_once('@')?;
        let (name, password) = user.split_once(':').unwrap_or((user, ""));
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let pairs = [("RESTIC_REST_USERNAME", name), ("RESTIC_REST_PASSWORD", password)];
        let filled = pairs.into_iter().filter(|(_, value)| !value.is_empty());
        let variables = filled.map(|(variable, value)| (variable.to_owned(), decoded(value))).collect();
        Some((format!("rest:{scheme}://{host}{}", &rest[end..]), variables))
    };
    split().unwrap_or_else(|| (address.clone(), Vec::new()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn repository(backend: Value) -> Repository {
        serde_json::from_value(json!({
            "metadata": {"name": "repo", "namespace": "storage"}, "spec": {"backend": backend},
        }))
        .unwrap()
    }

    fn secret(pairs: &[(&str, &str)]) -> SecretData {
        let bytes = |value: &str| Zeroizing::new(value.as_bytes().to_vec());
        pairs.iter().map(|(key, value)| ((*key).to_owned(), bytes(value))).collect()
    }

    #[test]
    fn test_what_opens_a_repository() {
        let s3 = repository(json!({
            "storageSecretName": "keys", "s3": {"endpoint": "https://s3.example", "bucket": "b", "region": "eu", "insecureTLS": true},
        }));
        let keys = secret(&[
            ("RESTIC_PASSWORD", "geheim"),
            ("AWS_ACCESS_KEY_ID", "id\n"),
            ("B2_ACCOUNT_KEY", "of another backend"),
            ("RESTIC_REPOSITORY", "elsewhere"),
        ]);
        let access = access(&s3, Some(&keys), &AddressRule::default()).unwrap();
        assert_eq!((access.address.as_str(), access.password.as_str()), ("s3:https://s3.example/b", "geheim"));
        let environment = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_DEFAULT_REGION", "eu")];
        let environment = environment.map(|(key, value)| (key.to_owned(), Zeroizing::new(value.to_owned())));
        assert_eq!(access.environment, environment.into());
        assert!(access.insecure_tls);
    }

    #[test]
    fn test_an_address_is_handed_on_without_its_user() {
        for (url, secret, expected, user, password) in [
            ("https://me:a%2Fb@host:8000/p@th", &[][..], "rest:https://host:8000/p@th", "me", "a/b"),
            ("https://me@host", &[], "rest:https://host", "me", ""),
            ("https://host/p@th", &[], "rest:https://host/p@th", "", ""),
            ("https://me:old@host/", &[("REST_SERVER_PASSWORD", "new")], "rest:https://host/", "me", "new"),
        ] {
            let mut keys = super::tests::secret(secret);
            keys.extend(super::tests::secret(&[("RESTIC_PASSWORD", "p")]));
            let access =
                access(&repository(json!({"rest": {"url": url}})), Some(&keys), &AddressRule::default()).unwrap();
            let value = |key: &str| access.environment.get(key).map(|value| value.as_str()).unwrap_or_default();
            assert_eq!(access.address, expected, "{url}");
            assert_eq!((value("RESTIC_REST_USERNAME"), value("RESTIC_REST_PASSWORD")), (user, password), "{url}");
        }
    }

    #[test]
    fn test_what_is_refused_and_no_secret_in_it() {
        let s3 = json!({"storageSecretName": "keys", "s3": {"endpoint": "s3.example", "bucket": "b"}});
        let password = &[("RESTIC_PASSWORD", "geheim")][..];
        for (backend, keys, expected) in [
            (json!({}), Some(password), "the Repository storage/repo: exactly one backend must be given"),
            (
                json!({"local": {"mountPath": "/etc", "hostPath": {"path": "/"}}}),
                Some(password),
                "the Repository storage/repo is a volume of the cluster",
            ),
            (json!({"s3": {"endpoint": "https://me:geheim@host", "bucket": "b"}}), Some(password), "holds an @"),
            (
                json!({"s3": {"endpoint": "169.254.169.254", "bucket": "b"}}),
                Some(password),
                "169.254.169.254 is refused",
            ),
            (json!({"s3": {"endpoint": "localhost:9000", "bucket": "b"}}), Some(password), "localhost is refused"),
            (s3.clone(), None, "needs its Secret \"keys\""),
            (s3.clone(), Some(&[("AWS_ACCESS_KEY_ID", "geheim")][..]), "it has no RESTIC_PASSWORD"),
            (s3.clone(), Some(&[("RESTIC_PASSWORD", "")]), "RESTIC_PASSWORD is empty"),
            (s3, Some(&[("RESTIC_PASSWORD", "a"), ("AWS_ACCESS_KEY_ID", "geheim\0")]), "AWS_ACCESS_KEY_ID is not text"),
            (
                json!({"swift": {"container": "c"}}),
                Some(&[("RESTIC_PASSWORD", "a"), ("OS_AUTH_URL", "http://127.0.0.1/")]),
                "the address 127.0.0.1 is refused",
            ),
        ] {
            let keys = keys.map(secret);
            let error = access(&repository(backend.clone()), keys.as_ref(), &AddressRule::default()).unwrap_err();
            let error = error.to_string();
            assert!(error.contains(expected) && !error.contains("geheim"), "{backend}: {error}");
        }
    }
}

//! The Secret of a Job: what it is to do, and the credentials. Pure.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::names;

/// What stands before the name of a credential, so that none is taken for the spec.
pub(super) const SECRET_PREFIX: &str = "secret.";

/// The key under which the spec of the Job lies.
pub fn spec_key() -> &'static str {
    "job.json"
}

/// Makes the Secret of the Job that `owner` refers to, of its name. It goes with the Job.
pub fn secret(
    owner: OwnerReference,
    namespace: &str,
    spec: Vec<u8>,
    credentials: BTreeMap<&'static str, Vec<u8>>,
) -> Secret {
    let credentials = credentials.into_iter().map(|(key, value)| (format!("{SECRET_PREFIX}{key}"), ByteString(value)));
    let data = credentials.chain([(spec_key().to_owned(), ByteString(spec))]).collect();
    Secret {
        metadata: ObjectMeta {
            name: Some(owner.name.clone()),
            namespace: Some(namespace.to_owned()),
            labels: Some(names::backup_labels(None)),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        data: Some(data),
        immutable: Some(true),
        ..Secret::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_the_secret_goes_with_its_job() {
        let owner = OwnerReference { name: "job".to_owned(), uid: "u".to_owned(), ..OwnerReference::default() };
        let made = secret(owner.clone(), "shop", b"{}".to_vec(), BTreeMap::from([("RESTIC_PASSWORD", b"p".to_vec())]));
        assert_eq!(made.immutable, Some(true));
        assert_eq!(made.metadata.owner_references, Some(vec![owner]));
        let data = made.data.unwrap();
        let keys: Vec<&str> = data.keys().map(String::as_str).collect();
        assert_eq!(keys, ["job.json", "secret.RESTIC_PASSWORD"]);
    }
}

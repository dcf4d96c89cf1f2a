//! Decides what is said of a Repository. Pure.

use std::collections::BTreeSet;

use jiff::Timestamp;
use stash_crds::Repository;
use stash_crds::conditions::{BACKEND_SECRET_FOUND, Condition, VALIDATION_PASSED};
use stash_crds::reasons;
use stash_crds::reference::TypedObjectReference;

use super::backend::{self, AddressRule, PASSWORD_KEY};
use super::finding::{self, Finding};
use super::wipe_out;
use crate::conditions::Conditions;
use crate::plan::{Notice, transitions};

/// Reason of `BackendSecretFound`: the Secret is there, and lacks a key. Not in Stash.
pub const BACKEND_SECRET_KEY_MISSING: &str = "BackendSecretKeyMissing";

/// What is known about the Secret of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretState {
    /// It is not there.
    Missing,
    /// It is there, with these keys that have a value.
    Present(BTreeSet<String>),
    /// The API server did not tell.
    Unknown,
}

/// What a plan is made from.
#[derive(Debug)]
pub struct Observed<'a> {
    /// The object.
    pub repository: &'a Repository,
    /// The Secret that it names.
    pub secret: SecretState,
    /// What came of opening it, as it is reached now; `None`: that is not known yet.
    pub finding: Option<&'a Finding>,
    /// Who uses it, in order.
    pub references: Vec<TypedObjectReference>,
    /// Which servers are refused.
    pub addresses: &'a AddressRule,
}

/// What is done.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The part of the status that this reconciler writes. Figures are written with the sessions that report them.
    pub status: Said,
    /// Whether the finalizer is set (`true`) or taken off. Only data that goes with the object holds it; Stash sets it on all.
    pub finalizer: Option<bool>,
    /// What is told.
    pub notices: Vec<Notice>,
}

/// The part of a Repository's status that its reconciler writes.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Said {
    /// The generation that was looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Who uses the Repository.
    pub references: Vec<TypedObjectReference>,
    /// Why it does not work, if so.
    pub conditions: Vec<Condition>,
}

impl Said {
    /// Returns what `repository` says now.
    pub fn of(repository: &Repository) -> Self {
        let status = repository.status.as_ref();
        Self {
            observed_generation: status.and_then(|status| status.observed_generation),
            references: status.map(|status| status.references.clone()).unwrap_or_default(),
            conditions: status.map(|status| status.conditions.clone()).unwrap_or_default(),
        }
    }
}

/// Decides what is said of a Repository that is not being deleted.
pub fn plan(observed: Observed<'_>, now: Timestamp) -> Plan {
    let Observed { repository, secret, finding, references, addresses } = observed;
    let old = Said::of(repository);
    let meta = &repository.metadata;
    let mut status = Said { observed_generation: meta.generation, references, conditions: old.conditions.clone() };
    let mut conditions = Conditions::new(&mut status.conditions, meta.generation, now);
    let backend = &repository.spec.backend;
    let provider = backend::provider(backend);
    match provider.clone().map(|_| ()).and_then(|()| backend::check_address(backend, addresses)) {
        Ok(()) if repository.spec.wipe_out && !wipe_out::is_wanted(repository) => conditions.is_not(
            VALIDATION_PASSED,
            reasons::RESOURCE_VALIDATION_FAILED,
            "spec.wipeOut cannot be used with the backends local and b2: the data stays when this object is deleted",
        ),
        Ok(()) => conditions.is(VALIDATION_PASSED, reasons::RESOURCE_VALIDATION_PASSED, "Successfully validated."),
        Err(problem) => conditions.is_not(VALIDATION_PASSED, reasons::RESOURCE_VALIDATION_FAILED, problem.to_string()),
    }
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let name = backend.storage_secret_name.as_deref().filter(|name| !name.is_empty());
    say_secret(&mut conditions, namespace, name, &secret, provider.ok());
    let blocked = [VALIDATION_PASSED, BACKEND_SECRET_FOUND].into_iter().find(|aspect| !conditions.holds(aspect));
    finding::say(&mut conditions, &old.conditions, repository, blocked, finding);
    let mut notices = transitions(&old.conditions, &status.conditions);
    notices.retain(|notice| !finding::is_quiet(&notice.reason));
    let (wanted, held) = (wipe_out::is_wanted(repository), wipe_out::is_held(repository));
    Plan { status, finalizer: (wanted != held).then_some(wanted), notices }
}

fn say_secret(
    conditions: &mut Conditions<'_>,
    namespace: &str,
    name: Option<&str>,
    secret: &SecretState,
    provider: Option<&'static str>,
) {
    let Some(name) = name else {
        let message = "spec.backend.storageSecretName names no Secret.";
        return conditions.is_not(BACKEND_SECRET_FOUND, reasons::BACKEND_SECRET_NOT_AVAILABLE, message);
    };
    match secret {
        SecretState::Missing => {
            let message = format!("Backend Secret {namespace}/{name} does not exist.");
            conditions.is_not(BACKEND_SECRET_FOUND, reasons::BACKEND_SECRET_NOT_AVAILABLE, message);
        }
        SecretState::Unknown => {
            let message = format!("Backend Secret {namespace}/{name} could not be looked up.");
            conditions.is_unknown(BACKEND_SECRET_FOUND, reasons::UNABLE_TO_CHECK_BACKEND_SECRET_AVAILABILITY, message);
        }
        SecretState::Present(keys) => {
            let required = provider.map_or(&[PASSWORD_KEY][..], backend::required_keys);
            let missing: Vec<&str> = required.iter().copied().filter(|key| !keys.contains(*key)).collect();
            if missing.is_empty() {
                let message = format!("Backend Secret {namespace}/{name} exist.");
                conditions.is(BACKEND_SECRET_FOUND, reasons::BACKEND_SECRET_AVAILABLE, message);
            } else {
                let message = format!("Backend Secret {namespace}/{name} lacks {}.", missing.join(", "));
                conditions.is_not(BACKEND_SECRET_FOUND, BACKEND_SECRET_KEY_MISSING, message);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use stash_crds::conditions::{FALSE, TRUE, UNKNOWN};

    use super::*;
    use crate::conditions::find;

    fn repository(spec: Value) -> Repository {
        let meta = json!({"name": "r", "namespace": "shop", "generation": 3});
        serde_json::from_value(
            json!({"apiVersion": "stash.appscode.com/v1alpha1", "kind": "Repository", "metadata": meta, "spec": spec}),
        )
        .unwrap()
    }

    fn planned(repository: &Repository, secret: SecretState) -> Plan {
        let addresses = &AddressRule::default();
        let observed = Observed { repository, secret, finding: None, references: Vec::new(), addresses };
        plan(observed, Timestamp::from_second(1000).unwrap())
    }

    fn keys(keys: &[&str]) -> SecretState {
        SecretState::Present(keys.iter().map(|&key| key.to_owned()).collect())
    }

    fn s3(more: Value) -> Value {
        let mut spec = json!({"backend": {"storageSecretName": "s", "s3": {"endpoint": "s3.example", "bucket": "b"}}});
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        spec
    }

    #[test]
    fn test_a_repository_says_why_it_does_not_work() {
        let b2 = json!({"backend": {"storageSecretName": "s", "b2": {"bucket": "b"}}});
        let local =
            json!({"backend": {"storageSecretName": "s", "s3": {"endpoint": "http://127.0.0.1", "bucket": "b"}}});
        for (what, spec, secret, validation, found, reason, message) in [
            (
                "fine",
                s3(json!({})),
                keys(&["RESTIC_PASSWORD"]),
                TRUE,
                TRUE,
                "BackendSecretAvailable",
                "Backend Secret shop/s exist.",
            ),
            (
                "missing",
                s3(json!({})),
                SecretState::Missing,
                TRUE,
                FALSE,
                "BackendSecretNotAvailable",
                "Backend Secret shop/s does not exist.",
            ),
            (
                "unknown",
                s3(json!({})),
                SecretState::Unknown,
                TRUE,
                UNKNOWN,
                "UnableToCheckBackendSecretAvailability",
                "Backend Secret shop/s could not be looked up.",
            ),
            (
                "no password",
                s3(json!({})),
                keys(&["PASSWORD"]),
                TRUE,
                FALSE,
                "BackendSecretKeyMissing",
                "Backend Secret shop/s lacks RESTIC_PASSWORD.",
            ),
            (
                "no key",
                b2,
                keys(&["RESTIC_PASSWORD", "B2_ACCOUNT_ID"]),
                TRUE,
                FALSE,
                "BackendSecretKeyMissing",
                "Backend Secret shop/s lacks B2_ACCOUNT_KEY.",
            ),
            (
                "address",
                local,
                keys(&["RESTIC_PASSWORD"]),
                FALSE,
                TRUE,
                "BackendSecretAvailable",
                "Backend Secret shop/s exist.",
            ),
            (
                "wipe out where it can be",
                s3(json!({"wipeOut": true})),
                keys(&["RESTIC_PASSWORD"]),
                TRUE,
                TRUE,
                "BackendSecretAvailable",
                "Backend Secret shop/s exist.",
            ),
            (
                "no backend",
                json!({"backend": {"storageSecretName": "s"}}),
                SecretState::Missing,
                FALSE,
                FALSE,
                "BackendSecretNotAvailable",
                "Backend Secret shop/s does not exist.",
            ),
            (
                "no spec",
                json!({}),
                SecretState::Missing,
                FALSE,
                FALSE,
                "BackendSecretNotAvailable",
                "spec.backend.storageSecretName names no Secret.",
            ),
        ] {
            let plan = planned(&repository(spec), secret);
            let condition = find(&plan.status.conditions, BACKEND_SECRET_FOUND).unwrap();
            assert_eq!(find(&plan.status.conditions, VALIDATION_PASSED).unwrap().status, validation, "{what}");
            assert_eq!((condition.status.as_str(), condition.reason.as_deref()), (found, Some(reason)), "{what}");
            assert_eq!(condition.message.as_deref(), Some(message), "{what}");
            let bad = [validation, found].iter().filter(|status| **status != TRUE).count();
            assert_eq!(plan.notices.iter().filter(|notice| notice.warning).count(), bad, "{what}");
            assert_eq!(plan.status.observed_generation, Some(3));
        }
    }

    #[test]
    fn test_the_same_said_again_is_no_change_and_no_notice() {
        let mut repository = repository(s3(json!({})));
        let first = planned(&repository, SecretState::Missing);
        repository.status = Some(
            serde_json::from_value(json!({
                "observedGeneration": 3, "integrity": true, "totalSize": "1 B", "conditions": first.status.conditions
            }))
            .unwrap(),
        );
        let again = plan(
            Observed {
                repository: &repository,
                secret: SecretState::Missing,
                finding: None,
                references: Vec::new(),
                addresses: &AddressRule::default(),
            },
            Timestamp::from_second(2000).unwrap(),
        );
        assert_eq!((again.status, again.notices), (first.status, Vec::new()));
        let better = planned(&repository, keys(&["RESTIC_PASSWORD"]));
        assert_eq!(better.notices, [Notice::normal("BackendSecretAvailable", "Backend Secret shop/s exist.")]);
    }

    #[test]
    fn test_only_data_that_goes_with_the_object_holds_it() {
        let b2 = json!({"wipeOut": true, "backend": {"storageSecretName": "s", "b2": {"bucket": "b"}}});
        for (what, spec, finalizers, expected) in [
            ("kept", s3(json!({})), json!([]), None),
            ("kept, and Stash held it", s3(json!({})), json!(["other", "stash"]), Some(false)),
            ("wiped", s3(json!({"wipeOut": true})), json!(["other"]), Some(true)),
            ("wiped, and held", s3(json!({"wipeOut": true})), json!(["stash"]), None),
            ("where it cannot be", b2.clone(), json!([]), None),
            ("where it cannot be, and held", b2, json!(["stash"]), Some(false)),
        ] {
            let mut repository = repository(spec);
            repository.metadata.finalizers = serde_json::from_value(finalizers).unwrap();
            assert_eq!(planned(&repository, SecretState::Missing).finalizer, expected, "{what}");
        }
    }
}

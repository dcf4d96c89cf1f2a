//! What is said of a Repository by who uses it: a BackupConfiguration or a RestoreSession. Pure.

use std::collections::BTreeMap;

use stash_crds::conditions::{BACKEND_SECRET_FOUND, Condition, REPOSITORY_FOUND, TRUE, VALIDATION_PASSED};
use stash_crds::reference::RepositoryRef;
use stash_crds::{Repository, reasons};

use crate::backup_configuration::validate::may_use;
use crate::conditions::{Conditions, find};
use crate::secrets::Known;

/// A Repository, as its user sees it.
#[derive(Debug)]
pub struct Used<'a> {
    /// How the user names it.
    pub reference: &'a RepositoryRef,
    /// The object, if there is one.
    pub repository: Option<&'a Repository>,
    /// What is known of its Secret.
    pub secret: Known,
    /// The user's namespace.
    pub own: &'a str,
    /// The labels of that namespace.
    pub namespace_labels: &'a BTreeMap<String, String>,
}

/// Returns what a Repository says of itself.
pub fn said_of(repository: &Repository) -> &[Condition] {
    repository.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default()
}

/// Whether the Secret of a Repository is being looked at for the first time: what is found wakes whoever uses it.
pub fn is_first_look(repository: Option<&Repository>, secret: &Known) -> bool {
    let is_new = |repository: &Repository| find(said_of(repository), BACKEND_SECRET_FOUND).is_none();
    *secret == Known::NotYet && repository.is_some_and(is_new)
}

impl Used<'_> {
    /// Says whether it and its Secret are there, and adds to `problems` why it cannot be used. Returns whether all could be looked up.
    pub fn say(&self, conditions: &mut Conditions<'_>, problems: &mut Vec<String>) -> bool {
        let (own, name) = (self.own, &self.reference.name);
        let namespace = self.reference.namespace.as_deref().filter(|namespace| !namespace.is_empty()).unwrap_or(own);
        let repository = self.repository.filter(|repository| repository.metadata.deletion_timestamp.is_none());
        let Some(repository) = repository else {
            let message = format!("Repository {namespace}/{name} does not exist.");
            conditions.is_not(REPOSITORY_FOUND, reasons::REPOSITORY_NOT_AVAILABLE, message);
            return false;
        };
        let message = format!("Repository {namespace}/{name} exist.");
        conditions.is(REPOSITORY_FOUND, reasons::REPOSITORY_AVAILABLE, message);

        let secret = repository.spec.backend.storage_secret_name.as_deref().unwrap_or_default();
        // A key that is missing, or a server that is refused, is said by the Repository; here it counts the same.
        let said = said_of(repository);
        if self.secret == Known::Absent {
            let message = format!("Backend Secret {namespace}/{secret} does not exist.");
            conditions.is_not(BACKEND_SECRET_FOUND, reasons::BACKEND_SECRET_NOT_AVAILABLE, message);
            return false;
        }
        if !self.secret.is_certain() && find(said, BACKEND_SECRET_FOUND).is_none() {
            let message = format!("Backend Secret {namespace}/{secret} could not be looked up.");
            let reason = reasons::UNABLE_TO_CHECK_BACKEND_SECRET_AVAILABILITY;
            conditions.is_unknown(BACKEND_SECRET_FOUND, reason, message);
            return false;
        }
        match find(said, BACKEND_SECRET_FOUND).filter(|condition| condition.status != TRUE) {
            Some(condition) => {
                let (reason, message) = (condition.reason.clone(), condition.message.clone());
                conditions.is_not(
                    BACKEND_SECRET_FOUND,
                    reason.as_deref().unwrap_or(reasons::BACKEND_SECRET_NOT_AVAILABLE),
                    message.unwrap_or_default(),
                );
            }
            None => {
                let message = format!("Backend Secret {namespace}/{secret} exist.");
                conditions.is(BACKEND_SECRET_FOUND, reasons::BACKEND_SECRET_AVAILABLE, message);
            }
        }
        if let Some(condition) = find(said, VALIDATION_PASSED).filter(|condition| condition.status != TRUE) {
            problems
                .push(format!("Repository {namespace}/{name}: {}", condition.message.as_deref().unwrap_or_default()));
        }
        if repository.spec.backend.local.is_some() && namespace != own {
            problems.push(format!(
                "Repository {namespace}/{name} is a volume (spec.backend.local), which its own namespace alone can mount"
            ));
        }
        if !may_use(repository, own, self.namespace_labels) {
            problems.push(format!(
                "namespace {own} is not allowed to refer Repository {namespace}/{name} (see its spec.usagePolicy)"
            ));
        }
        true
    }
}

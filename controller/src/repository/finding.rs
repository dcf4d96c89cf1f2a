//! What came of opening a repository, by class, and how the condition says it. Pure.
//!
//! The mirror of Snapshots opens a repository after each change of the Repository or of its Secret, and from time to time. What it finds
//! is the condition `BackendRepositoryInitialized`, as of a session in Stash. What keeps it from trying is said by other conditions.

use stash_crds::conditions::{BACKEND_REPOSITORY_INITIALIZED, Condition, FALSE, TRUE, UNKNOWN};
use stash_crds::{Repository, reasons};
use stash_repo::{BackendErrorKind, RepoError};

use super::open::{OpenError, secret_name};
use crate::access::{Problem, is_read_by_pods};
use crate::conditions::{Conditions, find};

/// Reason: there is no repository yet, and no backup was made either. Not in Stash.
pub const NOT_MADE_YET: &str = "BackendRepositoryNotMadeYet";
/// Reason: it was not tried, because of what another condition says. Not in Stash.
pub const NOT_TRIED: &str = "BackendRepositoryNotTried";

/// The longest text of what failed that becomes part of a message.
const DETAIL_LIMIT: usize = 500;

/// What came of opening a repository. Stable words: as long as it is the same, nothing is written and nothing is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It opens.
    Opened,
    /// There is none. Whether that is as it should be depends on whether there was one.
    Absent,
    /// The bucket, the container or the server's folder is not there.
    NoBucket,
    /// No key opens with the password.
    WrongPassword,
    /// The store refuses the credentials or the operation.
    Denied,
    /// The store gave no answer.
    Unreachable,
    /// A server is one that must not be reached.
    AddressRefused,
    /// The address, an option or a credential is malformed.
    BadAddress,
    /// The Secret holds what it cannot.
    BadSecret,
    /// What lies there is no repository, is damaged, or is of a kind that is not known.
    NoRepository,
    /// It is a volume, and the pod that serves it cannot be made.
    PodRefused,
    /// It is a volume, and the pod that serves it does not start.
    PodNotStarted,
    /// It is a volume, and the pod that serves it ended.
    PodEnded,
    /// Another failure.
    Other,
}

impl Class {
    /// Returns the reason of the condition.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Opened => reasons::BACKEND_REPOSITORY_FOUND,
            Self::Absent => "BackendRepositoryMissing",
            Self::NoBucket => "BackendBucketMissing",
            Self::WrongPassword => "BackendWrongPassword",
            Self::Denied => "BackendAccessDenied",
            Self::Unreachable => "BackendUnreachable",
            Self::AddressRefused => "BackendAddressRefused",
            Self::BadAddress => "BackendAddressInvalid",
            Self::BadSecret => "BackendSecretInvalid",
            Self::NoRepository => "NotARepository",
            Self::PodRefused => "BackendPodRefused",
            Self::PodNotStarted => "BackendPodNotStarted",
            Self::PodEnded => "BackendPodEnded",
            Self::Other => "FailedToOpenBackendRepository",
        }
    }

    /// Returns what the user does next.
    fn next_step(self, secret: &str) -> String {
        match self {
            Self::Opened => String::new(),
            Self::Absent => {
                "Backups of this Repository were made, so it was removed, or spec.backend was changed: correct \
                             spec.backend, or let the next backup make a new one"
                    .to_owned()
            }
            Self::NoBucket => "Make the bucket, or correct spec.backend".to_owned(),
            Self::WrongPassword => {
                format!("Put the password with which the repository was made into RESTIC_PASSWORD of Secret {secret}")
            }
            Self::Denied => format!(
                "Correct the keys in Secret {secret}, or let them list, get, put and delete what is below the prefix"
            ),
            Self::Unreachable => {
                "It is tried again with growing pauses, and at once when the Repository or its Secret \
                                  changes: see whether the store is up, and whether pods of the controller reach it"
                    .to_owned()
            }
            Self::AddressRefused => "Correct it, or have the controller's --allow-address list it".to_owned(),
            Self::BadAddress => format!("Correct spec.backend or Secret {secret}"),
            Self::BadSecret => format!("Correct Secret {secret}"),
            Self::NoRepository => {
                "Correct spec.backend; if it was a repository, `stash-fs check` says what is damaged".to_owned()
            }
            Self::PodRefused => {
                "Correct spec.backend.local, or let the namespace have the pod: its Pod Security, quotas and policies judge it"
                    .to_owned()
            }
            Self::PodNotStarted => "It is tried again with growing pauses, and at once when the Repository changes: see whether the \
                                    volume can be mounted where the pod runs"
                .to_owned(),
            Self::PodEnded => "It is tried again with growing pauses: the pod's log says more".to_owned(),
            Self::Other => "The controller's log says more".to_owned(),
        }
    }
}

/// What came of opening a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The class.
    pub class: Class,
    /// What failed, without secrets and without anything that a server answered.
    pub detail: String,
}

impl Finding {
    /// The repository opens.
    pub fn opened() -> Self {
        Self { class: Class::Opened, detail: String::new() }
    }

    /// Tells what an error says of the repository; none if it says nothing of it, or other conditions say it.
    pub fn of(error: &OpenError) -> Option<Self> {
        let class = match error {
            OpenError::Local | OpenError::Api(_) | OpenError::NoSecret(_) => return None,
            OpenError::Backend(_) => Class::AddressRefused,
            OpenError::Address(_) => Class::BadAddress,
            OpenError::Secret(_) => Class::BadSecret,
            OpenError::Deadline => Class::Unreachable,
            OpenError::Access(Problem::Refused(_)) => Class::PodRefused,
            OpenError::Access(Problem::NotStarted(_)) => Class::PodNotStarted,
            OpenError::Access(Problem::Ended(_)) => Class::PodEnded,
            OpenError::Repository(error) => of_repository(error),
        };
        Some(Self { class, detail: error.to_string().chars().take(DETAIL_LIMIT).collect() })
    }
}

fn of_repository(error: &RepoError) -> Class {
    match error {
        RepoError::Backend(error) => match error.kind {
            BackendErrorKind::NotFound => Class::NoBucket,
            BackendErrorKind::Denied => Class::Denied,
            BackendErrorKind::Unavailable => Class::Unreachable,
            BackendErrorKind::Invalid => Class::BadAddress,
            // Lists and files that are not what they should be.
            BackendErrorKind::Corrupt => Class::NoRepository,
            BackendErrorKind::Conflict
            | BackendErrorKind::Full
            | BackendErrorKind::Unsupported
            | BackendErrorKind::Other => Class::Other,
        },
        RepoError::NoRepository { .. } => Class::Absent,
        // A config without any key.
        RepoError::WrongPassword { tried: 0 } => Class::NoRepository,
        RepoError::WrongPassword { .. } => Class::WrongPassword,
        RepoError::Deadline { .. } => Class::Unreachable,
        RepoError::Format { .. }
        | RepoError::Unsupported { .. }
        | RepoError::WrongMac { .. }
        | RepoError::WrongHash { .. } => Class::NoRepository,
        _ => Class::Other,
    }
}

/// Says what was found of `repository`, of which `old` was said before. `finding` is of the Repository and the Secret as they are now;
/// without one, what was said stays.
pub(super) fn say(
    conditions: &mut Conditions<'_>,
    old: &[Condition],
    repository: &Repository,
    blocked_by: Option<&str>,
    finding: Option<&Finding>,
) {
    if let Some(aspect) = blocked_by {
        let message = format!("The repository was not opened: see {aspect}.");
        return conditions.is_unknown(BACKEND_REPOSITORY_INITIALIZED, NOT_TRIED, message);
    }
    let Some(finding) = finding else {
        if is_read_by_pods(repository) && !was_backed_up(repository) {
            // No pod mounts a volume in which there is nothing to read: a claim would be bound to where it runs.
            let message = "No backup was made yet; the first backup makes it.";
            conditions.is_unknown(BACKEND_REPOSITORY_INITIALIZED, NOT_MADE_YET, message);
        }
        return;
    };
    let generation = repository.metadata.generation;
    let said = find(old, BACKEND_REPOSITORY_INITIALIZED).filter(|said| said.observed_generation == generation);
    let is_made_later = finding.class == Class::Absent && !was_made(repository, said);
    let (status, reason) = match finding.class {
        Class::Opened => (TRUE, finding.class.reason()),
        _ if is_made_later => (UNKNOWN, NOT_MADE_YET),
        class => (FALSE, class.reason()),
    };
    if said.is_some_and(|said| said.status == status && said.reason.as_deref() == Some(reason)) {
        // The words of a failure may differ from try to try; that is no news.
        return;
    }
    match finding.class {
        Class::Opened => conditions.is(BACKEND_REPOSITORY_INITIALIZED, reason, "The repository was opened."),
        _ if is_made_later => {
            let message = format!("{}; the first backup makes it.", finding.detail);
            conditions.is_unknown(BACKEND_REPOSITORY_INITIALIZED, reason, message);
        }
        class => {
            let next = class.next_step(&secret_name(repository));
            conditions.is_not(BACKEND_REPOSITORY_INITIALIZED, reason, format!("{}. {next}.", finding.detail));
        }
    }
}

/// Whether there was a repository: a session says so, or it was opened.
fn was_made(repository: &Repository, said: Option<&Condition>) -> bool {
    let missing = Class::Absent.reason();
    was_backed_up(repository) || said.is_some_and(|said| said.status == TRUE || said.reason.as_deref() == Some(missing))
}

/// Whether a session says that there is a repository.
pub fn was_backed_up(repository: &Repository) -> bool {
    repository
        .status
        .as_ref()
        .is_some_and(|status| status.last_backup_time.is_some() || status.snapshot_count.is_some_and(|count| count > 0))
}

/// Whether something is said for completeness, and is no news to anybody.
pub(super) fn is_quiet(reason: &str) -> bool {
    reason == NOT_MADE_YET || reason == NOT_TRIED
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::{Value, json};
    use stash_repo::backend::{BackendError, Retry};

    use super::*;

    fn repository(status: Value) -> Repository {
        let s3 = json!({"storageSecretName": "s", "s3": {"endpoint": "s3.example", "bucket": "b"}});
        let meta = json!({"name": "r", "namespace": "shop", "generation": 3});
        serde_json::from_value(json!({
            "apiVersion": "stash.appscode.com/v1alpha1", "kind": "Repository",
            "metadata": meta, "spec": {"backend": s3}, "status": status
        }))
        .unwrap()
    }

    fn store(kind: BackendErrorKind) -> OpenError {
        OpenError::Repository(RepoError::from(BackendError {
            kind,
            retry: Retry::Permanent,
            operation: "list",
            target: "snapshots".to_owned(),
            location: "s3:s3.example/b".to_owned(),
            message: "what we say of it".to_owned(),
        }))
    }

    fn said(
        repository: &Repository,
        old: &[Condition],
        blocked: Option<&str>,
        finding: Option<&Finding>,
    ) -> Vec<Condition> {
        let mut list = old.to_vec();
        let now = Timestamp::from_second(1000).unwrap();
        say(&mut Conditions::new(&mut list, Some(3), now), old, repository, blocked, finding);
        list
    }

    #[test]
    fn test_failures_have_their_classes() {
        let missing = || OpenError::Repository(RepoError::NoRepository { location: "s3:s3.example/b".to_owned() });
        let wrong = |tried| OpenError::Repository(RepoError::WrongPassword { tried });
        let mac = OpenError::Repository(RepoError::WrongMac { what: "config", id: stash_repo::Id::default() });
        for (error, class, part) in [
            (store(BackendErrorKind::Unavailable), Some(Class::Unreachable), "growing pauses"),
            (OpenError::Deadline, Some(Class::Unreachable), "growing pauses"),
            (store(BackendErrorKind::Denied), Some(Class::Denied), "Correct the keys in Secret shop/s"),
            (store(BackendErrorKind::NotFound), Some(Class::NoBucket), "Make the bucket"),
            (store(BackendErrorKind::Invalid), Some(Class::BadAddress), "Correct spec.backend or Secret shop/s"),
            (store(BackendErrorKind::Corrupt), Some(Class::NoRepository), "Correct spec.backend"),
            (store(BackendErrorKind::Other), Some(Class::Other), "log"),
            (wrong(1), Some(Class::WrongPassword), "RESTIC_PASSWORD of Secret shop/s"),
            (wrong(0), Some(Class::NoRepository), "Correct spec.backend"),
            (mac, Some(Class::NoRepository), "stash-fs check"),
            (missing(), Some(Class::Absent), "the first backup makes it"),
            (OpenError::NoSecret("shop/s".to_owned()), None, ""),
            (OpenError::Local, None, ""),
            (Problem::Refused("quota".to_owned()).into(), Some(Class::PodRefused), "quotas"),
            (Problem::NotStarted("0/1 nodes".to_owned()).into(), Some(Class::PodNotStarted), "can be mounted"),
            (Problem::Ended("OOMKilled".to_owned()).into(), Some(Class::PodEnded), "log"),
        ] {
            let finding = Finding::of(&error);
            assert_eq!(finding.as_ref().map(|finding| finding.class), class, "{error}");
            let Some(finding) = finding else { continue };
            let list = said(&repository(json!({})), &[], None, Some(&finding));
            let message = list[0].message.clone().unwrap();
            assert!(message.contains(part) && message.contains(&error.to_string()), "{message}");
        }
    }

    #[test]
    fn test_a_repository_that_was_there_is_missed() {
        let absent = Finding { class: Class::Absent, detail: "there is no repository".to_owned() };
        let opened = Finding::opened();
        let of = |list: &[Condition]| (list[0].status.clone(), list[0].reason.clone().unwrap());
        let missing = (FALSE.to_owned(), "BackendRepositoryMissing".to_owned());
        let later = (UNKNOWN.to_owned(), NOT_MADE_YET.to_owned());
        let fresh = repository(json!({}));
        assert_eq!(of(&said(&fresh, &[], None, Some(&absent))), later);
        assert_eq!(of(&said(&repository(json!({"snapshotCount": 0})), &[], None, Some(&absent))), later);
        assert_eq!(of(&said(&repository(json!({"snapshotCount": 2})), &[], None, Some(&absent))), missing);
        let before = said(&fresh, &[], None, Some(&opened));
        assert_eq!(of(&before), (TRUE.to_owned(), "BackendRepositoryFound".to_owned()));
        let gone = said(&fresh, &before, None, Some(&absent));
        assert_eq!(of(&gone), missing);
        assert_eq!(said(&fresh, &gone, None, Some(&absent)), gone);
        // Of another spec it says nothing.
        let mut older = before;
        older[0].observed_generation = Some(2);
        assert_eq!(of(&said(&fresh, &older, None, Some(&absent))), later);
    }

    #[test]
    fn test_the_same_class_is_no_news() {
        let fresh = repository(json!({}));
        let finding = |words: &str| Finding { class: Class::Unreachable, detail: words.to_owned() };
        let first = said(&fresh, &[], None, Some(&finding("no answer within 4 s")));
        assert_eq!(said(&fresh, &first, None, Some(&finding("connection refused"))), first);
        assert_eq!(said(&fresh, &first, None, None), first);
        let blocked = said(&fresh, &first, Some("BackendSecretFound"), Some(&finding("x")));
        assert_eq!((blocked[0].status.as_str(), blocked[0].reason.as_deref()), (UNKNOWN, Some(NOT_TRIED)));
        assert!(blocked[0].message.as_deref().unwrap().contains("BackendSecretFound"));
        assert!(is_quiet(NOT_TRIED) && is_quiet(NOT_MADE_YET) && !is_quiet(Class::Absent.reason()));
        let mut local = fresh;
        local.spec.backend.s3 = None;
        local.spec.backend.local = Some(Default::default());
        // A volume is not looked into before there was a backup.
        let unknown = said(&local, &[], None, None);
        assert_eq!((unknown[0].status.as_str(), unknown[0].reason.as_deref()), (UNKNOWN, Some(NOT_MADE_YET)));
        assert_eq!(said(&local, &[], None, Some(&Finding::opened()))[0].status, TRUE);
        local.status = repository(json!({"snapshotCount": 1})).status;
        assert_eq!(said(&local, &[], None, None), []);
    }
}

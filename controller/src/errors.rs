//! What can go wrong while an object is looked after, and when it is looked at again.

use std::time::Duration;

/// A reconcile that could not be finished. Nothing is lost: it is done again.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The object is newer than what was decided on.
    #[error("the object was changed meanwhile")]
    Stale,
    /// The Secret of the Repository is named only now.
    #[error("the Repository's Secret has not been looked at yet")]
    NotSeen,
    /// The API server refused, for good as far as it says.
    #[error("the API server refuses to {what}")]
    Refused {
        /// What was to be done.
        what: String,
        /// What it said.
        source: kube::Error,
    },
    /// The API server did not do it.
    #[error("failed to {what}")]
    Api {
        /// What was to be done.
        what: String,
        /// What went wrong.
        source: kube::Error,
    },
    /// An object has a name that one of ours has to have.
    #[error("{kind} {name} exists and is not of this session")]
    Foreign {
        /// The object's kind.
        kind: &'static str,
        /// The object's name.
        name: String,
    },
    /// An object cannot be written.
    #[error("the {0} cannot be written as JSON")]
    Json(&'static str, #[source] serde_json::Error),
}

impl ReconcileError {
    /// Returns the error of a call that was to do `what`.
    pub fn of(what: impl Into<String>, source: kube::Error) -> Self {
        let what = what.into();
        match &source {
            kube::Error::Api(status) if status.code == 409 && status.is_conflict() => Self::Stale,
            kube::Error::Api(status) if matches!(status.code, 400 | 403 | 404 | 405 | 422) => {
                Self::Refused { what, source }
            }
            _ => Self::Api { what, source },
        }
    }

    /// Returns why, for events and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Stale => "Stale",
            Self::NotSeen => "NotSeen",
            Self::Refused { .. } => "ApiRefused",
            Self::Api { .. } => "ApiUnavailable",
            Self::Foreign { .. } => "NameTaken",
            Self::Json(..) => "Unwritable",
        }
    }

    /// Returns when to try again.
    pub fn requeue(&self) -> Duration {
        match self {
            // The newer object wakes us anyway; this is for a watch that is behind.
            Self::Stale | Self::NotSeen => Duration::from_millis(500),
            Self::Api { .. } => Duration::from_secs(5),
            Self::Refused { .. } | Self::Foreign { .. } | Self::Json(..) => Duration::from_secs(60),
        }
    }

    /// Whether the API server found the object itself wrong.
    pub fn is_invalid(&self) -> bool {
        matches!(self, Self::Refused { source: kube::Error::Api(status), .. } if status.code == 422)
    }

    /// Whether a log of it helps nobody.
    pub fn is_usual(&self) -> bool {
        matches!(self, Self::Stale | Self::NotSeen)
    }

    /// Returns the whole story in one line. What an API server answers is no secret.
    pub fn story(&self) -> String {
        let mut story = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            let text = error.to_string();
            if !story.contains(&text) {
                story.push_str(": ");
                story.push_str(&text);
            }
            source = error.source();
        }
        story
    }
}

/// Whether the API server says that there is no such object.
pub fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// Whether the API server says that there is such an object.
pub fn is_already_exists(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_already_exists())
}

/// Whether the API server says that we may not.
pub fn is_forbidden(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 403)
}

/// Whether nothing can be made because the namespace is being deleted.
pub fn is_of_dying_namespace(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    status.details.iter().flat_map(|details| &details.causes).any(|cause| cause.reason == "NamespaceTerminating")
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn api(code: u16, reason: &str) -> kube::Error {
        kube::Error::Api(Box::new(Status::failure("it said so", reason).with_code(code)))
    }

    #[test]
    fn test_errors_are_told_apart() {
        for (code, reason, expected, seconds) in [
            (409, "Conflict", "Stale", 0),
            (409, "AlreadyExists", "ApiUnavailable", 5),
            (422, "Invalid", "ApiRefused", 60),
            (403, "Forbidden", "ApiRefused", 60),
            (429, "TooManyRequests", "ApiUnavailable", 5),
            (500, "InternalError", "ApiUnavailable", 5),
        ] {
            let error = ReconcileError::of("create a Job", api(code, reason));
            assert_eq!((error.reason(), error.requeue().as_secs()), (expected, seconds), "{code} {reason}");
        }
        assert!(ReconcileError::of("create a Job", api(422, "Invalid")).story().contains("create a Job: "));
        assert!(is_not_found(&api(404, "NotFound")) && is_already_exists(&api(409, "AlreadyExists")));
        let dying: Status = serde_json::from_value(serde_json::json!({"code": 403, "reason": "Forbidden", "details": {
            "causes": [{"reason": "NamespaceTerminating", "field": "metadata.namespace"}]
        }}))
        .unwrap();
        assert!(is_of_dying_namespace(&kube::Error::Api(Box::new(dying))));
        assert!(!is_of_dying_namespace(&api(403, "Forbidden")));
    }
}

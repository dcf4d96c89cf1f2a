//! What a mount is asked to be: from a message to a checked value, and to the state that the next daemon reads.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr as _;

use serde::{Deserialize, Serialize};
use stash_control::{MountRequest, mount_request};
use stash_repo::Id;
use stash_repo::backend::location::Location;
use stash_vfs::{NamespaceOptions, Pin};
use zeroize::Zeroize as _;

use crate::keeper::overlay::SIZES;
use crate::keeper::{Place, SessionName};

/// Why a request is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// A field is missing or wrong. The value is not shown: it may be a secret in the wrong place.
    #[error("{field}: {reason}")]
    Field {
        /// Which.
        field: &'static str,
        /// Why.
        reason: String,
    },
}

fn wrong(field: &'static str, reason: impl fmt::Display) -> SpecError {
    SpecError::Field { field, reason: reason.to_string() }
}

/// A repository, and what opens it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositorySpec {
    /// The address, without secrets.
    pub address: String,
    pub(super) password: String,
    pub(super) environment: BTreeMap<String, String>,
    pub(super) options: BTreeMap<String, String>,
    pub(super) ca_certificates: String,
}

impl fmt::Debug for RepositorySpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RepositorySpec").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Drop for RepositorySpec {
    fn drop(&mut self) {
        self.password.zeroize();
        self.environment.values_mut().for_each(|value| value.zeroize());
    }
}

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountSpec {
    /// Its name.
    pub name: SessionName,
    /// Where it is mounted.
    pub place: Place,
    /// Of what.
    pub repository: RepositorySpec,
    /// `SNAPSHOT[:PATH]`, or all.
    pub snapshot: Option<String>,
    /// Everything belongs to this user.
    pub uid: Option<u32>,
    /// Everything belongs to this group.
    pub gid: Option<u32>,
    /// Only snapshots of these hosts.
    pub hosts: Vec<String>,
    /// The scratch space of one that can be written, in bytes.
    #[serde(default)]
    pub scratch_bytes: Option<u64>,
}

/// The scratch space where none is said, in bytes.
const DEFAULT_SCRATCH_BYTES: u64 = 1 << 30;

impl MountSpec {
    /// Checks a request.
    ///
    /// # Errors
    /// A field is missing or wrong, named.
    pub fn new(request: MountRequest) -> Result<Self, SpecError> {
        let place = match request.place {
            Some(mount_request::Place::Volume(id)) => Place::Volume(id),
            Some(mount_request::Place::Pod(pod)) => Place::Pod { uid: pod.uid, volume: pod.volume },
            None => return Err(wrong("place", "a volume or a pod's volume is needed")),
        };
        if !place.is_plain() {
            return Err(wrong("place", "its names are letters, digits, `.`, `_` and `-`, and begin with no dot"));
        }
        let repository = request.repository.ok_or_else(|| wrong("repository", "it is missing"))?;
        // The message of the parser names no secret.
        let location = Location::from_str(&repository.address).map_err(|error| wrong("repository.address", error))?;
        if location.to_string() != repository.address && repository.address.contains('@') {
            return Err(wrong("repository.address", "it must not hold a password: put that into the environment"));
        }
        let scratch_bytes = match request.overlay.map(|overlay| overlay.scratch_bytes) {
            Some(0) => Some(DEFAULT_SCRATCH_BYTES),
            Some(bytes) if bytes < *SIZES.start() => {
                return Err(wrong("overlay.scratch_bytes", format!("{bytes} is less than {}", SIZES.start())));
            }
            asked => asked,
        };
        Ok(Self {
            name: SessionName::new(&request.name).map_err(|error| wrong("name", error))?,
            place,
            repository: RepositorySpec {
                address: repository.address,
                password: repository.password,
                environment: repository.environment,
                options: repository.options,
                ca_certificates: repository.ca_certificates,
            },
            snapshot: Some(request.snapshot).filter(|snapshot| !snapshot.is_empty()),
            uid: request.uid,
            gid: request.gid,
            hosts: request.hosts,
            scratch_bytes,
        })
    }

    /// Returns whether it stays the same snapshot whoever asks when, and nobody writes to it: volumes of it may share a session.
    pub(super) fn may_be_shared(&self) -> bool {
        let id = self.snapshot.as_deref().map(|snapshot| snapshot.split_once(':').map_or(snapshot, |(id, _)| id));
        self.scratch_bytes.is_none() && id.is_some_and(|id| Id::from_str(id).is_ok())
    }

    /// Returns whether another one asks for the very same, under whatever name and wherever.
    pub(super) fn shows_the_same(&self, other: &Self) -> bool {
        let Self { name: _, place: _, repository, snapshot, uid, gid, hosts, scratch_bytes } = self;
        (repository, snapshot, uid, gid, hosts, scratch_bytes)
            == (&other.repository, &other.snapshot, &other.uid, &other.gid, &other.hosts, &other.scratch_bytes)
    }

    /// Returns what is shown, with the snapshot that an earlier daemon resolved.
    pub(super) fn namespace(&self, pinned: Option<Pin>) -> NamespaceOptions {
        NamespaceOptions {
            root: self.snapshot.clone(),
            pinned,
            hosts: self.hosts.clone(),
            ..NamespaceOptions::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use stash_control::{Overlay, Repository};

    use super::*;

    fn request() -> MountRequest {
        MountRequest {
            name: "v1".into(),
            place: Some(mount_request::Place::Volume("v1".into())),
            repository: Some(Repository {
                address: "s3:https://host/bucket".into(),
                password: "geheim".into(),
                environment: [("AWS_SECRET_ACCESS_KEY".to_owned(), "geheim".to_owned())].into(),
                ..Repository::default()
            }),
            ..MountRequest::default()
        }
    }

    #[test]
    fn test_requests_that_are_none_are_named_and_show_no_secret() {
        assert!(MountSpec::new(request()).is_ok());
        type Change = fn(&mut MountRequest);
        let table: [(&str, Change); 7] = [
            ("overlay.scratch_bytes", |request| request.overlay = Some(Overlay { scratch_bytes: 1 })),
            ("name", |request| request.name = "../x".into()),
            ("place", |request| request.place = None),
            ("place", |request| request.place = Some(mount_request::Place::Volume("../v".into()))),
            ("repository", |request| request.repository = None),
            ("repository.address", |request| {
                request.repository.as_mut().unwrap().address = String::new();
            }),
            ("repository.address", |request| {
                request.repository.as_mut().unwrap().address = "rest:https://user:geheim@host/".into();
            }),
        ];
        for (field, change) in table {
            let mut changed = request();
            change(&mut changed);
            let error = MountSpec::new(changed).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{field}: ")) && !error.contains("geheim"), "{error}");
        }
    }

    #[test]
    fn test_who_shares_a_session() {
        let id = "ab".repeat(32);
        let spec = |snapshot: &str| MountSpec::new(MountRequest { snapshot: snapshot.into(), ..request() }).unwrap();
        for (snapshot, shared) in [
            (id.as_str(), true),
            (&format!("{id}:/a:b"), true),
            ("latest", false),
            (&format!("latest:/{id}"), false),
            (&id[..8], false),
            ("", false),
        ] {
            assert_eq!(spec(snapshot).may_be_shared(), shared, "{snapshot}");
        }
        let shared = spec(&id);
        assert!(!MountSpec { scratch_bytes: Some(1 << 30), ..shared.clone() }.may_be_shared());
        let elsewhere =
            MountSpec { name: SessionName::new("v2").unwrap(), place: Place::Volume("v2".into()), ..shared.clone() };
        assert!(shared.shows_the_same(&elsewhere));
        let mut rotated = shared.clone();
        rotated.repository.password = "another".into();
        for other in [
            spec(&format!("{id}:/a")),
            MountSpec { uid: Some(0), ..shared.clone() },
            MountSpec { gid: Some(0), ..shared.clone() },
            MountSpec { hosts: vec!["h".into()], ..shared.clone() },
            rotated,
        ] {
            assert!(!shared.shows_the_same(&other), "{other:?}");
        }
    }

    #[test]
    fn test_scratch_space() {
        for (overlay, expected) in [
            (None, None),
            (Some(0), Some(DEFAULT_SCRATCH_BYTES)),
            (Some(*SIZES.start()), Some(*SIZES.start())),
            (Some(u64::MAX), Some(u64::MAX)),
        ] {
            let overlay = overlay.map(|scratch_bytes| Overlay { scratch_bytes });
            assert_eq!(MountSpec::new(MountRequest { overlay, ..request() }).unwrap().scratch_bytes, expected);
        }
        // As a daemon left it that knew of none.
        let mut old = serde_json::to_value(MountSpec::new(request()).unwrap()).unwrap();
        old.as_object_mut().unwrap().remove("scratch_bytes");
        assert_eq!(serde_json::from_value::<MountSpec>(old).unwrap().scratch_bytes, None);
    }

    #[test]
    fn test_the_state_of_a_mount_round_trip() {
        let overlay = Some(Overlay { scratch_bytes: 1 << 30 });
        let spec = MountSpec::new(MountRequest { overlay, ..request() }).unwrap();
        let text = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<MountSpec>(&text).unwrap(), spec);
        assert!(!format!("{spec:?}").contains("geheim"));
    }
}

//! What daemon and keeper say to each other.
//!
//! The daemon asks, the keeper answers each request with one reply, in order; work that may take long is asked for until it has ended
//! ([`Reply::UnderWay`]). A message is one packet: JSON of at most
//! [`MAX_MESSAGE_BYTES`], beside it at most [`MAX_DESCRIPTORS`] descriptors. Fields that a version does not know are ignored,
//! so that one may be added; a change of meaning changes [`VERSION`], and then both sides refuse each other.

use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
pub use stash_control::MAX_SESSIONS;

/// The version of the protocol.
pub const VERSION: u16 = 1;
/// The longest message: the longest path (4,096 bytes, as numbers) and room beside it.
pub const MAX_MESSAGE_BYTES: usize = 32 << 10;
/// The most descriptors of a message: those of a session.
pub const MAX_DESCRIPTORS: usize = 4;
/// The most places at which a session is mounted: all of them, in the longest form, fit into a message.
pub const MAX_PLACES: usize = 64;

/// The name of a session, chosen by the daemon: 1 to 64 of letters, digits, `.`, `_` and `-`, the first one no dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SessionName(String);

impl SessionName {
    /// Checks a name.
    ///
    /// # Errors
    /// It is too long, empty, or has other characters.
    pub fn new(name: &str) -> Result<Self, BadName> {
        if is_plain_name(name, 64) { Ok(Self(name.to_owned())) } else { Err(BadName) }
    }

    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SessionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for SessionName {
    type Error = BadName;

    fn try_from(name: String) -> Result<Self, BadName> {
        Self::new(&name)
    }
}

impl From<SessionName> for String {
    fn from(name: SessionName) -> Self {
        name.0
    }
}

/// A name has characters that it must not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a name is 1 to 64 letters, digits, `.`, `_` and `-`, and does not begin with a dot")]
pub struct BadName;

/// The most bytes of a volume's name: 63, or 253 of a claim (RFC 1123's subdomains).
const MAX_VOLUME_BYTES: usize = 253;
/// The most bytes of a pod's uid, which has 36, or 32 for a pod that the node itself was told of.
const MAX_UID_BYTES: usize = 64;

/// Whether a name is harmless as a file name and in a log.
fn is_plain_name(name: &str, max_bytes: usize) -> bool {
    !name.is_empty()
        && name.len() <= max_bytes
        && !name.starts_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// Where something is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// Any directory, as bytes of a canonical path: only for the keeper of a person's own mount.
    Path(Vec<u8>),
    /// The directory with this name in the base directory.
    Volume(String),
    /// A pod's volume below the base, which is then kubelet's directory:
    /// `pods/<uid>/volumes/kubernetes.io~csi/<volume>/mount`.
    Pod {
        /// The pod's uid.
        uid: String,
        /// The volume's name in the pod (or the claim's).
        volume: String,
    },
}

impl Place {
    /// The place of a canonical path.
    #[must_use]
    pub fn of_path(path: &std::path::Path) -> Self {
        Self::Path(path.as_os_str().as_bytes().to_vec())
    }
}

/// What the kernel is told of a mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountWords {
    /// The name in the first column of `mount` and `df`, without secrets.
    pub source: String,
    /// All users may use it.
    pub allow_other: bool,
    /// The kernel checks modes and ACLs.
    pub default_permissions: bool,
}

/// What a daemon asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// The first message of a connection. Answered by [`Reply::Welcome`].
    Hello {
        /// The daemon's [`VERSION`].
        version: u16,
    },
    /// Mount. What is not held when the connection ends is unmounted. Answered by [`Reply::Mounted`] with the open
    /// `/dev/fuse`.
    Mount {
        /// The session's name, which must be free.
        session: SessionName,
        /// Where.
        place: Place,
        /// What the kernel is told.
        words: MountWords,
        /// How much scratch space it has, in bytes: a volume that can be written, whose overlay [`Request::Overlay`] mounts.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        scratch_bytes: Option<u64>,
    },
    /// Mount the overlay of a session that has scratch space, and whose daemon serves it. Answered by [`Reply::Done`], also where
    /// it is mounted already.
    Overlay {
        /// The session's name.
        session: SessionName,
        /// Whether [`Reply::UnderWay`] is understood.
        #[serde(default, skip_serializing_if = "is_false")]
        again: bool,
    },
    /// Mount a session that is held at one more place. Answered by [`Reply::Done`], also where it is mounted there already.
    Bind {
        /// The session's name.
        session: SessionName,
        /// Where.
        place: Place,
    },
    /// Hold this from now on, in the place of what is held under the name, and take it for served. Beside it, in this order:
    /// `/dev/fuse`, the table of inodes, the table of requests in flight, the sealed state. Answered by [`Reply::Done`].
    Hold {
        /// The session's name.
        session: SessionName,
        /// Where it is mounted.
        place: Place,
        /// Where else, at most [`MAX_PLACES`] with that.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        also: Vec<Place>,
        /// The mount's device.
        device: (u32, u32),
        /// How far the kernel is to read ahead.
        read_ahead_kib: u32,
        /// How much scratch space it has, in bytes: a volume that can be written, whose overlay [`Request::Overlay`] mounts.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        scratch_bytes: Option<u64>,
    },
    /// All that the daemon has is held: whatever else of ours is mounted below the base is dead. Answered by [`Reply::Done`].
    Settled,
    /// Give what is held under a name. Answered by [`Reply::Held`], with the descriptors of [`Request::Hold`].
    Take {
        /// The session's name.
        session: SessionName,
    },
    /// Unmount; the session is held on. Answered by [`Reply::Done`].
    Unmount {
        /// The session's name.
        session: SessionName,
        /// Detach it although it is in use.
        lazy: bool,
        /// Where; nothing for the place of [`Request::Mount`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        place: Option<Place>,
        /// Whether [`Reply::UnderWay`] is understood.
        #[serde(default, skip_serializing_if = "is_false")]
        again: bool,
    },
    /// Let go of a session, whose mount has ended. Answered by [`Reply::Done`], also where there is none.
    Release {
        /// The session's name.
        session: SessionName,
    },
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

/// What a keeper answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// To [`Request::Hello`].
    Welcome {
        /// The keeper's [`VERSION`].
        version: u16,
        /// What is held and can be taken.
        sessions: Vec<SessionName>,
        /// The largest scratch space of a volume, in bytes; 0 where this keeper mounts no overlays.
        #[serde(default)]
        scratch_limit_bytes: u64,
        /// Whether this keeper knows [`Request::Bind`].
        #[serde(default)]
        binds: bool,
    },
    /// To [`Request::Mount`].
    Mounted {
        /// The mount's device.
        device: (u32, u32),
    },
    /// To [`Request::Take`].
    Held {
        /// Where it is mounted.
        place: Place,
        /// Where else.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        also: Vec<Place>,
        /// The mount's device.
        device: (u32, u32),
        /// How far the kernel reads ahead.
        read_ahead_kib: u32,
        /// How much scratch space it has, in bytes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        scratch_bytes: Option<u64>,
    },
    /// It is done.
    Done,
    /// It takes a while: the same is to be asked again. Others are answered meanwhile.
    UnderWay,
    /// It is not done.
    Refused {
        /// Which sort of reason.
        kind: Refusal,
        /// For a person.
        message: String,
    },
}

/// Why a request was not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// The message makes no sense: the connection is closed.
    BadMessage,
    /// Another daemon is connected: the connection is closed.
    Occupied,
    /// The keeper speaks another version: the connection is closed.
    Version,
    /// There are as many sessions as there may be, or the disk has no room.
    Full,
    /// The name is taken, or the place.
    Exists,
    /// There is no such session, place or mount.
    NotFound,
    /// Files are open.
    Busy,
    /// This keeper does not mount there, or not so.
    Forbidden,
    /// The system refused.
    System,
}

/// A message that is none.
#[derive(Debug, thiserror::Error)]
pub enum BadMessage {
    /// It is longer than any message.
    #[error("{0} bytes, a message has at most {MAX_MESSAGE_BYTES}")]
    TooLong(usize),
    /// It is not JSON of a known form.
    #[error("not a message of this protocol: {0}")]
    Json(#[source] serde_json::Error),
}

/// Encodes a message.
///
/// # Errors
/// It is too long.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, BadMessage> {
    let bytes = serde_json::to_vec(message).map_err(BadMessage::Json)?;
    if bytes.len() > MAX_MESSAGE_BYTES { Err(BadMessage::TooLong(bytes.len())) } else { Ok(bytes) }
}

/// Decodes a message.
///
/// # Errors
/// It is too long or none.
pub fn decode<T: for<'a> Deserialize<'a>>(bytes: &[u8]) -> Result<T, BadMessage> {
    if bytes.len() > MAX_MESSAGE_BYTES {
        return Err(BadMessage::TooLong(bytes.len()));
    }
    serde_json::from_slice(bytes).map_err(BadMessage::Json)
}

impl Place {
    /// Returns the path, for messages.
    #[must_use]
    pub fn shown(&self) -> String {
        match self {
            Self::Path(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Self::Volume(id) => format!("volume {id}"),
            Self::Pod { uid, volume } => format!("volume {volume} of pod {uid}"),
        }
    }

    /// Returns whether its names are names of directories, and not too long; a path may be any.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        match self {
            Self::Path(_) => true,
            Self::Volume(id) => is_plain_name(id, MAX_VOLUME_BYTES),
            Self::Pod { uid, volume } => is_plain_name(uid, MAX_UID_BYTES) && is_plain_name(volume, MAX_VOLUME_BYTES),
        }
    }

    /// Returns the path of a [`Place::Path`].
    #[must_use]
    pub fn path(&self) -> Option<PathBuf> {
        match self {
            Self::Path(bytes) => Some(PathBuf::from(std::ffi::OsStr::from_bytes(bytes))),
            Self::Volume(_) | Self::Pod { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn test_the_protocol_stays_as_it_is() {
        // A keeper lives longer than the daemons that talk to it: what these texts mean must not change within a version.
        let session = SessionName::new("a").unwrap();
        let words = MountWords { source: "s".into(), allow_other: true, default_permissions: false };
        let table = [
            (Request::Hello { version: 1 }, r#"{"hello":{"version":1}}"#),
            (
                Request::Mount {
                    session: session.clone(),
                    place: Place::Volume("v".into()),
                    words: words.clone(),
                    scratch_bytes: None,
                },
                r#"{"mount":{"session":"a","place":{"volume":"v"},"words":{"source":"s","allow_other":true,"default_permissions":false}}}"#,
            ),
            (
                Request::Mount {
                    session: session.clone(),
                    place: Place::Volume("v".into()),
                    words,
                    scratch_bytes: Some(7),
                },
                r#"{"mount":{"session":"a","place":{"volume":"v"},"words":{"source":"s","allow_other":true,"default_permissions":false},"scratch_bytes":7}}"#,
            ),
            (Request::Overlay { session: session.clone(), again: false }, r#"{"overlay":{"session":"a"}}"#),
            (Request::Overlay { session: session.clone(), again: true }, r#"{"overlay":{"session":"a","again":true}}"#),
            (
                Request::Hold {
                    session: session.clone(),
                    place: Place::Path(b"/m".to_vec()),
                    also: Vec::new(),
                    device: (0, 52),
                    read_ahead_kib: 4096,
                    scratch_bytes: None,
                },
                r#"{"hold":{"session":"a","place":{"path":[47,109]},"device":[0,52],"read_ahead_kib":4096}}"#,
            ),
            (
                Request::Hold {
                    session: session.clone(),
                    place: Place::Volume("v".into()),
                    also: vec![Place::Volume("w".into())],
                    device: (0, 52),
                    read_ahead_kib: 4096,
                    scratch_bytes: None,
                },
                r#"{"hold":{"session":"a","place":{"volume":"v"},"also":[{"volume":"w"}],"device":[0,52],"read_ahead_kib":4096}}"#,
            ),
            (
                Request::Bind { session: session.clone(), place: Place::Volume("w".into()) },
                r#"{"bind":{"session":"a","place":{"volume":"w"}}}"#,
            ),
            (Request::Settled, r#""settled""#),
            (Request::Take { session: session.clone() }, r#"{"take":{"session":"a"}}"#),
            (
                Request::Unmount { session: session.clone(), lazy: true, place: None, again: false },
                r#"{"unmount":{"session":"a","lazy":true}}"#,
            ),
            (
                Request::Unmount { session: session.clone(), lazy: false, place: None, again: true },
                r#"{"unmount":{"session":"a","lazy":false,"again":true}}"#,
            ),
            (
                Request::Unmount {
                    session: session.clone(),
                    lazy: true,
                    place: Some(Place::Volume("w".into())),
                    again: false,
                },
                r#"{"unmount":{"session":"a","lazy":true,"place":{"volume":"w"}}}"#,
            ),
            (Request::Release { session }, r#"{"release":{"session":"a"}}"#),
        ];
        for (request, text) in table {
            assert_eq!(String::from_utf8(encode(&request).unwrap()).unwrap(), text);
            assert_eq!(decode::<Request>(text.as_bytes()).unwrap(), request);
        }
        assert_eq!(VERSION, 1, "a new version needs a new table");
    }

    #[test]
    fn test_all_places_of_a_session_fit_into_a_message() {
        let place = Place::Pod { uid: "u".repeat(MAX_UID_BYTES), volume: "v".repeat(MAX_VOLUME_BYTES) };
        assert!(place.is_plain());
        let hold = Request::Hold {
            session: SessionName::new(&"a".repeat(64)).unwrap(),
            place: place.clone(),
            also: vec![place; MAX_PLACES - 1],
            device: (u32::MAX, u32::MAX),
            read_ahead_kib: u32::MAX,
            scratch_bytes: Some(u64::MAX),
        };
        assert!(encode(&hold).is_ok());
    }

    #[test]
    fn test_the_names_of_all_sessions_fit_into_a_message() {
        let sessions = vec![SessionName::new(&"a".repeat(64)).unwrap(); MAX_SESSIONS];
        let welcome = Reply::Welcome { version: VERSION, sessions, scratch_limit_bytes: u64::MAX, binds: true };
        assert!(encode(&welcome).is_ok());
    }

    #[test]
    fn test_fields_of_later_versions_are_ignored() {
        let text = br#"{"take":{"session":"a","later":[1,2,{"x":null}]}}"#;
        assert!(matches!(decode::<Request>(text), Ok(Request::Take { .. })));
    }

    #[test]
    fn test_what_is_no_message() {
        let deep = "[".repeat(MAX_MESSAGE_BYTES - 1);
        let long = format!("{{\"take\":{{\"session\":\"{}\"}}}}", "a".repeat(MAX_MESSAGE_BYTES));
        let bad_name = br#"{"take":{"session":"../a"}}"#;
        for bytes in [
            b"".as_slice(),
            b"{}",
            b"{",
            b"\xff\xfe",
            b"null",
            b"{\"take\":{}}",
            deep.as_bytes(),
            long.as_bytes(),
            bad_name,
        ] {
            assert!(decode::<Request>(bytes).is_err(), "{}", String::from_utf8_lossy(&bytes[..bytes.len().min(40)]));
        }
    }

    #[test]
    fn test_names() {
        for (name, good) in
            [("a", true), ("0-_.Z", true), ("", false), (".a", false), ("a/b", false), ("a b", false), ("ä", false)]
        {
            assert_eq!(SessionName::new(name).is_ok(), good, "{name}");
        }
        assert!(SessionName::new(&"a".repeat(64)).is_ok() && SessionName::new(&"a".repeat(65)).is_err());
    }

    proptest! {
        #[test]
        fn test_whatever_comes_is_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode::<Request>(&bytes);
            let _ = decode::<Reply>(&bytes);
        }
    }
}

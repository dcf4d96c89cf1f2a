//! What volumes, mounts and snapshots are called.

use sha2::{Digest as _, Sha256};

use crate::target::TargetPath;

/// The driver's name.
pub const DRIVER: &str = "fs.stash.appscode.com";

/// The longest volume id that is taken. Kubernetes keeps 128; some static volumes have longer handles.
const VOLUME_ID_LIMIT: usize = 256;

/// Why a name is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It is empty.
    #[error("{0} is needed")]
    Missing(&'static str),
    /// It is longer than what is taken.
    #[error("{0} is longer than {1} bytes")]
    Long(&'static str, usize),
    /// It holds characters that no name has.
    #[error("{0} holds control characters, or others that it must not have")]
    Characters(&'static str),
}

/// A volume, as whoever asks for it calls it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeId(String);

impl VolumeId {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// It is empty, too long, or holds control characters.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        const WHAT: &str = "volume_id";
        match text {
            "" => Err(NameError::Missing(WHAT)),
            long if long.len() > VOLUME_ID_LIMIT => Err(NameError::Long(WHAT, VOLUME_ID_LIMIT)),
            odd if odd.chars().any(char::is_control) => Err(NameError::Characters(WHAT)),
            fine => Ok(Self(fine.to_owned())),
        }
    }

    /// Returns it as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for VolumeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A mount, as the node daemon calls it: a function of the volume and of where it is mounted. Lower-case letters, digits and `-`, 62 of
/// them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MountName(String);

impl MountName {
    /// Returns the name of a volume's mount.
    pub fn of(volume: &VolumeId, target: &TargetPath) -> Self {
        let mut digest = Sha256::new();
        digest.update(volume.as_str());
        digest.update([0]);
        digest.update(target.as_str());
        Self(format!("v-{}", hex::encode(&digest.finalize()[..30])))
    }

    /// Reads a name that [`of`](Self::of) may have made.
    pub fn parse(text: &str) -> Option<Self> {
        let digest = text.strip_prefix("v-")?;
        (digest.len() == 60 && is_hex(digest)).then(|| Self(text.to_owned()))
    }

    /// Returns it as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for MountName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The id of a snapshot: 64 lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId(String);

impl SnapshotId {
    /// Reads it, if it is one.
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() == 64 && is_hex(text)).then(|| Self(text.to_owned()))
    }

    /// Returns it as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a text is lower-case hexadecimal digits.
pub(crate) fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Whether a text is the name of an object of the API (RFC 1123: a subdomain).
pub fn is_object_name(text: &str) -> bool {
    let label = |label: &str| {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn test_what_is_a_name() {
        for (text, expected) in [
            ("", Err(NameError::Missing("volume_id"))),
            ("csi-0a", Ok(VolumeId("csi-0a".to_owned()))),
            ("shop/data@latest", Ok(VolumeId("shop/data@latest".to_owned()))),
            ("a\nb", Err(NameError::Characters("volume_id"))),
            ("\u{9b}", Err(NameError::Characters("volume_id"))),
        ] {
            assert_eq!(VolumeId::parse(text), expected, "{text:?}");
        }
        assert!(VolumeId::parse(&"a".repeat(256)).is_ok());
        assert_eq!(VolumeId::parse(&"a".repeat(257)), Err(NameError::Long("volume_id", 256)));
        for (text, fine) in [
            ("a", true),
            ("a-b.c0", true),
            ("", false),
            ("A", false),
            ("-a", false),
            ("a.", false),
            ("a..b", false),
            ("a_b", false),
            ("a/b", false),
        ] {
            assert_eq!(is_object_name(text), fine, "{text:?}");
        }
        assert!(SnapshotId::parse(&"0a".repeat(32)).is_some());
        for odd in ["0A".repeat(32), "0a".repeat(31), "0a".repeat(33), "0g".repeat(32)] {
            assert_eq!(SnapshotId::parse(&odd), None, "{odd}");
        }
    }

    proptest! {
        #[test]
        fn test_mounts_of_different_volumes_or_places_have_different_names(
            volumes in prop::collection::btree_set("[ -~]{1,40}", 2),
            places in prop::collection::btree_set("[a-z]{1,9}(/[a-z]{1,9}){0,3}", 2),
        ) {
            let ids: Vec<_> = volumes.iter().map(|id| VolumeId::parse(id).unwrap()).collect();
            let places: Vec<_> =
                places.iter().map(|place| TargetPath::parse(&format!("/k/{place}"), Path::new("/k")).unwrap()).collect();
            let mut names = Vec::new();
            for id in &ids {
                for place in &places {
                    let name = MountName::of(id, place);
                    prop_assert_eq!(&name, &MountName::of(id, place));
                    prop_assert_eq!(MountName::parse(name.as_str()), Some(name.clone()));
                    prop_assert!(name.as_str().len() <= 64);
                    prop_assert!(name.as_str().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
                    names.push(name);
                }
            }
            names.sort();
            names.dedup();
            prop_assert_eq!(names.len(), 4);
        }

        #[test]
        fn test_a_volume_id_is_kept_to_the_byte_or_refused(text in any::<String>()) {
            if let Ok(id) = VolumeId::parse(&text) {
                prop_assert_eq!(id.as_str(), text);
            }
        }
    }
}

//! The repository's `config` file.

use serde::Deserialize;

use crate::crypto::MasterKey;
use crate::error::{RepoError, RepoResult};
use crate::format::{FormatError, SMALL_FILE_LIMIT_BYTES, unpacked};
use crate::id::Id;

/// The newest repository version that is read.
const NEWEST_VERSION: u32 = 2;

/// What a repository says of itself.
///
/// Source: restic, `internal/restic/config.go`; `is_hot` is `rustic`'s.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Config {
    /// The format: 1, or 2 with compression.
    pub version: u32,
    /// The repository's name for ever.
    pub id: Id,
    /// The polynomial that files are cut by, as hexadecimal digits.
    #[serde(default)]
    pub chunker_polynomial: String,
    /// Whether this is the hot part of a repository that `rustic` split into hot and cold.
    #[serde(default)]
    is_hot: Option<bool>,
    /// Whether `rustic` was told that nothing may be removed.
    #[serde(default)]
    append_only: Option<bool>,
}

impl Config {
    /// Opens the file as it is stored.
    ///
    /// # Errors
    /// `WrongMac`, `Format`, or `Unsupported` for a version or a kind of repository that is not read.
    pub fn open(mut sealed: Vec<u8>, key: &MasterKey) -> RepoResult<Self> {
        let id = Id::default();
        let plain = key.open_in_place(&mut sealed).map_err(|_| RepoError::WrongMac { what: "config", id })?;
        let json = unpacked::decode(plain, SMALL_FILE_LIMIT_BYTES).map_err(|error| error.of("config", id))?;
        Self::parse(&json).map_err(|error| error.of("config", id))?.supported()
    }

    /// Reads the JSON.
    ///
    /// # Errors
    /// It is not that of a config.
    pub fn parse(json: &[u8]) -> Result<Self, FormatError> {
        serde_json::from_slice(json).map_err(|error| FormatError::new(error.to_string()))
    }

    /// Fails where nothing may be removed.
    ///
    /// # Errors
    /// `Unsupported`: the repository is append-only.
    pub fn check_may_remove(&self) -> RepoResult<()> {
        if self.append_only == Some(true) {
            let reason = "the repository is append-only: nothing is removed from it".to_owned();
            return Err(RepoError::Unsupported { reason });
        }
        Ok(())
    }

    fn supported(self) -> RepoResult<Self> {
        if !(1..=NEWEST_VERSION).contains(&self.version) {
            let reason =
                format!("repository version {} is not supported, only 1 to {NEWEST_VERSION} are", self.version);
            return Err(RepoError::Unsupported { reason });
        }
        if self.is_hot == Some(true) {
            let reason = "this is the hot part of a hot/cold repository, which holds no file data; \
                          name the cold part instead, which holds everything"
                .to_owned();
            return Err(RepoError::Unsupported { reason });
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(json: &str) -> RepoResult<Config> {
        let key = MasterKey::generate();
        Config::open(key.seal(json.as_bytes()), &key)
    }

    fn json(version: &str, rest: &str) -> String {
        format!(r#"{{"version":{version},"id":"{}","chunker_polynomial":"3dea92648f6e83"{rest}}}"#, "ab".repeat(32))
    }

    #[test]
    fn test_versions_1_and_2_open() {
        for version in [1, 2] {
            let config = open(&json(&version.to_string(), "")).unwrap();
            assert_eq!((config.version, config.id), (version, Id::new([0xab; 32])));
            assert_eq!(config.chunker_polynomial, "3dea92648f6e83");
        }
        open(&json("2", r#","is_hot":false,"append_only":true,"compression":3,"extra_verify":null"#)).unwrap();
    }

    #[test]
    fn test_append_only_lets_nothing_be_removed() {
        assert!(open(&json("2", r#","append_only":true"#)).unwrap().check_may_remove().is_err());
        for rest in ["", r#","append_only":false"#, r#","append_only":null"#] {
            open(&json("2", rest)).unwrap().check_may_remove().unwrap();
        }
    }

    #[test]
    fn test_what_is_not_read_is_refused_by_name() {
        for (text, message) in [
            (json("0", ""), "repository version 0 is not supported, only 1 to 2 are"),
            (json("3", ""), "repository version 3 is not supported, only 1 to 2 are"),
            (
                json("2", r#","is_hot":true"#),
                "this is the hot part of a hot/cold repository, which holds no file data; name the cold part instead, which holds everything",
            ),
        ] {
            let error = open(&text).unwrap_err();
            assert!(matches!(error, RepoError::Unsupported { .. }));
            assert_eq!(error.to_string(), message);
        }
    }

    #[test]
    fn test_damage_is_an_error() {
        let nested = format!("{}{}", r#"{"a":"#.repeat(10_000), "}".repeat(10_000));
        for bad in ["", "{}", "[]", "null", &json("-1", ""), &json("1e9", ""), &json("4294967296", ""), &nested] {
            assert!(matches!(open(bad), Err(RepoError::Format { what: "config", .. })), "{bad:.20}");
        }
        let key = MasterKey::generate();
        assert!(matches!(Config::open(vec![0; 100], &key), Err(RepoError::WrongMac { .. })));
        assert!(matches!(Config::open(vec![], &key), Err(RepoError::WrongMac { .. })));
        let bomb = [&[2][..], &zstd::encode_all(&vec![b' '; 1 << 24][..], 3).unwrap()].concat();
        assert!(matches!(Config::open(key.seal(&bomb), &key), Err(RepoError::Format { .. })));
    }
}

//! The options of one run on top of the repository's stored config.
//!
//! `rustic_core` takes compression and pack sizes from the `config` file only. The adapter therefore hands it the stored
//! file with this run's options on top; the stored file is never changed.

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::crypto::MasterKey;
use crate::error::{RepoError, RepoResult};
use crate::format::{SMALL_FILE_LIMIT_BYTES, unpacked};
use crate::id::Id;

/// restic's target size of packs (restic, `doc/047_tuning_backup_parameters.rst`).
const DEFAULT_PACK_MIB: u32 = 16;
/// restic's limits of `--pack-size`.
const PACK_MIB: std::ops::RangeInclusive<u32> = 4..=128;

/// How new data is compressed (repository version 2; version 1 knows no compression).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// zstd's default level.
    #[default]
    Auto,
    /// Not at all.
    Off,
    /// As fast as zstd can.
    Fastest,
    /// Smaller than `Auto`, slower.
    Better,
    /// As small as it gets: the level that restic's `max` stands for.
    Max,
}

impl Compression {
    /// zstd's level; 0 is no compression in `rustic_core`'s config.
    const fn level(self) -> i32 {
        match self {
            Self::Off => 0,
            Self::Fastest => 1,
            Self::Auto => zstd::DEFAULT_COMPRESSION_LEVEL,
            Self::Better => 7,
            Self::Max => 11,
        }
    }
}

/// How packs are made.
#[derive(Debug, Clone, Copy, Default)]
pub struct PackOptions {
    /// How blobs are compressed.
    pub compression: Compression,
    /// The size at which a pack is closed, in MiB, 4 to 128; `None`: restic's 16.
    pub pack_mib: Option<u32>,
    /// Do not decrypt and compare each blob before it is stored.
    pub no_extra_verify: bool,
}

impl PackOptions {
    /// Checks the ranges.
    ///
    /// # Errors
    /// The pack size is out of range.
    pub fn check(&self) -> RepoResult<()> {
        match self.pack_mib {
            Some(mib) if !PACK_MIB.contains(&mib) => Err(RepoError::Unsupported {
                reason: format!("a pack size of {mib} MiB: {} to {} are supported", PACK_MIB.start(), PACK_MIB.end()),
            }),
            _ => Ok(()),
        }
    }

    /// Returns the `config` file that `rustic_core` shall see.
    pub(crate) fn apply(&self, sealed: &[u8], key: &MasterKey) -> RepoResult<Bytes> {
        let id = Id::default();
        let format = |reason: String| RepoError::Format { what: "config", id, reason };
        let mut sealed = sealed.to_vec();
        let plain = key.open_in_place(&mut sealed).map_err(|_| RepoError::WrongMac { what: "config", id })?;
        let json = unpacked::decode(plain, SMALL_FILE_LIMIT_BYTES).map_err(|error| error.of("config", id))?;
        let mut config: Map<String, Value> =
            serde_json::from_slice(&json).map_err(|error| format(error.to_string()))?;
        self.apply_to(&mut config);
        let json = serde_json::to_vec(&config).map_err(|error| format(error.to_string()))?;
        Ok(key.seal(&json).into())
    }

    fn apply_to(&self, config: &mut Map<String, Value>) {
        let compresses = config.get("version").is_some_and(|version| *version == 2);
        let mut set = |name: &str, value: Value| config.insert(name.to_owned(), value);
        if compresses {
            set("compression", self.compression.level().into());
        }
        let bytes = self.pack_mib.unwrap_or(DEFAULT_PACK_MIB) << 20;
        for kind in ["datapack", "treepack"] {
            set(&format!("{kind}_size"), bytes.into());
            set(&format!("{kind}_growfactor"), 0.into());
            set(&format!("{kind}_size_limit"), bytes.into());
        }
        // What restic calls small is below 80 % of the target; prune looks at it with `--repack-small` only.
        set("min_packsize_tolerate_percent", 80.into());
        set("max_packsize_tolerate_percent", 0.into());
        if self.no_extra_verify {
            set("extra_verify", false.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(options: PackOptions, json: &str) -> Value {
        let key = MasterKey::generate();
        let mut sealed = options.apply(&key.seal(json.as_bytes()), &key).unwrap().to_vec();
        serde_json::from_slice(key.open_in_place(&mut sealed).unwrap()).unwrap()
    }

    #[test]
    fn test_options_lie_on_top_and_all_else_stays() {
        let options = PackOptions { compression: Compression::Max, pack_mib: Some(64), no_extra_verify: true };
        let config =
            applied(options, r#"{"version":2,"id":"x","chunker_polynomial":"3da3358b4dc173","datapack_size":1}"#);
        assert_eq!(config["chunker_polynomial"], "3da3358b4dc173");
        assert_eq!((&config["version"], &config["compression"]), (&2.into(), &11.into()));
        assert_eq!((&config["datapack_size"], &config["treepack_size"]), (&(64 << 20).into(), &(64 << 20).into()));
        assert_eq!(config["extra_verify"], false);
    }

    #[test]
    fn test_version_1_knows_no_compression() {
        let config = applied(PackOptions::default(), r#"{"version":1,"id":"x"}"#);
        assert_eq!(config["version"], 1);
        assert!(config.get("compression").is_none());
        assert!(config.get("extra_verify").is_none());
    }

    #[test]
    fn test_pack_sizes_are_bounded() {
        for (mib, good) in [(None, true), (Some(3), false), (Some(4), true), (Some(128), true), (Some(129), false)] {
            assert_eq!(PackOptions { pack_mib: mib, ..PackOptions::default() }.check().is_ok(), good, "{mib:?}");
        }
    }
}

//! What was chosen for a mount, on disk: a file a mount, without secrets.
//!
//! A pin is written before its mount and removed after it. So the daemon, the driver and the node may end at any moment: the same volume
//! asked for again gets the same snapshot, and a request that differs is known for one.

use std::io::ErrorKind;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use stash_proto::job::Instead;
use tokio::io::AsyncWriteExt as _;

use crate::names::{MountName, SnapshotId};
use crate::resolve::Chosen;

/// How the file is written; others are not read.
const VERSION: u32 = 1;

/// What was chosen for a mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pin {
    version: u32,
    /// The digest of what was asked for.
    pub asked: String,
    snapshot: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    object: Option<String>,
    bytes: i64,
    files: i64,
    /// What is shown in place of a snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instead: Option<Instead>,
}

impl Pin {
    /// Makes one.
    pub fn new(asked: String, chosen: &Chosen) -> Self {
        Self {
            version: VERSION,
            asked,
            snapshot: chosen.id.to_string(),
            object: chosen.object.clone(),
            bytes: chosen.bytes,
            files: chosen.files,
            instead: None,
        }
    }

    /// Makes one of a volume that shows no snapshot.
    pub fn of_instead(asked: String, instead: Instead) -> Self {
        let (snapshot, object) = (String::new(), None);
        Self { version: VERSION, asked, snapshot, object, bytes: 0, files: 0, instead: Some(instead) }
    }

    /// Returns what was chosen.
    pub fn chosen(&self) -> Option<Chosen> {
        let id = SnapshotId::parse(&self.snapshot)?;
        Some(Chosen { id, object: self.object.clone(), bytes: self.bytes, files: self.files })
    }
}

/// A pin could not be kept.
#[derive(Debug, thiserror::Error)]
#[error("the record of the mount {name} cannot be {what} in {folder}: {source}")]
pub struct PinError {
    name: String,
    what: &'static str,
    folder: String,
    source: std::io::Error,
}

/// The pins of a node.
#[derive(Clone, Debug)]
pub struct Pins {
    folder: PathBuf,
}

impl Pins {
    /// Keeps pins in `folder`, which is made if it is not there.
    ///
    /// # Errors
    ///
    /// It cannot be made.
    pub async fn open(folder: PathBuf) -> std::io::Result<Self> {
        tokio::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).await?;
        Ok(Self { folder })
    }

    fn error<'a>(&'a self, name: &'a MountName, what: &'static str) -> impl Fn(std::io::Error) -> PinError + 'a {
        move |source| PinError { name: name.to_string(), what, folder: self.folder.display().to_string(), source }
    }

    fn path(&self, name: &MountName) -> PathBuf {
        self.folder.join(format!("{name}.json"))
    }

    /// Reads the pin of a mount. One that cannot be read is none: it was written by another version, or the disk lost it.
    ///
    /// # Errors
    ///
    /// The disk failed.
    pub async fn read(&self, name: &MountName) -> Result<Option<Pin>, PinError> {
        let bytes = match tokio::fs::read(self.path(name)).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.error(name, "read")(error)),
        };
        let pin = serde_json::from_slice::<Pin>(&bytes).ok();
        let pin = pin.filter(|pin| pin.version == VERSION && (pin.chosen().is_some() || pin.instead.is_some()));
        if pin.is_none() {
            tracing::warn!(mount = %name, "the record of a mount cannot be read and is not used");
        }
        Ok(pin)
    }

    /// Writes the pin of a mount; it is on disk when this returns.
    ///
    /// # Errors
    ///
    /// The disk failed, or is full. The old one is still there.
    pub async fn write(&self, name: &MountName, pin: &Pin) -> Result<(), PinError> {
        self.try_write(name, pin).await.map_err(self.error(name, "written"))
    }

    async fn try_write(&self, name: &MountName, pin: &Pin) -> std::io::Result<()> {
        let temporary = self.folder.join(format!("{name}.new"));
        let mut file = tokio::fs::File::create(&temporary).await?;
        file.write_all(&serde_json::to_vec(pin)?).await?;
        file.sync_all().await?;
        tokio::fs::rename(&temporary, self.path(name)).await?;
        tokio::fs::File::open(&self.folder).await?.sync_all().await
    }

    /// Removes the pin of a mount. None is no error.
    ///
    /// # Errors
    ///
    /// The disk failed.
    pub async fn remove(&self, name: &MountName) -> Result<(), PinError> {
        match tokio::fs::remove_file(self.path(name)).await {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(self.error(name, "removed")(error)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::names::VolumeId;
    use crate::target::TargetPath;

    #[tokio::test]
    async fn test_a_pin_is_kept_and_an_odd_one_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let pins = Pins::open(folder.path().join("pins")).await.unwrap();
        let target = TargetPath::parse("/k/a", Path::new("/k")).unwrap();
        let name = MountName::of(&VolumeId::parse("v").unwrap(), &target);
        assert_eq!(pins.read(&name).await.unwrap(), None);
        let id = SnapshotId::parse(&"0a".repeat(32)).unwrap();
        let chosen = Chosen { id, object: Some("repo-0a0a0a0a".to_owned()), bytes: 3, files: 1 };
        let pin = Pin::new("asked".to_owned(), &chosen);
        pins.write(&name, &pin).await.unwrap();
        assert_eq!(pins.read(&name).await.unwrap(), Some(pin.clone()));
        assert_eq!(pin.chosen(), Some(chosen));
        let pin = Pin::of_instead("asked".to_owned(), Instead::Failed("why".to_owned()));
        pins.write(&name, &pin).await.unwrap();
        assert_eq!((pins.read(&name).await.unwrap(), pin.chosen()), (Some(pin), None));
        for odd in ["", "{", r#"{"version":2,"asked":"","snapshot":"","bytes":0,"files":0}"#] {
            std::fs::write(pins.path(&name), odd).unwrap();
            assert_eq!(pins.read(&name).await.unwrap(), None, "{odd}");
        }
        pins.remove(&name).await.unwrap();
        pins.remove(&name).await.unwrap();
        assert_eq!(std::fs::read_dir(folder.path().join("pins")).unwrap().count(), 0);
    }
}

//! How a volume is to be used, and whether it can be. Pure.

use crate::proto::v1::VolumeCapability;
use crate::proto::v1::volume_capability::AccessType;
use crate::proto::v1::volume_capability::access_mode::Mode as AccessMode;
use crate::volume::Mode;

/// Why a volume cannot be used so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CapabilityError {
    /// It is not said.
    #[error("volume_capability is needed, with an access type and an access mode")]
    Missing,
    /// A device is asked for.
    #[error("a snapshot is a file system: volumeMode must be Filesystem")]
    Block,
    /// Several nodes would write.
    #[error(
        "the access mode {0} is not possible: a snapshot does not change, and what an overlay changes is of one node; ReadOnlyMany is"
    )]
    Writers(&'static str),
    /// A file system is asked for by name.
    #[error("fsType {0:?} means nothing here: leave it out")]
    FileSystem(String),
    /// An option of mount.
    #[error("the mount option {0:?} is not known; ro is")]
    Flag(String),
    /// A group that kubelet would hand over only if we had said that we take it.
    #[error("volume_mount_group is not taken; the attribute gid is")]
    Group,
}

/// How a volume is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Nobody writes, because the access mode or an option says so.
    pub reads_only: bool,
}

/// Reads how a volume is to be used.
///
/// Writers of one node are let in though most volumes cannot be written: a claim that is ReadWriteOnce, as most templates write it, is
/// mounted read-only.
///
/// # Errors
///
/// It cannot be used so.
pub fn usage(capability: Option<&VolumeCapability>) -> Result<Usage, CapabilityError> {
    let capability = capability.ok_or(CapabilityError::Missing)?;
    let mount = match capability.access_type.as_ref().ok_or(CapabilityError::Missing)? {
        AccessType::Block(_) => return Err(CapabilityError::Block),
        AccessType::Mount(mount) => mount,
    };
    if !mount.fs_type.is_empty() {
        return Err(CapabilityError::FileSystem(mount.fs_type.chars().take(64).collect()));
    }
    if !mount.volume_mount_group.is_empty() {
        return Err(CapabilityError::Group);
    }
    if let Some(flag) = mount.mount_flags.iter().find(|flag| *flag != "ro") {
        return Err(CapabilityError::Flag(flag.chars().take(64).collect()));
    }
    let mode = capability.access_mode.as_ref().ok_or(CapabilityError::Missing)?;
    let reads = match mode.mode() {
        AccessMode::Unknown => return Err(CapabilityError::Missing),
        AccessMode::SingleNodeReaderOnly | AccessMode::MultiNodeReaderOnly => true,
        AccessMode::SingleNodeWriter | AccessMode::SingleNodeSingleWriter | AccessMode::SingleNodeMultiWriter => false,
        AccessMode::MultiNodeSingleWriter => return Err(CapabilityError::Writers("of one writer on several nodes")),
        AccessMode::MultiNodeMultiWriter => return Err(CapabilityError::Writers("ReadWriteMany")),
    };
    Ok(Usage { reads_only: reads || mount.mount_flags.iter().any(|flag| flag == "ro") })
}

/// Returns how a volume is mounted that is wanted so: written to only where all agree.
pub fn mode(wanted: Mode, usage: Usage, read_only: bool) -> Mode {
    if usage.reads_only || read_only { Mode::ReadOnly } else { wanted }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1::volume_capability::{AccessMode as Wrapped, BlockVolume, MountVolume};

    fn capability(mode: AccessMode, mount: MountVolume) -> VolumeCapability {
        let access_mode = Some(Wrapped { mode: mode.into() });
        VolumeCapability { access_type: Some(AccessType::Mount(mount)), access_mode }
    }

    #[test]
    fn test_how_a_volume_can_be_used() {
        use AccessMode::*;
        for (mode, expected) in [
            (SingleNodeReaderOnly, Some(true)),
            (MultiNodeReaderOnly, Some(true)),
            (SingleNodeWriter, Some(false)),
            (SingleNodeSingleWriter, Some(false)),
            (SingleNodeMultiWriter, Some(false)),
            (MultiNodeSingleWriter, None),
            (MultiNodeMultiWriter, None),
            (Unknown, None),
        ] {
            let found = usage(Some(&capability(mode, MountVolume::default())));
            assert_eq!(found.ok().map(|usage| usage.reads_only), expected, "{mode:?}");
        }
        let with = |change: fn(&mut MountVolume)| {
            let mut mount = MountVolume::default();
            change(&mut mount);
            usage(Some(&capability(SingleNodeWriter, mount)))
        };
        assert_eq!(with(|mount| mount.mount_flags = vec!["ro".to_owned()]), Ok(Usage { reads_only: true }));
        let refused = with(|mount| mount.mount_flags = vec!["ro".to_owned(), "exec".to_owned()]);
        assert_eq!(refused, Err(CapabilityError::Flag("exec".to_owned())));
        let refused = with(|mount| mount.fs_type = "ext4".to_owned());
        assert_eq!(refused, Err(CapabilityError::FileSystem("ext4".to_owned())));
        assert_eq!(with(|mount| mount.volume_mount_group = "1".to_owned()), Err(CapabilityError::Group));
        let block = AccessType::Block(BlockVolume {});
        let block =
            VolumeCapability { access_type: Some(block), ..capability(SingleNodeWriter, MountVolume::default()) };
        assert_eq!(usage(Some(&block)), Err(CapabilityError::Block));
        assert_eq!(usage(None), Err(CapabilityError::Missing));
        assert_eq!(usage(Some(&VolumeCapability::default())), Err(CapabilityError::Missing));
    }

    #[test]
    fn test_written_to_only_where_all_agree() {
        for (wanted, reads_only, read_only, expected) in [
            (Mode::Overlay, false, false, Mode::Overlay),
            (Mode::Overlay, true, false, Mode::ReadOnly),
            (Mode::Overlay, false, true, Mode::ReadOnly),
            (Mode::ReadOnly, false, false, Mode::ReadOnly),
        ] {
            assert_eq!(mode(wanted, Usage { reads_only }, read_only), expected);
        }
    }
}

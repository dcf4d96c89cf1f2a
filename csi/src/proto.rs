//! The messages and services of CSI 1.12 and of kubelet's registration of plugins, generated from `csi/proto` (`make csi-proto`).
//!
//! Messages that carry secrets print their name and nothing else.

/// CSI.
#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::nursery,
    missing_debug_implementations,
    unreachable_pub,
    reason = "generated"
)]
pub mod v1 {
    include!(concat!(env!("CARGO_MANIFEST_DIR"), "/proto/csi.v1.rs"));
}

/// Kubelet's registration of plugins.
#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::nursery,
    missing_debug_implementations,
    unreachable_pub,
    reason = "generated"
)]
pub mod registration {
    include!(concat!(env!("CARGO_MANIFEST_DIR"), "/proto/pluginregistration.rs"));
}

#[cfg(test)]
mod tests {
    use super::v1::{NodePublishVolumeRequest, NodeStageVolumeRequest};

    #[test]
    fn test_messages_with_secrets_print_none() {
        let secrets = || [("RESTIC_PASSWORD".to_owned(), "geheim".to_owned())].into();
        let publish = NodePublishVolumeRequest { secrets: secrets(), ..NodePublishVolumeRequest::default() };
        let stage = NodeStageVolumeRequest { secrets: secrets(), ..NodeStageVolumeRequest::default() };
        let printed = format!("{publish:?} {stage:?}");
        assert_eq!(printed, "NodePublishVolumeRequest { .. } NodeStageVolumeRequest { .. }");
    }
}

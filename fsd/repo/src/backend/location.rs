//! restic's repository addresses: `s3:`, `rest:`, `sftp:`, `rclone:`, `gs:`, `azure:`, `swift:`, `b2:`, `local:` or a path.

/// A parsed address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A directory.
    Local {
        /// Which.
        path: std::path::PathBuf,
    },
}

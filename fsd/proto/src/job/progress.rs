//! How far a restore is, while it runs.
//!
//! Whoever connects to the port gets one JSON object and the end of the connection. It holds counts, no names: anybody in the cluster's
//! network may ask.

use serde::{Deserialize, Serialize};

/// Where the container of a restore says how far it is.
pub const PROGRESS_PORT: u16 = 8444;
/// No answer is longer.
pub const PROGRESS_LIMIT_BYTES: u64 = 1024;

/// How far a restore is. Reading it takes fields for granted that are not there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Progress {
    /// Entries that are done: written, or the same already.
    pub entries: u64,
    /// Bytes of content that are done.
    pub bytes: u64,
    /// Of how many, as far as is known: it grows while snapshots are looked through.
    pub of_bytes: u64,
    /// How long it takes still if it goes on so, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds_left: Option<u64>,
}

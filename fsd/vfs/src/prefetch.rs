//! What to fetch before it is asked for.
//!
//! * [`sequential`]: a reader that goes through a file.
//! * [`ahead`]: a reader that goes through directories, or through their small files.
//!
//! All are pure state machines: they are told what was read and say what to fetch; [`crate::Vfs`] fetches.

pub(crate) mod ahead;
pub(crate) mod sequential;

/// How far ahead to fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// The most blobs of a file ahead of a sequential reader.
    pub(crate) blobs: usize,
    /// The most bytes of a file ahead of a sequential reader.
    pub(crate) bytes: u64,
    /// How many bytes are fetched ahead for each that was read, up to that.
    pub(crate) growth: u64,
    /// The most blobs of a file, and their most bytes, that are downloaded ahead of a sequential reader and not decoded yet;
    /// 0 for none.
    pub(crate) staged: (usize, u64),
    /// The most trees ahead of a walk.
    pub(crate) trees: usize,
    /// The most small files ahead of a reader of small files; 0 for none.
    pub(crate) files: usize,
    /// The most bytes of small files ahead of their reader.
    pub(crate) file_bytes: u64,
}

/// A local disk answers at once; what takes time is decoding, and a few blobs ahead keep every core busy. A small file is
/// decoded by whoever asks for it faster than it can be handed from one thread to another, so none are fetched ahead.
const LOCAL: Limits =
    Limits { blobs: 4, bytes: 16 << 20, growth: 1, staged: (0, 0), trees: 48, files: 0, file_bytes: 0 };

/// A remote store answers after a round trip. 8 MiB of what is decoded keep the decoding threads busy; what hides the round
/// trips is downloaded before that and stays sealed, as much as the blob engine has room for. Each doubling of what is under
/// way takes a round trip, so it begins with more.
const REMOTE: Limits = Limits {
    blobs: 256,
    bytes: 8 << 20,
    growth: 4,
    staged: (2048, 512 << 20),
    trees: 384,
    files: 192,
    file_bytes: 16 << 20,
};

/// Returns how far ahead to fetch from a store.
pub(crate) const fn limits(remote: bool) -> Limits {
    if remote { REMOTE } else { LOCAL }
}

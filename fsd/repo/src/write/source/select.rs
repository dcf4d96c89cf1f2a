//! What is left out by looking: marked directories, large files, other filesystems.

use std::collections::HashMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::files::Files;

/// The file, and its beginning, that marks a cache directory (<https://bford.info/cachedir/>).
const CACHE_MARKER: (&str, &[u8]) = ("CACHEDIR.TAG", b"Signature: 8a477f597d28d172789f06886806bc55");
/// How many directories' marks are remembered; a walk needs those above it and the last few.
const REMEMBERED: usize = 1024;

/// A file whose presence leaves out everything beside it, but not itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marker {
    name: std::ffi::OsString,
    header: Vec<u8>,
}

impl Marker {
    /// The mark of cache directories.
    #[must_use]
    pub fn cache() -> Self {
        Self { name: CACHE_MARKER.0.into(), header: CACHE_MARKER.1.to_vec() }
    }

    /// Parses restic's `NAME[:HEADER]`.
    ///
    /// # Errors
    /// The name is empty or holds a `/`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, header) = text.split_once(':').unwrap_or((text, ""));
        if name.is_empty() || name.contains('/') {
            return Err(format!("`{text}` is not NAME or NAME:HEADER with the name of a file"));
        }
        Ok(Self { name: name.into(), header: header.as_bytes().to_vec() })
    }

    /// Returns whether it lies in `dir`, with its header. A file that cannot be read marks nothing.
    fn is_in(&self, dir: &Path, files: &Files) -> bool {
        let path = dir.join(&self.name);
        if files.look(&path).is_err() {
            return false;
        }
        if self.header.is_empty() {
            return true;
        }
        let mut begin = vec![0; self.header.len()];
        // A pipe of that name does not block.
        match files.open(&path, OFlags::NONBLOCK).and_then(|mut file| file.read_exact(&mut begin)) {
            Ok(()) => begin == self.header,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a file that would leave out its directory cannot be read");
                false
            }
        }
    }
}

/// Remembers which directories are marked.
#[derive(Debug, Default)]
pub(super) struct Marks {
    markers: Vec<Marker>,
    files: Files,
    known: HashMap<PathBuf, Vec<bool>>,
}

impl Marks {
    pub(super) fn new(markers: Vec<Marker>, files: Files) -> Self {
        Self { markers, files, known: HashMap::new() }
    }

    /// Returns whether an entry is left out because of a file beside it.
    pub(super) fn exclude(&mut self, path: &Path) -> bool {
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else { return false };
        if self.markers.is_empty() {
            return false;
        }
        if !self.known.contains_key(dir) {
            if self.known.len() >= REMEMBERED {
                self.known.clear();
            }
            let marked = self.markers.iter().map(|marker| marker.is_in(dir, &self.files)).collect();
            self.known.insert(dir.to_owned(), marked);
        }
        let marked = &self.known[dir];
        self.markers.iter().zip(marked).any(|(marker, marked)| *marked && marker.name != name)
    }
}

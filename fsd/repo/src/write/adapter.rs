//! Our backend as `rustic_core`'s: blocking calls on threads of `rustic_core`, carried out on the I/O runtime.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustic_core::{BytesList, ErrorKind, FileType, ReadBackend, RusticError, RusticResult, WriteBackend};
use tokio::runtime::Handle;

use super::access::Access;
use super::gate::{Gate, Snapshots};
use super::overlay::PackOptions;
use crate::backend::{Backend, BackendErrorKind, FileKind};
use crate::error::{RepoError, RepoResult};
use crate::format::{INDEX_LIMIT_BYTES, SMALL_FILE_LIMIT_BYTES, SNAPSHOT_LIMIT_BYTES};
use crate::id::Id;

/// How long a write goes on after the gate was shut. A local disk is done by then; a store that gives no answer is not
/// waited for. If it keeps what it was sent all the same, that is a whole pack that nothing names, or an index file of whole
/// packs: the next backup uses it, or prune removes it.
pub(super) const LINGER: Duration = Duration::from_secs(2);

/// `rustic_core`'s view of the store. Must not be called on a thread of the runtime.
#[derive(Debug)]
pub(crate) struct Adapter {
    backend: Arc<dyn Backend>,
    runtime: Handle,
    gate: Gate,
    /// `None` while the repository is made.
    config: Option<(Access, PackOptions)>,
}

impl Adapter {
    /// The view of an opened repository, with this run's options on top of its config.
    pub(crate) fn new(access: &Access, options: PackOptions, gate: Gate, runtime: Handle) -> Self {
        Self { backend: access.backend().clone(), runtime, gate, config: Some((access.clone(), options)) }
    }

    /// Hands a failure to `rustic_core`. What matters of it is kept by the gate; this text is for its log.
    fn fail(error: RepoError) -> Box<RusticError> {
        RusticError::with_source(ErrorKind::Backend, "the store failed", error)
    }

    /// A failed write or removal shuts the gate: see [`Gate`].
    fn shut(&self, error: RepoError) -> Box<RusticError> {
        self.gate.shut(error.clone());
        Self::fail(error)
    }

    /// Writes a file; gives up soon after the gate was shut.
    async fn write(&self, kind: FileKind, id: Id, content: Bytes) -> RepoResult<()> {
        let late = async {
            self.gate.wait_shut().await;
            // Nothing but time passes.
            let _ = tokio::time::timeout(LINGER, std::future::pending::<()>()).await;
        };
        tokio::select! {
            written = self.backend.write(kind, &id, content) => Ok(written?),
            () = late => self.gate.check(),
        }
    }

    fn read(&self, kind: FileKind, id: &Id) -> RusticResult<Bytes> {
        self.gate.check().map_err(Self::fail)?;
        let limit = match kind {
            FileKind::Config | FileKind::Key | FileKind::Lock => SMALL_FILE_LIMIT_BYTES as u64,
            FileKind::Snapshot => SNAPSHOT_LIMIT_BYTES as u64,
            FileKind::Index => INDEX_LIMIT_BYTES as u64,
            // Offsets in packs have 32 bits.
            FileKind::Pack => u64::from(u32::MAX),
        };
        let content =
            self.runtime.block_on(self.backend.read_full(kind, id, limit)).map_err(|error| Self::fail(error.into()))?;
        match (&self.config, kind) {
            (Some((access, options)), FileKind::Config) => options.apply(&content, access.key()).map_err(Self::fail),
            _ => Ok(content),
        }
    }
}

const fn kind_of(tpe: FileType) -> FileKind {
    match tpe {
        FileType::Config => FileKind::Config,
        FileType::Index => FileKind::Index,
        FileType::Key => FileKind::Key,
        FileType::Snapshot => FileKind::Snapshot,
        FileType::Pack => FileKind::Pack,
    }
}

/// Our id of one of `rustic_core`'s. The config has none here; there it has a hash that nobody looks at.
fn id_of(kind: FileKind, id: &rustic_core::Id) -> Id {
    match kind {
        FileKind::Config => Id::default(),
        _ => id.to_hex().parse().unwrap_or_default(),
    }
}

/// `rustic_core`'s id of one of ours.
pub(crate) fn rustic_id(id: &Id) -> rustic_core::Id {
    rustic_core::Id::new(*id.as_bytes())
}

impl ReadBackend for Adapter {
    fn location(&self) -> String {
        self.backend.location().to_owned()
    }

    fn list_with_size(&self, tpe: FileType) -> RusticResult<Vec<(rustic_core::Id, u32)>> {
        self.gate.check().map_err(Self::fail)?;
        let kind = kind_of(tpe);
        // A pack of more than 4 GiB does not exist: whatever it is, its size must not look right.
        let size = |len_bytes: u64| u32::try_from(len_bytes).unwrap_or(u32::MAX);
        if kind == FileKind::Config {
            let limit = SMALL_FILE_LIMIT_BYTES as u64;
            return match self.runtime.block_on(self.backend.read_full(kind, &Id::default(), limit)) {
                Ok(content) => Ok(vec![(rustic_core::Id::default(), size(content.len() as u64))]),
                Err(error) if error.kind == BackendErrorKind::NotFound => Ok(Vec::new()),
                Err(error) => Err(Self::fail(error.into())),
            };
        }
        let entries = self.runtime.block_on(self.backend.list(kind)).map_err(|error| Self::fail(error.into()))?;
        Ok(entries.iter().map(|entry| (rustic_id(&entry.id), size(entry.len_bytes))).collect())
    }

    fn read_full(&self, tpe: FileType, id: &rustic_core::Id) -> RusticResult<Bytes> {
        let kind = kind_of(tpe);
        self.read(kind, &id_of(kind, id))
    }

    fn read_partial(
        &self,
        tpe: FileType,
        id: &rustic_core::Id,
        _cacheable: bool,
        offset: u32,
        length: u32,
    ) -> RusticResult<Bytes> {
        self.gate.check().map_err(Self::fail)?;
        let kind = kind_of(tpe);
        let begin = u64::from(offset);
        self.runtime
            .block_on(self.backend.read_range(kind, &id_of(kind, id), begin..begin + u64::from(length)))
            .map_err(|error| Self::fail(error.into()))
    }

    fn warmup_path(&self, tpe: FileType, id: &rustic_core::Id) -> String {
        let kind = kind_of(tpe);
        kind.path(&id_of(kind, id))
    }
}

impl WriteBackend for Adapter {
    fn create(&self) -> RusticResult<()> {
        let _pass = self.gate.enter().map_err(Self::fail)?;
        self.runtime.block_on(self.backend.create()).map_err(|error| self.shut(error.into()))
    }

    fn write_bytes(
        &self,
        tpe: FileType,
        id: &rustic_core::Id,
        cacheable: bool,
        content: BytesList,
    ) -> RusticResult<()> {
        let kind = kind_of(tpe);
        let _pass = self.gate.enter().map_err(Self::fail)?;
        if kind == FileKind::Snapshot {
            return match self.gate.snapshots() {
                Snapshots::Withhold => Ok(()),
                Snapshots::Refuse => Err(self.shut(RepoError::Rustic {
                    operation: "write a snapshot",
                    reason: "this work writes none".to_owned(),
                })),
            };
        }
        let mut parts = content.into_vec();
        let content: Bytes = if parts.len() == 1 { parts.remove(0) } else { parts.concat().into() };
        // `rustic_core` calls packs of trees cacheable, and no others.
        if kind == FileKind::Pack && cacheable {
            self.gate.saw_tree_pack(&content);
        }
        self.runtime.block_on(self.write(kind, id_of(kind, id), content)).map_err(|error| self.shut(error))
    }

    fn remove(&self, tpe: FileType, id: &rustic_core::Id, _cacheable: bool) -> RusticResult<()> {
        let kind = kind_of(tpe);
        let _pass = self.gate.enter().map_err(Self::fail)?;
        self.runtime.block_on(self.backend.remove(kind, &id_of(kind, id))).map_err(|error| self.shut(error.into()))
    }
}

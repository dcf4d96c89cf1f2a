//! A repository behind SFTP: the `ssh` program does keys, hosts and configuration, its standard streams carry the
//! protocol.
//!
//! One session carries all requests side by side; a range is read by many small reads in flight. A session that broke or
//! stopped answering is dropped with its child, and the next call starts another. Files are written as on a local disk:
//! temporary name, sync where the server can, rename.
//!
//! Packs stay open between reads ([`session`]), so a read is one round trip and sees a pack that a prune removed.
//!
//! Source: restic, `internal/backend/sftp`; the protocol is draft-ietf-secsh-filexfer-02 with OpenSSH's extensions.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::sync::Mutex;

use super::child::{Program, split_words};
use super::error::Failure;
use super::located::Store;
use super::settings::Settings;
use super::{BackendErrorKind, FileKind, ListEntry};
use crate::id::Id;

mod session;

use session::{Failed, Session};

/// Requests in parallel; all of them share one connection.
const DEFAULT_CONNECTIONS: usize = 16;

/// How many folders are listed or made at once.
const PARALLEL_FOLDERS: usize = 16;

/// A directory on another machine.
#[derive(Debug)]
pub(super) struct SftpBackend {
    program: Program,
    root: String,
    connections: usize,
    request_timeout: Duration,
    session: Mutex<Option<Arc<Session>>>,
}

impl SftpBackend {
    /// Reads `-o sftp.command` and `-o sftp.args`; starts nothing yet.
    ///
    /// # Errors
    /// They cannot be split into words, or both are given.
    pub(super) fn new(
        (user, host, port): (Option<&str>, &str, Option<u16>),
        path: &str,
        settings: &Settings<'_>,
    ) -> Result<Self, Failure> {
        settings.default_layout()?;
        let words = match (settings.option("command"), settings.option("args")) {
            (Some(_), Some(_)) => return Err(Failure::invalid("-o sftp.command and -o sftp.args exclude each other")),
            (Some(command), None) => split_words(command)?,
            (None, args) => {
                let mut words = vec!["ssh".to_owned(), host.to_owned()];
                if let Some(port) = port {
                    words.extend(["-p".to_owned(), port.to_string()]);
                }
                if let Some(user) = user {
                    words.extend(["-l".to_owned(), user.to_owned()]);
                }
                words.extend(split_words(args.unwrap_or_default())?);
                words.extend(["-s".to_owned(), "sftp".to_owned()]);
                words
            }
        };
        Ok(Self {
            program: Program::new(words, settings.options, false),
            root: path.to_owned(),
            connections: settings.connections(DEFAULT_CONNECTIONS)?,
            // Shorter than an attempt, so that a session which hangs is known for one and replaced.
            request_timeout: settings.options.attempt_timeout().mul_f32(0.8),
            session: Mutex::default(),
        })
    }

    fn path(&self, kind: FileKind, id: &Id) -> String {
        self.below(&kind.path(id))
    }

    fn below(&self, path: &str) -> String {
        format!("{}/{path}", self.root.trim_end_matches('/'))
    }

    async fn session(&self) -> Result<Arc<Session>, Failure> {
        let mut session = self.session.lock().await;
        if let Some(session) = &*session {
            return Ok(Arc::clone(session));
        }
        let started = Arc::new(Session::start(&self.program, self.request_timeout).await?);
        Ok(Arc::clone(session.insert(started)))
    }

    /// Runs work on the session; one that broke is not used again.
    async fn on_session<T, F: Future<Output = Result<T, Failed>>>(
        &self,
        work: impl FnOnce(Arc<Session>) -> F,
    ) -> Result<T, Failure> {
        let session = self.session().await?;
        match work(Arc::clone(&session)).await {
            Ok(value) => Ok(value),
            Err(Failed::Answered(failure)) => Err(failure),
            Err(Failed::Broken(error)) => {
                let mut present = self.session.lock().await;
                if present.as_ref().is_some_and(|present| Arc::ptr_eq(present, &session)) {
                    *present = None;
                }
                Err(session.failure(&self.program, &error))
            }
        }
    }

    async fn try_list(&self, session: &Session, kind: FileKind) -> Result<Vec<ListEntry>, Failed> {
        let root = self.below(kind.dirname());
        if kind != FileKind::Pack {
            return files(session.list(&root).await?, "");
        }
        let folders = session.list(&root).await?.into_iter().map(|(name, _)| name).filter(|name| {
            // Only a file below the folder of its first two digits can be read again.
            name.len() == 2 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
        });
        let lists: Vec<_> = futures::stream::iter(folders)
            .map(|name| {
                let path = format!("{root}/{name}");
                async move { files(session.list(&path).await?, &name) }
            })
            .buffer_unordered(PARALLEL_FOLDERS)
            .try_collect()
            .await?;
        Ok(lists.concat())
    }

    async fn try_write(&self, session: &Session, kind: FileKind, id: &Id, content: &Bytes) -> Result<(), Failed> {
        let path = self.path(kind, id);
        if kind == FileKind::Config && session.len(&path).await?.is_some() {
            return Err(Failed::Answered(Failure::taken()));
        }
        let temp = format!("{path}-tmp-{:016x}", rand::random::<u64>());
        let written = session.write_new(&temp, content).await;
        let written = match written {
            Err(Failed::Answered(failure)) if failure.is(BackendErrorKind::NotFound) && kind != FileKind::Config => {
                if let Some((folder, _)) = path.rsplit_once('/') {
                    make_folders(session, folder).await?;
                }
                session.write_new(&temp, content).await
            }
            written => written,
        };
        let finished = match written {
            Ok(()) => session.finish(&temp, &path, kind != FileKind::Config).await,
            Err(failed) => Err(failed),
        };
        if finished.is_err() {
            // Best effort: the name holds no id and is never listed.
            drop(session.remove(&temp).await);
        }
        finished
    }

    async fn try_create(&self, session: &Session) -> Result<(), Failed> {
        if session.len(&self.below("config")).await?.is_some() {
            return Err(Failed::Answered(Failure::taken()));
        }
        make_folders(session, &self.root).await?;
        for kind in FileKind::LISTED {
            session.make_folder(&self.below(kind.dirname())).await?;
        }
        // restic makes all 256 at once, so that a backup does not.
        futures::stream::iter(0..=u8::MAX)
            .map(|byte| {
                let path = self.below(&format!("data/{byte:02x}"));
                async move { session.make_folder(&path).await }
            })
            .buffer_unordered(PARALLEL_FOLDERS)
            .try_collect()
            .await
    }
}

/// Makes a folder and those above it.
async fn make_folders(session: &Session, path: &str) -> Result<(), Failed> {
    let mut parents = String::new();
    for part in path.split_inclusive('/') {
        parents.push_str(part);
        let folder = parents.trim_end_matches('/');
        if !folder.is_empty() && folder != "." {
            session.make_folder(folder).await?;
        }
    }
    Ok(())
}

/// The files whose names are ids.
fn files(list: Vec<(String, Option<u64>)>, prefix: &str) -> Result<Vec<ListEntry>, Failed> {
    let entry = |(name, len_bytes): (String, Option<u64>)| {
        let id = name.starts_with(prefix).then(|| name.parse::<Id>().ok())??;
        Some(match len_bytes {
            Some(len_bytes) => Ok(ListEntry { id, len_bytes }),
            None => Err(Failed::Answered(Failure::short("the server lists a file without its length"))),
        })
    };
    list.into_iter().filter_map(entry).collect()
}

#[async_trait]
impl Store for SftpBackend {
    fn concurrency(&self) -> usize {
        self.connections
    }

    async fn list(&self, kind: FileKind) -> Result<Vec<ListEntry>, Failure> {
        self.on_session(|session| async move { self.try_list(&session, kind).await }).await
    }

    async fn read_full(&self, kind: FileKind, id: &Id, limit_bytes: u64) -> Result<Bytes, Failure> {
        let path = self.path(kind, id);
        self.on_session(|session| async move { session.read_full(&path, limit_bytes).await }).await
    }

    async fn read_range(&self, kind: FileKind, id: &Id, offset: u64, len_bytes: u64) -> Result<Bytes, Failure> {
        let path = self.path(kind, id);
        self.on_session(|session| async move { session.read_range(&path, offset, len_bytes).await }).await
    }

    async fn write(&self, kind: FileKind, id: &Id, content: Bytes) -> Result<(), Failure> {
        self.on_session(|session| async move { self.try_write(&session, kind, id, &content).await }).await
    }

    async fn remove(&self, kind: FileKind, id: &Id) -> Result<(), Failure> {
        let path = self.path(kind, id);
        self.on_session(|session| async move { session.remove(&path).await }).await
    }

    async fn create(&self) -> Result<(), Failure> {
        self.on_session(|session| async move { self.try_create(&session).await }).await
    }
}

//! Object stores through OpenDAL: S3 and what speaks its protocol, Google, Azure, Swift, B2.
//!
//! What OpenDAL is used for: each service's URLs, signatures and lists. What it is not: retries, timeouts and the limit
//! of parallel requests are our decorators'; its error texts quote answers and are replaced by our own; and what an
//! answer may bring into memory is bounded here ([`transport`]), because services read errors and lists whole.
//!
//! Reading needs the rights to list and to get, no more: there is no request on the bucket itself and no test write.

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt as _;
use opendal::{ErrorKind, Operator};

use super::error::Failure;
use super::http::{Body, collect, collect_exact, status_failure};
use super::located::Store;
use super::{BackendErrorKind, FileKind, ListEntry, Retry};
use crate::id::Id;

pub(super) mod b2;
pub(super) mod services;
pub(super) mod swift;
pub(super) mod transport;

use transport::{Bounds, bounded};

/// The longest page of a list, or error, that is read. S3's pages have 1,000 entries, Swift's 10,000.
const MAX_PAGE_BYTES: u64 = 16 << 20;

/// What a store may send beside the bytes asked for.
const SLACK_BYTES: u64 = 1 << 20;

/// A bucket and the folder in it.
#[derive(Debug)]
pub(super) struct OpendalBackend {
    pub(super) operator: Operator,
    /// Writes packs, where they go to another storage class than the rest.
    pub(super) packs: Option<Operator>,
    pub(super) connections: usize,
}

impl OpendalBackend {
    async fn body(&self, path: &str, range: Option<Range<u64>>) -> opendal::Result<Body> {
        let reader = self.operator.reader(path).await?;
        let stream = match range {
            Some(range) => reader.into_stream(range).await?,
            None => reader.into_stream(..).await?,
        };
        let chunks = stream.map_ok(|buffer| futures::stream::iter(buffer.map(Ok))).try_flatten();
        Ok(Box::pin(chunks.map_err(|error| failure((error, transport::seen())))))
    }
}

/// What OpenDAL failed of, in our words: its own quote the answer.
///
/// The status goes first: that the text of an error was too long or broke off says less than which error it is.
fn failure((error, seen): (opendal::Error, transport::Seen)) -> Failure {
    if let Some(status) = seen.status {
        let mut failure = status_failure(status);
        if let Some(region) = seen.region {
            failure.append(&format!("; the bucket is in region {region}: set -o s3.region={region}"));
        }
        return failure;
    }
    if let Some(failure) = seen.transport {
        return failure;
    }
    use BackendErrorKind as Kind;
    let retry = if error.is_temporary() { Retry::Temporary } else { Retry::Permanent };
    let (kind, retry, message) = match error.kind() {
        ErrorKind::NotFound => (Kind::NotFound, Retry::Permanent, "not found"),
        ErrorKind::PermissionDenied => {
            (Kind::Denied, Retry::Permanent, "the server refused the credentials or the right")
        }
        ErrorKind::AlreadyExists | ErrorKind::Conflict | ErrorKind::ConditionNotMatch => {
            (Kind::Conflict, Retry::Permanent, "the server reports a conflict")
        }
        ErrorKind::RateLimited => (Kind::Unavailable, Retry::Temporary, "the server asks for fewer requests"),
        ErrorKind::RangeNotSatisfied => (Kind::Corrupt, Retry::Permanent, "the file ends before the range does"),
        ErrorKind::ConfigInvalid => {
            (Kind::Invalid, Retry::Permanent, "the store's address, options or credentials are not complete")
        }
        ErrorKind::Unsupported => (Kind::Unsupported, Retry::Permanent, "the store does not do this"),
        // A success whose body is not what it should be: cut short, or a list that is none.
        _ if seen.answered => (Kind::Corrupt, Retry::Temporary, "the answer is not what was asked for"),
        // No request was made: there was nothing to sign it with.
        _ => (Kind::Denied, retry, "no credentials were found"),
    };
    Failure::new(kind, retry, message)
}

#[async_trait]
impl Store for OpendalBackend {
    fn concurrency(&self) -> usize {
        self.connections
    }

    async fn list(&self, kind: FileKind) -> Result<Vec<ListEntry>, Failure> {
        let folder = format!("{}/", kind.dirname());
        let list = async {
            let mut lister = self.operator.lister_with(&folder).recursive(true).await?;
            let mut entries = Vec::new();
            while let Some(entry) = lister.try_next().await? {
                let Ok(id) = entry.name().parse::<Id>() else { continue };
                // A pack in the wrong folder cannot be read again; restic's rule for all layouts.
                if entry.path() == kind.path(&id) {
                    entries.push(ListEntry { id, len_bytes: entry.metadata().content_length() });
                }
            }
            Ok(entries)
        };
        bounded(Bounds::each(MAX_PAGE_BYTES), list).await.map_err(failure)
    }

    async fn read_full(&self, kind: FileKind, id: &Id, limit_bytes: u64) -> Result<Bytes, Failure> {
        let read = async {
            let body = self.body(&kind.path(id), None).await?;
            Ok(collect(body, 0, limit_bytes).await)
        };
        let bytes = bounded(Bounds::each(limit_bytes.saturating_add(SLACK_BYTES)), read).await.map_err(failure)??;
        bytes.ok_or_else(|| Failure::too_long(limit_bytes))
    }

    async fn read_range(&self, kind: FileKind, id: &Id, offset: u64, len_bytes: u64) -> Result<Bytes, Failure> {
        let read = async {
            let end = offset.saturating_add(len_bytes);
            let body = self.body(&kind.path(id), Some(offset..end)).await?;
            let read = collect_exact(body, len_bytes).await;
            let beyond = read.is_err() && transport::seen().total_len.is_some_and(|total| total < end);
            Ok(if beyond { Err(Failure::ends_before(end)) } else { read })
        };
        bounded(Bounds::each(len_bytes.saturating_add(SLACK_BYTES)), read).await.map_err(failure)?
    }

    async fn write(&self, kind: FileKind, id: &Id, content: Bytes) -> Result<(), Failure> {
        let operator = self.packs.as_ref().filter(|_| kind == FileKind::Pack).unwrap_or(&self.operator);
        let path = kind.path(id);
        let written = bounded(Bounds::each(MAX_PAGE_BYTES), operator.write(&path, content)).await;
        written.map(drop).map_err(failure)
    }

    async fn write_new(&self, kind: FileKind, id: &Id, content: Bytes) -> Result<(), Failure> {
        if !self.operator.info().capability().write_with_if_not_exists {
            return self.write(kind, id, content).await;
        }
        let path = kind.path(id);
        let write = async { self.operator.write_with(&path, content.clone()).if_not_exists(true).await };
        match bounded(Bounds::each(MAX_PAGE_BYTES), write).await.map_err(failure) {
            // Many a server that speaks S3 knows no conditions: it says so, or finds the request wrong.
            Err(failure)
                if [BackendErrorKind::Unsupported, BackendErrorKind::Other].iter().any(|kind| failure.is(*kind)) =>
            {
                self.write(kind, id, content).await
            }
            written => written.map(drop),
        }
    }

    async fn remove(&self, kind: FileKind, id: &Id) -> Result<(), Failure> {
        let path = kind.path(id);
        bounded(Bounds::each(MAX_PAGE_BYTES), self.operator.delete(&path)).await.map_err(failure)
    }

    async fn create(&self) -> Result<(), Failure> {
        // A bucket has no folders to make. That it is there is shown by asking for the file that must not be.
        match self.read_full(FileKind::Config, &Id::default(), 64 << 10).await {
            Err(failure) if failure.is(BackendErrorKind::NotFound) => {}
            Err(failure) => return Err(failure),
            Ok(_) => return Err(Failure::taken()),
        }
        self.list(FileKind::Key).await.map(drop).map_err(|mut failure| {
            if failure.is(BackendErrorKind::NotFound) {
                failure.append("; make the bucket or container first");
            }
            failure
        })
    }
}

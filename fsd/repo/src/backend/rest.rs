//! restic's REST protocol, version 2, and the lists of version 1.
//!
//! The same protocol runs over a server's TCP or Unix socket and over the standard streams of `rclone serve restic
//! --stdio` ([`super::rclone`]); what sends the requests is an [`Http`].
//!
//! Source: restic, `doc/REST_backend.rst`.

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, RANGE, SERVER};
use http::{HeaderValue, Method, Request, StatusCode};
use url::Url;

use super::error::Failure;
use super::http::{Answer, Http, collect, collect_exact, status_failure, total_len};
use super::located::Store;
use super::{BackendErrorKind, FileKind, ListEntry, Retry};
use crate::id::Id;

/// The media type that asks for lists with lengths.
const V2: &str = "application/vnd.x.restic.rest.v2";

/// The longest list that is read: over two million packs, which is tens of terabytes.
const MAX_LIST_BYTES: u64 = 256 << 20;

/// How many lengths are asked for at once where a server only lists names.
const V1_STATS: usize = 16;

/// A repository behind a REST server.
#[derive(Debug)]
pub(super) struct RestBackend {
    pub(super) http: Arc<dyn Http>,
    /// The repository's URL; ends in a slash.
    pub(super) url: Url,
    pub(super) authorization: Option<HeaderValue>,
    pub(super) connections: usize,
}

/// Makes the header of an account.
///
/// # Errors
/// It does not fit into a header.
pub(super) fn basic(username: &str, password: &str) -> Result<HeaderValue, Failure> {
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}"));
    let mut value = HeaderValue::try_from(format!("Basic {encoded}"))
        .map_err(|_| Failure::invalid("user and password do not fit into a header"))?;
    value.set_sensitive(true);
    Ok(value)
}

#[derive(serde::Deserialize)]
struct ListedFile {
    name: String,
    size: u64,
}

impl RestBackend {
    /// A request to a path below the repository's URL.
    fn request(&self, method: Method, path: &str) -> Result<http::request::Builder, Failure> {
        let url = self.url.join(path).map_err(|_| Failure::invalid("the repository's URL takes no path"))?;
        let mut request = Request::builder().method(method).uri(url.as_str());
        if let Some(value) = &self.authorization {
            request = request.header(AUTHORIZATION, value);
        }
        Ok(request)
    }

    async fn send(&self, request: http::request::Builder, body: Bytes) -> Result<Answer, Failure> {
        let request = request.body(body).map_err(|_| Failure::invalid("the repository's URL is none"))?;
        self.http.send(request).await
    }

    /// Sends a request and takes only success, reading no body.
    async fn done(&self, request: http::request::Builder, body: Bytes) -> Result<(), Failure> {
        let answer = self.send(request, body).await?;
        if !answer.status.is_success() {
            return Err(status_failure(answer.status));
        }
        // Read to its end, so that the connection can be used again; success has next to no body.
        drop(collect(answer.body, 0, 64 << 10).await?);
        Ok(())
    }

    async fn stat(&self, kind: FileKind, id: &Id) -> Result<u64, Failure> {
        let answer = self.send(self.request(Method::HEAD, &path(kind, id))?, Bytes::new()).await?;
        if !answer.status.is_success() {
            return Err(status_failure(answer.status));
        }
        let length = answer.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        length.ok_or_else(|| Failure::short("the server does not tell the length of a file"))
    }
}

fn parse_list<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<Vec<T>, Failure> {
    // restic's own server says `null` for an empty folder.
    let list: Option<Vec<T>> =
        serde_json::from_slice(body).map_err(|_| Failure::short("the list is not what the protocol says"))?;
    Ok(list.unwrap_or_default())
}

/// The path of a file in the protocol: packs lie in no folders of two digits.
fn path(kind: FileKind, id: &Id) -> String {
    match kind {
        FileKind::Config => "config".to_owned(),
        kind => format!("{}/{id}", kind.dirname()),
    }
}

#[async_trait]
impl Store for RestBackend {
    fn concurrency(&self) -> usize {
        self.connections
    }

    async fn list(&self, kind: FileKind) -> Result<Vec<ListEntry>, Failure> {
        let request = self.request(Method::GET, &format!("{}/", kind.dirname()))?.header(ACCEPT, V2);
        let answer = self.send(request, Bytes::new()).await?;
        // rclone cannot make folders and answers so for an empty one (restic, `internal/backend/rest`). From another
        // server it may as well be a wrong address, and no list.
        let is_rclone = answer.headers.get(SERVER).is_some_and(|server| server.as_bytes().starts_with(b"rclone/"));
        if answer.status == StatusCode::NOT_FOUND && is_rclone {
            return Ok(Vec::new());
        }
        if !answer.status.is_success() {
            return Err(status_failure(answer.status));
        }
        let is_v2 = answer.headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(V2.as_bytes()));
        let body = collect(answer.body, 0, MAX_LIST_BYTES).await?.ok_or_else(|| Failure::too_long(MAX_LIST_BYTES))?;
        if is_v2 {
            let files: Vec<ListedFile> = parse_list(&body)?;
            let entry = |file: ListedFile| Some(ListEntry { id: file.name.parse().ok()?, len_bytes: file.size });
            return Ok(files.into_iter().filter_map(entry).collect());
        }
        let names: Vec<String> = parse_list(&body)?;
        let ids = names.into_iter().filter_map(|name| name.parse::<Id>().ok());
        futures::stream::iter(ids)
            .map(|id| async move { Ok(ListEntry { id, len_bytes: self.stat(kind, &id).await? }) })
            .buffer_unordered(V1_STATS)
            .try_collect()
            .await
    }

    async fn read_full(&self, kind: FileKind, id: &Id, limit_bytes: u64) -> Result<Bytes, Failure> {
        let answer = self.send(self.request(Method::GET, &path(kind, id))?, Bytes::new()).await?;
        if answer.status != StatusCode::OK {
            return Err(status_failure(answer.status));
        }
        let length = answer.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if length.is_some_and(|length| length > limit_bytes) {
            return Err(Failure::too_long(limit_bytes));
        }
        let body = collect(answer.body, length.unwrap_or(0), limit_bytes).await?;
        let body = body.ok_or_else(|| Failure::too_long(limit_bytes))?;
        match length {
            Some(length) if length != body.len() as u64 => {
                Err(Failure::short(format!("the answer is {} bytes instead of {length}", body.len())))
            }
            _ => Ok(body),
        }
    }

    async fn read_range(&self, kind: FileKind, id: &Id, offset: u64, len_bytes: u64) -> Result<Bytes, Failure> {
        let end = offset.saturating_add(len_bytes);
        let request = self
            .request(Method::GET, &path(kind, id))?
            .header(RANGE, format!("bytes={offset}-{}", end.saturating_sub(1)));
        let answer = self.send(request, Bytes::new()).await?;
        match answer.status {
            StatusCode::PARTIAL_CONTENT if total_len(&answer.headers).is_some_and(|total| total < end) => {
                Err(Failure::ends_before(end))
            }
            StatusCode::PARTIAL_CONTENT => collect_exact(answer.body, len_bytes).await,
            // The whole file is never read for a piece of it.
            StatusCode::OK => Err(Failure::new(
                BackendErrorKind::Unsupported,
                Retry::Permanent,
                "the server ignores ranges; a repository cannot be read through it",
            )),
            status => Err(status_failure(status)),
        }
    }

    async fn write(&self, kind: FileKind, id: &Id, content: Bytes) -> Result<(), Failure> {
        let request = self.request(Method::POST, &path(kind, id))?;
        self.done(request.header(CONTENT_TYPE, "application/octet-stream").header(ACCEPT, V2), content).await
    }

    async fn remove(&self, kind: FileKind, id: &Id) -> Result<(), Failure> {
        self.done(self.request(Method::DELETE, &path(kind, id))?, Bytes::new()).await
    }

    async fn create(&self) -> Result<(), Failure> {
        let config = self.send(self.request(Method::HEAD, "config")?, Bytes::new()).await?;
        if config.status.is_success() {
            return Err(Failure::taken());
        }
        let mut url = self.url.clone();
        url.set_query(Some("create=true"));
        let mut request = Request::builder().method(Method::POST).uri(url.as_str());
        if let Some(value) = &self.authorization {
            request = request.header(AUTHORIZATION, value);
        }
        self.done(request, Bytes::new()).await
    }
}

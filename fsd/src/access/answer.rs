//! The answers to requests.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::{Stream, TryStreamExt as _};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use stash_repo::{FileKind, Id};

use super::connections::Activity;
use super::directory::{Directory, FileError, Lister};
use super::request::{self, Part, Target};

/// The media type of lists with lengths.
const V2: &str = "application/vnd.x.restic.rest.v2";
/// How much of a file is read in one go. So much is in memory for each connection, beside what the connection itself holds.
const CHUNK_BYTES: u64 = 128 << 10;

/// The body of an answer.
pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// What is answered with.
#[derive(Debug, Clone)]
pub(super) struct Answerer {
    pub(super) directory: Arc<Directory>,
    pub(super) activity: Arc<Activity>,
}

impl Answerer {
    /// Answers a request. There is always an answer.
    pub(super) async fn answer<B>(&self, request: &Request<B>) -> Response<Body> {
        self.activity.touch();
        let (method, path) = (request.method(), request.uri().path());
        let answered = match (method, request::target(path)) {
            (&Method::GET | &Method::HEAD, None) => refused(StatusCode::FORBIDDEN, "not a path of a repository"),
            (&Method::GET, Some(Target::List(kind))) => match accepts_v2(request) {
                true => self.list(kind).await,
                false => refused(StatusCode::NOT_ACCEPTABLE, "lists are of version 2 of the protocol"),
            },
            (&Method::GET | &Method::HEAD, Some(Target::File(kind, id))) => {
                let range = request.headers().get(header::RANGE).and_then(|value| value.to_str().ok());
                self.file(kind, id, range.filter(|_| method == Method::GET), method == Method::HEAD).await
            }
            (_, target) => {
                let allowed = if matches!(target, Some(Target::List(_))) { "GET" } else { "GET, HEAD" };
                let mut answer = refused(StatusCode::METHOD_NOT_ALLOWED, "this repository is served read-only");
                answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
                answer
            }
        };
        tracing::debug!(%method, path, status = answered.status().as_u16(), "answered");
        answered
    }

    async fn list(&self, kind: FileKind) -> Response<Body> {
        let directory = Arc::clone(&self.directory);
        let lister = match blocking(move || Lister::new(directory, kind)).await {
            Ok(lister) => lister,
            Err(error) => return self.failed(kind.dirname(), &error),
        };
        let (activity, path) = (Arc::clone(&self.activity), self.directory.path().to_owned());
        let pieces = futures::stream::try_unfold(lister, move |mut lister| {
            activity.touch();
            let path = path.clone();
            async move {
                let piece = blocking(move || lister.next().map(|piece| piece.map(|piece| (piece, lister)))).await;
                let piece = piece.inspect_err(|error| {
                    tracing::warn!(directory = %path.display(), kind = kind.dirname(), %error, "a list breaks off");
                });
                Ok::<_, io::Error>(piece.map_err(io::Error::other)?.map(|(piece, lister)| (piece.into(), lister)))
            }
        });
        let mut answer = Response::new(body(pieces));
        answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(V2));
        answer
    }

    async fn file(&self, kind: FileKind, id: Id, range: Option<&str>, is_head: bool) -> Response<Body> {
        let directory = Arc::clone(&self.directory);
        let (file, len_bytes) = match blocking(move || directory.file(kind, &id)).await {
            Ok(found) => found,
            Err(error) => return self.failed(&kind.path(&id), &error),
        };
        let (status, part) = match request::part(range, len_bytes) {
            Part::Whole => (StatusCode::OK, 0..len_bytes),
            Part::Range(part) => (StatusCode::PARTIAL_CONTENT, part),
            Part::Beyond => {
                let mut answer = refused(StatusCode::RANGE_NOT_SATISFIABLE, "the file ends before the range begins");
                answer.headers_mut().insert(header::CONTENT_RANGE, text(format!("bytes */{len_bytes}")));
                return answer;
            }
        };
        let bytes = if is_head { 0..0 } else { part.clone() };
        let mut answer = Response::new(body(self.content(file, bytes)));
        *answer.status_mut() = status;
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        headers.insert(header::CONTENT_LENGTH, (part.end - part.start).into());
        if status == StatusCode::PARTIAL_CONTENT {
            let range = format!("bytes {}-{}/{len_bytes}", part.start, part.end - 1);
            headers.insert(header::CONTENT_RANGE, text(range));
        }
        answer
    }

    /// The bytes of a file, each piece read when the one before was taken. A file that got shorter breaks the connection.
    fn content(&self, file: File, range: Range<u64>) -> impl Stream<Item = io::Result<Bytes>> + use<> {
        let (file, activity) = (Arc::new(file), Arc::clone(&self.activity));
        futures::stream::try_unfold(range.start, move |offset| {
            activity.touch();
            let (file, len_bytes) = (Arc::clone(&file), CHUNK_BYTES.min(range.end - offset));
            async move {
                if len_bytes == 0 {
                    return Ok(None);
                }
                let piece = blocking(move || {
                    let mut piece = BytesMut::zeroed(usize::try_from(len_bytes).unwrap_or(0));
                    file.read_exact_at(&mut piece, offset)?;
                    Ok(piece.freeze())
                });
                Ok(Some((piece.await.map_err(io::Error::other)?, offset + len_bytes)))
            }
        })
    }

    fn failed(&self, what: &str, error: &FileError) -> Response<Body> {
        let status = match error {
            FileError::NotFound => return refused(StatusCode::NOT_FOUND, "not found"),
            FileError::Foreign | FileError::Denied => StatusCode::FORBIDDEN,
            FileError::Io(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        tracing::warn!(directory = %self.directory.path().display(), what, %error, "it cannot be served");
        refused(status, "it cannot be read; the log of this server says why")
    }
}

/// Does `work` on a thread that may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FileError> + Send + 'static,
) -> Result<T, FileError> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined.unwrap_or_else(|_| Err(FileError::Io(io::Error::other("the task that did it was stopped"))))
}

fn body(pieces: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Body {
    StreamBody::new(pieces.map_ok(Frame::data)).boxed_unsync()
}

fn refused(status: StatusCode, why: &'static str) -> Response<Body> {
    let why = Full::new(Bytes::from_static(why.as_bytes())).map_err(|never| match never {});
    let mut answer = Response::new(why.boxed_unsync());
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

fn text(text: String) -> HeaderValue {
    // Digits and signs are always a value.
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

fn accepts_v2<B>(request: &Request<B>) -> bool {
    let accepted = request.headers().get_all(header::ACCEPT);
    accepted.iter().any(|value| value.to_str().is_ok_and(|value| value.split(',').any(|one| one.trim() == V2)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    struct World {
        folder: tempfile::TempDir,
        answerer: Answerer,
    }

    impl World {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir(folder.path().join("keys")).unwrap();
            let directory = Arc::new(Directory::open(folder.path()).unwrap());
            Self { folder, answerer: Answerer { directory, activity: Arc::default() } }
        }

        async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> (u16, header::HeaderMap, String) {
            let mut request = Request::builder().method(method).uri(path);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let answer = self.answerer.answer(&request.body(()).unwrap()).await;
            let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            (status, headers, String::from_utf8(body.to_vec()).unwrap())
        }
    }

    #[tokio::test]
    async fn test_what_is_asked_for_and_what_is_answered() {
        let world = World::new();
        let name = "ab".repeat(32);
        fs::write(world.folder.path().join("config"), "0123456789").unwrap();
        fs::write(world.folder.path().join(format!("keys/{name}")), "key").unwrap();
        let key = format!("/keys/{name}");
        let v2 = ("accept", V2);
        let listed = format!(r#"[{{"name":"{name}","size":3}}]"#);
        for (method, path, headers, status, body) in [
            ("GET", "/config", vec![], 200, Some("0123456789")),
            ("HEAD", "/config", vec![], 200, Some("")),
            ("HEAD", "/config", vec![("range", "bytes=0-1")], 200, Some("")),
            ("GET", "/config", vec![("range", "bytes=2-4")], 206, Some("234")),
            ("GET", "/config", vec![("range", "bytes=20-30")], 416, None),
            ("GET", &key, vec![], 200, Some("key")),
            ("GET", "/keys/", vec![v2], 200, Some(listed.as_str())),
            ("GET", "/keys/", vec![("accept", "text/html, application/vnd.x.restic.rest.v2")], 200, Some(&listed)),
            ("GET", "/data/", vec![v2], 200, Some("[]")),
            ("GET", "/keys/", vec![], 406, None),
            ("HEAD", "/keys/", vec![v2], 405, None),
            ("GET", "/locks/0000000000000000000000000000000000000000000000000000000000000000", vec![], 404, None),
            ("GET", "/", vec![], 403, None),
            ("GET", "/keys/../config", vec![], 403, None),
            ("GET", "/etc/passwd", vec![], 403, None),
            ("POST", "/?create=true", vec![], 405, None),
            ("POST", "/config", vec![], 405, None),
            ("POST", &key, vec![], 405, None),
            ("DELETE", &key, vec![], 405, None),
            ("DELETE", "/", vec![], 405, None),
            ("PUT", "/config", vec![], 405, None),
            ("OPTIONS", "/keys/", vec![], 405, None),
        ] {
            let (found, answered, content) = world.ask(method, path, &headers).await;
            assert_eq!(found, status, "{method} {path} {headers:?}: {content}");
            assert!(body.is_none_or(|body| body == content), "{method} {path} {headers:?}: {content}");
            if method == "HEAD" && status == 200 {
                assert_eq!(answered["content-length"], "10");
            }
            assert_eq!(answered.contains_key("allow"), status == 405, "{method} {path}");
        }
        let (_, headers, _) = world.ask("GET", "/config", &[("range", "bytes=8-")]).await;
        assert_eq!(
            (&headers["content-range"], &headers["content-length"]),
            (&"bytes 8-9/10".parse().unwrap(), &2.into())
        );
        let (_, headers, _) = world.ask("GET", "/config", &[("range", "bytes=10-")]).await;
        assert_eq!(headers["content-range"], "bytes */10");
        assert_eq!(world.ask("GET", "/keys/", &[v2]).await.1["content-type"], V2);
        assert_eq!(fs::read_dir(world.folder.path()).unwrap().count(), 2, "nothing was made");
    }

    #[tokio::test]
    async fn test_large_files_come_in_pieces_and_whole() {
        let world = World::new();
        let content: String = (0..100_000_u32).map(|n| format!("{n:06}")).collect();
        fs::write(world.folder.path().join("config"), &content).unwrap();
        assert!(content.len() as u64 > 3 * CHUNK_BYTES);
        assert_eq!(world.ask("GET", "/config", &[]).await.2, content);
        let range = format!("bytes=7-{}", content.len() - 2);
        assert_eq!(world.ask("GET", "/config", &[("range", &range)]).await.2, content[7..content.len() - 1]);
    }

    #[tokio::test]
    async fn test_what_changes_while_it_is_read_is_an_error_and_no_short_answer() {
        let world = World::new();
        let path = world.folder.path().join("config");
        fs::write(&path, vec![b'x'; 500_000]).unwrap();
        let answer = world.answerer.answer(&Request::get("/config").body(()).unwrap()).await;
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1000).unwrap();
        assert!(answer.into_body().collect().await.is_err());
        std::os::unix::fs::symlink("/etc/passwd", world.folder.path().join("keys").join("ab".repeat(32))).unwrap();
        let answer = world.answerer.answer(&Request::get("/keys/").header("accept", V2).body(()).unwrap()).await;
        assert!(answer.into_body().collect().await.is_err());
    }
}

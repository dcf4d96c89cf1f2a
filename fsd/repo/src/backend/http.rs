//! The one HTTP client of all stores: TLS by rustls with ring, no redirects, no compression, a pool of connections.
//!
//! Redirects stay off because a request carries credentials and, in a cluster, an address that was judged once must not
//! lead elsewhere. HTTP/1.1 is used even where a server offers HTTP/2: many connections carry many ranges faster than
//! one connection with one flow-control window.

mod kept;
mod resolve;

use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use http::{HeaderMap, StatusCode};

use super::connect::ConnectOptions;
use super::error::Failure;
use super::{BackendErrorKind, Retry};

/// The chunks of an answer's body.
pub(super) type Body = Pin<Box<dyn Stream<Item = Result<Bytes, Failure>> + Send>>;

/// An answer whose body is still to be read.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Body,
}

/// Something that sends one request to one server.
#[async_trait]
pub(super) trait Http: std::fmt::Debug + Send + Sync + 'static {
    /// Sends a request; any status is an answer.
    async fn send(&self, request: http::Request<Bytes>) -> Result<Answer, Failure>;
}

#[async_trait]
impl Http for reqwest::Client {
    async fn send(&self, request: http::Request<Bytes>) -> Result<Answer, Failure> {
        let request = reqwest::Request::try_from(request).map_err(|_| Failure::invalid("the request's URL is none"))?;
        let response = self.execute(request).await.map_err(failure)?;
        Ok(Answer {
            status: response.status(),
            headers: response.headers().clone(),
            body: Box::pin(response.bytes_stream().map_err(failure)),
        })
    }
}

/// Makes the client.
///
/// # Errors
/// A certificate cannot be read, or a proxy's address is none; named.
pub(super) fn client(options: &ConnectOptions, connections: usize) -> Result<reqwest::Client, Failure> {
    build(builder(options, connections)?)
}

/// Makes a client whose every connection goes to a Unix socket.
pub(super) fn unix_client(
    options: &ConnectOptions,
    connections: usize,
    socket: &std::path::Path,
) -> Result<reqwest::Client, Failure> {
    build(builder(options, connections)?.unix_socket(socket))
}

fn build(builder: reqwest::ClientBuilder) -> Result<reqwest::Client, Failure> {
    builder.build().map_err(|error| Failure::invalid(format!("the HTTP client cannot be made: {}", root_cause(&error))))
}

fn builder(options: &ConnectOptions, connections: usize) -> Result<reqwest::ClientBuilder, Failure> {
    let idle = options.attempt_timeout();
    let mut builder = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .http1_only()
        .no_proxy()
        .referer(false)
        .user_agent(concat!("stash-fs/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(idle)
        // A body that stops coming ends here, however long the whole may take.
        .read_timeout(idle)
        .tcp_keepalive(Duration::from_secs(15))
        .pool_idle_timeout(Duration::from_secs(60))
        .pool_max_idle_per_host(connections)
        .tls_backend_preconfigured(super::tls::config(options)?);
    if let Some(refused) = &options.refused {
        builder = builder.dns_resolver(resolve::Judged::new(refused.clone()));
    }
    if let Some((name, address)) = &options.resolved {
        // The port is that of the URL.
        builder = builder.resolve(name, std::net::SocketAddr::new(*address, 0));
    }
    for proxy in proxies(&options.environment)? {
        builder = builder.proxy(proxy);
    }
    Ok(builder)
}

/// The proxies that the usual variables name, in both cases of letters; loopback is never proxied.
fn proxies(environment: &std::collections::BTreeMap<String, String>) -> Result<Vec<reqwest::Proxy>, Failure> {
    let get = |name: &str| {
        let lower = environment.get(&name.to_ascii_lowercase()).filter(|value| !value.is_empty());
        lower.or_else(|| environment.get(name).filter(|value| !value.is_empty()))
    };
    let no_proxy = format!("localhost,127.0.0.0/8,::1,{}", get("NO_PROXY").map_or("", String::as_str));
    let no_proxy = reqwest::NoProxy::from_string(&no_proxy);
    let mut proxies = Vec::new();
    type Make = fn(&str) -> reqwest::Result<reqwest::Proxy>;
    let kinds: [(&str, Make); 3] = [
        ("HTTPS_PROXY", |url| reqwest::Proxy::https(url)),
        ("HTTP_PROXY", |url| reqwest::Proxy::http(url)),
        ("ALL_PROXY", |url| reqwest::Proxy::all(url)),
    ];
    for (name, make) in kinds {
        if let Some(url) = get(name) {
            // The address may hold a password and is not repeated.
            let proxy = make(url).map_err(|_| Failure::invalid(format!("{name} is not the URL of a proxy")))?;
            proxies.push(proxy.no_proxy(no_proxy.clone()));
        }
    }
    Ok(proxies)
}

/// What a request that got no whole answer failed of.
pub(super) fn failure(error: reqwest::Error) -> Failure {
    // URLs may hold credentials in their query (Azure's SAS); only the root cause is quoted, and without it.
    classify(&error.without_url())
}

/// As [`failure`], for an error that was stripped of its URL.
pub(super) fn classify(error: &reqwest::Error) -> Failure {
    if let Some(failure) = tls_error(error).and_then(super::tls::failure) {
        return failure;
    }
    if std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source())
        .any(|error| error.is::<resolve::RefusedName>())
    {
        return Failure::invalid(resolve::RefusedName.to_string());
    }
    if error.is_timeout() {
        return Failure::unavailable("the server did not answer in time");
    }
    let what = if error.is_connect() { "no connection" } else { "the connection broke" };
    Failure::unavailable(format!("{what}: {}", root_cause(error)))
}

/// Finds what TLS failed of, however deep it is wrapped.
fn tls_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref() {
            return Some(tls);
        }
        // std's io::Error shows the cause of what it wraps, not what it wraps.
        next = match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}

fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(error), |error| error.source()).last().map(ToString::to_string).unwrap_or_default()
}

/// What a status other than success means.
pub(super) fn status_failure(status: StatusCode) -> Failure {
    use BackendErrorKind as Kind;
    let (kind, retry, what) = match status.as_u16() {
        404 | 410 => (Kind::NotFound, Retry::Permanent, "not found"),
        401 | 403 | 407 => (Kind::Denied, Retry::Permanent, "the server refused the credentials or the right"),
        405 | 501 => (Kind::Unsupported, Retry::Permanent, "the server does not do this"),
        409 | 412 => (Kind::Conflict, Retry::Permanent, "the server reports a conflict"),
        416 => (Kind::Corrupt, Retry::Permanent, "the file ends before the range does"),
        507 => (Kind::Full, Retry::Permanent, "the server's storage is full"),
        408 | 425 | 429 | 500..=599 => (Kind::Unavailable, Retry::Temporary, "the server cannot answer now"),
        300..=399 => {
            (Kind::Other, Retry::Permanent, "the server redirects, which is not followed; use the address it leads to")
        }
        _ => (Kind::Other, Retry::Permanent, "the server refused the request"),
    };
    Failure::new(kind, retry, format!("{what} (HTTP status {})", status.as_u16()))
}

/// The file's whole length, out of `Content-Range: bytes 0-9/100`.
pub(super) fn total_len(headers: &HeaderMap) -> Option<u64> {
    headers.get(http::header::CONTENT_RANGE)?.to_str().ok()?.rsplit('/').next()?.parse().ok()
}

/// Reads a body of exactly `len_bytes`.
///
/// # Errors
/// `Corrupt` for more or fewer bytes; a body without end is left after one chunk too many.
pub(super) async fn collect_exact(body: Body, len_bytes: u64) -> Result<Bytes, Failure> {
    let bytes = collect(body, len_bytes, len_bytes)
        .await?
        .ok_or_else(|| Failure::short(format!("the answer is longer than the {len_bytes} bytes asked for")))?;
    if bytes.len() as u64 != len_bytes {
        return Err(Failure::short(format!("the answer is {} bytes instead of {len_bytes}", bytes.len())));
    }
    Ok(bytes)
}

/// Reads a whole body of at most `limit_bytes`; `None` where it is longer.
///
/// # Errors
/// The connection broke.
pub(super) async fn collect(body: Body, expect_bytes: u64, limit_bytes: u64) -> Result<Option<Bytes>, Failure> {
    let mut body = body;
    let capacity = usize::try_from(expect_bytes.min(limit_bytes).min(super::error::MAX_BUFFER_BYTES)).unwrap_or(0);
    let mut bytes = kept::Buffer::take(capacity);
    while let Some(chunk) = body.next().await {
        let chunk = chunk?;
        if bytes.len() as u64 + chunk.len() as u64 > limit_bytes {
            return Ok(None);
        }
        bytes.extend(&chunk);
    }
    Ok(Some(bytes.freeze()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(chunks: &[&'static str]) -> Body {
        Box::pin(futures::stream::iter(chunks.iter().map(|c| Ok(Bytes::from_static(c.as_bytes()))).collect::<Vec<_>>()))
    }

    #[tokio::test]
    async fn test_a_body_is_exact_or_an_error_and_never_read_past_its_limit() {
        assert_eq!(collect_exact(body(&["ab", "c"]), 3).await.unwrap(), "abc");
        assert!(collect_exact(body(&["ab"]), 3).await.is_err());
        assert!(collect_exact(body(&["ab", "cd"]), 3).await.is_err());
        let endless: Body = Box::pin(futures::stream::repeat_with(|| Ok(Bytes::from_static(b"x"))));
        assert!(collect_exact(endless, 1000).await.is_err());
        assert_eq!(collect(body(&["ab", "cd"]), 0, 3).await.unwrap(), None);
        assert_eq!(collect(body(&[]), u64::MAX, 3).await.unwrap().unwrap(), "");
    }

    #[test]
    fn test_statuses() {
        use BackendErrorKind as Kind;
        for (status, kind, retry) in [
            (301, Kind::Other, Retry::Permanent),
            (400, Kind::Other, Retry::Permanent),
            (401, Kind::Denied, Retry::Permanent),
            (403, Kind::Denied, Retry::Permanent),
            (404, Kind::NotFound, Retry::Permanent),
            (408, Kind::Unavailable, Retry::Temporary),
            (412, Kind::Conflict, Retry::Permanent),
            (416, Kind::Corrupt, Retry::Permanent),
            (429, Kind::Unavailable, Retry::Temporary),
            (500, Kind::Unavailable, Retry::Temporary),
            (503, Kind::Unavailable, Retry::Temporary),
            (507, Kind::Full, Retry::Permanent),
        ] {
            let error = status_failure(StatusCode::from_u16(status).unwrap()).at("read", "x", "y");
            assert_eq!((error.kind, error.retry), (kind, retry), "{status}");
            assert!(error.message.contains(&status.to_string()));
        }
    }

    #[test]
    fn test_a_wrong_proxy_is_named_without_its_password() {
        let environment = [("https_proxy".to_owned(), "http://user:hush@:bad:port".to_owned())].into();
        let error = proxies(&environment).unwrap_err().at("connect", "", "").to_string();
        assert!(error.contains("HTTPS_PROXY") && !error.contains("hush"), "{error}");
    }
}

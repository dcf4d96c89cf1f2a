//! The HTTP client under OpenDAL: bounds what an answer brings into memory and remembers what it was.

use std::cell::RefCell;
use std::future::Future;
use std::sync::Arc;

use futures::StreamExt as _;
use http::{Request, Response, StatusCode};
use opendal::{Buffer, Error, ErrorKind, HttpBody, HttpTransport};
use opendal_http_transport_reqwest::ReqwestTransport;

use super::super::error::Failure;

tokio::task_local! {
    static CALL: (Bounds, RefCell<Seen>);
}

/// The longest text of an error that is read.
const MAX_ERROR_BYTES: u64 = 64 << 10;

/// What one call may bring into memory.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Bounds {
    /// The longest body of each answer.
    answer_bytes: u64,
}

impl Bounds {
    /// So many bytes for each answer.
    pub(super) const fn each(answer_bytes: u64) -> Self {
        Self { answer_bytes }
    }
}

/// What the last answer of a call was, where it was no success.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) status: Option<StatusCode>,
    /// S3 names the bucket's region when it was asked in another.
    pub(super) region: Option<String>,
    pub(super) transport: Option<Failure>,
    /// Whether the server answered at all.
    pub(super) answered: bool,
    /// How long the file is as a whole, where a part of it was answered.
    pub(super) total_len: Option<u64>,
}

/// Takes what was seen so far in the call that runs.
pub(super) fn seen() -> Seen {
    let take = |seen: &mut Seen| Seen {
        status: seen.status,
        region: seen.region.take(),
        transport: seen.transport.take(),
        answered: seen.answered,
        total_len: seen.total_len,
    };
    CALL.try_with(|(_, seen)| take(&mut seen.borrow_mut())).unwrap_or_default()
}

/// Runs a call to OpenDAL under bounds; a failure comes with what was seen.
pub(super) async fn bounded<T>(
    bounds: Bounds,
    call: impl Future<Output = opendal::Result<T>>,
) -> Result<T, (Error, Seen)> {
    let scoped = async { call.await.map_err(|error| (error, seen())) };
    CALL.scope((bounds, RefCell::default()), scoped).await
}

/// Changes requests on their way, where a service's client in OpenDAL leaves something to be desired.
pub(in super::super) trait Adapt: std::fmt::Debug + Send + Sync + Unpin + 'static {
    /// Changes a request.
    fn adapt(&self, request: &mut Request<Buffer>) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Returns whether the request is to be adapted and sent once more after this answer.
    fn again(&self, status: StatusCode) -> impl Future<Output = bool> + Send {
        let _ = status;
        async { false }
    }
}

/// Sends requests as they are.
#[derive(Debug)]
pub(in super::super) struct Plain;

impl Adapt for Plain {
    async fn adapt(&self, _request: &mut Request<Buffer>) -> Result<(), Failure> {
        Ok(())
    }
}

/// The transport.
#[derive(Debug)]
pub(in super::super) struct Transport<A> {
    pub(in super::super) http: ReqwestTransport,
    pub(in super::super) adapt: Arc<A>,
}

impl<A: Adapt> Transport<A> {
    async fn once(&self, mut request: Request<Buffer>) -> opendal::Result<Response<HttpBody>> {
        // What an earlier request of the call was answered is no answer to this one.
        CALL.try_with(|(_, seen)| seen.borrow_mut().status = None).ok();
        if let Err(failure) = self.adapt.adapt(&mut request).await {
            return Err(remember(failure));
        }
        self.http.fetch(request).await.map_err(|error| {
            use std::error::Error as _;
            // reqwest's own error, found again under OpenDAL's wrapping.
            let failure = match error.source().and_then(|source| source.downcast_ref::<reqwest::Error>()) {
                Some(source) => super::super::http::classify(source),
                None => Failure::unavailable("no connection"),
            };
            remember(failure)
        })
    }
}

/// Keeps what failed for the end of the call, and tells OpenDAL only that something did.
fn remember(failure: Failure) -> Error {
    // Outside a call there is nobody to tell.
    CALL.try_with(|(_, seen)| seen.borrow_mut().transport = Some(failure)).ok();
    Error::new(ErrorKind::Unexpected, "no answer")
}

impl<A: Adapt> HttpTransport for Transport<A> {
    async fn fetch(&self, request: Request<Buffer>) -> opendal::Result<Response<HttpBody>> {
        let (parts, body) = request.into_parts();
        let again = Request::from_parts(parts.clone(), body.clone());
        let mut response = self.once(Request::from_parts(parts, body)).await?;
        if !response.status().is_success() && self.adapt.again(response.status()).await {
            response = self.once(again).await?;
        }
        let limit = CALL.try_with(|(bounds, seen)| {
            let mut seen = seen.borrow_mut();
            let status = response.status();
            seen.status = (!status.is_success()).then_some(status);
            seen.answered = true;
            seen.total_len = super::super::http::total_len(response.headers());
            let region = response.headers().get("x-amz-bucket-region").and_then(|value| value.to_str().ok());
            // It goes into a message: only what a region's name looks like.
            let is_region =
                |region: &&str| region.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') && region.len() < 40;
            seen.region = region.filter(is_region).map(str::to_owned);
            // An error's text is read whole by the service and used for nothing.
            if status.is_success() { bounds.answer_bytes } else { bounds.answer_bytes.min(MAX_ERROR_BYTES) }
        });
        let limit = limit.unwrap_or(super::MAX_PAGE_BYTES);
        Ok(response.map(|body| {
            body.map_inner(|stream| {
                let mut total: u64 = 0;
                Box::new(stream.map(move |chunk| {
                    let chunk = chunk.inspect_err(|_| drop_connection())?;
                    total = total.saturating_add(chunk.len() as u64);
                    if total > limit {
                        return Err(remember(Failure::short("the answer is longer than what was asked for")));
                    }
                    Ok(chunk)
                }))
            })
        }))
    }
}

/// A body that broke off.
fn drop_connection() {
    remember(Failure::unavailable("the connection broke before the answer was whole"));
}

//! What OpenDAL's client of Backblaze B2 lacks: the bucket's id from its name, and another endpoint than Backblaze's.

use http::{Request, Uri};
use opendal::Buffer;
use serde::Deserialize;

use super::super::error::Failure;
use super::super::http::{Http, collect, status_failure};
use super::super::{BackendErrorKind, Retry};
use super::transport::Adapt;

/// Where accounts are authorized (B2 documentation, "b2_authorize_account").
const ENDPOINT: &str = "https://api.backblazeb2.com";

/// The longest answer that is read.
const MAX_ANSWER_BYTES: u64 = 1 << 20;

/// Where accounts are authorized.
#[derive(Debug)]
pub(super) struct Endpoint(String);

impl Endpoint {
    /// Takes another endpoint than Backblaze's, for a server that speaks its protocol.
    pub(super) fn new(other: Option<&str>) -> Result<Self, Failure> {
        let url = other.unwrap_or(ENDPOINT).trim_end_matches('/');
        if !(url.starts_with("https://") || url.starts_with("http://")) || url.parse::<Uri>().is_err() {
            return Err(Failure::invalid("-o b2.endpoint is not a URL"));
        }
        Ok(Self(url.to_owned()))
    }
}

impl Adapt for Endpoint {
    /// OpenDAL asks Backblaze's own address for authorization; all others come from the answer.
    async fn adapt(&self, request: &mut Request<Buffer>) -> Result<(), Failure> {
        let uri = request.uri().to_string();
        if let Some(path) = uri.strip_prefix(ENDPOINT) {
            *request.uri_mut() =
                format!("{}{path}", self.0).parse().map_err(|_| Failure::invalid("-o b2.endpoint is not a URL"))?;
        }
        Ok(())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Authorized {
    account_id: String,
    authorization_token: String,
    api_url: String,
    #[serde(default)]
    allowed: Allowed,
}

/// What a key is restricted to.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Allowed {
    bucket_id: Option<String>,
    bucket_name: Option<String>,
}

#[derive(Deserialize)]
struct Buckets {
    buckets: Vec<Bucket>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bucket {
    bucket_id: String,
    bucket_name: String,
}

/// Finds the id of a bucket: from the key, where it is restricted to it, else from the account's list.
pub(super) async fn bucket_id(
    http: &impl Http,
    endpoint: &Endpoint,
    key_id: &str,
    key: &str,
    bucket: &str,
) -> Result<String, Failure> {
    let request = Request::get(format!("{}/b2api/v2/b2_authorize_account", endpoint.0))
        .header(http::header::AUTHORIZATION, super::super::rest::basic(key_id, key)?);
    let account: Authorized = ask(http, request, String::new()).await?;
    if let (Some(id), Some(name)) = (account.allowed.bucket_id, account.allowed.bucket_name)
        && name == bucket
    {
        return Ok(id);
    }
    let request = Request::post(format!("{}/b2api/v2/b2_list_buckets", account.api_url))
        .header(http::header::AUTHORIZATION, account.authorization_token);
    let body = serde_json::json!({ "accountId": account.account_id, "bucketName": bucket }).to_string();
    let list: Buckets = ask(http, request, body).await?;
    let found = list.buckets.into_iter().find(|candidate| candidate.bucket_name == bucket);
    found.map(|bucket| bucket.bucket_id).ok_or_else(|| {
        Failure::new(BackendErrorKind::NotFound, Retry::Permanent, "the account has no bucket of this name")
    })
}

async fn ask<T: serde::de::DeserializeOwned>(
    http: &impl Http,
    request: http::request::Builder,
    body: String,
) -> Result<T, Failure> {
    let request = request.body(body.into()).map_err(|_| Failure::invalid("the endpoint's address is no URL"))?;
    let answer = http.send(request).await?;
    if !answer.status.is_success() {
        return Err(status_failure(answer.status));
    }
    let body = collect(answer.body, 0, MAX_ANSWER_BYTES).await?.ok_or_else(|| Failure::too_long(MAX_ANSWER_BYTES))?;
    serde_json::from_slice(&body).map_err(|_| Failure::short("the answer is not what the protocol says"))
}

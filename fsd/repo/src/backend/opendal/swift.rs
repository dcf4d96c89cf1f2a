//! OpenStack's identity services: from restic's `ST_*` and `OS_*` variables to a token and the storage's address.
//!
//! OpenDAL's client takes a finished token; tokens end after hours, so every request gets the present one here, and a
//! 401 fetches another once.
//!
//! Sources: restic, `doc/030_preparing_a_new_repo.rst`, "OpenStack Swift"; OpenStack, Identity API v2.0 and v3.

use std::sync::Arc;

use http::{HeaderValue, Request, StatusCode};
use opendal::Buffer;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::super::error::Failure;
use super::super::http::{Http, collect, status_failure};
use super::super::settings::Settings;
use super::super::{BackendErrorKind, Retry};
use super::transport::Adapt;

/// The longest answer that is read: a catalog of all services in all regions.
const MAX_ANSWER_BYTES: u64 = 4 << 20;

/// Who logs in, and where.
pub(super) enum Login {
    /// Both are known already.
    Token { storage_url: String, token: String },
    /// Version 1: `ST_AUTH`, `ST_USER`, `ST_KEY`.
    V1 { url: String, user: String, key: String },
    /// Version 2 or 3: the body of the request, and which region of the catalog.
    Catalog { url: String, body: Value, is_v3: bool, region: Option<String> },
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Login")
    }
}

impl Login {
    /// Reads the variables.
    pub(super) fn new(settings: &Settings<'_>) -> Result<Self, Failure> {
        if let (Some(storage_url), Some(token)) = (settings.env("OS_STORAGE_URL"), settings.env("OS_AUTH_TOKEN")) {
            return Ok(Self::Token { storage_url: storage_url.to_owned(), token: token.to_owned() });
        }
        if let Some(url) = settings.env("ST_AUTH") {
            let (user, key) = (settings.need(&["ST_USER"])?.to_owned(), settings.need(&["ST_KEY"])?.to_owned());
            return Ok(Self::V1 { url: url.to_owned(), user, key });
        }
        let url = settings.need(&["OS_AUTH_URL", "ST_AUTH"])?.trim_end_matches('/');
        let region = settings.env("OS_REGION_NAME").map(str::to_owned);
        let is_v3 = !url.ends_with("/v2.0") && !url.ends_with("/v2");
        let (url, body) = if is_v3 {
            let url = if url.ends_with("/v3") { url.to_owned() } else { format!("{url}/v3") };
            (format!("{url}/auth/tokens"), v3_body(settings)?)
        } else {
            (format!("{url}/tokens"), v2_body(settings)?)
        };
        Ok(Self::Catalog { url, body, is_v3, region })
    }
}

fn v2_body(settings: &Settings<'_>) -> Result<Value, Failure> {
    let mut auth = json!({ "passwordCredentials": {
        "username": settings.need(&["OS_USERNAME"])?,
        "password": settings.need(&["OS_PASSWORD"])?,
    } });
    if let Some(id) = settings.env("OS_TENANT_ID") {
        auth["tenantId"] = json!(id);
    } else {
        auth["tenantName"] = json!(settings.need(&["OS_TENANT_NAME", "OS_TENANT_ID"])?);
    }
    Ok(json!({ "auth": auth }))
}

/// `{"id": ..}` or `{"name": ..}` out of the first variable that is set.
fn named(settings: &Settings<'_>, id: &[&str], name: &[&str]) -> Option<Value> {
    settings
        .env_any(id)
        .map(|id| json!({ "id": id }))
        .or_else(|| settings.env_any(name).map(|name| json!({ "name": name })))
}

fn v3_body(settings: &Settings<'_>) -> Result<Value, Failure> {
    let user_domain = || {
        named(settings, &["OS_USER_DOMAIN_ID"], &["OS_USER_DOMAIN_NAME"]).unwrap_or_else(|| json!({ "id": "default" }))
    };
    let user = || -> Result<Value, Failure> {
        match settings.env("OS_USER_ID") {
            Some(id) => Ok(json!({ "id": id })),
            None => Ok(json!({ "name": settings.need(&["OS_USERNAME", "OS_USER_ID"])?, "domain": user_domain() })),
        }
    };
    let credential = named(settings, &["OS_APPLICATION_CREDENTIAL_ID"], &["OS_APPLICATION_CREDENTIAL_NAME"]);
    if let Some(mut credential) = credential {
        credential["secret"] = json!(settings.need(&["OS_APPLICATION_CREDENTIAL_SECRET"])?);
        if credential.get("id").is_none() {
            credential["user"] = user()?;
        }
        let identity = json!({ "methods": ["application_credential"], "application_credential": credential });
        // Such a credential belongs to a project already.
        return Ok(json!({ "auth": { "identity": identity } }));
    }
    let mut user = user()?;
    user["password"] = json!(settings.need(&["OS_PASSWORD"])?);
    let identity = json!({ "methods": ["password"], "password": { "user": user } });
    let scope = if let Some(trust) = settings.env("OS_TRUST_ID") {
        json!({ "OS-TRUST:trust": { "id": trust } })
    } else {
        let project = named(settings, &["OS_PROJECT_ID", "OS_TENANT_ID"], &["OS_PROJECT_NAME", "OS_TENANT_NAME"]);
        let mut project = match project {
            Some(project) => project,
            None => json!({ "name": settings.need(&["OS_PROJECT_NAME", "OS_PROJECT_ID"])? }),
        };
        if project.get("name").is_some() {
            project["domain"] = named(settings, &["OS_PROJECT_DOMAIN_ID"], &["OS_PROJECT_DOMAIN_NAME"])
                .unwrap_or_else(|| json!({ "id": "default" }));
        }
        json!({ "project": project })
    };
    Ok(json!({ "auth": { "identity": identity, "scope": scope } }))
}

/// A token and what it opens.
#[derive(Clone)]
pub(super) struct Session {
    pub(super) storage_url: String,
    pub(super) token: String,
}

/// The present token.
#[derive(Debug, Clone)]
pub(super) struct Tokens {
    shared: Arc<Shared>,
}

struct Shared {
    http: reqwest::Client,
    login: Login,
    /// Held while a new one is fetched, so that many refused requests fetch one.
    session: Mutex<Option<Session>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tokens")
    }
}

impl Tokens {
    pub(super) fn new(http: reqwest::Client, login: Login) -> Self {
        Self { shared: Arc::new(Shared { http, login, session: Mutex::new(None) }) }
    }

    /// Returns the present token, or logs in.
    pub(super) async fn session(&self) -> Result<Session, Failure> {
        let mut session = self.shared.session.lock().await;
        if let Some(session) = &*session {
            return Ok(session.clone());
        }
        let fresh = log_in(&self.shared.http, &self.shared.login).await?;
        *session = Some(fresh.clone());
        Ok(fresh)
    }
}

impl Adapt for Tokens {
    async fn adapt(&self, request: &mut Request<Buffer>) -> Result<(), Failure> {
        let session = self.session().await?;
        let mut token = HeaderValue::try_from(session.token)
            .map_err(|_| Failure::invalid("the token does not fit into a header"))?;
        token.set_sensitive(true);
        request.headers_mut().insert("x-auth-token", token);
        Ok(())
    }

    async fn again(&self, status: StatusCode) -> bool {
        let can = status == StatusCode::UNAUTHORIZED && !matches!(self.shared.login, Login::Token { .. });
        if can {
            *self.shared.session.lock().await = None;
        }
        can
    }
}

async fn log_in(http: &impl Http, login: &Login) -> Result<Session, Failure> {
    let no_url = |_| Failure::invalid("$OS_AUTH_URL or $ST_AUTH is not a URL");
    match login {
        Login::Token { storage_url, token } => Ok(Session { storage_url: storage_url.clone(), token: token.clone() }),
        Login::V1 { url, user, key } => {
            let request = Request::get(url).header("x-auth-user", user).header("x-auth-key", key);
            let answer = http.send(request.body(bytes::Bytes::new()).map_err(no_url)?).await?;
            if !answer.status.is_success() {
                return Err(status_failure(answer.status));
            }
            let header = |name: &str| Some(answer.headers.get(name)?.to_str().ok()?.to_owned());
            match (header("x-storage-url"), header("x-auth-token")) {
                (Some(storage_url), Some(token)) => Ok(Session { storage_url, token }),
                _ => Err(Failure::invalid("$ST_AUTH answered without a token; is it the address of version 1?")),
            }
        }
        Login::Catalog { url, body, is_v3, region } => {
            let request = Request::post(url).header(http::header::CONTENT_TYPE, "application/json");
            let answer = http.send(request.body(body.to_string().into()).map_err(no_url)?).await?;
            if !answer.status.is_success() {
                return Err(status_failure(answer.status));
            }
            let header = answer.headers.get("x-subject-token").and_then(|value| value.to_str().ok()).map(str::to_owned);
            let body = collect(answer.body, 0, MAX_ANSWER_BYTES).await?;
            let body = body.ok_or_else(|| Failure::too_long(MAX_ANSWER_BYTES))?;
            let body: Value = serde_json::from_slice(&body)
                .map_err(|_| Failure::short("the answer is not what the protocol says"))?;
            let token = if *is_v3 { header } else { text(&body["access"]["token"]["id"]) };
            let token = token.ok_or_else(|| Failure::invalid("the identity service answered without a token"))?;
            let storage_url = storage_url(&body, *is_v3, region.as_deref()).ok_or_else(|| {
                let place = region.as_ref().map(|region| format!(" in $OS_REGION_NAME {region}")).unwrap_or_default();
                let message = format!("the identity service names no object store{place}");
                Failure::new(BackendErrorKind::NotFound, Retry::Permanent, message)
            })?;
            Ok(Session { storage_url, token })
        }
    }
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// The public address of the object store in a catalog of services.
fn storage_url(body: &Value, is_v3: bool, region: Option<&str>) -> Option<String> {
    let catalog = if is_v3 { &body["token"]["catalog"] } else { &body["access"]["serviceCatalog"] };
    let store = items(catalog).find(|service| service["type"] == "object-store")?;
    let fits = |endpoint: &&Value| {
        region.is_none_or(|region| endpoint["region"] == region || endpoint["region_id"] == region)
            && (!is_v3 || endpoint["interface"] == "public")
    };
    let endpoint = items(&store["endpoints"]).find(fits)?;
    text(if is_v3 { &endpoint["url"] } else { &endpoint["publicURL"] })
}

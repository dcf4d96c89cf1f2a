//! From restic's address, environment and options to an OpenDAL operator.
//!
//! Credentials are always handed over: where the machine's own (profiles, instance metadata) are not allowed
//! ([`super::super::connect::ConnectOptions::ambient`]), a missing key is an error here, by name, before OpenDAL could look for others.

use std::sync::Arc;

use opendal::{Builder, HttpTransporter, OperationContext, Operator, services};
use opendal_http_transport_reqwest::ReqwestTransport;

use super::super::error::Failure;
use super::super::location::Container;
use super::super::settings::Settings;
use super::OpendalBackend;
use super::transport::{Adapt, Plain, Transport};

/// Requests in parallel. restic's 5 are chosen for uploads over a home line; reading ranges is latency times chunks.
const DEFAULT_CONNECTIONS: usize = 32;

/// Storage classes whose files cannot be read at once: for packs only, or the repository could not be opened (restic,
/// `internal/backend/s3`, `useStorageClass`).
const ARCHIVES: [&str; 2] = ["GLACIER", "DEEP_ARCHIVE"];

fn operator<A: Adapt>(builder: impl Builder, settings: &Settings<'_>, adapt: A) -> Result<Operator, Failure> {
    // OpenDAL's own texts may quote what they were given.
    let operator = Operator::new(builder)
        .map_err(|_| Failure::invalid("the address, options or credentials do not fit the store"))?;
    let client = super::super::http::client(settings.options, settings.connections(DEFAULT_CONNECTIONS)?)?;
    let transport = Transport { http: ReqwestTransport::new(client), adapt: Arc::new(adapt) };
    Ok(operator.with_context(OperationContext::new().with_http_transport(HttpTransporter::new(transport))))
}

fn backend(operator: Operator, settings: &Settings<'_>) -> Result<OpendalBackend, Failure> {
    let connections = settings.connections(DEFAULT_CONNECTIONS)?;
    Ok(OpendalBackend { operator, packs: None, connections })
}

/// What an address of S3 says.
pub(in super::super) struct S3Place<'a> {
    pub(in super::super) plain_http: bool,
    pub(in super::super) endpoint: &'a str,
    pub(in super::super) bucket: &'a str,
    pub(in super::super) prefix: &'a str,
}

/// Reaches a bucket of S3.
pub(in super::super) fn s3(place: &S3Place<'_>, settings: &Settings<'_>) -> Result<OpendalBackend, Failure> {
    settings.default_layout()?;
    let builder = |class: Option<&str>| -> Result<services::S3, Failure> {
        let scheme = if place.plain_http { "http" } else { "https" };
        let region = settings.option("region").or_else(|| settings.env_any(&["AWS_DEFAULT_REGION", "AWS_REGION"]));
        let mut builder = services::S3::default()
            .bucket(place.bucket)
            .root(place.prefix)
            .endpoint(&format!("{scheme}://{}", place.endpoint))
            .region(region.unwrap_or("us-east-1"));
        if by_host_name(settings, place)? {
            builder = builder.enable_virtual_host_style();
        }
        if settings.flag("list-objects-v1")? {
            builder = builder.disable_list_objects_v2();
        }
        if let Some(class) = class {
            builder = builder.default_storage_class(class);
        }
        s3_credentials(builder, settings)
    };
    let class = settings.option("storage-class");
    let archive = class.filter(|class| ARCHIVES.contains(class));
    let mut backend = backend(operator(builder(class.xor(archive))?, settings, Plain)?, settings)?;
    if archive.is_some() {
        backend.packs = Some(operator(builder(archive)?, settings, Plain)?);
    }
    Ok(backend)
}

/// Whether the bucket is part of the host's name. Only Amazon's own endpoints are known to ask for that.
fn by_host_name(settings: &Settings<'_>, place: &S3Place<'_>) -> Result<bool, Failure> {
    match settings.option("bucket-lookup") {
        None | Some("auto") => {
            // A certificate for one level of names does not fit a bucket with dots.
            let host = place.endpoint.split(':').next().unwrap_or_default();
            Ok((host.ends_with(".amazonaws.com") || host.ends_with(".amazonaws.com.cn")) && !place.bucket.contains('.'))
        }
        Some("dns") => Ok(true),
        Some("path") => Ok(false),
        Some(_) => Err(Failure::invalid("-o s3.bucket-lookup is auto, dns or path")),
    }
}

fn s3_credentials(builder: services::S3, settings: &Settings<'_>) -> Result<services::S3, Failure> {
    if settings.flag("unsafe-anonymous-auth")? {
        return Ok(builder.skip_signature());
    }
    const IDS: [&str; 2] = ["AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY"];
    const SECRETS: [&str; 2] = ["AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY"];
    match (settings.env_any(&IDS), settings.env_any(&SECRETS)) {
        (Some(id), Some(secret)) => {
            let builder =
                builder.disable_config_load().disable_ec2_metadata().access_key_id(id).secret_access_key(secret);
            Ok(match settings.env("AWS_SESSION_TOKEN") {
                Some(token) => builder.session_token(token),
                None => builder,
            })
        }
        // Half a pair is a slip, and the machine's credentials would hide it.
        (None, None) if settings.options.ambient => match settings.env("AWS_PROFILE") {
            Some(profile) => Ok(builder.profile(profile)),
            None => Ok(builder),
        },
        (None, _) => Err(Failure::invalid("$AWS_ACCESS_KEY_ID is not set")),
        (Some(_), None) => Err(Failure::invalid("$AWS_SECRET_ACCESS_KEY is not set")),
    }
}

/// Reaches a bucket of Google Cloud Storage.
pub(in super::super) fn gcs(place: &Container, settings: &Settings<'_>) -> Result<OpendalBackend, Failure> {
    let mut builder = services::Gcs::default().bucket(&place.name).root(&place.prefix);
    if let Some(endpoint) = settings.option("endpoint") {
        builder = builder.endpoint(endpoint);
    }
    if let Some(token) = settings.env("GOOGLE_ACCESS_TOKEN") {
        builder = builder.disable_config_load().disable_vm_metadata().token(token.to_owned());
    } else if let Some(account) = settings.env("GOOGLE_SERVICE_ACCOUNT_JSON_KEY") {
        let account = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, account);
        builder = builder.disable_config_load().disable_vm_metadata().credential(&account);
    } else if let Some(path) = settings.env("GOOGLE_APPLICATION_CREDENTIALS") {
        if !std::path::Path::new(path).is_file() {
            return Err(Failure::invalid("$GOOGLE_APPLICATION_CREDENTIALS is not the path of a file"));
        }
        builder = builder.disable_config_load().disable_vm_metadata().credential_path(path);
    } else if !settings.options.ambient {
        settings.need(&["GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_ACCESS_TOKEN"])?;
    }
    backend(operator(builder, settings, Plain)?, settings)
}

/// Reaches a container of Azure Blob Storage.
pub(in super::super) fn azure(place: &Container, settings: &Settings<'_>) -> Result<OpendalBackend, Failure> {
    let account = settings.need(&["AZURE_ACCOUNT_NAME"])?;
    let suffix = settings.env("AZURE_ENDPOINT_SUFFIX").unwrap_or("core.windows.net");
    let endpoint = match settings.option("endpoint") {
        Some(endpoint) => endpoint.to_owned(),
        None => format!("https://{account}.blob.{suffix}"),
    };
    if settings.option("access-tier").is_some() {
        return Err(Failure::invalid(
            "-o azure.access-tier is not supported; set the container's default tier instead",
        ));
    }
    let builder = services::Azblob::default()
        .container(&place.name)
        .root(&place.prefix)
        .endpoint(&endpoint)
        .account_name(account);
    let builder = match (settings.env("AZURE_ACCOUNT_KEY"), settings.env("AZURE_ACCOUNT_SAS")) {
        (Some(key), _) => builder.account_key(key),
        // Azure shows them with a question mark in front, for use in a URL.
        (None, Some(sas)) => builder.sas_token(sas.trim_start_matches('?')),
        (None, None) if settings.options.ambient => builder,
        (None, None) => {
            return Err(settings
                .need(&["AZURE_ACCOUNT_KEY", "AZURE_ACCOUNT_SAS"])
                .err()
                .unwrap_or_else(|| Failure::invalid("no key")));
        }
    };
    backend(operator(builder, settings, Plain)?, settings)
}

/// Reaches a container of OpenStack Swift: asks the identity service for the storage's address first.
pub(in super::super) async fn swift(place: &Container, settings: &Settings<'_>) -> Result<OpendalBackend, Failure> {
    let client = super::super::http::client(settings.options, 1)?;
    let tokens = super::swift::Tokens::new(client, super::swift::Login::new(settings)?);
    let session = tokens.session().await?;
    let builder = services::Swift::default()
        .container(&place.name)
        .root(&place.prefix)
        .endpoint(&session.storage_url)
        .token(&session.token);
    backend(operator(builder, settings, tokens)?, settings)
}

/// Reaches a bucket of Backblaze B2: asks for the bucket's id first.
pub(in super::super) async fn b2(place: &Container, settings: &Settings<'_>) -> Result<OpendalBackend, Failure> {
    let id = settings.need(&["B2_ACCOUNT_ID"])?;
    let key = settings.need(&["B2_ACCOUNT_KEY"])?;
    let endpoint = super::b2::Endpoint::new(settings.option("endpoint"))?;
    let client = super::super::http::client(settings.options, 1)?;
    let bucket_id = super::b2::bucket_id(&client, &endpoint, id, key, &place.name).await?;
    let builder = services::B2::default()
        .bucket(&place.name)
        .bucket_id(&bucket_id)
        .root(&place.prefix)
        .application_key_id(id)
        .application_key(key);
    backend(operator(builder, settings, endpoint)?, settings)
}

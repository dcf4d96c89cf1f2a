//! Requests and connections of hooks: to addresses that were checked after their names were looked up, without redirects.
//!
//! As in Stash, the certificate of a server is not checked: a hook may ask a pod by its address. Of an answer only its code is kept.
//! Messages name the server and never the path, the headers or the body, which may hold secrets.

use std::sync::Arc;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::call::{HttpCall, Payload};
use super::template::value::Value;
use crate::repository::backend::{AddressRule, BackendProblem};

/// A server, and which may be reached.
#[derive(Clone, Copy, Debug)]
pub struct Server<'a> {
    /// Its name or address.
    pub host: &'a str,
    /// Its port.
    pub port: u16,
    /// Which servers are refused.
    pub addresses: &'a AddressRule,
}

impl std::fmt::Display for Server<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Opens a connection.
///
/// # Errors
///
/// The server is refused, or cannot be reached: a sentence for the user.
pub async fn connect(server: Server<'_>) -> Result<TcpStream, String> {
    let found = tokio::net::lookup_host((server.host, server.port)).await;
    let found: Vec<_> = found.map_err(|error| format!("{} cannot be looked up: {error}", server.host))?.collect();
    let permitted = found.iter().filter(|address| server.addresses.permits(server.host, address.ip()));
    let mut last = match found.first() {
        Some(address) => {
            let refused = BackendProblem::Address(address.ip().to_string());
            format!("{}: {refused}", server.host)
        }
        None => format!("{} has no address", server.host),
    };
    for address in permitted {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = format!("{server} cannot be reached: {error}"),
        }
    }
    Err(last)
}

/// Sends a request. An answer of 200 to 399 is a success.
///
/// # Errors
///
/// The server cannot be reached, or answers something else: a sentence for the user.
pub async fn send(call: &HttpCall, server: Server<'_>, data: &Value) -> Result<(), String> {
    let request = request(call, server, data)?;
    let stream = connect(server).await?;
    let status = if call.tls {
        let name = ServerName::try_from(server.host.to_owned()).map_err(|_| format!("{} is no name", server.host))?;
        let stream = TlsConnector::from(trusting()).connect(name, stream).await;
        exchange(stream.map_err(|error| format!("{server} does not speak TLS with us: {error}"))?, request).await
    } else {
        exchange(stream, request).await
    };
    match status.map_err(|error| format!("{server} did not answer: {error}"))?.as_u16() {
        200..400 => Ok(()),
        code => Err(format!("{server} answered {code}")),
    }
}

fn request(call: &HttpCall, server: Server<'_>, data: &Value) -> Result<Request<Full<Bytes>>, String> {
    let (method, body, kind) = match &call.payload {
        Payload::Get => (Method::GET, String::new(), None),
        Payload::Form(form) => (Method::POST, form.clone(), Some("application/x-www-form-urlencoded")),
        Payload::Body(template) => {
            let body = template.render(data).map_err(|problem| format!("httpPost.body: {problem}"))?;
            let json = serde_json::from_str::<serde::de::IgnoredAny>(&body).is_ok();
            (Method::POST, body, Some(if json { "application/json" } else { "text/plain; charset=utf-8" }))
        }
    };
    let mut request = Request::new(Full::new(Bytes::from(body)));
    *request.method_mut() = method;
    *request.uri_mut() = call.path.clone().into();
    *request.headers_mut() = call.headers.clone();
    let headers = request.headers_mut();
    let usual_port = if call.tls { 443 } else { 80 };
    let host = server.to_string();
    let host = host.strip_suffix(&format!(":{usual_port}")).unwrap_or(&host);
    let host = HeaderValue::from_str(host).map_err(|_| format!("{} is no name", server.host))?;
    headers.entry(header::HOST).or_insert(host);
    let agent = concat!("stash-controller/", env!("CARGO_PKG_VERSION"));
    headers.entry(header::USER_AGENT).or_insert(HeaderValue::from_static(agent));
    headers.entry(header::ACCEPT).or_insert(HeaderValue::from_static("*/*"));
    if let Some(kind) = kind {
        headers.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static(kind));
    }
    Ok(request)
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> hyper::Result<StatusCode>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // It ends with this call.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    Ok(sender.send_request(request).await?.status())
}

/// Returns a configuration that takes any certificate.
fn trusting() -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(AnyCertificate(Arc::clone(&provider)));
    let versions = [&rustls::version::TLS13, &rustls::version::TLS12];
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)
        .expect("the provider has these versions");
    Arc::new(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

/// Takes any certificate, and only signatures that are right.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use stash_crds::hooks::Hook;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::hooks::call::{Action, Call};
    use crate::hooks::summary::Summary;

    fn rule(allowed: &[&str]) -> AddressRule {
        AddressRule { allowed: allowed.iter().map(|&host| host.to_owned()).collect(), api_servers: Vec::new() }
    }

    fn http(hook: serde_json::Value) -> HttpCall {
        let hook: Hook = serde_json::from_value(hook).unwrap();
        match Call::read(&hook, &AddressRule::default()).unwrap().action {
            Action::Http(call) => *call,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn test_requests() {
        let server = Server { host: "a.example", port: 443, addresses: &rule(&[]) };
        let data = Summary { name: "nightly-1".to_owned(), ..Summary::default() }.value();
        let post = |more: serde_json::Value| {
            let mut action = json!({"port": 443, "host": "a.example", "scheme": "HTTPS", "path": "/x?y=z"});
            for (key, value) in more.as_object().unwrap() {
                action[key] = value.clone();
            }
            request(&http(json!({ "httpPost": action })), server, &data).unwrap()
        };
        let sent = post(json!({"body": " {\"text\": \"{{ .Name }}\"} "}));
        assert_eq!((sent.method(), sent.uri().to_string().as_str()), (&Method::POST, "/x?y=z"));
        assert_eq!(
            (&sent.headers()["host"], &sent.headers()["content-type"]),
            (&HeaderValue::from_static("a.example"), &HeaderValue::from_static("application/json"))
        );
        let given = json!([{"name": "Content-Type", "value": "text/x"}, {"name": "Host", "value": "other"}]);
        let sent = post(json!({"body": "{}", "httpHeaders": given}));
        assert_eq!(
            (&sent.headers()["content-type"], &sent.headers()["host"]),
            (&HeaderValue::from_static("text/x"), &HeaderValue::from_static("other"))
        );
        assert_eq!(post(json!({"body": "done"})).headers()["content-type"], "text/plain; charset=utf-8");
        assert_eq!(
            post(json!({"form": [{"key": "a", "values": ["b"]}]})).headers()["content-type"],
            "application/x-www-form-urlencoded"
        );
        let get = http(json!({"httpGet": {"port": 8080, "host": "a.example"}}));
        let sent = request(&get, Server { port: 8080, ..server }, &data).unwrap();
        assert_eq!(
            (sent.method(), &sent.headers()["host"]),
            (&Method::GET, &HeaderValue::from_static("a.example:8080"))
        );
        assert!(sent.headers().get("content-type").is_none());
        assert_eq!(Server { host: "2001:db8::1", ..server }.to_string(), "[2001:db8::1]:443");
    }

    /// Answers one request with `answer`.
    async fn answering(answer: &'static str) -> u16 {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 4096];
            assert!(stream.read(&mut buffer).await.unwrap() > 0);
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        port
    }

    #[tokio::test]
    async fn test_answers_are_judged_by_their_code() {
        let data = Summary::default().value();
        let call = http(json!({"httpGet": {"port": 80, "host": "a.example", "path": "/secret"}}));
        let addresses = rule(&["127.0.0.1"]);
        for (answer, expected) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecret", None),
            ("HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n", None),
            ("HTTP/1.1 404 Not Found\r\ncontent-length: 6\r\n\r\nsecret", Some("answered 404")),
            ("HTTP/1.1 500 secret\r\ncontent-length: 0\r\n\r\n", Some("answered 500")),
            ("nonsense", Some("did not answer")),
            ("", Some("did not answer")),
        ] {
            let port = answering(answer).await;
            let outcome = send(&call, Server { host: "127.0.0.1", port, addresses: &addresses }, &data).await;
            match (outcome, expected) {
                (Ok(()), None) => {}
                (Err(why), Some(expected)) => assert!(why.contains(expected) && !why.contains("secret"), "{why}"),
                other => panic!("{answer}: {other:?}"),
            }
        }
        let tls = HttpCall { tls: true, ..call };
        let port = answering("HTTP/1.1 400 Bad Request\r\n\r\n").await;
        let why = send(&tls, Server { host: "127.0.0.1", port, addresses: &addresses }, &data).await.unwrap_err();
        assert!(why.contains("does not speak TLS"), "{why}");
    }

    #[tokio::test]
    async fn test_servers_that_must_not_be_reached_are_refused_when_their_name_was_looked_up() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        // Another spelling of the same address: only what it leads to can be judged.
        for host in ["localhost", "127.0.0.1", "127.1"] {
            let why = connect(Server { host, port, addresses: &rule(&[]) }).await.unwrap_err();
            assert!(why.contains("is refused"), "{host}: {why}");
        }
        assert!(connect(Server { host: "localhost", port, addresses: &rule(&["localhost"]) }).await.is_ok());
        assert!(connect(Server { host: "127.0.0.1", port, addresses: &rule(&["127.0.0.1"]) }).await.is_ok());
        drop(listener);
        let why = connect(Server { host: "127.0.0.1", port, addresses: &rule(&["127.0.0.1"]) }).await.unwrap_err();
        assert!(why.contains("cannot be reached"), "{why}");
    }
}

//! What a hook asks for, read from its object. Pure.

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::uri::PathAndQuery;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use stash_crds::hooks::{FormEntry, Hook, HttpGetAction};

use super::summary::Summary;
use super::template::Template;
use crate::repository::backend::{AddressRule, BackendProblem};

/// Headers that belong to the connection, and so not to the user.
const OURS: [HeaderName; 5] =
    [header::CONNECTION, header::CONTENT_LENGTH, header::TE, header::TRANSFER_ENCODING, header::UPGRADE];

/// A hook that can be called.
#[derive(Clone, Debug)]
pub struct Call {
    /// What is done.
    pub action: Action,
    /// The container in which a command runs and whose ports have names; the first if none is given.
    pub container: Option<String>,
}

/// What a hook does.
#[derive(Clone, Debug)]
pub enum Action {
    /// Runs a command.
    Exec(Vec<Template>),
    /// Sends a request.
    Http(Box<HttpCall>),
    /// Opens a connection.
    Tcp(Endpoint),
}

/// Where a connection goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The server; the pod if none is given.
    pub host: Option<String>,
    /// Its port.
    pub port: Port,
}

/// A port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Port {
    /// By number.
    Number(u16),
    /// By the name that a container gives it.
    Name(String),
}

/// A request.
#[derive(Clone, Debug)]
pub struct HttpCall {
    /// Where it goes.
    pub endpoint: Endpoint,
    /// Whether it goes over TLS.
    pub tls: bool,
    /// The path, which may hold a secret.
    pub path: PathAndQuery,
    /// The user's headers.
    pub headers: HeaderMap,
    /// What is sent.
    pub payload: Payload,
}

/// What a request sends.
#[derive(Clone, Debug)]
pub enum Payload {
    /// Nothing: it is a GET.
    Get,
    /// A text.
    Body(Template),
    /// A form, as it is sent.
    Form(String),
}

impl Call {
    /// Reads a hook.
    ///
    /// # Errors
    ///
    /// What cannot be done, a sentence each that begins with the field.
    pub fn read(hook: &Hook, addresses: &AddressRule) -> Result<Self, Vec<String>> {
        let mut problems = Vec::new();
        let action = action(hook, addresses, &mut problems);
        match action {
            Some(action) if problems.is_empty() => {
                Ok(Self { action, container: filled(hook.container_name.as_deref()) })
            }
            _ => Err(problems),
        }
    }

    /// Whether it acts on the target's pods, and so on each.
    pub fn needs_pod(&self) -> bool {
        let of_pod = |endpoint: &Endpoint| endpoint.host.is_none() || matches!(endpoint.port, Port::Name(_));
        match &self.action {
            Action::Exec(_) => true,
            Action::Http(call) => of_pod(&call.endpoint),
            Action::Tcp(endpoint) => of_pod(endpoint),
        }
    }
}

/// Whether a hook acts on the target's pods, as far as can be told of one that may not be possible.
pub fn acts_on_pods(hook: &Hook) -> bool {
    // Which servers are refused makes no difference here.
    Call::read(hook, &AddressRule::default()).is_ok_and(|call| call.needs_pod())
}

fn filled(text: Option<&str>) -> Option<String> {
    text.filter(|text| !text.is_empty()).map(str::to_owned)
}

fn action(hook: &Hook, addresses: &AddressRule, problems: &mut Vec<String>) -> Option<Action> {
    match (&hook.exec, &hook.http_get, &hook.http_post, &hook.tcp_socket) {
        (Some(exec), None, None, None) => {
            if exec.command.is_empty() {
                problems.push("exec.command: an exec hook needs a command".to_owned());
            }
            let words = exec.command.iter().enumerate();
            let words = words.map(|(place, word)| template(&format!("exec.command[{place}]"), word, problems));
            words.collect::<Option<Vec<_>>>().map(Action::Exec)
        }
        (None, Some(get), None, None) => {
            http("httpGet", get, Some(Payload::Get), addresses, problems).map(|call| Action::Http(Box::new(call)))
        }
        (None, None, Some(post), None) => {
            let payload = if post.form.is_empty() {
                template("httpPost.body", post.body.as_deref().unwrap_or_default(), problems).map(Payload::Body)
            } else {
                Some(Payload::Form(form(&post.form)))
            };
            http("httpPost", &post.target, payload, addresses, problems).map(|call| Action::Http(Box::new(call)))
        }
        (None, None, None, Some(tcp)) => {
            endpoint("tcpSocket", tcp.host.as_deref(), &tcp.port, addresses, problems).map(Action::Tcp)
        }
        _ => {
            problems.push("a hook has exactly one action: exec, httpGet, httpPost or tcpSocket".to_owned());
            None
        }
    }
}

/// Reads a template and tries it, so that what it does not take is found before it matters.
fn template(field: &str, text: &str, problems: &mut Vec<String>) -> Option<Template> {
    let samples = Summary::samples().map(|sample| sample.value());
    let tried = Template::parse(text, &samples[0]).and_then(|template| {
        samples.iter().try_for_each(|sample| template.render(sample).map(drop))?;
        Ok(template)
    });
    tried.map_err(|problem| problems.push(format!("{field}: {problem}"))).ok()
}

fn http(
    name: &str,
    action: &HttpGetAction,
    payload: Option<Payload>,
    addresses: &AddressRule,
    problems: &mut Vec<String>,
) -> Option<HttpCall> {
    let endpoint = endpoint(name, action.host.as_deref(), &action.port, addresses, problems);
    let scheme = action.scheme.as_deref().unwrap_or_default();
    let tls = scheme.eq_ignore_ascii_case("https");
    if !tls && !scheme.is_empty() && !scheme.eq_ignore_ascii_case("http") {
        problems.push(format!("{name}.scheme: {scheme:?} is neither HTTP nor HTTPS"));
    }
    let written = action.path.as_deref().unwrap_or_default();
    // What it holds is not repeated: it may be a secret.
    let path = format!("/{}", written.trim_start_matches('/')).parse::<PathAndQuery>();
    let path = path.map_err(|_| problems.push(format!("{name}.path: it is no path of a request"))).ok();
    let mut headers = HeaderMap::new();
    for (place, given) in action.http_headers.iter().enumerate() {
        let read = (given.name.parse::<HeaderName>(), given.value.parse::<HeaderValue>());
        match read {
            (Ok(header), _) if OURS.contains(&header) => {
                problems.push(format!("{name}.httpHeaders[{place}]: {header} is of the connection"));
            }
            (Ok(header), Ok(mut value)) => {
                value.set_sensitive(true);
                headers.append(header, value);
            }
            _ => problems.push(format!("{name}.httpHeaders[{place}]: it is no header")),
        }
    }
    Some(HttpCall { endpoint: endpoint?, tls, path: path?, headers, payload: payload? })
}

fn endpoint(
    name: &str,
    host: Option<&str>,
    port: &IntOrString,
    addresses: &AddressRule,
    problems: &mut Vec<String>,
) -> Option<Endpoint> {
    let host = filled(host);
    let host = host.map(|host| host.trim_start_matches('[').trim_end_matches(']').to_owned());
    if let Some(host) = &host {
        let fine = host.chars().all(|c| c.is_ascii_alphanumeric() || ".-_:".contains(c));
        if !fine {
            problems.push(format!("{name}.host: it is neither a name nor an address; a path has a field of its own"));
        } else if addresses.refuses(host) {
            problems.push(format!("{name}.host: {}", BackendProblem::Address(host.clone())));
        }
    }
    let port = match port {
        IntOrString::Int(number) => u16::try_from(*number).ok().filter(|&port| port > 0).map(Port::Number),
        // A manifest may have a number in quotes.
        IntOrString::String(text) => match text.parse::<u16>() {
            Ok(0) => None,
            Ok(number) => Some(Port::Number(number)),
            Err(_) => filled(Some(text)).map(Port::Name),
        },
    };
    if port.is_none() {
        problems.push(format!("{name}.port: a port is a number from 1 to 65535, or the name of a container's port"));
    }
    Some(Endpoint { host, port: port? })
}

fn form(entries: &[FormEntry]) -> String {
    let mut made = url::form_urlencoded::Serializer::new(String::new());
    for entry in entries {
        for value in &entry.values {
            made.append_pair(entry.key.as_deref().unwrap_or_default(), value);
        }
    }
    made.finish()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(hook: Value) -> Result<Call, Vec<String>> {
        let rule = AddressRule { allowed: vec!["127.0.0.9".to_owned()], api_servers: vec!["10.0.0.1".to_owned()] };
        Call::read(&serde_json::from_value::<Hook>(hook).unwrap(), &rule)
    }

    #[test]
    fn test_hooks_that_can_be_called() {
        for (hook, needs_pod) in [
            (json!({"exec": {"command": ["sh", "-c", "echo {{ .Name }}"]}}), true),
            (json!({"httpGet": {"port": 80}}), true),
            (json!({"httpGet": {"port": 80, "host": "a.example", "scheme": "https", "path": "x?y=z"}}), false),
            (json!({"httpGet": {"port": "web", "host": "a.example"}}), true),
            (json!({"httpPost": {"port": "8080", "host": "a.example"}}), false),
            (json!({"tcpSocket": {"port": 5432, "host": "127.0.0.9"}}), false),
            (json!({"tcpSocket": {"port": 5432, "host": "[2001:db8::1]"}}), false),
            (json!({"tcpSocket": {"port": 5432}, "containerName": "db"}), true),
        ] {
            let call = read(hook.clone()).unwrap_or_else(|problems| panic!("{hook}: {problems:?}"));
            assert_eq!(call.needs_pod(), needs_pod, "{hook}");
        }
        let call = read(json!({"httpPost": {
            "port": 443, "host": "a.example", "path": "services/X", "scheme": "HTTPS", "body": "ignored",
            "httpHeaders": [{"name": "X-A", "value": "1"}, {"name": "x-a", "value": "2"}],
            "form": [{"key": "a b", "values": ["1", "&"]}]
        }}))
        .unwrap();
        let Action::Http(call) = call.action else { panic!("{call:?}") };
        assert_eq!(
            (call.tls, call.path.as_str(), call.headers.get_all("x-a").iter().count()),
            (true, "/services/X", 2)
        );
        assert!(matches!(&call.payload, Payload::Form(form) if form == "a+b=1&a+b=%26"), "{call:?}");
        assert_eq!(call.endpoint.port, Port::Number(443));
    }

    #[test]
    fn test_what_cannot_be_called_is_named() {
        let get = |more: Value| {
            let mut action = json!({"port": 80, "host": "a.example"});
            for (key, value) in more.as_object().unwrap() {
                action[key] = value.clone();
            }
            json!({ "httpGet": action })
        };
        for (hook, expected) in [
            (json!({}), "a hook has exactly one action"),
            (json!({"exec": {"command": ["a"]}, "tcpSocket": {"port": 1}}), "a hook has exactly one action"),
            (json!({"exec": {}}), "exec.command: an exec hook needs a command"),
            (json!({"exec": {"command": ["a", "{{ env \"A\" }}"]}}), "exec.command[1]: template: the function env"),
            (
                json!({"exec": {"command": ["{{ if .Status.Error }}{{ upper 1 }}{{ end }}"]}}),
                "exec.command[0]: template: upper",
            ),
            (json!({"httpPost": {"port": 1, "body": "{{ .Nam }}"}}), "httpPost.body: template: there is no .Nam"),
            (get(json!({"port": 0})), "httpGet.port: "),
            (get(json!({"port": 70000})), "httpGet.port: "),
            (get(json!({"port": ""})), "httpGet.port: "),
            (get(json!({"scheme": "ftp"})), "httpGet.scheme: \"ftp\""),
            (get(json!({"path": "a b"})), "httpGet.path: it is no path"),
            (get(json!({"host": "http://a.example"})), "httpGet.host: it is neither"),
            (get(json!({"host": "a.example/x"})), "httpGet.host: it is neither"),
            (get(json!({"host": "127.0.0.1"})), "httpGet.host: the address 127.0.0.1 is refused"),
            (get(json!({"host": "localhost"})), "httpGet.host: the address localhost is refused"),
            (get(json!({"host": "10.0.0.1"})), "httpGet.host: the address 10.0.0.1 is refused"),
            (get(json!({"host": "kubernetes.default.svc"})), "httpGet.host: the address kubernetes"),
            (get(json!({"host": "169.254.169.254"})), "httpGet.host: the address 169.254"),
            (get(json!({"httpHeaders": [{"name": "a b", "value": ""}]})), "httpGet.httpHeaders[0]: it is no header"),
            (get(json!({"httpHeaders": [{"name": "a", "value": "x\ny"}]})), "httpGet.httpHeaders[0]: it is no header"),
            (
                get(json!({"httpHeaders": [{"name": "Content-Length", "value": "9"}]})),
                "httpGet.httpHeaders[0]: content-length is of the connection",
            ),
        ] {
            let problems = read(hook.clone()).map(|call| format!("{call:?}")).unwrap_err();
            assert_eq!(problems.len(), 1, "{hook}: {problems:?}");
            assert!(problems[0].starts_with(expected), "{hook}: {problems:?}");
        }
    }
}

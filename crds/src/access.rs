//! What a Repository's backend says: which it is, which keys of the Secret it reads, where its server is. Pure; whoever opens a
//! repository asks here, so that all refuse the same.

use std::net::IpAddr;

use crate::Backend;

/// The Secret's key that every repository needs.
pub const PASSWORD_KEY: &str = "RESTIC_PASSWORD";

/// Keys that any backend reads.
const COMMON_KEYS: [&str; 2] = [PASSWORD_KEY, "CA_CERT_DATA"];

/// What is wrong with a backend, so that nothing is tried.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackendProblem {
    /// None is given, or several.
    #[error(
        "exactly one backend must be given in spec.backend: local, s3, gcs, azure, swift, b2 or rest; there are {0}"
    )]
    NotOne(usize),
    /// The server is one that a tenant must not reach through us.
    #[error(
        "the address {0} is refused: it is of the machine, of the link or of the cluster's API; --allow-address lists exceptions"
    )]
    Address(String),
    /// The address of the server cannot be read.
    #[error("the address {0:?} cannot be read: it must be a host, or http:// or https:// with one")]
    Unreadable(String),
}

/// Returns the name of the backend, as Stash's labels have it.
///
/// # Errors
///
/// There is not exactly one. The schema refuses that; objects from before may have it.
pub fn provider(backend: &Backend) -> Result<&'static str, BackendProblem> {
    let given = [
        ("local", backend.local.is_some()),
        ("s3", backend.s3.is_some()),
        ("gcs", backend.gcs.is_some()),
        ("azure", backend.azure.is_some()),
        ("swift", backend.swift.is_some()),
        ("b2", backend.b2.is_some()),
        ("rest", backend.rest.is_some()),
    ];
    let given: Vec<&str> = given.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect();
    match given[..] {
        [one] => Ok(one),
        _ => Err(BackendProblem::NotOne(given.len())),
    }
}

/// Returns the keys of the Secret that a Job of this backend may see. Others stay where they are.
pub fn secret_keys(provider: &str) -> impl Iterator<Item = &'static str> {
    let own: &[&str] = match provider {
        "s3" => &["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION"],
        "gcs" => &["GOOGLE_PROJECT_ID", "GOOGLE_SERVICE_ACCOUNT_JSON_KEY", "GOOGLE_ACCESS_TOKEN"],
        "azure" => &["AZURE_ACCOUNT_NAME", "AZURE_ACCOUNT_KEY", "AZURE_ACCOUNT_SAS", "AZURE_ENDPOINT_SUFFIX"],
        "swift" => &[
            "ST_AUTH",
            "ST_USER",
            "ST_KEY",
            "OS_AUTH_URL",
            "OS_REGION_NAME",
            "OS_USERNAME",
            "OS_PASSWORD",
            "OS_TENANT_ID",
            "OS_TENANT_NAME",
            "OS_USER_DOMAIN_NAME",
            "OS_PROJECT_NAME",
            "OS_PROJECT_DOMAIN_NAME",
            "OS_APPLICATION_CREDENTIAL_ID",
            "OS_APPLICATION_CREDENTIAL_NAME",
            "OS_APPLICATION_CREDENTIAL_SECRET",
            "OS_STORAGE_URL",
            "OS_AUTH_TOKEN",
        ],
        "b2" => &["B2_ACCOUNT_ID", "B2_ACCOUNT_KEY"],
        "rest" => &["REST_SERVER_USERNAME", "REST_SERVER_PASSWORD"],
        _ => &[],
    };
    COMMON_KEYS.iter().chain(own).copied()
}

/// Returns the keys without which nothing can be opened.
pub fn required_keys(provider: &str) -> &'static [&'static str] {
    match provider {
        "b2" => &[PASSWORD_KEY, "B2_ACCOUNT_ID", "B2_ACCOUNT_KEY"],
        _ => &[PASSWORD_KEY],
    }
}

/// Refuses servers that are written as an address of the machine, of the link or of the cluster's API.
///
/// Names are looked up where they are used, and what they lead to is judged there.
///
/// # Errors
///
/// The server is refused, or cannot be read.
pub fn check_address(backend: &Backend, rule: &AddressRule) -> Result<(), BackendProblem> {
    let s3 = backend.s3.as_ref().map(|s3| s3.endpoint.as_str());
    let Some(address) = s3.or_else(|| backend.rest.as_ref().map(|rest| rest.url.as_str())) else { return Ok(()) };
    check_url(address, rule)
}

/// The same for the address of a server that stands elsewhere, as in a Secret.
///
/// # Errors
///
/// The server is refused, or cannot be read.
pub fn check_url(address: &str, rule: &AddressRule) -> Result<(), BackendProblem> {
    let host = host_of(address).ok_or_else(|| BackendProblem::Unreadable(shown(address)))?;
    if rule.refuses(&host) { Err(BackendProblem::Address(host)) } else { Ok(()) }
}

/// Which servers are refused.
#[derive(Clone, Debug, Default)]
pub struct AddressRule {
    /// Hosts that are allowed all the same.
    pub allowed: Vec<String>,
    /// The API server, as pods reach it.
    pub api_servers: Vec<String>,
}

impl AddressRule {
    /// Whether `address`, to which `host` led, may be reached.
    pub fn permits(&self, host: &str, address: IpAddr) -> bool {
        let listed = |other: &String| other.eq_ignore_ascii_case(host);
        self.allowed.iter().any(listed) || !self.refuses(&address.to_canonical().to_string())
    }

    /// Whether a server that is written as `host` must not be reached. What a name leads to is judged by [`Self::permits`].
    pub fn refuses(&self, host: &str) -> bool {
        let same = |other: &String| other.eq_ignore_ascii_case(host);
        if self.allowed.iter().any(same) {
            return false;
        }
        if let Ok(address) = host.parse::<IpAddr>() {
            return self.api_servers.iter().any(same) || is_near(address);
        }
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        // Programs read other spellings of an address as well: 127.1, 0x7f000001.
        let numeric = name.rsplit('.').next().is_some_and(|last| last.starts_with(|c: char| c.is_ascii_digit()));
        numeric
            || name == "localhost"
            || name.ends_with(".localhost")
            || name == "kubernetes"
            || name == "kubernetes.default"
            || name.starts_with("kubernetes.default.svc")
            || self.api_servers.iter().any(same)
    }
}

fn is_near(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            v4.is_loopback() || v4.is_link_local() || v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast()
        }
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => is_near(IpAddr::V4(v4)),
            None => v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unspecified() || v6.is_multicast(),
        },
    }
}

/// Returns the host of `https://user:pass@host:port/path`, or of `host:port/path`.
fn host_of(address: &str) -> Option<String> {
    let rest = match address.split_once("://") {
        Some((scheme, rest)) => {
            ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)).then_some(rest)?
        }
        None => address,
    };
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = match host.strip_prefix('[') {
        Some(v6) => v6.split_once(']')?.0,
        None => host.split_once(':').map_or(host, |(host, _)| host),
    };
    let fine = !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || ".-_:".contains(c));
    fine.then(|| host.to_owned())
}

/// Returns an address without what may be a password.
fn shown(address: &str) -> String {
    match address.rsplit_once('@') {
        Some((_, rest)) => format!("***@{rest}"),
        None => address.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use crate::backend::{LocalBackend, RestBackend, S3Backend};

    use super::*;

    fn s3(endpoint: &str) -> Backend {
        let s3 = S3Backend { endpoint: endpoint.to_owned(), bucket: "b".to_owned(), ..S3Backend::default() };
        Backend { s3: Some(s3), ..Backend::default() }
    }

    #[test]
    fn test_exactly_one_backend() {
        assert_eq!(provider(&Backend::default()), Err(BackendProblem::NotOne(0)));
        assert_eq!(provider(&s3("a")), Ok("s3"));
        let two = Backend { local: Some(LocalBackend::default()), ..s3("a") };
        assert_eq!(provider(&two), Err(BackendProblem::NotOne(2)));
    }

    #[test]
    fn test_servers_that_must_not_be_reached_are_refused() {
        let rule = AddressRule {
            allowed: vec!["10.0.0.9".to_owned()],
            api_servers: vec!["10.0.0.1".to_owned(), "10.0.0.9".to_owned()],
        };
        let check = |backend: &Backend| check_address(backend, &rule);
        for fine in [
            "s3.amazonaws.com",
            "https://minio.storage.svc:9000",
            "10.0.0.9:9000",
            "http://[2001:db8::1]:9000/x",
            "10.1.2.3",
        ] {
            assert_eq!(check(&s3(fine)), Ok(()), "{fine}");
        }
        for (address, host) in [
            ("http://127.0.0.1:9000", "127.0.0.1"),
            ("localhost", "localhost"),
            ("https://a.LOCALHOST./", "a.LOCALHOST."),
            ("http://169.254.169.254/latest", "169.254.169.254"),
            ("http://[::1]:80", "::1"),
            ("http://[::ffff:127.0.0.1]", "::ffff:127.0.0.1"),
            ("[fe80::1]", "fe80::1"),
            ("0.0.0.0", "0.0.0.0"),
            ("127.1", "127.1"),
            ("http://2130706433/", "2130706433"),
            ("0x7f000001", "0x7f000001"),
            ("https://kubernetes.default.svc", "kubernetes.default.svc"),
            ("https://10.0.0.1:443", "10.0.0.1"),
            ("http://good.example@127.0.0.1", "127.0.0.1"),
        ] {
            assert_eq!(check(&s3(address)), Err(BackendProblem::Address(host.to_owned())), "{address}");
        }
        for address in ["", "ftp://x", "http://", "http://a b", "http://[::1"] {
            assert!(matches!(check(&s3(address)), Err(BackendProblem::Unreadable(_))), "{address}");
        }
        for (name, address, refused) in [
            ("a.example", "10.1.2.3", false),
            ("a.example", "10.0.0.1", true),
            ("a.example", "10.0.0.9", false),
            ("a.example", "169.254.169.254", true),
            ("10.0.0.9", "127.0.0.1", false),
        ] {
            assert_eq!(rule.permits(name, address.parse().unwrap()), !refused, "{name} {address}");
        }
        let rest = RestBackend { url: "http://me:secret@a b/".to_owned() };
        let problem = check(&Backend { rest: Some(rest), ..Backend::default() }).unwrap_err();
        assert!(!problem.to_string().contains("secret"), "{problem}");
    }

    #[test]
    fn test_what_a_name_leads_to_is_judged_as_well() {
        let rule = AddressRule {
            allowed: vec!["trusted.example".to_owned(), "127.0.0.2".to_owned()],
            api_servers: vec!["10.0.0.1".to_owned()],
        };
        for (host, address, expected) in [
            ("a.example", "10.1.2.3", true),
            ("a.example", "127.0.0.1", false),
            ("a.example", "::ffff:127.0.0.1", false),
            ("a.example", "::ffff:10.0.0.1", false),
            ("a.example", "10.0.0.1", false),
            ("a.example", "169.254.169.254", false),
            ("a.example", "127.0.0.2", true),
            ("Trusted.example", "127.0.0.1", true),
        ] {
            assert_eq!(rule.permits(host, address.parse().unwrap()), expected, "{host} {address}");
        }
    }

    #[test]
    fn test_a_job_sees_its_own_keys_only() {
        let keys: Vec<_> = secret_keys("rest").collect();
        assert_eq!(keys, ["RESTIC_PASSWORD", "CA_CERT_DATA", "REST_SERVER_USERNAME", "REST_SERVER_PASSWORD"]);
        assert_eq!(secret_keys("local").count(), 2);
        assert_eq!(required_keys("b2").len(), 3);
    }
}

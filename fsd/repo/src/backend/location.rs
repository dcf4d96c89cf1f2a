//! restic's repository addresses: `s3:`, `rest:`, `sftp:`, `rclone:`, `gs:`, `azure:`, `swift:`, `b2:`, `local:` or a path.
//!
//! Pure parsing, by restic's own rules (restic, `internal/backend/location` and `ParseConfig` of each backend): what an
//! address means to restic it means here. Neither `Display` nor `Debug` shows a password.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use url::Url;

/// A parsed address.
#[derive(Clone, PartialEq, Eq)]
pub enum Location {
    /// A directory.
    Local {
        /// Which.
        path: PathBuf,
    },
    /// A bucket of S3 or of a store that speaks its protocol.
    S3 {
        /// Whether the endpoint is reached without TLS (`s3:http://...`).
        plain_http: bool,
        /// Host, and port if one was given.
        endpoint: String,
        /// The bucket.
        bucket: String,
        /// The folder in the bucket, without slashes at its ends; may be empty.
        prefix: String,
    },
    /// restic's REST protocol.
    Rest(RestLocation),
    /// A directory reached by the `ssh` program.
    Sftp {
        /// The account, if one was given.
        user: Option<String>,
        /// The host.
        host: String,
        /// The port, if one was given.
        port: Option<u16>,
        /// The directory; relative ones start at the account's home.
        path: String,
    },
    /// A remote of the `rclone` program.
    Rclone {
        /// `remote:path`, as rclone takes it.
        remote: String,
    },
    /// A bucket of Google Cloud Storage.
    Gcs(Container),
    /// A container of Azure Blob Storage.
    Azure(Container),
    /// A container of OpenStack Swift.
    Swift(Container),
    /// A bucket of Backblaze B2.
    B2(Container),
}

/// A bucket or container and the folder in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// The bucket or container.
    pub name: String,
    /// The folder, without slashes at its ends; may be empty.
    pub prefix: String,
}

/// Where a REST server is.
#[derive(Clone, PartialEq, Eq)]
pub struct RestLocation {
    /// The repository's URL without account and password; ends in a slash.
    pub url: Url,
    /// The socket, where the address was `rest:http+unix://SOCKET:PATH`.
    pub unix_socket: Option<PathBuf>,
    /// The account, percent-decoded.
    pub username: Option<String>,
    /// The password, percent-decoded.
    pub password: Option<String>,
}

/// The text is not an address, and why, without the parts that may be secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseLocationError(String);

/// Every scheme that is known, for messages.
const SCHEMES: &str = "local:, s3:, rest:, sftp:, rclone:, gs:, azure:, swift:, b2:";

impl Location {
    /// Parses an address in restic's syntax.
    ///
    /// # Errors
    /// An unknown scheme, or a missing part of a known one; both name what was expected.
    pub fn parse(text: &str) -> Result<Self, ParseLocationError> {
        text.parse()
    }

    /// Parses an address that stands in an object of a cluster: what would start a program, or holds credentials, is none.
    ///
    /// # Errors
    /// As [`Location::parse`], and for those; without anything secret.
    pub fn parse_in_cluster(text: &str) -> Result<Self, ParseLocationError> {
        match Self::parse(text)? {
            location @ (Self::Sftp { .. } | Self::Rclone { .. }) => {
                Err(fail(format!("{}: a Job starts no programs to reach a store", location.scheme())))
            }
            Self::Rest(RestLocation { username, password, .. }) if username.is_some() || password.is_some() => {
                Err(fail("rest: credentials belong into the Secret (REST_SERVER_USERNAME, REST_SERVER_PASSWORD)"))
            }
            location => Ok(location),
        }
    }

    /// Makes the address of a directory.
    pub fn local(path: impl AsRef<Path>) -> Self {
        Self::Local { path: path.as_ref().to_owned() }
    }

    /// Returns the scheme, as `s3`.
    #[must_use]
    pub const fn scheme(&self) -> &'static str {
        match self {
            Self::Local { .. } => "local",
            Self::S3 { .. } => "s3",
            Self::Rest(_) => "rest",
            Self::Sftp { .. } => "sftp",
            Self::Rclone { .. } => "rclone",
            Self::Gcs(_) => "gs",
            Self::Azure(_) => "azure",
            Self::Swift(_) => "swift",
            Self::B2(_) => "b2",
        }
    }
}

impl FromStr for Location {
    type Err = ParseLocationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(fail("the repository's address is empty; give a path or one of ".to_owned() + SCHEMES));
        }
        if text.contains('\0') {
            return Err(fail("the repository's address holds a NUL byte"));
        }
        // restic: a text that starts as a path is one, whatever colons follow.
        if text.starts_with('/') || text.starts_with("./") || text.starts_with("../") {
            return Ok(Self::local(text));
        }
        let Some((scheme, rest)) = text.split_once(':') else { return Ok(Self::local(text)) };
        match scheme {
            "local" if rest.is_empty() => Err(fail("local: needs a path")),
            "local" => Ok(Self::local(rest)),
            "s3" => parse_s3(rest),
            "rest" => parse_rest(rest).map(Self::Rest),
            "sftp" => parse_sftp(rest),
            "rclone" if rest.is_empty() => Err(fail("rclone: needs a remote, as rclone:remote:path")),
            "rclone" => Ok(Self::Rclone { remote: rest.to_owned() }),
            "gs" => parse_container("gs", rest).map(Self::Gcs),
            "azure" => parse_container("azure", rest).map(Self::Azure),
            "swift" => {
                let container = parse_container("swift", rest)?;
                if !rest.contains(":/") {
                    return Err(fail("swift: the prefix starts with a slash, as swift:container:/prefix"));
                }
                Ok(Self::Swift(container))
            }
            "b2" => {
                let (name, prefix) = rest.split_once(':').unwrap_or((rest, ""));
                Ok(Self::B2(container("b2", name, prefix)?))
            }
            // The scheme alone: what follows an unknown one may hold a password.
            _ => Err(fail(format!(
                "unknown scheme in the repository's address; known are {SCHEMES}; a local path that holds a colon needs local: in front"
            ))),
        }
    }
}

fn fail(message: impl Into<String>) -> ParseLocationError {
    ParseLocationError(message.into())
}

/// Lexically shortens a folder as Go's `path.Clean` does, and takes the slashes off its ends.
fn clean_prefix(prefix: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in prefix.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// `host/bucket/prefix`, `//host/bucket/prefix` or `http[s]://host[:port]/bucket/prefix`.
fn parse_s3(rest: &str) -> Result<Location, ParseLocationError> {
    const FORM: &str = "s3: an address is s3:host/bucket/prefix or s3:https://host:port/bucket/prefix";
    let (plain_http, rest) = if let Some(rest) = rest.strip_prefix("http://") {
        (true, rest)
    } else if let Some(rest) = rest.strip_prefix("https://") {
        (false, rest)
    } else {
        (false, rest.strip_prefix("//").unwrap_or(rest))
    };
    let (endpoint, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
    if endpoint.is_empty() {
        return Err(fail(format!("{FORM}: the host is missing")));
    }
    if endpoint.contains('@') {
        return Err(fail(
            "s3: the address takes no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY".to_owned(),
        ));
    }
    if Url::parse(&format!("https://{endpoint}/")).map_or(true, |url| url.host_str().is_none()) {
        return Err(fail(format!("{FORM}: this host is none")));
    }
    if bucket.is_empty() {
        return Err(fail(format!("{FORM}: the bucket is missing")));
    }
    let (endpoint, bucket) = (endpoint.to_owned(), bucket.to_owned());
    Ok(Location::S3 { plain_http, endpoint, bucket, prefix: clean_prefix(prefix) })
}

/// `http[s]://[user[:password]@]host[:port]/path/` or `http+unix://SOCKET[:PATH]`.
fn parse_rest(rest: &str) -> Result<RestLocation, ParseLocationError> {
    if let Some(rest) = rest.strip_prefix("http+unix://") {
        let (socket, path) = rest.split_once(':').unwrap_or((rest, "/"));
        if !socket.starts_with('/') {
            return Err(fail("rest: a socket is given as rest:http+unix:///path/to/socket:/repository/"));
        }
        let mut url = Url::parse("http://localhost/").map_err(|_| fail("rest: internal URL"))?;
        url.set_path(&with_slash(path));
        return Ok(RestLocation { url, unix_socket: Some(socket.into()), username: None, password: None });
    }
    // The parser's own message may quote what it parsed.
    let mut url =
        Url::parse(rest).map_err(|_| fail("rest: an address is rest:https://[user:password@]host:port/path/"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(fail("rest: the URL is http:// or https:// with a host, or http+unix://"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(fail("rest: the URL has neither a query nor a fragment"));
    }
    let decode = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    let username = Some(url.username()).filter(|name| !name.is_empty()).map(decode);
    let password = url.password().map(decode);
    url.set_username("")
        .and_then(|()| url.set_password(None))
        .map_err(|()| fail("rest: this host takes no account"))?;
    let path = with_slash(url.path());
    url.set_path(&path);
    Ok(RestLocation { url, unix_socket: None, username, password })
}

fn with_slash(path: &str) -> String {
    if path.ends_with('/') { path.to_owned() } else { format!("{path}/") }
}

/// `[user@]host:path` or `//[user@]host[:port]/path`.
fn parse_sftp(rest: &str) -> Result<Location, ParseLocationError> {
    const FORM: &str = "sftp: an address is sftp:user@host:/path or sftp://user@host:port//path";
    let (user, host, port, path) = if rest.starts_with("//") {
        let url = Url::parse(&format!("sftp:{rest}")).map_err(|_| fail(FORM))?;
        // restic: no path is an error, and the first slash only ends the host: `//path` is absolute, `/path` below the home.
        let path = url.path().strip_prefix('/').ok_or_else(|| fail(format!("{FORM}: the path is missing")))?;
        let decode = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
        let host = match url.host() {
            Some(url::Host::Ipv6(address)) => address.to_string(),
            Some(host) => decode(&host.to_string()),
            None => return Err(fail(format!("{FORM}: the host is missing"))),
        };
        (Some(url.username()).filter(|u| !u.is_empty()).map(decode), host, url.port(), decode(path))
    } else {
        let (account, path) = rest.split_once(':').ok_or_else(|| fail(format!("{FORM}: the path is missing")))?;
        // restic splits at the last of at most two: an account may be a mail address.
        let (user, host) = match account.rsplit_once('@') {
            Some((user, host)) => (Some(user.to_owned()), host),
            None => (None, account),
        };
        (user, host.to_owned(), None, path.to_owned())
    };
    if host.is_empty() {
        return Err(fail(format!("{FORM}: the host is missing")));
    }
    // ssh would take them for options.
    if host.starts_with('-') || user.as_deref().is_some_and(|user| user.starts_with('-') || user.is_empty()) {
        return Err(fail("sftp: host and user are not empty and start with no dash"));
    }
    if path.starts_with('~') {
        return Err(fail(
            "sftp: the path starts with ~, which servers do not expand; a relative path starts at the home",
        ));
    }
    if host.contains('\0') || path.contains('\0') || user.as_deref().is_some_and(|user| user.contains('\0')) {
        return Err(fail("sftp: the address holds a NUL byte"));
    }
    let path = match (clean_prefix(&path), path.starts_with('/')) {
        (clean, true) => format!("/{clean}"),
        (clean, false) if clean.is_empty() => ".".to_owned(),
        (clean, false) => clean,
    };
    Ok(Location::Sftp { user, host, port, path })
}

/// `name:/prefix`.
fn parse_container(scheme: &str, rest: &str) -> Result<Container, ParseLocationError> {
    let Some((name, prefix)) = rest.split_once(':') else {
        return Err(fail(format!("{scheme}: an address is {scheme}:name:/prefix; the second colon is missing")));
    };
    container(scheme, name, prefix)
}

fn container(scheme: &str, name: &str, prefix: &str) -> Result<Container, ParseLocationError> {
    if name.is_empty() || name.contains('/') {
        return Err(fail(format!("{scheme}: the bucket or container is missing or holds a slash")));
    }
    Ok(Container { name: name.to_owned(), prefix: clean_prefix(prefix) })
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local { path } => write!(f, "{}", path.display()),
            Self::S3 { plain_http, endpoint, bucket, prefix } => {
                let scheme = if *plain_http { "http://" } else { "" };
                write!(f, "s3:{scheme}{endpoint}/{bucket}")?;
                if prefix.is_empty() { Ok(()) } else { write!(f, "/{prefix}") }
            }
            Self::Rest(RestLocation { url, unix_socket: Some(socket), .. }) => {
                write!(f, "rest:http+unix://{}:{}", socket.display(), url.path())
            }
            Self::Rest(RestLocation { url, .. }) => write!(f, "rest:{url}"),
            Self::Sftp { user, host, port, path } => {
                let at = user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
                match port {
                    None if !host.contains(':') => write!(f, "sftp:{at}{host}:{path}"),
                    port => {
                        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
                        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
                        write!(f, "sftp://{at}{host}{port}/{path}")
                    }
                }
            }
            // rclone's connection strings (`:s3,secret_access_key=...:bucket`) may hold secrets.
            Self::Rclone { remote } => match remote.split_once(',') {
                Some((name, _)) => write!(f, "rclone:{name},..."),
                None => write!(f, "rclone:{remote}"),
            },
            Self::Gcs(place) => write!(f, "gs:{}:/{}", place.name, place.prefix),
            Self::Azure(place) => write!(f, "azure:{}:/{}", place.name, place.prefix),
            Self::Swift(place) => write!(f, "swift:{}:/{}", place.name, place.prefix),
            Self::B2(place) => write!(f, "b2:{}:{}", place.name, place.prefix),
        }
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Location({self})")
    }
}

impl fmt::Debug for RestLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RestLocation").field("url", &self.url.as_str()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

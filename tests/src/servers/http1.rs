//! The smallest client of HTTP/1.1, for what a harness asks of a server.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Sends a request and returns status and body.
pub(super) fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(String, String)],
    body: &[u8],
) -> std::io::Result<(u16, Vec<u8>)> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(10))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(&message(address, method, path, headers, body))?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(split(&answer))
}

/// The same through TLS, whoever the server is.
pub(crate) fn request_tls(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(String, String)],
    body: &[u8],
) -> std::io::Result<(u16, Vec<u8>)> {
    request_tls_as(None, address, method, path, headers, body)
}

/// The same with a certificate and its key.
pub(super) fn request_tls_as(
    client: Option<&(PathBuf, PathBuf)>,
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(String, String)],
    body: &[u8],
) -> std::io::Result<(u16, Vec<u8>)> {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-quiet", "-connect", &address.to_string()]);
    if let Some((certificate, key)) = client {
        command.arg("-cert").arg(certificate).arg("-key").arg(key);
    }
    let mut client = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    // Kept open until the answer is there: its end would be taken for the end of the wish to read.
    let mut stdin = client.stdin.take().expect("it is a pipe");
    let written = stdin.write_all(&message(address, method, path, headers, body));
    let mut answer = Vec::new();
    let read = client.stdout.take().expect("it is a pipe").read_to_end(&mut answer);
    drop(stdin);
    client.wait()?;
    written.and(read)?;
    Ok(split(&answer))
}

fn message(address: SocketAddr, method: &str, path: &str, headers: &[(String, String)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        head.push_str(&format!("Host: {address}\r\n"));
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    [head.as_bytes(), b"\r\n", body].concat()
}

fn split(answer: &[u8]) -> (u16, Vec<u8>) {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(answer.len());
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let body = answer.get(end + 4..).unwrap_or_default();
    let chunked = head.to_ascii_lowercase().contains("\r\ntransfer-encoding: chunked");
    (status, if chunked { unchunk(body) } else { body.to_vec() })
}

/// Puts a body together that came in chunks, as far as it is well-formed (RFC 9112, section 7.1).
fn unchunk(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|two| two == b"\r\n") {
        let len = std::str::from_utf8(&rest[..end]).ok().and_then(|len| usize::from_str_radix(len.trim(), 16).ok());
        let Some(chunk) = len.filter(|len| *len > 0).and_then(|len| rest.get(end + 2..end + 2 + len)) else { break };
        body.extend_from_slice(chunk);
        rest = rest.get(end + 2 + chunk.len() + 2..).unwrap_or_default();
    }
    body
}

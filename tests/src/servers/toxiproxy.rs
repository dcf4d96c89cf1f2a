//! Real faults between a client and a server: latency, bandwidth, resets, silence.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;

use serde_json::{Value, json};

use super::{Server, http1, tool};

/// A toxiproxy server; its proxies live as long as it does.
#[derive(Debug)]
pub struct Toxiproxy {
    server: Server,
}

/// One listening address that leads to a server.
#[derive(Debug)]
pub struct Proxy<'a> {
    toxiproxy: &'a Toxiproxy,
    name: String,
    address: SocketAddr,
}

impl Toxiproxy {
    /// Starts it.
    pub fn start() -> Self {
        let program = tool("toxiproxy-server");
        let server = Server::start("toxiproxy", |port| {
            let mut command = Command::new(&program);
            command.args(["-host", "127.0.0.1", "-port", &port.to_string()]);
            command
        });
        Self { server }
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let headers = [("Content-Type".to_owned(), "application/json".to_owned())];
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (status, answer) = http1::request(self.server.address, method, path, &headers, body.as_bytes()).unwrap();
        assert!((200..300).contains(&status), "{method} {path}: {status} {}", String::from_utf8_lossy(&answer));
        serde_json::from_slice(&answer).unwrap_or(Value::Null)
    }

    /// Makes a way to a server, without any fault yet.
    pub fn proxy(&self, upstream: SocketAddr) -> Proxy<'_> {
        self.proxy_on(Ipv4Addr::LOCALHOST.into(), upstream)
    }

    /// The same, on another address of this machine, as on the one that pods reach.
    pub fn proxy_on(&self, host: IpAddr, upstream: SocketAddr) -> Proxy<'_> {
        let name = format!("p{}", rand::random::<u64>());
        let body =
            json!({ "name": name, "listen": format!("{host}:0"), "upstream": upstream.to_string(), "enabled": true });
        let made = self.call("POST", "/proxies", &body);
        let address = made["listen"].as_str().unwrap().parse().unwrap();
        Proxy { toxiproxy: self, name, address }
    }
}

impl Proxy<'_> {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Adds a fault of one of toxiproxy's kinds (`latency`, `bandwidth`, `timeout`, `reset_peer`, `slicer`,
    /// `limit_data`), under the kind's name, to what comes from the server.
    pub fn add(&self, kind: &str, attributes: Value) {
        let body = json!({ "name": kind, "type": kind, "stream": "downstream", "attributes": attributes });
        self.toxiproxy.call("POST", &format!("/proxies/{}/toxics", self.name), &body);
    }

    /// Lets so many KB a second through to the server.
    pub fn slow_uploads(&self, kilobytes: u64) {
        let attributes = json!({ "rate": kilobytes });
        let body = json!({ "name": "uploads", "type": "bandwidth", "stream": "upstream", "attributes": attributes });
        self.toxiproxy.call("POST", &format!("/proxies/{}/toxics", self.name), &body);
    }

    /// Takes a fault away.
    pub fn remove(&self, kind: &str) {
        self.toxiproxy.call("DELETE", &format!("/proxies/{}/toxics/{kind}", self.name), &Value::Null);
    }

    /// Delays every answer.
    pub fn latency(&self, milliseconds: u64) {
        self.add("latency", json!({ "latency": milliseconds }));
    }

    /// Leads to another server, from the next connection on; those that are open are cut.
    pub fn lead_to(&self, upstream: SocketAddr) {
        self.set_enabled(false);
        let body = json!({ "upstream": upstream.to_string(), "enabled": true });
        self.toxiproxy.call("POST", &format!("/proxies/{}", self.name), &body);
    }

    /// Cuts all connections and takes no new ones, or takes them again.
    pub fn set_enabled(&self, enabled: bool) {
        self.toxiproxy.call("POST", &format!("/proxies/{}", self.name), &json!({ "enabled": enabled }));
    }
}

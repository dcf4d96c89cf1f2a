//! A repository's directory over the network, read-only: restic's REST protocol, for clients with a certificate.
//!
//! It is for a repository that is a volume of a cluster: the pod that mounts the volume runs this, and nobody else opens a path. It knows
//! no password, takes no file in, and trusts a repository with nothing: names are those that the protocol has, and what a file's name
//! leads to lies below the directory, or is not opened.
//!
//! * `directory`: the files, opened one below the other.
//! * `request`: what a request asks for. Pure.
//! * `answer`: the answers. A list that breaks off breaks the connection, so that nobody takes it for a whole one.
//! * `tls`: who is answered.
//! * `connections`: how many, for how long, and the end.
//!
//! Source of the protocol: restic, `doc/REST_backend.rst`.

mod answer;
mod connections;
mod directory;
mod request;
mod tls;

pub use connections::{Ended, Options, listen, serve};
pub use directory::Directory;
pub use tls::{TlsError, TlsFiles, config};

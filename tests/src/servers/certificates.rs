//! Certificates for servers on loopback, made by `openssl`.

use std::path::{Path, PathBuf};
use std::process::Command;

const CONFIG: &str = "\
[req]
distinguished_name = name
prompt = no
[name]
CN = replaced
[authority]
basicConstraints = critical,CA:TRUE
subjectKeyIdentifier = hash
[server]
basicConstraints = CA:FALSE
subjectAltName = IP:127.0.0.1
[elsewhere]
basicConstraints = CA:FALSE
subjectAltName = DNS:elsewhere.invalid
[client]
basicConstraints = CA:FALSE
extendedKeyUsage = clientAuth
[itself]
basicConstraints = critical,CA:TRUE
subjectAltName = IP:127.0.0.1
";

/// A folder of certificates (`NAME.pem`) and keys (`NAME.key`): `ca` signed `server` (127.0.0.1) and `elsewhere` (another
/// name); `client-ca` signed `client`; `other-ca` signed nothing; `itself` is a server's that signed itself, as
/// `openssl req -x509` makes it by default. `client-both.pem` holds a certificate and its key.
#[derive(Debug)]
pub struct Certificates {
    folder: tempfile::TempDir,
}

impl Certificates {
    /// Makes them.
    pub fn make() -> Self {
        let made = Self { folder: tempfile::tempdir().unwrap() };
        std::fs::write(made.path("openssl.cnf"), CONFIG).unwrap();
        for (name, extensions, authority) in [
            ("ca", "authority", None),
            ("other-ca", "authority", None),
            ("client-ca", "authority", None),
            ("itself", "itself", None),
            ("server", "server", Some("ca")),
            ("elsewhere", "elsewhere", Some("ca")),
            ("client", "client", Some("client-ca")),
        ] {
            made.sign(name, extensions, authority);
        }
        let both = ["client.pem", "client.key"].map(|name| std::fs::read_to_string(made.path(name)).unwrap()).concat();
        std::fs::write(made.path("client-both.pem"), both).unwrap();
        made
    }

    fn sign(&self, name: &str, extensions: &str, authority: Option<&str>) {
        let mut command = Command::new("openssl");
        command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]);
        command.arg("-config").arg(self.path("openssl.cnf")).args(["-extensions", extensions]);
        command.args(["-subj", &format!("/CN=stash-fs test {name}")]);
        command.arg("-keyout").arg(self.key(name)).arg("-out").arg(self.certificate(name));
        if let Some(authority) = authority {
            command.arg("-CA").arg(self.certificate(authority)).arg("-CAkey").arg(self.key(authority));
        }
        crate::fixture::run(&mut command);
    }

    /// The path of a file in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The path of a certificate.
    pub fn certificate(&self, name: &str) -> PathBuf {
        self.path(&format!("{name}.pem"))
    }

    /// The path of a certificate's key.
    pub fn key(&self, name: &str) -> PathBuf {
        self.path(&format!("{name}.key"))
    }

    /// Copies a certificate and its key to where MinIO looks for them.
    pub(super) fn copy_for_minio(&self, name: &str, folder: &Path) {
        std::fs::create_dir(folder).unwrap();
        std::fs::copy(self.certificate(name), folder.join("public.crt")).unwrap();
        std::fs::copy(self.key(name), folder.join("private.key")).unwrap();
    }
}

//! Whom a server must be to be trusted, and who we are to it: `--cacert`, `--tls-client-cert`, `--insecure-tls`.
//!
//! The files that are named are read and judged before any request. The machine's own roots are read when the first server
//! shows its certificate: most stores of a test or a laptop never do, and some machines have none.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use super::connect::ConnectOptions;
use super::error::Failure;
use super::{BackendErrorKind, Retry};

/// Makes the configuration of all connections.
///
/// # Errors
/// A named file cannot be read or does not hold what it should.
pub(super) fn config(options: &ConnectOptions) -> Result<ClientConfig, Failure> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let trust = if options.insecure_tls {
        Trust::Everybody
    } else if options.cacert.is_empty() && options.ca_certificates.is_none() {
        Trust::Machine(OnceLock::new())
    } else {
        let mut certificates = Vec::new();
        for path in &options.cacert {
            let place = format!("--cacert {}", path.display());
            certificates.extend(roots(&place, &read("--cacert", path)?)?);
        }
        if let Some(pem) = &options.ca_certificates {
            certificates.extend(roots("CA_CERT_DATA", pem.as_bytes())?);
        }
        let verifier = verifier(&certificates, &provider).ok_or_else(|| Failure::invalid("--cacert: no roots"))?;
        Trust::Given { verifier, certificates }
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| Failure::invalid(format!("TLS: {error}")))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { trust, provider }));
    let own = match (&options.client_identity, &options.tls_client_cert) {
        (Some(pem), _) => Some(("the certificate of the client".to_owned(), identity_of(pem.as_bytes()))),
        (None, Some(path)) => {
            let pem = zeroize::Zeroizing::new(read("--tls-client-cert", path)?);
            Some((format!("--tls-client-cert {}", path.display()), identity_of(&pem)))
        }
        (None, None) => None,
    };
    let mut config = match own {
        Some((place, Some((chain, key)))) => {
            let invalid = |error| Failure::invalid(format!("{place}: {error}"));
            builder.with_client_auth_cert(chain, key).map_err(invalid)?
        }
        Some((place, None)) => {
            let what = "not a PEM file with a certificate and its key, which must not be encrypted";
            return Err(Failure::invalid(format!("{place}: {what}")));
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// What an error of TLS means; `None` for one that says nothing of either side's certificate.
pub(super) fn failure(error: &Error) -> Option<Failure> {
    use AlertDescription as Alert;
    match error {
        Error::InvalidCertificate(reason) => {
            let wrong_server = matches!(
                reason,
                CertificateError::NotValidForName
                    | CertificateError::NotValidForNameContext { .. }
                    | CertificateError::Expired
                    | CertificateError::ExpiredContext { .. }
                    | CertificateError::NotValidYet
                    | CertificateError::NotValidYetContext { .. }
            );
            let hint = if wrong_server { "" } else { "; --cacert names the certificates that are trusted" };
            let message = format!("no trust in the server: {error}{hint}");
            Some(Failure::new(BackendErrorKind::Invalid, Retry::Permanent, message))
        }
        Error::AlertReceived(
            Alert::AccessDenied
            | Alert::BadCertificate
            | Alert::CertificateExpired
            | Alert::CertificateRequired
            | Alert::CertificateRevoked
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::UnsupportedCertificate,
        ) => {
            let message =
                format!("the server wants a client certificate that it trusts ({error}); --tls-client-cert names one");
            Some(Failure::new(BackendErrorKind::Denied, Retry::Permanent, message))
        }
        _ => None,
    }
}

fn read(option: &str, path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| Failure::invalid(format!("{option} {}: {error}", path.display())))
}

fn roots(place: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let no_certificates = || Failure::invalid(format!("{place}: not a PEM file of certificates"));
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let certificates = certificates.map_err(|_| no_certificates())?;
    // What is no certificate is told here, where its file is known.
    let is_root = |certificate: &CertificateDer<'static>| RootCertStore::empty().add(certificate.clone()).is_ok();
    if certificates.is_empty() || !certificates.iter().all(is_root) {
        return Err(no_certificates());
    }
    Ok(certificates)
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Reads a certificate, those that lead to its authority, and its key.
fn identity_of(pem: &[u8]) -> Option<Identity> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match (chain, PrivateKeyDer::from_pem_slice(pem)) {
        (Ok(chain), Ok(key)) if !chain.is_empty() => Some((chain, key)),
        _ => None,
    }
}

fn verifier(roots: &[CertificateDer<'static>], provider: &Arc<CryptoProvider>) -> Option<Arc<WebPkiServerVerifier>> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(roots.iter().cloned());
    WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider)).build().ok()
}

#[derive(Debug)]
enum Trust {
    Everybody,
    /// `None` where the machine knows no roots.
    Machine(OnceLock<Option<Arc<WebPkiServerVerifier>>>),
    Given {
        verifier: Arc<WebPkiServerVerifier>,
        certificates: Vec<CertificateDer<'static>>,
    },
}

#[derive(Debug)]
struct Verifier {
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn verify_signature(
        &self,
        verify: impl FnOnce(&WebPkiSupportedAlgorithms) -> Result<HandshakeSignatureValid, Error>,
    ) -> Result<HandshakeSignatureValid, Error> {
        match self.trust {
            Trust::Everybody => Ok(HandshakeSignatureValid::assertion()),
            Trust::Machine(_) | Trust::Given { .. } => verify(&self.provider.signature_verification_algorithms),
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verify = |verifier: &Arc<WebPkiServerVerifier>| {
            verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
        };
        match &self.trust {
            Trust::Everybody => Ok(ServerCertVerified::assertion()),
            Trust::Machine(once) => {
                let load = || verifier(&rustls_native_certs::load_native_certs().certs, &self.provider);
                match once.get_or_init(load) {
                    Some(verifier) => verify(verifier),
                    None => Err(CertificateError::UnknownIssuer.into()),
                }
            }
            Trust::Given { verifier, certificates } => match verify(verifier) {
                // `openssl req -x509` marks what it makes as an authority, and webpki takes no authority for a server. One
                // that is named itself is what its user means (restic takes it, too). It is within its time: that is
                // judged before.
                Err(Error::InvalidCertificate(CertificateError::Other(_))) if certificates.contains(end_entity) => {
                    verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                    Ok(ServerCertVerified::assertion())
                }
                result => result,
            },
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(|algorithms| verify_tls12_signature(message, certificate, signature, algorithms))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(|algorithms| verify_tls13_signature(message, certificate, signature, algorithms))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

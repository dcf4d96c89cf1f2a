//! The certificates of one run. The key of the authority is gone when they are signed.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{Timestamp, ToSpan as _, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use zeroize::Zeroizing;

use super::SERVER_NAME;

/// The key of the Secret with the pod's certificate.
pub const CERTIFICATE: &str = "tls.crt";
/// The key of the Secret with that certificate's key.
pub const KEY: &str = "tls.key";
/// The key of the Secret with the authority of clients.
pub const CLIENT_AUTHORITY: &str = "client-ca.crt";

/// Who the controller is to a pod, and by which authority it trusts it. PEM; only in memory.
#[derive(Clone)]
pub struct Identity {
    /// The authority.
    pub authority: Arc<str>,
    /// The client's certificate and key.
    pub client: Arc<Zeroizing<String>>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity")
    }
}

/// What a run begins with.
#[derive(Debug)]
pub struct Certificates {
    /// What the controller keeps.
    pub identity: Identity,
    /// What the pod gets, by the keys of its Secret.
    pub of_pod: BTreeMap<&'static str, Vec<u8>>,
}

/// Makes the certificates of a run. They are good for a day before and after `now`, since clocks differ: a run is over much sooner, and
/// its keys with it.
///
/// # Errors
///
/// The system gives no random numbers.
pub fn make(now: Timestamp) -> Result<Certificates, rcgen::Error> {
    let authority_key = KeyPair::generate()?;
    let mut params = params(now, "authority", Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let authority: Arc<str> = params.self_signed(&authority_key)?.pem().into();
    let issuer = Issuer::new(params, authority_key);
    let signed = |name, hosts, usage| -> Result<(String, Zeroizing<String>), rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = self::params(now, name, hosts)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        let certificate = params.signed_by(&key, &issuer)?.pem();
        Ok((certificate, Zeroizing::new(key.serialize_pem())))
    };
    // Who serves is no client, and who asks is no server.
    let (certificate, key) = signed("repository", vec![SERVER_NAME.to_owned()], ExtendedKeyUsagePurpose::ServerAuth)?;
    let (client, client_key) = signed("controller", Vec::new(), ExtendedKeyUsagePurpose::ClientAuth)?;
    let client = Arc::new(Zeroizing::new(format!("{client}{}", *client_key)));
    let of_pod = BTreeMap::from([
        (CERTIFICATE, certificate.into_bytes()),
        (KEY, key.as_bytes().to_vec()),
        (CLIENT_AUTHORITY, authority.as_bytes().to_vec()),
    ]);
    Ok(Certificates { identity: Identity { authority, client }, of_pod })
}

fn params(now: Timestamp, name: &str, hosts: Vec<String>) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(hosts)?;
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, format!("stash-fs {name}"));
    let today = now.to_zoned(TimeZone::UTC).date();
    let day = |days: i32| {
        let date = today.checked_add(days.days()).unwrap_or(today);
        let part = |number: i8| u8::try_from(number).unwrap_or(1);
        date_time_ymd(date.year().into(), part(date.month()), part(date.day()))
    };
    // Of whole days: from yesterday until the end of tomorrow.
    params.not_before = day(-1);
    params.not_after = day(2);
    Ok(params)
}

#[cfg(test)]
mod tests {
    use rustls::RootCertStore;
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier as _;
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
    use rustls::server::WebPkiClientVerifier;

    use super::*;

    fn certificate(pem: &[u8]) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(pem).unwrap()
    }

    #[test]
    fn test_each_side_is_what_it_says_and_nothing_else() {
        let now: Timestamp = "2026-02-28T23:59:59Z".parse().unwrap();
        let made = make(now).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(certificate(made.identity.authority.as_bytes())).unwrap();
        let roots = Arc::new(roots);
        let servers =
            WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider)).build().unwrap();
        let clients = WebPkiClientVerifier::builder_with_provider(roots, provider).build().unwrap();
        let (server, client) = (certificate(&made.of_pod[CERTIFICATE]), certificate(made.identity.client.as_bytes()));
        let at = |days: i64| {
            let seconds = now.as_second() + days * 86_400;
            UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds.try_into().unwrap()))
        };
        let name = |name: &'static str| ServerName::try_from(name).unwrap();
        let serves =
            |certificate, host, days| servers.verify_server_cert(certificate, &[], &name(host), &[], at(days)).is_ok();
        assert!([-1, 0, 1].into_iter().all(|days| serves(&server, SERVER_NAME, days)));
        assert!(!serves(&server, SERVER_NAME, -3) && !serves(&server, SERVER_NAME, 3));
        assert!(!serves(&server, "kubernetes.default", 0) && !serves(&client, SERVER_NAME, 0));
        assert!(clients.verify_client_cert(&client, &[], at(0)).is_ok());
        assert!(clients.verify_client_cert(&server, &[], at(0)).is_err());
        // The client's key stays here, and that of the authority is nowhere.
        let key = PrivateKeyDer::from_pem_slice(made.identity.client.as_bytes()).unwrap();
        for pem in made.of_pod.values() {
            assert!(PrivateKeyDer::from_pem_slice(pem).map_or(true, |found| found != key));
        }
        assert_eq!(made.of_pod[CLIENT_AUTHORITY], made.identity.authority.as_bytes());
        assert!(!made.identity.authority.contains("PRIVATE"));
        assert_eq!(format!("{:?}", made.identity), "Identity");
        // No other run is trusted.
        let other = make(now).unwrap();
        assert!(!serves(&certificate(&other.of_pod[CERTIFICATE]), SERVER_NAME, 0));
        let foreign = certificate(other.identity.client.as_bytes());
        assert!(clients.verify_client_cert(&foreign, &[], at(0)).is_err());
    }
}

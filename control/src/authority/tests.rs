//! What the CA signs, and what it refuses to.

use portlatch_protocol::identity::IdentityKind;
use portlatch_protocol::tls::{Authority, OneKindOfClient, OneServer, ServerMeant};
use rcgen::{PKCS_ECDSA_P384_SHA384, PKCS_ED25519};
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier as _;

use super::*;

const NOW: TimeOfDay = TimeOfDay(1_800_000_000_000);

struct Bench {
    _dir: tempfile::TempDir,
    cluster: Hostname,
    keys: Keys,
}

fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let cluster: Hostname = "proxy.example.com".parse().unwrap();
    let keys = Keys::create(dir.path(), &cluster, NOW).unwrap();
    Bench { _dir: dir, cluster, keys }
}

impl Bench {
    fn signer(&self) -> Signer<'_> {
        Signer::new(&self.cluster, &self.keys)
    }

    fn authority(&self) -> Authority {
        Authority::new(self.cluster.clone(), &[self.keys.ca_der().clone()]).unwrap()
    }
}

fn login() -> Login {
    Login {
        user: "jerry".parse().unwrap(),
        login: "0af3".parse().unwrap(),
        device: "laptop".parse().unwrap(),
    }
}

fn request(key: &KeyPair) -> Vec<u8> {
    CertificateParams::default().serialize_request(key).unwrap().der().to_vec()
}

fn at(time: TimeOfDay) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(time.seconds().try_into().unwrap()))
}

#[test]
fn a_login_certificate_passes_for_a_login_and_nothing_else() {
    let bench = bench();
    let key = ProvenKey::from_request(&request(&KeyPair::generate().unwrap())).unwrap();
    let expires = NOW.after(Duration::from_secs(3600));
    let certificate = bench.signer().login(&login(), &key, expires, NOW).unwrap();
    assert_eq!(Identity::from_certificate(&certificate).unwrap().subject, Subject::Login(login()));
    assert_eq!(Thumbprint::of_certificate(&certificate).as_ref(), Some(key.thumbprint()));
    let accepts = |kind, time| {
        OneKindOfClient::required(bench.authority(), kind)
            .verify_client_cert(&certificate, &[], at(time))
            .is_ok()
    };
    assert!(accepts(IdentityKind::Login, NOW));
    assert!(!accepts(IdentityKind::Tunnel, NOW));
    assert!(!accepts(IdentityKind::Login, expires.after(Duration::from_secs(1))));
    assert!(accepts(IdentityKind::Login, TimeOfDay(NOW.0 - 30_000)), "a clock that is behind");
}

#[test]
fn the_controls_own_certificate_passes_for_control_alone() {
    let bench = bench();
    let (chain, _) = bench.signer().control(&"main".parse().unwrap(), NOW).unwrap();
    let name = ServerName::try_from("proxy.example.com").unwrap();
    let accepts = |meant| {
        OneServer::new(bench.authority(), meant)
            .verify_server_cert(&chain[0], &chain[1..], &name, &[], at(NOW))
            .is_ok()
    };
    assert!(accepts(ServerMeant::Control));
    assert!(!accepts(ServerMeant::Proxy("main".parse().unwrap())));
}

#[test]
fn a_proxy_certificate_serves_both_sides_for_a_day() {
    let bench = bench();
    let key = ProvenKey::from_request(&request(&KeyPair::generate().unwrap())).unwrap();
    let certificate = bench.signer().proxy(&"berlin-1".parse().unwrap(), &key, NOW).unwrap();
    let server = OneServer::new(bench.authority(), ServerMeant::Proxy("berlin-1".parse().unwrap()));
    let name = ServerName::try_from("any.example").unwrap();
    assert!(server.verify_server_cert(&certificate, &[], &name, &[], at(NOW)).is_ok());
    let late = NOW.after(SERVER_LIFETIME + Duration::from_secs(1));
    assert!(server.verify_server_cert(&certificate, &[], &name, &[], at(late)).is_err());
    let client = OneKindOfClient::required(bench.authority(), IdentityKind::Proxy);
    assert!(client.verify_client_cert(&certificate, &[], at(NOW)).is_ok());
}

#[test]
fn keys_of_other_kinds_are_refused() {
    for algorithm in [&PKCS_ED25519, &PKCS_ECDSA_P384_SHA384] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        assert!(matches!(ProvenKey::from_request(&request(&key)), Err(AuthorityError::NotP256)));
    }
}

#[test]
fn a_request_that_its_key_did_not_sign_is_refused() {
    let (mine, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let (der, foreign) = (request(&mine), request(&other));
    // The other's point in place of mine: names and lengths stay right, the signature does not fit.
    let at = der.windows(65).position(|window| window == mine.public_key_raw()).unwrap();
    let mut stolen = der.clone();
    stolen[at..at + 65].copy_from_slice(other.public_key_raw());
    assert!(matches!(ProvenKey::from_request(&stolen), Err(AuthorityError::NotProven)));
    assert!(ProvenKey::from_request(&foreign).is_ok());
    let mut longer = der.clone();
    longer.push(0);
    for bad in [&b""[..], b"nothing", &der[..40], &longer, &[0x30; MAX_REQUEST + 1]] {
        assert!(matches!(ProvenKey::from_request(bad), Err(AuthorityError::NotARequest)));
    }
}

#[test]
fn names_and_usages_of_the_request_do_not_count() {
    let bench = bench();
    let key = KeyPair::generate().unwrap();
    let mut wishes = CertificateParams::new(vec!["proxy.example.com".to_owned()]).unwrap();
    wishes.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    wishes.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let der = wishes.serialize_request(&key).unwrap();
    let key = ProvenKey::from_request(der.der()).unwrap();
    let certificate = bench.signer().tunnel(&login(), &key, NOW.after(SERVER_LIFETIME), NOW).unwrap();
    assert_eq!(Identity::from_certificate(&certificate).unwrap().kind(), IdentityKind::Tunnel);
    let (_, parsed) = x509_parser::prelude::X509Certificate::from_der(&certificate).unwrap();
    assert!(!parsed.is_ca());
    let usage = parsed.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth);
}

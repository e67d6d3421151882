//! Every way in which a grant can be wrong, and the one in which it is right.

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use portlatch_clock::Clock;
use portlatch_protocol::watch::{Change, Lock, LockTarget, Snapshot, WatchMessage};
use rcgen::KeyPair;

use super::*;
use crate::proxy::fixture::ca::{self, KID};
use crate::proxy::fixture::network::open_with;
use crate::proxy::fixture::{control_time, grant_key, login, revoked, snapshot};

struct Case {
    clock: Clock,
    mover: tokio::sync::watch::Sender<std::time::Duration>,
    view: Arc<View>,
    key: KeyPair,
    tunnel: TunnelIdentity,
    known: KnownGrants,
}

impl Case {
    fn new() -> Self {
        let (clock, mover) = Clock::movable();
        let key = KeyPair::generate().unwrap();
        let view = View::new("p1".parse().unwrap(), clock.clone());
        let grant_keys = vec![grant_key(KID, &key)];
        let _ = view.handle_message(WatchMessage::Snapshot(Snapshot { grant_keys, ..snapshot(&clock) }));
        let own = Thumbprint::of_point(KeyPair::generate().unwrap().public_key_raw()).unwrap();
        let tunnel = TunnelIdentity { login: login(), key: own };
        Self { clock, mover, view, key, tunnel, known: KnownGrants::default() }
    }

    fn claims(&self) -> GrantClaims {
        ca::claims(self.tunnel.key.clone(), &self.clock)
    }

    fn verify(&self, token: &str) -> Result<VerifiedGrant, GrantFault> {
        VerifiedGrant::verify(&open_with(token), &self.tunnel, &self.view, &self.known)
    }

    /// The fault of a well-signed grant whose claims were changed.
    fn fault_of_claims(&self, change: impl FnOnce(&mut GrantClaims)) -> Option<GrantFault> {
        let mut claims = self.claims();
        change(&mut claims);
        self.verify(&ca::sign(&ca::header(), &claims, &self.key)).err()
    }

    /// The fault of a good grant whose header was changed.
    fn fault_of_header(&self, change: impl FnOnce(&mut Header)) -> Option<GrantFault> {
        let mut header = ca::header();
        change(&mut header);
        self.verify(&ca::sign(&header, &self.claims(), &self.key)).err()
    }

    fn tell(&self, change: Change) {
        let _ = self.view.handle_message(WatchMessage::Change(change, control_time(&self.clock)));
    }
}

#[test]
fn a_good_grant_is_verified() {
    let case = Case::new();
    let grant = case.verify(&ca::sign(&ca::header(), &case.claims(), &case.key)).unwrap();
    assert_eq!(grant.claims(), &case.claims());
}

// A 2, A 3, A 8.
#[test]
fn a_grant_for_something_else_is_refused() {
    let case = Case::new();
    let other_key = Thumbprint::of_point(KeyPair::generate().unwrap().public_key_raw()).unwrap();
    assert_eq!(case.fault_of_claims(|claims| claims.port = 6432), Some(GrantFault::OtherPort));
    assert_eq!(case.fault_of_claims(|claims| claims.cnf.jkt = other_key), Some(GrantFault::OtherKey));
    let resource = |claims: &mut GrantClaims| claims.resource = "app/billing".parse().unwrap();
    assert_eq!(case.fault_of_claims(resource), Some(GrantFault::OtherResource));
    let changes: [fn(&mut GrantClaims); 3] = [
        |claims| claims.sub = "tom".parse().unwrap(),
        |claims| claims.login = "0af4".parse().unwrap(),
        |claims| claims.device = "desktop".parse().unwrap(),
    ];
    for change in changes {
        assert_eq!(case.fault_of_claims(change), Some(GrantFault::OtherLogin));
    }
}

#[test]
fn a_known_grant_is_still_for_one_port_and_one_time() {
    let case = Case::new();
    let now = case.clock.time_of_day().seconds();
    let claims = GrantClaims { exp: now + 3, ..case.claims() };
    let token = ca::sign(&ca::header(), &claims, &case.key);
    assert!(case.verify(&token).is_ok());
    let elsewhere = Open { port: 6432, ..open_with(&token) };
    let fault = VerifiedGrant::verify(&elsewhere, &case.tunnel, &case.view, &case.known).err();
    assert_eq!(fault, Some(GrantFault::OtherPort));
    case.mover.send(std::time::Duration::from_secs(60)).unwrap();
    assert_eq!(case.verify(&token).err(), Some(GrantFault::Expired));
}

#[test]
fn a_known_grant_is_refused_once_control_has_another_key_of_the_same_name() {
    let case = Case::new();
    let token = ca::sign(&ca::header(), &case.claims(), &case.key);
    assert!(case.verify(&token).is_ok());
    case.tell(Change::GrantKeys(vec![grant_key(KID, &case.key)]));
    assert!(case.verify(&token).is_ok(), "the same key, told anew");
    case.tell(Change::GrantKeys(vec![grant_key(KID, &KeyPair::generate().unwrap())]));
    assert_eq!(case.verify(&token).err(), Some(GrantFault::BadSignature));
}

#[test]
fn a_tunnel_keeps_only_so_many_grants() {
    let case = Case::new();
    let token = |seconds| {
        let claims = GrantClaims { iat: case.claims().iat - seconds, ..case.claims() };
        ca::sign(&ca::header(), &claims, &case.key)
    };
    let tokens: Vec<_> = (0..100).map(token).collect();
    assert!(tokens.iter().all(|token| case.verify(token).is_ok()));
    assert!(case.known.find(&tokens[0], &case.view).is_none());
    assert!(case.known.find(&tokens[99], &case.view).is_some());
}

#[test]
fn a_grant_of_another_cluster_or_for_another_audience_is_refused() {
    let case = Case::new();
    let issuer = |claims: &mut GrantClaims| claims.iss = "d.example".parse().unwrap();
    assert_eq!(case.fault_of_claims(issuer), Some(GrantFault::WrongIssuerOrAudience));
    let audience = |claims: &mut GrantClaims| claims.aud = "portlatch-agent".into();
    assert_eq!(case.fault_of_claims(audience), Some(GrantFault::WrongIssuerOrAudience));
}

#[test]
fn a_grant_ends_with_no_more_leeway_than_the_stated() {
    let case = Case::new();
    let now = case.clock.time_of_day().seconds();
    let leeway = 5;
    assert_eq!(case.fault_of_claims(|claims| claims.exp = now - leeway + 2), None);
    assert_eq!(case.fault_of_claims(|claims| claims.exp = now - leeway - 1), Some(GrantFault::Expired));
    assert_eq!(case.fault_of_claims(|claims| claims.session_end = now - 1), Some(GrantFault::Expired));
    assert_eq!(case.fault_of_claims(|claims| claims.exp = now + 400), Some(GrantFault::TooLongLived));
    assert_eq!(case.fault_of_claims(|claims| claims.exp = i64::MIN), Some(GrantFault::Expired));
    assert_eq!(case.fault_of_claims(|claims| claims.exp = i64::MAX), Some(GrantFault::TooLongLived));
}

// A 10.
#[test]
fn a_grant_that_control_did_not_sign_is_refused() {
    let case = Case::new();
    let foreign = KeyPair::generate().unwrap();
    let token = ca::sign(&ca::header(), &case.claims(), &foreign);
    assert_eq!(case.verify(&token).err(), Some(GrantFault::BadSignature));
    assert_eq!(case.fault_of_header(|header| header.kid = Some("k2".into())), Some(GrantFault::UnknownKey));
    assert_eq!(case.fault_of_header(|header| header.kid = None), Some(GrantFault::UnknownKey));
}

// A 10.
#[test]
fn a_grant_with_any_character_altered_is_refused() {
    let case = Case::new();
    let token = ca::sign(&ca::header(), &case.claims(), &case.key);
    for at in 0..token.len() {
        let mut altered = token.clone().into_bytes();
        altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
        let altered = String::from_utf8(altered).unwrap();
        assert!(case.verify(&altered).is_err(), "altered at {at} of {}", token.len());
    }
}

#[test]
fn other_kinds_of_tokens_are_refused() {
    let case = Case::new();
    assert_eq!(case.fault_of_header(|header| header.typ = Some("JWT".into())), Some(GrantFault::WrongType));
    assert_eq!(case.fault_of_header(|header| header.typ = None), Some(GrantFault::WrongType));
    let critical = |header: &mut Header| header.crit = Some(vec!["exp".into()]);
    assert_eq!(case.fault_of_header(critical), Some(GrantFault::WrongType));
    for nonsense in ["", ".", "..", "a.b.c", &"x".repeat(MAX_GRANT_BYTES + 1)] {
        assert_eq!(case.verify(nonsense).err(), Some(GrantFault::Malformed));
    }
}

#[test]
fn other_algorithms_are_refused() {
    let case = Case::new();
    // The public key as a shared secret: the classic confusion of algorithms.
    let mut header = ca::header();
    header.alg = Algorithm::HS256;
    let secret = EncodingKey::from_secret(case.key.public_key_raw());
    let token = jsonwebtoken::encode(&header, &case.claims(), &secret).unwrap();
    assert_eq!(case.verify(&token).err(), Some(GrantFault::WrongAlgorithm));
    // {"alg":"none","typ":"portlatch-grant+jwt","kid":"k1"}
    let none = "eyJhbGciOiJub25lIiwidHlwIjoicG9ydGxhdGNoLWdyYW50K2p3dCIsImtpZCI6ImsxIn0";
    let body = token.split('.').nth(1).unwrap();
    assert_eq!(case.verify(&format!("{none}.{body}.")).err(), Some(GrantFault::Malformed));
}

// A 9.
#[test]
fn what_control_takes_back_is_refused() {
    let case = Case::new();
    let token = ca::sign(&ca::header(), &case.claims(), &case.key);
    let lock = Lock { id: "0b".parse().unwrap(), target: LockTarget::User(login().user), expires: None };
    case.tell(Change::Locked(lock));
    assert_eq!(case.verify(&token).err(), Some(GrantFault::Locked));
    case.tell(Change::Unlocked("0b".parse().unwrap()));
    assert!(case.verify(&token).is_ok());
    case.tell(revoked(case.claims().jti, &case.clock));
    assert_eq!(case.verify(&token).err(), Some(GrantFault::Revoked));
    case.tell(Change::GrantKeys(Vec::new()));
    assert_eq!(case.verify(&token).err(), Some(GrantFault::UnknownKey));
}

#[test]
fn a_grant_that_was_verified_stands_only_until_control_takes_it_back() {
    let case = Case::new();
    let token = ca::sign(&ca::header(), &case.claims(), &case.key);
    let grant = case.verify(&token).unwrap();
    assert_eq!(grant.check_standing(&case.tunnel, &case.view), Ok(()));
    case.tell(revoked(case.claims().jti, &case.clock));
    assert_eq!(grant.check_standing(&case.tunnel, &case.view), Err(GrantFault::Revoked));
}

#[test]
fn gone_resources_and_ended_logins_are_refused() {
    let case = Case::new();
    let token = ca::sign(&ca::header(), &case.claims(), &case.key);
    case.tell(Change::ResourceGone("db/billing".parse().unwrap()));
    assert_eq!(case.verify(&token).err(), Some(GrantFault::ResourceGone));
    case.tell(Change::LoginEnded(login().login));
    assert_eq!(case.verify(&token).err(), Some(GrantFault::LoginEnded));
}

// A 7: at 4:59.9 and not at 5:00.1, which at a proxy is 5:05.1; however often it is used.
#[test]
fn a_grant_of_five_minutes_lives_five_minutes_and_at_most_five_seconds_more() {
    let case = Case::new();
    let token = ca::sign(&ca::header(), &case.claims(), &case.key);
    for (milliseconds, is_good) in [(0, true), (150_000, true), (299_900, true), (305_100, false)] {
        case.mover.send(std::time::Duration::from_millis(milliseconds)).unwrap();
        assert_eq!(case.verify(&token).is_ok(), is_good, "{milliseconds} ms");
    }
    assert_eq!(case.verify(&token).err(), Some(GrantFault::Expired));
}

//! What a modified client gets of a proxy (the attack list's A): no more than control granted to its own tunnel key, for
//! as long as that stands. Each refusal is told, on the record with its reason, and no packet reaches a target.

use std::time::Duration;

use portlatch_protocol::frame::{MAX_STREAM_FRAME, encode};
use portlatch_protocol::stream::{Answer, Open, OpenRefusal, reset};
use portlatch_tests::lab::modified::{ModifiedTunnel, TunnelKey};
use portlatch_tests::lab::token;
use portlatch_tests::lab::{Account::*, Host, Lab, LabOptions, PATIENCE, Part, Taps, start, wait_for};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

fn open(resource: &str, port: u16, grant: &str) -> Open {
    let name = resource.split('/').nth(1).unwrap();
    Open {
        resource: resource.parse().unwrap(),
        port,
        host: format!("{name}.corp.internal").parse().unwrap(),
        grant: grant.to_owned(),
        program: Some("psql".into()),
    }
}

/// Asserts that the stream is refused in this way, that the audit says why, and that nothing went to the company.
#[track_caller]
fn assert_refused(lab: &Lab, tunnel: &ModifiedTunnel, open: &Open, refusal: OpenRefusal, reason: &str) {
    let (dials, denials) = (lab.dials(), lab.count("access.denied"));
    let answer = tunnel.open(open).map(|(answer, _)| answer);
    assert_eq!(answer, Ok(Answer::Refused(refusal)), "{reason}");
    let record = wait_for("the refusal's record", PATIENCE, || {
        lab.audit().into_iter().filter(|record| record["event"] == "access.denied").nth(denials)
    });
    assert_eq!(record["reason"], reason, "{record}");
    assert_eq!(record["user"], "jerry", "{record}");
    assert_eq!(lab.dials(), dials, "{reason}: a target was dialled");
}

/// The key and certificate of jerry's login, which only ever speak to control.
fn login_as_tunnel(lab: &Lab, real: &TunnelKey) -> TunnelKey {
    let read = |name: &str| {
        let path = format!("/home/jerry/.local/state/portlatch/{name}");
        lab.run(Host::User, Root, &["cat", &path]).expect_success().stdout
    };
    let certificate = CertificateDer::from_pem_slice(read("login.crt").as_bytes()).unwrap();
    let key = PrivatePkcs8KeyDer::from_pem_slice(read("login.key").as_bytes()).unwrap();
    real.with(certificate, key.secret_pkcs8_der().to_vec())
}

#[test]
fn a_modified_client_opens_what_it_was_granted_and_nothing_else() {
    let Some(lab) = start(LabOptions { logins: &[Jerry, Tom], ..LabOptions::default() }) else { return };
    let mut jerry = lab.modified_daemon(Jerry);
    let tapped = jerry.grant("db/billing-db", "billing-db.corp.internal", 6432);
    assert!(tapped.amr.iter().any(|how| how == "hwk" || how == "swk"), "{:?}", tapped.amr);
    let untapped = jerry.grant("app/peer", "peer.corp.internal", 6432);
    assert!(untapped.amr.is_empty());
    let (tapped, untapped) = (tapped.token, untapped.token);
    let tunnel = jerry.tunnel.connect(&lab).unwrap();
    let (dials, good) = (lab.dials(), open("db/billing-db", 6432, &tapped));
    let (answer, mut stream) = tunnel.open(&good).unwrap();
    assert_eq!(answer, Answer::Opened, "what was granted opens");
    stream.assert_echoes("granted");
    assert_eq!(lab.dials(), dials + 1);

    let billing = |grant: &str| open("db/billing-db", 6432, grant);
    let bad = OpenRefusal::BadGrant;
    // A 10: without a grant; with none that is one.
    assert_refused(&lab, &tunnel, &billing(""), bad, "malformed");
    assert_refused(&lab, &tunnel, &billing("mfa_done:true"), bad, "malformed");
    // A 10: forged: claims changed, so also one that says that a tap was made; signed by another; a bit; no signature.
    let with_amr = token::changed(&untapped, |claims| claims["amr"] = serde_json::json!(["hwk", "user"]));
    let longer =
        token::changed(&tapped, |claims| claims["exp"] = (claims["exp"].as_i64().unwrap() + 60).into());
    for grant in [with_amr, longer, token::forged(&tapped), token::bit_flipped(&tapped)] {
        assert_refused(&lab, &tunnel, &billing(&grant), bad, "bad_signature");
    }
    assert_refused(&lab, &tunnel, &billing(&token::unsigned(&tapped)), bad, "malformed");
    // A 2, A 8: for another port, for another resource; one without a tap where a tap is needed.
    assert_refused(&lab, &tunnel, &open("db/billing-db", 6433, &tapped), bad, "other_port");
    assert_refused(&lab, &tunnel, &open("app/peer", 6432, &tapped), bad, "other_resource");
    assert_refused(&lab, &tunnel, &billing(&untapped), bad, "other_resource");
    // A 10: another user's grant.
    let toms = lab.modified_daemon(Tom).grant("app/peer", "peer.corp.internal", 6432).token;
    assert_refused(&lab, &tunnel, &open("app/peer", 6432, &toms), bad, "other_key");
    // A 3, A 8, A 11: another tunnel key of the same login. Whoever has only seen a grant has not even that one.
    let first = jerry.tunnel.clone();
    jerry.attach_again();
    let other = jerry.tunnel.connect(&lab).unwrap();
    assert_refused(&lab, &other, &good, bad, "other_key");

    // A 10, A 11: with another kind's certificate there is no tunnel.
    let sessions = lab.count("session.start");
    let answer = login_as_tunnel(&lab, &first).connect(&lab).and_then(|tunnel| {
        let (answer, _) = tunnel.open(&good)?;
        Ok(answer)
    });
    assert!(answer.is_err(), "{answer:?}");
    // E: a header that is too long, one that is none, and one of an unknown kind: that tunnel ends, and no other.
    let too_long = u32::try_from(MAX_STREAM_FRAME + 1).unwrap().to_be_bytes();
    let unknown = encode(&(99_u8, "what is this"), MAX_STREAM_FRAME).unwrap();
    for bytes in [too_long.as_slice(), b"\0\0\0\x05\xff\xff\xff\xff\xff", &unknown] {
        let broken = jerry.tunnel.connect(&lab).unwrap();
        assert!(broken.send(bytes).is_err(), "{bytes:?}");
        let end = broken.end();
        assert!(end.contains("not a header"), "{end}");
    }
    assert_eq!(lab.count("session.start"), sessions);
    stream.assert_echoes("and all that while");
    lab.assert_audit_verifies();
}

/// A session of ten minutes at most, so that its end is a grant's time away.
const SHORT_SESSIONS: &str = "
kind: role
version: v7
metadata: {name: access-prod}
spec:
  options: {require_session_mfa: true, max_session: 10m}
  allow: {db_labels: {env: prod}}
";
const TAP_FOR_ALL: &str = "
kind: cluster_auth_preference
metadata: {name: cluster-auth-preference}
spec: {require_session_mfa: true, second_factors: [webauthn]}
";

fn at(lab: &Lab, seconds: u64) {
    lab.move_clock(Duration::from_secs(seconds));
}

#[test]
fn a_grant_is_of_no_use_once_it_or_its_policy_or_its_login_is_over() {
    let Some(lab) = start(LabOptions::default()) else { return };
    lab.apply(SHORT_SESSIONS).expect_success();
    let mut jerry = lab.modified_daemon(Jerry);
    let untapped = jerry.grant("app/peer", "peer.corp.internal", 6432).token;
    let untapped = open("app/peer", 6432, &untapped);
    let mut tunnel = jerry.tunnel.connect(&lab).unwrap();
    let (answer, mut old) = tunnel.open(&untapped).unwrap();
    assert_eq!(answer, Answer::Opened);
    old.assert_echoes("before");

    // A 9, between grant and open: now a tap is needed, and the grant says that there was none (A 10).
    lab.apply(TAP_FOR_ALL).expect_success();
    wait_for("the policy to be in force", PATIENCE, || {
        let (answer, _) = tunnel.open(&untapped).unwrap();
        (answer != Answer::Opened).then_some(())
    });
    assert_refused(&lab, &tunnel, &untapped, OpenRefusal::GrantEnded, "revoked");
    old.assert_echoes("after: streams that are open stay");
    drop(old);

    // A 4: a proxy that has just been restarted has not forgotten it.
    lab.kill(Part::Proxy);
    lab.restart(Part::Proxy, Taps::Auto);
    tunnel = wait_for("the proxy", PATIENCE, || jerry.tunnel.connect(&lab).ok());
    assert_refused(&lab, &tunnel, &untapped, OpenRefusal::GrantEnded, "revoked");

    // A 7: a grant is not extended by its use; the stream that it opened is unaffected, until its session's time.
    let tapped = jerry.grant("db/billing-db", "billing-db.corp.internal", 6432).token;
    let tapped = open("db/billing-db", 6432, &tapped);
    let (answer, mut stream) = tunnel.open(&tapped).unwrap();
    assert_eq!(answer, Answer::Opened);
    stream.assert_echoes("at once");
    at(&lab, 200);
    let (answer, _again) = tunnel.open(&tapped).unwrap();
    assert_eq!(answer, Answer::Opened, "before five minutes are over");
    at(&lab, 306);
    assert_refused(&lab, &tunnel, &tapped, OpenRefusal::GrantEnded, "expired");
    stream.assert_echoes("the grant is over, the session is not");
    at(&lab, 550);
    stream.assert_echoes("nor is it most of a minute before its end");
    at(&lab, 640);
    assert_eq!(stream.reset_code(), u64::from(reset::SESSION_ENDED));
    lab.wait_for_record("the end that max_session makes", |record| {
        record["event"] == "session.end" && record["reason"] == "session_over"
    });

    // A 8: a grant dies with its login.
    let last = jerry.grant("db/billing-db", "billing-db.corp.internal", 6432).token;
    let last = open("db/billing-db", 6432, &last);
    let (answer, mut stream) = tunnel.open(&last).unwrap();
    assert_eq!(answer, Answer::Opened);
    stream.assert_echoes("logged in");
    drop(stream);
    lab.portlatch(Jerry, &["logout"]).expect_success();
    tunnel.end();
    let dials = lab.dials();
    let answer = jerry.tunnel.connect(&lab).and_then(|tunnel| tunnel.open(&last).map(|(answer, _)| answer));
    assert!(answer.is_err(), "a tunnel of a login that has ended: {answer:?}");
    assert_eq!(lab.dials(), dials);
    lab.assert_audit_verifies();
}

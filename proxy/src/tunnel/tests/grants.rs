//! Attacks with grants, by the letters and numbers of their list, on streams of a real tunnel: what a lying daemon, a
//! proxy in other hands and a proxy that has just started make of them. Each is refused, dials nothing, and stands in the
//! audit with its reason. What one grant can get wrong is in `grant/tests.rs`.

use std::time::Duration;

use portlatch_protocol::frame::{self, LENGTH_BYTES, MAX_STREAM_FRAME};
use portlatch_protocol::grant::GrantClaims;
use portlatch_protocol::identity::{Login, Subject};
use portlatch_protocol::stream::{Answer, Open, OpenRefusal, close};
use portlatch_protocol::watch::{
    Change, ControlTime, Lock, LockTarget, RevokedGrant, Snapshot, WatchMessage,
};
use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;

use super::lifecycle::close_code;
use super::{accept, network_with_target};
use crate::proxy::fixture::network::{Client, Network, PATIENCE, open_with, read_answer};
use crate::proxy::fixture::{ca, control_time, grant_key, login, revoked, snapshot};

/// The proxy refuses it in this way and writes this reason down, as the only one so far.
async fn refused(network: &Network, client: &Client, open: &Open, refusal: OpenRefusal, reason: &str) {
    let before = network.records("access.denied").len();
    assert_eq!(client.open(open).await.2, Answer::Refused(refusal), "{reason}");
    let record = &network.records_come("access.denied", before + 1).await[before].line;
    assert!(record.contains(&format!(r#""reason":"{reason}""#)), "{record}");
}

/// Nobody was dialled: every dial comes after the record of its session's start.
fn nothing_was_dialled(network: &Network) {
    assert!(network.records("session.start").is_empty());
}

/// Control's clock and everybody's is so far on; control has said so.
async fn at(network: &Network, milliseconds: u64) {
    network.mover.send(Duration::from_millis(milliseconds)).unwrap();
    network.tell(WatchMessage::Beat(control_time(&network.clock))).await;
    network.until(|proxy| proxy.view.is_ready()).await;
}

// A 7: at 4:55 (at 4:59.9 in the grant's own tests, whose clock stands still), not at 5:05.1, which is 5:00.1 and the five
// seconds that proxies give; not extended by use; and a stream that runs is left alone.
#[tokio::test]
async fn a_grant_opens_streams_for_five_minutes_however_often_it_is_used() {
    let (network, target) = network_with_target().await;
    let client = network.tunnel().await;
    let open = network.open(&client, |_| {});
    let (mut send, _receive, answer) = client.open(&open).await;
    assert_eq!(answer, Answer::Opened);
    let mut server = accept(&target).await;
    for milliseconds in [100_000, 200_000, 295_000] {
        at(&network, milliseconds).await;
        assert_eq!(client.open(&open).await.2, Answer::Opened, "after {milliseconds} ms");
        drop(accept(&target).await);
    }
    at(&network, 305_100).await;
    refused(&network, &client, &open, OpenRefusal::GrantEnded, "expired").await;
    send.write_all(b"still").await.unwrap();
    timeout(PATIENCE, server.read_exact(&mut [0; 5])).await.expect("the stream goes on").unwrap();
}

// A 10: without a grant; with claims that control did not sign; with a word of one's own that all is well.
#[tokio::test]
async fn a_daemon_that_lies_opens_nothing() {
    let (network, _target) = network_with_target().await;
    let client = network.tunnel().await;
    refused(&network, &client, &open_with(""), OpenRefusal::BadGrant, "malformed").await;
    let untapped = network.open(&client, |claims| {
        claims.port = 6432;
        (claims.amr, claims.auth_time, claims.key_id) = (Vec::new(), None, None);
    });
    // The signature of one grant under the claims of another.
    let lies: [fn(&mut GrantClaims); 6] = [
        |claims| claims.amr = vec!["hwk".into(), "user".into()],
        |claims| claims.port = 5432,
        |claims| claims.exp += 200,
        |claims| claims.session_end += 3600,
        |claims| claims.limits.connections = u32::MAX,
        |claims| claims.jti = "0f".parse().unwrap(),
    ];
    let (_, signature) = untapped.grant.rsplit_once('.').unwrap();
    for lie in lies {
        let lied = network.open(&client, lie);
        let (lied, _) = lied.grant.rsplit_once('.').unwrap();
        let open = open_with(&format!("{lied}.{signature}"));
        refused(&network, &client, &open, OpenRefusal::BadGrant, "bad_signature").await;
    }
    // One field more than there are, which says `true`.
    let mut header = frame::encode(&untapped, MAX_STREAM_FRAME).unwrap();
    assert_eq!(header[LENGTH_BYTES], 0x85, "a header is an array of five");
    header[LENGTH_BYTES] = 0x86;
    header.push(0xf5);
    let length = u32::try_from(header.len() - LENGTH_BYTES).unwrap();
    header[..LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
    let before = network.records("access.denied").len();
    let (mut send, mut receive) = client.connection.open_bi().await.unwrap();
    send.write_all(&header).await.unwrap();
    assert_eq!(read_answer(&mut receive).await, Answer::Refused(OpenRefusal::BadGrant));
    let denied = network.records_come("access.denied", before + 1).await.pop().unwrap().line;
    assert!(denied.contains(r#""reason":"other_port""#), "{denied}");
    nothing_was_dialled(&network);
}

// A 3, A 8, A 10: of another user, of another device of the same user, of another attach of the same login.
#[tokio::test]
async fn a_grant_of_another_tunnel_opens_nothing() {
    let (network, _target) = network_with_target().await;
    let client = network.tunnel().await;
    let good = network.open(&client, |_| {});
    let others = [
        Login { user: "elaine".parse().unwrap(), login: "0b01".parse().unwrap(), ..login() },
        Login { login: "0b02".parse().unwrap(), device: "desk".parse().unwrap(), ..login() },
        login(),
    ];
    for other in others {
        let thief = network.connect(network.ca.leaf(Subject::Tunnel(other))).await.unwrap();
        refused(&network, &thief, &good, OpenRefusal::BadGrant, "other_key").await;
    }
    // Even if the thief's key stood in it: it names another login.
    let other = Login { user: "elaine".parse().unwrap(), login: "0b01".parse().unwrap(), ..login() };
    let thief = network.connect(network.ca.leaf(Subject::Tunnel(other))).await.unwrap();
    let misnamed = network.open(&thief, |_| {});
    refused(&network, &thief, &misnamed, OpenRefusal::BadGrant, "other_login").await;
    nothing_was_dialled(&network);
}

// A 11: a proxy in other hands has seen a grant, and has a certificate of the cluster; but no tunnel key.
#[tokio::test]
async fn what_a_proxy_has_seen_serves_it_nowhere() {
    let (network, target) = network_with_target().await;
    let client = network.tunnel().await;
    let seen = network.open(&client, |_| {});
    assert_eq!(client.open(&seen).await.2, Answer::Opened);
    drop(accept(&target).await);
    let proxys_own = network.ca.leaf(Subject::Proxy("p2".parse().unwrap()));
    if let Ok(thief) = network.connect(proxys_own).await {
        // TLS 1.3 clients are done before the server has looked at their certificate.
        timeout(PATIENCE, thief.connection.closed()).await.expect("the tunnel is refused");
    }
    let denied = &network.records_come("access.denied", 1).await[0].line;
    assert!(denied.contains(r#""reason":"certificate""#), "{denied}");
    // As an accomplice of somebody with a login.
    let accomplice = Login { user: "elaine".parse().unwrap(), login: "0b01".parse().unwrap(), ..login() };
    let thief = network.connect(network.ca.leaf(Subject::Tunnel(accomplice))).await.unwrap();
    refused(&network, &thief, &seen, OpenRefusal::BadGrant, "other_key").await;
    assert_eq!(network.records("session.start").len(), 1);
}

/// A proxy that has just started, with what control says first.
async fn restarted(told: impl FnOnce(Snapshot) -> Snapshot) -> (Network, Client, Open) {
    let network = Network::silent(portlatch_audit::SpoolConfig::DEFAULT_MAX_BYTES);
    let client = network.tunnel().await;
    let open = network.open(&client, |_| {});
    let grant_keys = vec![grant_key(ca::KID, &network.ca.grant_key)];
    let told = told(Snapshot { grant_keys, ..snapshot(&network.clock) });
    network.tell(WatchMessage::Snapshot(told)).await;
    network.until(|proxy| proxy.view.is_ready()).await;
    (network, client, open)
}

// A 4: a grant that was revoked while the proxy was away.
#[tokio::test]
async fn a_proxy_that_has_just_started_knows_what_was_revoked_before() {
    let (network, client, open) = restarted(|told| {
        let expires = ControlTime(told.time.0 + 300_000);
        Snapshot { revoked: vec![RevokedGrant { grant: "0e".parse().unwrap(), expires }], ..told }
    })
    .await;
    refused(&network, &client, &open, OpenRefusal::GrantEnded, "revoked").await;
    nothing_was_dialled(&network);
}

// A 4: a grant of a user who was locked while the proxy was away, of one who has logged out, for what is locked.
#[tokio::test]
async fn a_proxy_that_has_just_started_knows_who_was_locked_before() {
    let lock = |target: LockTarget| Lock { id: "0b".parse().unwrap(), target, expires: None };
    for target in [
        LockTarget::User(login().user),
        LockTarget::Device(login().device),
        LockTarget::Login(login().login),
        LockTarget::Proxy("p1".parse().unwrap()),
    ] {
        let (network, client, _) = restarted(|told| Snapshot { locks: vec![lock(target)], ..told }).await;
        assert_eq!(close_code(&client).await, u64::from(close::LOCKED));
        assert_eq!(close_code(&network.tunnel().await).await, u64::from(close::LOCKED));
        nothing_was_dialled(&network);
    }
    let (network, client, _) = restarted(|told| Snapshot { ended_logins: vec![login().login], ..told }).await;
    assert_eq!(close_code(&client).await, u64::from(close::LOCKED));
    nothing_was_dialled(&network);
    let resource = LockTarget::Resource("db/billing".parse().unwrap());
    let (network, client, open) = restarted(|told| Snapshot { locks: vec![lock(resource)], ..told }).await;
    refused(&network, &client, &open, OpenRefusal::Locked, "locked").await;
    nothing_was_dialled(&network);
}

// A 9: between grant and `Open`.
#[tokio::test]
async fn what_changed_after_the_grant_was_given_counts() {
    for (reason, refusal) in [
        ("resource_gone", OpenRefusal::UnknownResource),
        ("revoked", OpenRefusal::GrantEnded),
        ("unknown_key", OpenRefusal::BadGrant),
    ] {
        let (network, _target) = network_with_target().await;
        let client = network.tunnel().await;
        let open = network.open(&client, |_| {});
        let change = match reason {
            "resource_gone" => Change::ResourceGone("db/billing".parse().unwrap()),
            "revoked" => revoked("0e".parse().unwrap(), &network.clock),
            _ => Change::GrantKeys(Vec::new()),
        };
        network.tell_change(change).await;
        // In order: the proxy has taken the change when it has taken what follows it.
        let later = ControlTime(control_time(&network.clock).0 + 10_000);
        network.tell(WatchMessage::Beat(later)).await;
        network.until(|proxy| proxy.view.now().is_some_and(|now| now >= later)).await;
        refused(&network, &client, &open, refusal, reason).await;
        nothing_was_dialled(&network);
    }
}

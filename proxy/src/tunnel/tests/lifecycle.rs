//! What ends sessions and tunnels, and what never lets them begin.

use std::time::Duration;

use portlatch_protocol::frame::{self, MAX_STREAM_FRAME};
use portlatch_protocol::identity::{Login, Subject};
use portlatch_protocol::stream::{Answer, OpenRefusal, close, reset};
use portlatch_protocol::watch::{Change, Lock, LockTarget, MAX_SILENCE};
use quinn::{ConnectionError, ReadError, RecvStream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::{accept, network_with_target};
use crate::limits::MAX_TUNNELS;
use crate::proxy::fixture::ca::TestCa;
use crate::proxy::fixture::network::{Client, Network, PATIENCE, read_answer};
use crate::proxy::fixture::{login, revoked};

/// What a cut must take at most (design section 5).
const CUT: Duration = Duration::from_secs(2);

async fn reset_code(receive: &mut RecvStream) -> u64 {
    match timeout(PATIENCE, receive.read_chunk(16, true)).await.expect("the session is cut") {
        Err(ReadError::Reset(code)) => code.into_inner(),
        other => panic!("not a reset: {other:?}"),
    }
}

pub(super) async fn close_code(client: &Client) -> u64 {
    let error = timeout(PATIENCE, client.connection.closed()).await.expect("the tunnel is closed");
    let ConnectionError::ApplicationClosed(closed) = error else {
        panic!("not closed by the proxy: {error}")
    };
    closed.error_code.into_inner()
}

#[tokio::test]
async fn a_lock_cuts_live_sessions_and_tunnels_at_once() {
    let (network, target) = network_with_target().await;
    let client = network.tunnel().await;
    let (_send, _receive) = network.session(&client).await;
    let mut server = accept(&target).await;
    let begun = std::time::Instant::now();
    let lock = Lock { id: "0b".parse().unwrap(), target: LockTarget::User(login().user), expires: None };
    network.tell_change(Change::Locked(lock)).await;
    assert_eq!(close_code(&client).await, u64::from(close::LOCKED));
    let read = timeout(PATIENCE, server.read(&mut [0; 16])).await.expect("the target hears of it");
    assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert!(begun.elapsed() < CUT);
    let end = &network.records_come("session.end", 1).await[0].line;
    assert!(end.contains(r#""reason":"locked""#), "{end}");
    let again = network.tunnel().await;
    assert_eq!(close_code(&again).await, u64::from(close::LOCKED));
}

// Logout, a user's reset and a user's end: all are the end of a login.
#[tokio::test]
async fn the_end_of_a_login_cuts_its_sessions_and_tunnels_and_no_others() {
    let (network, target) = network_with_target().await;
    let client = network.tunnel().await;
    let other = Login { login: "0b02".parse().unwrap(), device: "desk".parse().unwrap(), ..login() };
    let desk = network.connect(network.ca.leaf(Subject::Tunnel(other.clone()))).await.unwrap();
    let open = network.open(&desk, |claims| (claims.login, claims.device) = (other.login, other.device));
    let (mut send, _desk_receive, answer) = desk.open(&open).await;
    assert_eq!(answer, Answer::Opened);
    let mut desks = accept(&target).await;
    let (_send, _receive) = network.session(&client).await;
    let mut server = accept(&target).await;
    network.tell_change(Change::LoginEnded(login().login)).await;
    assert_eq!(close_code(&client).await, u64::from(close::LOCKED));
    let read = timeout(PATIENCE, server.read(&mut [0; 16])).await.expect("the target hears of it");
    assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    let end = &network.records_come("session.end", 1).await[0].line;
    assert!(end.contains(r#""reason":"login_ended""#), "{end}");
    assert_eq!(close_code(&network.tunnel().await).await, u64::from(close::LOCKED));
    send.write_all(b"still").await.unwrap();
    timeout(PATIENCE, desks.read_exact(&mut [0; 5])).await.expect("the other login goes on").unwrap();
}

#[tokio::test]
async fn a_gone_resource_cuts_its_sessions_and_leaves_the_tunnel() {
    let (network, target) = network_with_target().await;
    let client = network.tunnel().await;
    let (_send, mut receive) = network.session(&client).await;
    let _server = accept(&target).await;
    network.tell_change(Change::ResourceGone("db/billing".parse().unwrap())).await;
    assert_eq!(reset_code(&mut receive).await, u64::from(reset::SESSION_ENDED));
    let (_, _, answer) = client.open(&network.open(&client, |_| {})).await;
    assert_eq!(answer, Answer::Refused(OpenRefusal::UnknownResource));
}

// A 7, A 8.
#[tokio::test]
async fn a_revoked_grant_opens_nothing_more_and_cuts_nothing() {
    let (network, target) = network_with_target().await;
    let client = network.tunnel().await;
    let (mut send, _receive) = network.session(&client).await;
    let mut server = accept(&target).await;
    network.tell_change(revoked("0e".parse().unwrap(), &network.clock)).await;
    network.until(|proxy| proxy.view.is_revoked(&"0e".parse().unwrap())).await;
    let (_, _, answer) = client.open(&network.open(&client, |_| {})).await;
    assert_eq!(answer, Answer::Refused(OpenRefusal::GrantEnded));
    send.write_all(b"still").await.unwrap();
    timeout(PATIENCE, server.read_exact(&mut [0; 5])).await.unwrap().unwrap();
}

#[tokio::test]
async fn an_administrator_ends_one_session_alone() {
    let (network, target) = network_with_target().await;
    let client = network.tunnel().await;
    let (_send, mut receive) = network.session(&client).await;
    // Listed before the other is there: two of the same millisecond have no order.
    let list = network.proxy.sessions.list();
    assert_eq!((list.len(), list[0].program.as_deref()), (1, Some("psql")));
    let (mut other, _receive) = network.session(&client).await;
    let (_first, mut second) = (accept(&target).await, accept(&target).await);
    assert_eq!(network.proxy.sessions.kill(&list[0].id), crate::sessions::Killed::Ended);
    assert_eq!(reset_code(&mut receive).await, u64::from(reset::SESSION_ENDED));
    other.write_all(b"still").await.unwrap();
    timeout(PATIENCE, second.read_exact(&mut [0; 5])).await.unwrap().unwrap();
    let end = &network.records_come("session.end", 1).await[0].line;
    assert!(end.contains(r#""reason":"killed""#), "{end}");
}

// A 7: closed at max_session, which is the grant's session end.
#[tokio::test]
async fn sessions_end_at_their_grants_end_and_when_idle() {
    for (case, reason) in [("session_end", "session_over"), ("idle", "idle")] {
        let (network, target) = network_with_target().await;
        let client = network.tunnel().await;
        let open = network.open(&client, |claims| match case {
            "idle" => claims.idle = Some(1800),
            _ => claims.session_end = claims.iat + 1800,
        });
        let (_send, mut receive, answer) = client.open(&open).await;
        assert_eq!(answer, Answer::Opened);
        let _server = accept(&target).await;
        network.mover.send(Duration::from_secs(1700)).unwrap();
        let early = timeout(Duration::from_millis(200), receive.read_chunk(16, true)).await;
        assert!(early.is_err(), "{case}: ended early");
        network.mover.send(Duration::from_secs(1801)).unwrap();
        assert_eq!(reset_code(&mut receive).await, u64::from(reset::SESSION_ENDED));
        let end = &network.records_come("session.end", 1).await[0].line;
        assert!(end.contains(&format!(r#""reason":"{reason}""#)), "{end}");
    }
}

#[tokio::test]
async fn nothing_opens_before_control_has_spoken_nor_after_its_silence() {
    let target = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let network = Network::silent(portlatch_audit::SpoolConfig::DEFAULT_MAX_BYTES);
    let client = network.tunnel().await;
    let unavailable = Answer::Refused(OpenRefusal::Unavailable);
    assert_eq!(client.open(&network.open(&client, |_| {})).await.2, unavailable);
    network.tell_snapshot(target.local_addr().unwrap()).await;
    let (mut send, _receive) = network.session(&client).await;
    let mut server = accept(&target).await;
    network.mover.send(MAX_SILENCE + Duration::from_secs(1)).unwrap();
    assert_eq!(client.open(&network.open(&client, |_| {})).await.2, unavailable);
    send.write_all(b"still").await.unwrap();
    timeout(PATIENCE, server.read_exact(&mut [0; 5])).await.unwrap().unwrap();
}

#[tokio::test]
async fn no_session_begins_without_its_record() {
    let target = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    // Room for the opening's own record and no other.
    let network = Network::silent(400);
    network.tell_snapshot(target.local_addr().unwrap()).await;
    let client = network.tunnel().await;
    let (_, _, answer) = client.open(&network.open(&client, |_| {})).await;
    assert_eq!(answer, Answer::Refused(OpenRefusal::Unavailable));
    assert!(timeout(Duration::from_millis(100), target.accept()).await.is_err(), "the target was dialled");
    assert_eq!(network.proxy.sessions.count(), 0);
}

#[tokio::test]
async fn a_full_audit_stops_new_sessions_and_no_others() {
    let target = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    // Room for some sessions' starts, and for the ends of all that began.
    let network = Network::silent(16_000);
    network.tell_snapshot(target.local_addr().unwrap()).await;
    let client = network.tunnel().await;
    let (mut send, mut receive) = network.session(&client).await;
    let mut server = accept(&target).await;
    let mut others = Vec::new();
    let last = loop {
        let (send, receive, answer) = client.open(&network.open(&client, |_| {})).await;
        match answer {
            Answer::Opened => others.push((send, receive, accept(&target).await)),
            Answer::Refused(refusal) => break refusal,
        }
        assert!(others.len() < 100, "the audit is never full");
    };
    assert_eq!(last, OpenRefusal::Unavailable);
    send.write_all(b"still here").await.unwrap();
    send.finish().unwrap();
    let mut heard = Vec::new();
    timeout(PATIENCE, server.read_to_end(&mut heard)).await.unwrap().unwrap();
    server.write_all(&heard).await.unwrap();
    drop(server);
    assert_eq!(timeout(PATIENCE, receive.read_to_end(64)).await.unwrap().unwrap(), b"still here");
    network.records_come("session.end", 1).await;
}

#[tokio::test]
async fn limits_of_connections_and_tunnels_hold() {
    let (network, target) = network_with_target().await;
    let client = network.tunnel().await;
    let open = || network.open(&client, |claims| claims.limits.connections = 2);
    let first = client.open(&open()).await;
    let second = client.open(&open()).await;
    assert_eq!((first.2, second.2), (Answer::Opened, Answer::Opened));
    assert_eq!(client.open(&open()).await.2, Answer::Refused(OpenRefusal::Limit));
    drop((first, accept(&target).await));
    network.records_come("session.end", 1).await;
    network.until(|proxy| proxy.sessions.count() == 1).await;
    assert_eq!(client.open(&open()).await.2, Answer::Opened);
    let mut others = Vec::new();
    for _ in 1..MAX_TUNNELS {
        others.push(network.tunnel().await);
    }
    assert_eq!(close_code(&network.tunnel().await).await, u64::from(close::LIMIT));
    assert!(others.iter().all(|other| other.connection.close_reason().is_none()));
}

#[tokio::test]
async fn a_header_that_is_none_closes_the_tunnel() {
    let too_long = (u32::try_from(MAX_STREAM_FRAME).unwrap() + 1).to_be_bytes().to_vec();
    let no_cbor = [&4_u32.to_be_bytes()[..], b"\xff\xff\xff\xff"].concat();
    let no_open = frame::encode(&"hello", MAX_STREAM_FRAME).unwrap();
    for header in [too_long, no_cbor, no_open] {
        let (network, _target) = network_with_target().await;
        let (client, neighbour) = (network.tunnel().await, network.tunnel().await);
        let (mut send, _receive) = client.connection.open_bi().await.unwrap();
        send.write_all(&header).await.unwrap();
        assert_eq!(close_code(&client).await, u64::from(close::PROTOCOL));
        network.session(&neighbour).await;
    }
}

#[tokio::test]
async fn a_header_that_does_not_come_ends_its_stream_alone() {
    let (network, _target) = network_with_target().await;
    let client = network.tunnel().await;
    let (mut send, mut receive) = client.connection.open_bi().await.unwrap();
    send.write_all(&[0, 0]).await.unwrap();
    let begun = std::time::Instant::now();
    network.session(&client).await;
    assert_eq!(reset_code(&mut receive).await, u64::from(reset::BAD_HEADER));
    assert!((Duration::from_secs(4)..Duration::from_secs(8)).contains(&begun.elapsed()));
    network.session(&client).await;
}

#[tokio::test]
async fn draining_keeps_sessions_and_takes_no_stream() {
    let (network, target) = network_with_target().await;
    let (client, idle) = (network.tunnel().await, network.tunnel().await);
    let (mut send, mut receive) = network.session(&client).await;
    let mut server = accept(&target).await;
    network.proxy.stop.draining.cancel();
    assert_eq!(close_code(&idle).await, u64::from(close::STOPPED));
    let (mut new, mut answer) = client.connection.open_bi().await.unwrap();
    new.write_all(&[0]).await.unwrap();
    assert_eq!(read_answer(&mut answer).await, Answer::Refused(OpenRefusal::Unavailable));
    send.write_all(b"still").await.unwrap();
    timeout(PATIENCE, server.read_exact(&mut [0; 5])).await.unwrap().unwrap();
    assert!(
        timeout(PATIENCE, network.connect(network.ca.leaf(Subject::Tunnel(login())))).await.unwrap().is_err()
    );
    network.proxy.stop.ended.cancel();
    assert!(receive.read_chunk(16, true).await.is_err());
    assert_eq!(close_code(&client).await, u64::from(close::STOPPED));
    let end = &network.records_come("session.end", 1).await[0].line;
    assert!(end.contains(r#""reason":"proxy_stopped""#), "{end}");
    timeout(PATIENCE, network.end()).await.expect("everything ends");
}

#[tokio::test]
async fn a_tunnel_is_closed_when_its_last_session_ends_in_a_drain() {
    let (network, target) = network_with_target().await;
    let client = network.tunnel().await;
    let (mut send, mut receive) = network.session(&client).await;
    let server = accept(&target).await;
    network.proxy.stop.draining.cancel();
    send.finish().unwrap();
    drop(server);
    assert!(receive.read_to_end(1).await.unwrap().is_empty());
    assert_eq!(close_code(&client).await, u64::from(close::STOPPED));
}

#[tokio::test]
async fn certificates_of_other_kinds_and_clusters_make_no_tunnel() {
    let (network, _target) = network_with_target().await;
    let wrong = [
        network.ca.leaf(Subject::Login(login())),
        network.ca.leaf(Subject::Proxy("p2".parse().unwrap())),
        network.ca.leaf(Subject::Control("main".parse().unwrap())),
        TestCa::new().leaf(Subject::Tunnel(login())),
    ];
    for leaf in wrong {
        let client = match network.connect(leaf).await {
            Ok(client) => client,
            Err(_) => continue,
        };
        // TLS 1.3 clients are done before the server has looked at their certificate.
        let error = timeout(PATIENCE, client.connection.closed()).await.expect("the tunnel is refused");
        assert!(matches!(error, ConnectionError::ConnectionClosed(_)), "{error}");
    }
    let denied = network.records_come("access.denied", 4).await;
    let of_certificate =
        |line: &str| line.contains(r#""reason":"certificate""#) && !line.contains("\"user\"");
    assert!(denied.iter().all(|record| of_certificate(&record.line)), "{denied:?}");
    network.session(&network.tunnel().await).await;
}

#[tokio::test]
async fn a_client_that_is_always_refused_loses_its_tunnel() {
    let (network, _target) = network_with_target().await;
    let client = network.tunnel().await;
    let bad = network.open(&client, |claims| claims.port = 1);
    let frame = frame::encode(&bad, MAX_STREAM_FRAME).unwrap();
    let refused = async {
        while let Ok((mut send, mut receive)) = client.connection.open_bi().await {
            if send.write_all(&frame).await.is_err() || receive.read_to_end(64).await.is_err() {
                break;
            }
        }
    };
    timeout(PATIENCE * 3, refused).await.expect("the tunnel is closed");
    assert_eq!(close_code(&client).await, u64::from(close::LIMIT));
    let denied = network.records("access.denied");
    let last = &denied.last().unwrap().line;
    assert!(last.contains(r#""reason":"limit""#) && last.contains("the tunnel is closed"), "{last}");
}

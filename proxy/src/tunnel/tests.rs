//! Streams over a real QUIC connection on loopback, to real sockets.

mod grants;
mod hostile;
mod lifecycle;
mod panics;

use std::net::SocketAddr;
use std::time::Duration;

use portlatch_protocol::grant::GrantClaims;
use portlatch_protocol::stream::{Answer, Open, OpenRefusal, reset};
use portlatch_protocol::watch::{Change, ProxyResource};
use quinn::{ReadError, SendStream, WriteError};
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::proxy::fixture::ca;
use crate::proxy::fixture::network::{Network, PATIENCE, open_with};
use crate::proxy::fixture::{self, resource};

/// A target and a proxy that dials it.
async fn network_with_target() -> (Network, TcpListener) {
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let network = Network::with_target(target.local_addr().unwrap()).await;
    (network, target)
}

async fn accept(target: &TcpListener) -> TcpStream {
    timeout(PATIENCE, target.accept()).await.expect("the proxy dials").unwrap().0
}

#[tokio::test]
async fn a_program_that_sends_all_then_closes_reads_all() {
    let (network, target) = network_with_target().await;
    let client = network.tunnel().await;
    let (mut send, mut receive) = network.session(&client).await;
    let mut server = accept(&target).await;
    let sent: Vec<u8> = (0..8_u32 << 20).map(|n| u8::try_from(n % 251).unwrap()).collect();
    let upload = async {
        send.write_all(&sent).await.unwrap();
        send.finish().unwrap();
    };
    let echo = async {
        let mut all = Vec::new();
        server.read_to_end(&mut all).await.unwrap();
        // Only after the program's end has come through.
        server.write_all(&all).await.unwrap();
        server.shutdown().await.unwrap();
    };
    let download = receive.read_to_end(16 << 20);
    let ((), (), got) = timeout(PATIENCE, async { tokio::join!(upload, echo, download) }).await.unwrap();
    assert_eq!(got.unwrap(), sent);
    let end = &network.records_come("session.end", 1).await[0].line;
    assert!(
        end.contains(r#""reason":"closed""#) && end.contains(&format!(r#""bytes_in":{}"#, sent.len())),
        "{end}"
    );
}

#[tokio::test]
async fn a_target_that_closes_first_still_hears_the_program() {
    let (network, target) = network_with_target().await;
    let client = network.tunnel().await;
    let (mut send, mut receive) = network.session(&client).await;
    let mut server = accept(&target).await;
    server.write_all(b"bye").await.unwrap();
    server.shutdown().await.unwrap();
    assert_eq!(receive.read_to_end(16).await.unwrap(), b"bye");
    send.write_all(b"more").await.unwrap();
    send.finish().unwrap();
    let mut rest = Vec::new();
    timeout(PATIENCE, server.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert_eq!(rest, b"more");
}

#[tokio::test]
async fn the_start_is_on_the_record_before_the_target_hears_anything() {
    let (network, target) = network_with_target().await;
    let client = network.tunnel().await;
    for sessions in 1..=20 {
        let open = network.open(&client, |_| {});
        let (_opened, starts) = tokio::join!(client.open(&open), async {
            let _server = accept(&target).await;
            network.records("session.start").len()
        });
        assert_eq!(starts, sessions);
    }
}

#[tokio::test]
async fn a_programs_reset_resets_the_target() {
    for kind in ["reset", "stop"] {
        let (network, target) = network_with_target().await;
        let client = network.tunnel().await;
        let (mut send, mut receive) = network.session(&client).await;
        let mut server = accept(&target).await;
        match kind {
            "reset" => send.reset(reset::BY_PEER.into()).unwrap(),
            _ => receive.stop(reset::BY_PEER.into()).unwrap(),
        }
        let read = timeout(PATIENCE, server.read(&mut [0; 16])).await.expect("the reset arrives");
        assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset, "{kind}");
        let end = &network.records_come("session.end", 1).await[0].line;
        assert!(end.contains(r#""reason":"program_reset""#), "{end}");
    }
}

#[tokio::test]
async fn a_programs_reset_is_seen_while_the_target_takes_nothing() {
    let (network, target) = network_with_target().await;
    let client = network.tunnel().await;
    let (mut send, mut receive) = network.session(&client).await;
    let _server = accept(&target).await;
    fill(&mut send).await;
    // As a daemon passes a reset on: both ways.
    send.reset(reset::BY_PEER.into()).unwrap();
    receive.stop(reset::BY_PEER.into()).unwrap();
    network.records_come("session.end", 1).await;
}

/// Sends until the target's and the proxy's buffers are full and nothing goes any more.
async fn fill(send: &mut SendStream) -> usize {
    let (piece, mut sent) = (vec![7; 64 * 1024], 0);
    while let Ok(written) = timeout(Duration::from_millis(300), send.write(&piece)).await {
        sent += written.unwrap();
    }
    sent
}

#[tokio::test]
async fn a_program_that_ended_while_the_target_took_nothing_is_heard_to_its_end() {
    let (network, target) = network_with_target().await;
    let client = network.tunnel().await;
    let (mut send, mut receive) = network.session(&client).await;
    let mut server = accept(&target).await;
    let sent = fill(&mut send).await;
    send.finish().unwrap();
    // The target reads slowly, so that the end arrives at the proxy while that still waits for the target.
    let (mut got, mut piece) = (0, vec![0; 64 * 1024]);
    loop {
        let read = timeout(PATIENCE, server.read(&mut piece)).await.expect("more arrives").unwrap();
        got += read;
        if read == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(got, sent);
    drop(server);
    assert!(receive.read_to_end(1).await.unwrap().is_empty());
    let end = &network.records_come("session.end", 1).await[0].line;
    assert!(end.contains(r#""reason":"closed""#), "{end}");
}

#[tokio::test]
async fn a_targets_reset_resets_the_stream() {
    let (network, target) = network_with_target().await;
    let client = network.tunnel().await;
    let (mut send, mut receive) = network.session(&client).await;
    let server = accept(&target).await;
    SockRef::from(&server).set_linger(Some(Duration::ZERO)).unwrap();
    drop(server);
    let read = timeout(PATIENCE, receive.read_chunk(16, true)).await.expect("the reset arrives");
    assert_eq!(read.unwrap_err(), ReadError::Reset(reset::BY_PEER.into()));
    let stopped = timeout(PATIENCE, send.stopped()).await.expect("the stop arrives");
    assert_eq!(stopped.unwrap(), Some(reset::BY_PEER.into()));
    assert_eq!(send.write(b"x").await.unwrap_err(), WriteError::Stopped(reset::BY_PEER.into()));
}

#[tokio::test]
async fn a_tunnel_that_goes_resets_its_targets() {
    let (network, target) = network_with_target().await;
    let client = network.tunnel().await;
    let _session = network.session(&client).await;
    let mut server = accept(&target).await;
    client.connection.close(portlatch_protocol::stream::close::DETACHED.into(), b"");
    let read = timeout(PATIENCE, server.read(&mut [0; 16])).await.expect("the reset arrives");
    assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    let end = &network.records_come("session.end", 1).await[0].line;
    assert!(end.contains(r#""reason":"tunnel_lost""#), "{end}");
}

#[tokio::test]
async fn a_target_that_refuses_is_told_as_such() {
    let (network, target) = network_with_target().await;
    drop(target);
    let client = network.tunnel().await;
    let (_, _, answer) = client.open(&network.open(&client, |_| {})).await;
    assert_eq!(answer, Answer::Refused(OpenRefusal::TargetRefused));
    assert_eq!(network.records("session.start").len(), 1);
    let end = &network.records_come("session.end", 1).await[0].line;
    assert!(end.contains(r#""reason":"target_refused""#), "{end}");
}

#[tokio::test]
async fn a_target_that_does_not_answer_is_unreachable_after_its_deadline() {
    // A listener whose queue is full takes no SYN more, as a host that is down.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let connect = || timeout(Duration::from_millis(200), TcpStream::connect(address));
    let mut queued = Vec::new();
    while let Ok(stream) = connect().await {
        queued.push(stream.unwrap());
    }
    let network = Network::with_target(address).await;
    let client = network.tunnel().await;
    let begun = std::time::Instant::now();
    let (_, _, answer) = client.open(&network.open(&client, |_| {})).await;
    assert_eq!(answer, Answer::Refused(OpenRefusal::TargetUnreachable));
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_target_on_this_machine_is_forbidden_unless_the_resource_says_so() {
    let (network, target) = network_with_target().await;
    let host = target.local_addr().unwrap().ip().to_string();
    let local = portlatch_protocol::watch::Target { host, port: None };
    network.tell_change(Change::Resource(ProxyResource { target: local, ..resource() })).await;
    network.until(|proxy| !proxy.view.resource(&resource().id).unwrap().allow_local_target).await;
    let client = network.tunnel().await;
    let (_, _, answer) = client.open(&network.open(&client, |_| {})).await;
    assert_eq!(answer, Answer::Refused(OpenRefusal::ForbiddenTarget));
    assert!(network.records("session.start").is_empty());
    assert!(network.records("access.denied")[0].line.contains(r#""reason":"forbidden_target""#));
}

// A 2, A 3, A 10.
#[tokio::test]
async fn a_refused_grant_reaches_no_target_and_is_audited() {
    let (network, target) = network_with_target().await;
    let (client, neighbour) = (network.tunnel().await, network.tunnel().await);
    let good = network.open(&client, |_| {});
    let signed_by_another = ca::sign(
        &ca::header(),
        &ca::claims(client.thumbprint(), &network.clock),
        &rcgen::KeyPair::generate().unwrap(),
    );
    let altered = good.grant.replacen('.', ".A", 1);
    let revoked = network.open(&client, |claims| claims.jti = "0d".parse().unwrap());
    network.tell_change(fixture::revoked("0d".parse().unwrap(), &network.clock)).await;
    network.until(|proxy| proxy.view.is_revoked(&"0d".parse().unwrap())).await;
    let elsewhere = Open { host: "other.corp.internal".parse().unwrap(), ..good.clone() };
    let other_resource = |claims: &mut GrantClaims| claims.resource = "db/payroll".parse().unwrap();
    let cases = [
        (open_with(""), OpenRefusal::BadGrant, "malformed"),
        (network.open(&client, |claims| claims.port = 6432), OpenRefusal::BadGrant, "other_port"),
        (network.open(&client, other_resource), OpenRefusal::BadGrant, "other_resource"),
        (
            network.open(&client, |claims| claims.login = "0af4".parse().unwrap()),
            OpenRefusal::BadGrant,
            "other_login",
        ),
        (network.open(&neighbour, |_| {}), OpenRefusal::BadGrant, "other_key"),
        (network.open(&client, |claims| claims.exp -= 400), OpenRefusal::GrantEnded, "expired"),
        (open_with(&altered), OpenRefusal::BadGrant, "bad_signature"),
        (open_with(&signed_by_another), OpenRefusal::BadGrant, "bad_signature"),
        (revoked, OpenRefusal::GrantEnded, "revoked"),
        (elsewhere, OpenRefusal::UnknownResource, "unknown_resource"),
    ];
    for (number, (open, refusal, reason)) in cases.into_iter().enumerate() {
        assert_eq!(client.open(&open).await.2, Answer::Refused(refusal), "{reason}");
        let record = &network.records_come("access.denied", number + 1).await[number];
        assert!(record.line.contains(&format!(r#""reason":"{reason}""#)), "{}", record.line);
        assert!(record.line.contains(r#""user":"jerry""#) && record.line.contains(r#""program":"psql""#));
    }
    assert!(timeout(Duration::from_millis(100), target.accept()).await.is_err(), "the target was dialled");
}

#[tokio::test]
async fn stalled_sessions_leave_the_others_their_speed() {
    let (network, target) = network_with_target().await;
    let client = network.tunnel().await;
    let piece = vec![0; 256 * 1024];
    let mut stalled = Vec::new();
    for _ in 0..24 {
        let (mut send, receive) = network.session(&client).await;
        stalled.push((accept(&target).await, receive));
        // As much as each takes, until its credit and the target's buffers are used up.
        while timeout(Duration::from_millis(40), send.write_all(&piece)).await.is_ok() {}
        stalled.last_mut().unwrap().0.set_nodelay(true).unwrap();
        std::mem::forget(send);
    }
    let (mut send, mut receive) = network.session(&client).await;
    let mut server = accept(&target).await;
    let echo = async {
        let (mut read, mut write) = server.split();
        tokio::io::copy(&mut read, &mut write).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let upload = async {
        for _ in 0..32 {
            send.write_all(&piece).await.unwrap();
        }
        send.finish().unwrap();
    };
    let download = receive.read_to_end(64 << 20);
    let ((), (), got) =
        timeout(PATIENCE, async { tokio::join!(echo, upload, download) }).await.expect("bytes flow");
    assert_eq!(got.unwrap().len(), 32 * piece.len());
}

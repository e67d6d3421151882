//! A panic in one session ends that session: neither side takes what came until then for all there was.

use super::*;
use crate::sessions::EndReason;

#[tokio::test]
async fn a_panic_in_one_session_resets_both_its_sides_and_leaves_the_others_be() {
    let (network, target) = network_with_target().await;
    let client = network.tunnel().await;
    let (mut send, mut receive) = network.session(&client).await;
    let mut server = accept(&target).await;
    let trapped = network.proxy.sessions.list().pop().expect("the one session");
    let (mut other_send, mut other_receive) = network.session(&client).await;
    let mut other_server = accept(&target).await;
    send.write_all(b"question").await.unwrap();
    server.write_all(b"answer").await.unwrap();
    let (mut question, mut answer) = ([0; 8], [0; 6]);
    server.read_exact(&mut question).await.unwrap();
    receive.read_exact(&mut answer).await.unwrap();

    trapped.end.call(EndReason::Internal);

    let read = timeout(PATIENCE, receive.read_chunk(16, true)).await.expect("the reset arrives");
    assert_eq!(read.unwrap_err(), ReadError::Reset(reset::SESSION_ENDED.into()));
    let stopped = timeout(PATIENCE, send.stopped()).await.expect("the stop arrives");
    assert_eq!(stopped.unwrap(), Some(reset::SESSION_ENDED.into()));
    let read = timeout(PATIENCE, server.read(&mut [0; 16])).await.expect("the reset arrives");
    assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    let end = &network.records_come("session.end", 1).await[0].line;
    assert!(end.contains(r#""reason":"internal""#), "{end}");

    other_send.write_all(b"question").await.unwrap();
    timeout(PATIENCE, other_server.read_exact(&mut question)).await.expect("it lives").unwrap();
    other_server.write_all(b"answer").await.unwrap();
    timeout(PATIENCE, other_receive.read_exact(&mut answer)).await.expect("both ways").unwrap();
    assert_eq!(network.proxy.sessions.count(), 1);
}

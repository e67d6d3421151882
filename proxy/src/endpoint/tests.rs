//! The port as its peers see it.

use portlatch_clock::Clock;
use portlatch_protocol::identity::Subject;

use quinn::ConnectionError;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::proxy::fixture::ca::TestCa;
use crate::proxy::fixture::login;
use crate::proxy::fixture::network::{PATIENCE, connect, new_proxy, open_endpoint};

#[tokio::test]
async fn peers_of_a_killed_proxy_learn_it_from_the_next_one() {
    let (clock, _) = Clock::movable();
    let (ca, directory) = (TestCa::new(), tempfile::tempdir().unwrap());
    let proxy = new_proxy(directory.path(), &clock, u64::MAX);
    // On an executor of its own, which ends as a killed process does: without a word to anybody.
    let doomed = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let port = open_endpoint("127.0.0.1:0".parse().unwrap(), &ca, &proxy);
    let address = port.address();
    for lane in port.lanes {
        doomed.spawn(lane.serve(Arc::clone(&proxy), Handshakes::default(), 1));
    }
    let leaf = ca.leaf(Subject::Tunnel(login()));
    let (_client, connection) = connect(&ca, &leaf, address).await.unwrap();
    tokio::task::spawn_blocking(move || doomed.shutdown_timeout(PATIENCE)).await.unwrap();
    let next = open_endpoint(address, &ca, &proxy);
    let _served = AbortOnDropHandle::new(tokio::spawn(serve(Arc::clone(&proxy), next)));
    let (mut send, _receive) = connection.open_bi().await.unwrap();
    send.write_all(b"anybody there?").await.unwrap();
    let error = timeout(PATIENCE, connection.closed()).await.expect("the peer learns of it");
    assert_eq!(error, ConnectionError::Reset);
}

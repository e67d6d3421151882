//! A proxy that means harm, with a good certificate: what it says instead of an answer costs the flow that asked, and the
//! tunnel where the protocol is broken, and nothing else.

use portlatch_protocol::frame::{self, LENGTH_BYTES, MAX_STREAM_FRAME};
use portlatch_protocol::refusal::RefusalReason;
use portlatch_protocol::stream::{Answer, close};

use super::super::open::OPEN_DEADLINE;
use super::proxy::Instead;
use super::*;

/// Long before the deadline, on a busy machine too.
const AT_ONCE: Duration = Duration::from_secs(6);

/// A frame with this content.
fn framed(content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap();
    [&length.to_be_bytes()[..], content].concat()
}

fn opened() -> Vec<u8> {
    frame::encode(&Answer::Opened, MAX_STREAM_FRAME).unwrap()
}

/// What no proxy of ours says.
fn no_answers() -> Vec<Vec<u8>> {
    let too_long = u32::try_from(MAX_STREAM_FRAME + 1).unwrap();
    vec![
        b"HTTP/1.1 200 OK\r\n\r\n".to_vec(),
        u32::MAX.to_be_bytes().to_vec(),
        // At its length: there need not be a byte of it.
        too_long.to_be_bytes().to_vec(),
        framed(b""),
        framed(&[0xff; 64]),
        // An answer of a kind that there is not, and one with bytes behind it in its frame.
        framed(&[0x82, 0x18, 0x63, 0x80]),
        framed(&[&opened()[LENGTH_BYTES..], b"\0"].concat()),
    ]
}

/// A flow is refused, as one that no proxy serves; how long that took.
async fn refused(scene: &Scene, resource: &Resource) -> Duration {
    let begin = Instant::now();
    let error = scene.open_to(resource).await.map(|_| ()).expect_err("it is refused");
    assert_eq!((error, error.reason()), (OpenError::NoProxy, RefusalReason::NoProxy));
    begin.elapsed()
}

#[tokio::test]
async fn a_proxy_whose_answer_is_none_loses_its_tunnel_and_others_keep_theirs() {
    let (ca, local) = (Ca::new(), LocalSet::new());
    let story = async {
        let (hostile, other) = (Proxy::start(&ca, "p1"), Proxy::start(&ca, "p2"));
        let scene = Scene::new(&ca, &[&hostile, &other]);
        let mut elsewhere = scene.open_to(&resource(&[&other])).await.unwrap();
        let its = resource(&[&hostile]);
        for (number, bytes) in no_answers().into_iter().enumerate() {
            hostile.answer_with(Some(Instead::Say(bytes.clone())));
            let took = refused(&scene, &its).await;
            assert!(took < AT_ONCE, "{bytes:?}: {took:?}");
            assert_eq!(scene.up(), ["p2"], "{bytes:?}");
            let closed = async {
                while hostile.closed().len() <= number {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            timeout(PATIENCE, closed).await.expect("the tunnel is closed on it");
            assert_eq!(hostile.closed().last(), Some(&u64::from(close::PROTOCOL)), "{bytes:?}");
            assert_carries(&mut elsewhere).await;
        }
        // Once it is well, it serves.
        hostile.answer_with(None);
        assert_carries(&mut scene.open_to(&its).await.unwrap()).await;
        assert_eq!((other.closed(), other.ends()), (vec![], (0, 0)));
    };
    local.run_until(story).await;
}

#[tokio::test]
async fn a_stream_that_ends_before_its_answer_costs_its_own_flow_alone() {
    let (ca, local) = (Ca::new(), LocalSet::new());
    let story = async {
        let proxy = Proxy::start(&ca, "p1");
        let scene = Scene::new(&ca, &[&proxy]);
        let mut beside = scene.open().await.unwrap();
        let half = opened()[..LENGTH_BYTES + 1].to_vec();
        for instead in [
            Instead::Reset,
            Instead::Finish(Vec::new()),
            Instead::Finish(half[..1].to_vec()),
            Instead::Finish(half),
        ] {
            proxy.answer_with(Some(instead.clone()));
            let took = refused(&scene, &scene.resource).await;
            assert!(took < AT_ONCE, "{instead:?}: {took:?}");
            assert_carries(&mut beside).await;
        }
        assert_eq!((proxy.closed(), proxy.ends()), (vec![], (0, 0)));
    };
    local.run_until(story).await;
}

#[tokio::test]
async fn an_answer_that_does_not_end_is_given_up_at_its_deadline() {
    let (ca, local) = (Ca::new(), LocalSet::new());
    let story = async {
        let proxies = ["p1", "p2", "p3"].map(|name| Proxy::start(&ca, name));
        let scene = Scene::new(&ca, &proxies.each_ref());
        let only = proxies.each_ref().map(|proxy| resource(&[proxy]));
        let mut beside = Vec::new();
        for resource in &only {
            beside.push(scene.open_to(resource).await.unwrap());
        }
        // The longest frame that may be.
        let endless = framed(&vec![0; MAX_STREAM_FRAME]);
        let pause = Duration::from_millis(100);
        let late = async |at: usize, instead| {
            proxies[at].answer_with(Some(instead));
            let took = refused(&scene, &only[at]).await;
            assert!((OPEN_DEADLINE..OPEN_DEADLINE + SLACK * 2).contains(&took), "{took:?}");
        };
        tokio::join!(
            late(0, Instead::Say(Vec::new())),
            late(1, Instead::Say(endless[..endless.len() - 1].to_vec())),
            late(2, Instead::Drip(endless, pause)),
        );
        for session in &mut beside {
            assert_carries(session).await;
        }
        // One that is slow and comes in time is an answer.
        proxies[0].answer_with(Some(Instead::Drip(opened(), pause)));
        drop(scene.open_to(&only[0]).await.unwrap());
        assert!(proxies.iter().all(|proxy| proxy.closed().is_empty()));
    };
    local.run_until(story).await;
}

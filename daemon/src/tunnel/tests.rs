//! Tunnels to proxies that are cut off, killed, started again or stopping.

mod hostile;
pub(crate) mod proxy;

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use portlatch_protocol::resource::{Hold, MfaNeed, RefusalStyle, Resource};
use portlatch_protocol::stream::{Open, OpenRefusal};
use tokio::task::LocalSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use self::proxy::{Ca, Proxy};
use super::{OpenError, Session, Tunnels, dial, lost};

/// Nothing in these tests takes longer where it works.
const PATIENCE: Duration = Duration::from_secs(20);
/// Within so long the flows of a killed proxy hear of it (design section 11).
const LOST: Duration = Duration::from_secs(5);
/// What a machine may be late that has other things to do.
const SLACK: Duration = Duration::from_secs(3);

/// The tunnels of a login for which these are the proxies of its one resource, in order.
struct Scene {
    tunnels: Rc<Tunnels>,
    resource: Resource,
}

impl Scene {
    fn new(ca: &Ca, proxies: &[&Proxy]) -> Self {
        let endpoint = super::endpoint::open().unwrap();
        let tunnels = Tunnels::new(endpoint, ca.credentials(), CancellationToken::new());
        tunnels.handle_proxies(proxies.iter().map(|proxy| proxy.address()).collect());
        Self { tunnels, resource: resource(proxies) }
    }

    async fn open(&self) -> Result<Session, OpenError> {
        self.open_to(&self.resource).await
    }

    async fn open_to(&self, resource: &Resource) -> Result<Session, OpenError> {
        let open = Open {
            resource: resource.id.clone(),
            port: 5432,
            host: "billing.corp.internal".parse().unwrap(),
            grant: "a grant".into(),
            program: None,
        };
        timeout(PATIENCE, self.tunnels.open(resource, &open)).await.expect("a deadline")
    }

    /// The proxies with a tunnel, in the order of their names.
    fn up(&self) -> Vec<String> {
        let mut names: Vec<_> = self.tunnels.names().iter().map(ToString::to_string).collect();
        names.sort();
        names
    }
}

fn resource(proxies: &[&Proxy]) -> Resource {
    Resource {
        id: "db/billing".parse().unwrap(),
        host: "billing.corp.internal".parse().unwrap(),
        ports: Vec::new(),
        hold: Hold::Hybrid,
        mfa: MfaNeed::None,
        labels: Default::default(),
        description: String::new(),
        proxies: proxies.iter().map(|proxy| proxy.name()).collect(),
        protocol: None,
        refusal: RefusalStyle::Reset,
    }
}

/// Lets the last of what a new tunnel sends by itself be answered, as the search for its MTU.
async fn become_quiet() {
    tokio::time::sleep(Duration::from_secs(1)).await;
}

/// A session's echo still works.
async fn assert_carries(session: &mut Session) {
    session.send.write_all(b"still there?").await.unwrap();
    let mut echo = [0; 12];
    timeout(PATIENCE, session.receive.read_exact(&mut echo)).await.expect("an echo").unwrap();
    assert_eq!(&echo, b"still there?");
}

/// Waits for the end of a session on which nothing is sent; how long that took.
async fn end_of_a_reader(session: &mut Session) -> Duration {
    let begin = Instant::now();
    let end = timeout(PATIENCE, session.receive.read_chunk(1, true)).await.expect("the reader hears of it");
    assert!(end.is_err(), "{end:?}");
    begin.elapsed()
}

#[tokio::test]
async fn a_flow_that_only_reads_hears_within_five_seconds_that_its_proxy_was_killed() {
    let (ca, local) = (Ca::new(), LocalSet::new());
    let story = async {
        let proxy = Proxy::start(&ca, "p1");
        let scene = Scene::new(&ca, &[&proxy]);
        let mut session = scene.open().await.unwrap();
        become_quiet().await;
        proxy.kill();
        let took = end_of_a_reader(&mut session).await;
        assert!(took < LOST + SLACK, "{took:?}");
        assert_eq!(scene.up(), Vec::<String>::new());
    };
    local.run_until(story).await;
}

#[tokio::test]
async fn a_flow_that_only_reads_hears_that_its_proxy_was_killed_and_started_again() {
    let (ca, local) = (Ca::new(), LocalSet::new());
    let story = async {
        let proxy = Proxy::start(&ca, "p1");
        let scene = Scene::new(&ca, &[&proxy]);
        let mut session = scene.open().await.unwrap();
        let port = proxy.port();
        become_quiet().await;
        proxy.kill();
        let _next = Proxy::start_at(&ca, "p1", port);
        let took = end_of_a_reader(&mut session).await;
        assert!(took < LOST + SLACK, "{took:?}");
        // The first flow after it finds the new process.
        assert_carries(&mut scene.open().await.unwrap()).await;
    };
    local.run_until(story).await;
}

#[tokio::test]
async fn the_first_flow_after_a_quiet_restart_is_served_by_the_new_process() {
    let (ca, local) = (Ca::new(), LocalSet::new());
    let story = async {
        let proxy = Proxy::start(&ca, "p1");
        let scene = Scene::new(&ca, &[&proxy]);
        drop(scene.open().await.unwrap());
        let port = proxy.port();
        become_quiet().await;
        proxy.kill();
        let _next = Proxy::start_at(&ca, "p1", port);
        assert_eq!(scene.up(), ["p1"], "nobody has noticed yet");
        assert_carries(&mut scene.open().await.unwrap()).await;
    };
    local.run_until(story).await;
}

#[tokio::test]
async fn a_quiet_tunnel_whose_proxy_is_well_is_neither_silent_nor_lost() {
    let (ca, local) = (Ca::new(), LocalSet::new());
    let story = async {
        let (first, second) = (Proxy::start(&ca, "p1"), Proxy::start(&ca, "p2"));
        let scene = Scene::new(&ca, &[&first, &second]);
        let mut session = scene.open().await.unwrap();
        // Nothing but an answer to what it is asked shows now that the proxy is there.
        first.close_tcp();
        let waiting = timeout(Duration::from_secs(6), session.receive.read_chunk(1, true));
        assert!(waiting.await.is_err(), "the flow ended");
        assert_carries(&mut scene.open().await.unwrap()).await;
        assert_eq!((first.sessions(), second.sessions()), (2, 0));
    };
    local.run_until(story).await;
}

#[tokio::test]
async fn silence_is_a_cut_and_keeps_the_flows_that_are_there() {
    let (ca, local) = (Ca::new(), LocalSet::new());
    let story = async {
        let proxy = Proxy::start(&ca, "p1");
        let scene = Scene::new(&ca, &[&proxy]);
        let mut session = scene.open().await.unwrap();
        proxy.cut();
        // The proxy's machine answers on TCP, and nothing comes by the tunnel.
        let waiting = timeout(Duration::from_secs(6), session.receive.read_chunk(1, true));
        assert!(waiting.await.is_err(), "the flow ended");
        proxy.mend();
        let begin = Instant::now();
        assert_carries(&mut session).await;
        // What was sent into the cut is sent again at QUIC's pace; what asks for a sign of life, every few seconds.
        assert!(begin.elapsed() < LOST + SLACK, "{:?}", begin.elapsed());
    };
    local.run_until(story).await;
}

#[tokio::test]
async fn new_flows_go_to_another_proxy_after_two_seconds_of_silence() {
    let (ca, local) = (Ca::new(), LocalSet::new());
    let story = async {
        let (first, second) = (Proxy::start(&ca, "p1"), Proxy::start(&ca, "p2"));
        let scene = Scene::new(&ca, &[&first, &second]);
        let mut old = scene.open().await.unwrap();
        assert_eq!((scene.up(), first.sessions(), second.sessions()), (vec!["p1".to_owned()], 1, 0));
        first.cut();
        let begin = Instant::now();
        let mut new = scene.open().await.unwrap();
        assert_carries(&mut new).await;
        let took = begin.elapsed();
        assert!((Duration::from_secs(2)..Duration::from_secs(2) + SLACK).contains(&took), "{took:?}");
        assert_eq!(second.sessions(), 1);
        // The next one does not wait for it, nor asks it.
        assert_carries(&mut scene.open().await.unwrap()).await;
        assert_eq!((first.sessions(), second.sessions()), (1, 2));
        first.mend();
        assert_carries(&mut old).await;
    };
    local.run_until(story).await;
}

#[tokio::test]
async fn without_another_proxy_a_new_flow_waits_five_seconds_for_the_silent_one() {
    let (ca, local) = (Ca::new(), LocalSet::new());
    let story = async {
        let proxy = Proxy::start(&ca, "p1");
        let scene = Scene::new(&ca, &[&proxy]);
        let _old = scene.open().await.unwrap();
        proxy.cut();
        let begin = Instant::now();
        assert_eq!(scene.open().await.map(|_| ()), Err(OpenError::NoProxy));
        let took = begin.elapsed();
        assert!((Duration::from_secs(4)..Duration::from_secs(5) + SLACK).contains(&took), "{took:?}");
        let (late, ()) = tokio::join!(scene.open(), async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            proxy.mend();
        });
        assert_carries(&mut late.unwrap()).await;
    };
    local.run_until(story).await;
}

#[tokio::test]
async fn a_proxy_that_cannot_serve_now_is_passed_over_at_once() {
    let (ca, local) = (Ca::new(), LocalSet::new());
    let story = async {
        let (first, second) = (Proxy::start(&ca, "p1"), Proxy::start(&ca, "p2"));
        let scene = Scene::new(&ca, &[&first, &second]);
        let mut old = scene.open().await.unwrap();
        first.refuse_all();
        let begin = Instant::now();
        assert_carries(&mut scene.open().await.unwrap()).await;
        assert_eq!((first.sessions(), second.sessions()), (1, 1));
        second.refuse_all();
        let refused = scene.open().await.map(|_| ());
        assert_eq!(refused, Err(OpenError::Refused(OpenRefusal::Unavailable)));
        assert!(begin.elapsed() < SLACK, "{:?}", begin.elapsed());
        assert_carries(&mut old).await;
    };
    local.run_until(story).await;
}

#[tokio::test]
async fn a_dial_whose_flow_gave_up_spoils_nothing_for_the_next_flow() {
    let (ca, local) = (Ca::new(), LocalSet::new());
    let story = async {
        let proxy = Proxy::start(&ca, "p1");
        let scene = Scene::new(&ca, &[&proxy]);
        proxy.cut();
        assert!(timeout(Duration::from_millis(100), scene.open()).await.is_err());
        // Longer than a race lasts.
        tokio::time::sleep(Duration::from_millis(5500)).await;
        proxy.mend();
        assert_carries(&mut scene.open().await.unwrap()).await;
    };
    local.run_until(story).await;
}

#[tokio::test]
async fn a_dial_whose_packets_are_lost_is_not_the_only_one() {
    let (ca, local) = (Ca::new(), LocalSet::new());
    let story = async {
        let proxy = Proxy::start(&ca, "p1");
        proxy.lose_first_dial();
        let scene = Scene::new(&ca, &[&proxy]);
        assert_carries(&mut scene.open().await.unwrap()).await;
    };
    local.run_until(story).await;
}

#[tokio::test]
async fn an_address_of_a_proxy_that_is_silent_does_not_keep_its_others_from_being_dialled() {
    let (ca, local) = (Ca::new(), LocalSet::new());
    let story = async {
        let proxy = Proxy::start(&ca, "p1");
        let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let (endpoint, config) =
            (super::endpoint::open().unwrap(), ca.credentials().client_config(&proxy.name()).unwrap());
        let served = SocketAddr::from(([127, 0, 0, 1], proxy.port()));
        let addresses = [silent.local_addr().unwrap(), served].into_iter();
        let dialled = dial::connect_to_any(&endpoint, &config, addresses, "proxy.example.com");
        assert!(timeout(PATIENCE, dialled).await.expect("one of them answers").is_some());
    };
    local.run_until(story).await;
}

#[tokio::test]
async fn a_tunnel_that_had_a_crowd_is_closed_when_it_is_unused_and_dialled_anew() {
    let (ca, local) = (Ca::new(), LocalSet::new());
    let story = async {
        let proxy = Proxy::start(&ca, "p1");
        let scene = Scene::new(&ca, &[&proxy]);
        let mut session = scene.open().await.unwrap();
        let crowd: Vec<_> = {
            let up = scene.tunnels.up.borrow();
            let tunnel = up.values().next().expect("a tunnel");
            (0..lost::CROWD).map(|_| tunnel.health.enter()).collect()
        };
        drop(crowd);
        // One that is left keeps it.
        assert_carries(&mut session).await;
        drop(session);
        let closed = async {
            while !scene.tunnels.up.borrow().is_empty() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(PATIENCE, closed).await.expect("the tunnel is closed and forgotten");
        assert_carries(&mut scene.open().await.unwrap()).await;
    };
    local.run_until(story).await;
}

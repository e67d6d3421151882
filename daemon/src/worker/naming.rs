//! The DNS server's place in the worker: queries come from the netstack as datagrams and flows, answers go back the same
//! way, and other names are asked for at the resolvers that the machine has without us.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use portlatch_clock::TimeOfDay;
use portlatch_netstack::Datagram;
use portlatch_protocol::names::{HostPattern, Id};

use super::Worker;
use super::command::Catalogue;
use crate::dns::forwarder::Forwarder;
use crate::dns::framer::TcpFramer;
use crate::dns::names::{CatalogueNames, NameTable, TrustedZone};
use crate::dns::server::{Action, Server};
use crate::dns::{MAX_TCP_CONNECTIONS, TCP_IDLE, Via};
use crate::flow::{Flow, HeldSyn, LocalStack};

/// The DNS port (RFC 1035 section 4.2).
const PORT: u16 = 53;

/// What the naming is made of.
pub(crate) struct NamingParts {
    pub(crate) table: NameTable,
    pub(crate) server: Server,
    pub(crate) forwarder: Forwarder,
    /// The server's own addresses on the TUN.
    pub(crate) servers: Vec<IpAddr>,
}

/// Names and addresses, and the server that tells them.
pub(super) struct Naming {
    table: NameTable,
    server: Server,
    forwarder: Rc<Forwarder>,
    servers: Vec<IpAddr>,
    tcp_connections: Rc<Cell<usize>>,
}

impl NamingParts {
    /// Has the stack hand us the server's datagrams.
    pub(super) fn start(self, stack: &LocalStack) -> Naming {
        let Self { table, server, forwarder, servers } = self;
        stack.with(|stack| {
            for address in &servers {
                stack.insert_address(*address);
                stack.listen_datagrams(SocketAddr::new(*address, PORT));
            }
            for pair in table.addresses().pairs() {
                stack.insert_address(pair.v4.into());
                pair.v6.into_iter().for_each(|v6| stack.insert_address(v6.into()));
            }
        });
        Naming { table, server, forwarder: Rc::new(forwarder), servers, tcp_connections: Rc::default() }
    }
}

impl Naming {
    /// Whether this is the DNS server itself.
    pub(super) fn is_server(&self, destination: SocketAddr) -> bool {
        destination.port() == PORT && self.servers.contains(&destination.ip())
    }

    /// The name, or the wildcard, that an address stands for.
    pub(super) fn name_of(&self, address: IpAddr) -> Option<HostPattern> {
        self.table.name_of(address).cloned()
    }

    pub(super) fn set_upstreams(&self, upstreams: &[SocketAddr]) {
        self.forwarder.set_upstreams(upstreams);
    }

    pub(super) fn set_trusted(&mut self, zones: Vec<TrustedZone>) {
        self.table.set_trusted(zones);
    }

    /// A login's names, in place of those it had. From now on they have addresses, which answer to ping.
    pub(super) fn handle_catalogue(
        &mut self,
        stack: &LocalStack,
        login: &Id,
        catalogue: &Catalogue,
        now: TimeOfDay,
    ) {
        let patterns: Vec<_> = catalogue.resources.iter().map(|resource| resource.host.clone()).collect();
        let names = CatalogueNames {
            cluster: &catalogue.cluster,
            patterns: &patterns,
            zones: &catalogue.zones,
            outside: &catalogue.outside,
        };
        let taken = self.table.set_catalogue(login, names, now);
        tracing::debug!(?taken, "names of a catalogue");
        stack.with(|stack| {
            for address in patterns.iter().flat_map(|pattern| self.addresses_of(pattern)) {
                stack.insert_address(address);
            }
        });
    }

    pub(super) fn handle_detach(&mut self, login: &Id) {
        self.table.remove_login(login);
    }

    fn addresses_of(&self, pattern: &HostPattern) -> impl Iterator<Item = IpAddr> + use<> {
        let addresses = self.table.addresses();
        let slot = match pattern.parent() {
            Some(parent) => addresses.slot_of_wildcard(parent.as_str()),
            None => addresses.slot_of_host(pattern.as_str()),
        };
        let pair = slot.map(|slot| addresses.pair(slot));
        let v6 = pair.and_then(|pair| pair.v6).map(IpAddr::V6);
        pair.map(|pair| IpAddr::V4(pair.v4)).into_iter().chain(v6)
    }

    fn handle_query(&mut self, query: &[u8], via: Via, now: TimeOfDay) -> Action {
        self.server.handle_query(query, via, &mut self.table, now)
    }
}

/// A query by UDP: answered at once, or by a task that asks elsewhere.
pub(super) fn handle_datagram(worker: &Rc<Worker>, datagram: Datagram) {
    let Datagram { source, destination, payload } = datagram;
    let now = worker.clock.time_of_day();
    let action = worker.naming.borrow_mut().handle_query(&payload, Via::Udp, now);
    match action {
        Action::Answer(answer) => send(worker, destination, source, &answer),
        Action::Forward(query) => {
            let forwarder = Rc::clone(&worker.naming.borrow().forwarder);
            let asking = Rc::clone(worker);
            worker.spawn(async move {
                let answer = forwarder.resolve(&query, Via::Udp).await;
                send(&asking, destination, source, &answer);
            });
        }
        Action::Drop => {}
    }
}

fn send(worker: &Worker, from: SocketAddr, to: SocketAddr, answer: &[u8]) {
    // Full only under a flood; a resolver asks again.
    let is_queued = worker.stack.with(|stack| stack.send_datagram(from, to, answer));
    if is_queued {
        worker.stack.kicked.notify_one();
    }
}

/// Serves DNS on a TCP connection, until the client ends it or falls silent.
pub(super) async fn serve_tcp(syn: HeldSyn, worker: Rc<Worker>) {
    let connections = Rc::clone(&worker.naming.borrow().tcp_connections);
    if connections.get() >= MAX_TCP_CONNECTIONS {
        return;
    }
    connections.set(connections.get() + 1);
    let _counted = CountedConnection(connections);
    if let Some(flow) = syn.accept(Instant::now()) {
        answer_queries(&flow, &worker).await;
        flow.finish();
    }
}

/// A connection that is counted while it lives, a panic included.
struct CountedConnection(Rc<Cell<usize>>);

impl Drop for CountedConnection {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

async fn answer_queries(flow: &Flow, worker: &Worker) {
    let mut framer = TcpFramer::default();
    while let Ok(Ok(Some(mut chunk))) = tokio::time::timeout(TCP_IDLE, flow.read()).await {
        while !chunk.is_empty() {
            let taken = framer.handle_bytes(&chunk);
            bytes::Buf::advance(&mut chunk, taken);
            loop {
                let query = match framer.poll_query() {
                    Ok(Some(query)) => query.to_vec(),
                    Ok(None) => break,
                    Err(_) => return flow.reset(),
                };
                let Some(answer) = answer(worker, &query).await else { continue };
                let mut framed = Vec::with_capacity(answer.len() + 2);
                TcpFramer::frame(&answer, &mut framed);
                let written = tokio::time::timeout(TCP_IDLE, flow.write(&mut [Bytes::from(framed)])).await;
                if !matches!(written, Ok(Ok(()))) {
                    return flow.reset();
                }
            }
        }
    }
}

async fn answer(worker: &Worker, query: &[u8]) -> Option<Vec<u8>> {
    let now = worker.clock.time_of_day();
    let action = worker.naming.borrow_mut().handle_query(query, Via::Tcp, now);
    match action {
        Action::Answer(answer) => Some(answer),
        Action::Forward(query) => {
            let forwarder = Rc::clone(&worker.naming.borrow().forwarder);
            Some(forwarder.resolve(&query, Via::Tcp).await)
        }
        Action::Drop => None,
    }
}

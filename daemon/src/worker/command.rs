//! What the rest of the daemon asks of the worker.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use portlatch_clock::BootTime;
use portlatch_protocol::attach::{Status, ToAgent, ToDaemon};
use portlatch_protocol::identity::Login as LoginIdentity;
use portlatch_protocol::names::Hostname;
use portlatch_protocol::resource::{ProxyAddress, Resource, Zone};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::Worker;
use crate::dns::names::TrustedZone;
use crate::login::{Login, NewLogin};
use crate::tunnel::Tunnels;
use crate::tunnel::credentials::TunnelCredentials;

/// How long flows and tunnels have to say goodbye when the daemon stops.
const FAREWELL: Duration = Duration::from_millis(500);

/// A command.
pub(crate) enum Command {
    /// A login is attached.
    Attach(Box<AttachedLogin>, oneshot::Sender<Result<(), AlreadyAttached>>),
    /// The catalogue of an attached login.
    Catalogue(AttachKey, Box<Catalogue>),
    /// A message of an attached agent.
    Agent(AttachKey, ToDaemon),
    /// The agent has left.
    Detach(AttachKey),
    /// What a user's status shows.
    Status(u32, oneshot::Sender<Status>),
    /// The zones that root listed.
    Trusted(Vec<TrustedZone>),
    /// The resolvers that the machine has without us.
    Upstreams(Vec<SocketAddr>),
    /// Proof that the worker turns, for the watchdog.
    Pulse(oneshot::Sender<()>),
    /// A panic for the flow from this address.
    #[cfg(test)]
    Trap(SocketAddr),
}

/// One attach of one user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AttachKey {
    pub(crate) uid: u32,
    pub(crate) serial: u64,
}

/// A login whose tunnel key is certified.
pub(crate) struct AttachedLogin {
    pub(crate) key: AttachKey,
    pub(crate) agent_pid: u32,
    pub(crate) identity: LoginIdentity,
    pub(crate) expires_at: BootTime,
    pub(crate) credentials: TunnelCredentials,
    pub(crate) to_agent: mpsc::Sender<ToAgent>,
    /// Cancelled by the worker when the login ends; by the reception when the agent has left.
    pub(crate) cancelled: CancellationToken,
}

/// A whole catalogue, with its zones cut down to those that root listed.
pub(crate) struct Catalogue {
    pub(crate) cluster: Hostname,
    pub(crate) resources: Vec<Resource>,
    pub(crate) zones: Vec<Zone>,
    pub(crate) proxies: Vec<ProxyAddress>,
    pub(crate) outside: Vec<Hostname>,
}

/// Another agent of this user is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AlreadyAttached {
    pub(crate) pid: u32,
}

impl Worker {
    pub(super) fn handle_command(self: &Rc<Self>, command: Command) {
        // A reply that nobody waits for any more is no loss.
        match command {
            Command::Attach(login, reply) => {
                let _ = reply.send(self.attach(*login));
            }
            Command::Catalogue(key, catalogue) => self.handle_catalogue(key, *catalogue),
            Command::Agent(key, message) => {
                if let Some(login) = self.login(key) {
                    login.handle_message(message);
                }
            }
            Command::Detach(key) => self.detach(key),
            Command::Status(uid, reply) => {
                let _ = reply.send(self.status(uid));
            }
            Command::Trusted(zones) => self.naming.borrow_mut().set_trusted(zones),
            Command::Upstreams(upstreams) => self.naming.borrow().set_upstreams(&upstreams),
            Command::Pulse(reply) => {
                let _ = reply.send(());
            }
            #[cfg(test)]
            Command::Trap(program) => self.traps.set(program),
        }
    }

    fn login(&self, key: AttachKey) -> Option<Rc<Login>> {
        self.logins.borrow().get(&key.uid).filter(|login| login.serial == key.serial).cloned()
    }

    fn attach(self: &Rc<Self>, new: AttachedLogin) -> Result<(), AlreadyAttached> {
        let AttachedLogin { key, agent_pid, identity, expires_at, credentials, to_agent, cancelled } = new;
        if let Some(other) = self.logins.borrow().get(&key.uid) {
            return Err(AlreadyAttached { pid: other.agent_pid });
        }
        let tunnels = Tunnels::new(self.endpoint.clone(), credentials, cancelled.clone());
        let AttachKey { uid, serial } = key;
        let new = NewLogin { uid, agent_pid, serial, identity, expires_at, to_agent, cancelled };
        let login = Login::new(new, tunnels, self.clock.clone());
        tracing::info!(uid, login = %login.identity.login, "attached");
        let (worker, ending) = (Rc::clone(self), login.cancelled.clone());
        self.spawn(Rc::clone(&login).keep_time());
        self.spawn(async move {
            ending.cancelled().await;
            worker.detach(key);
        });
        self.logins.borrow_mut().insert(uid, login);
        Ok(())
    }

    fn handle_catalogue(&self, key: AttachKey, catalogue: Catalogue) {
        let Some(login) = self.login(key) else { return };
        let now = self.clock.time_of_day();
        self.naming.borrow_mut().handle_catalogue(&self.stack, &login.identity.login, &catalogue, now);
        login.tunnels.handle_proxies(catalogue.proxies);
        login.handle_catalogue(catalogue.resources);
    }

    fn detach(&self, key: AttachKey) {
        let Some(login) = self.login(key) else { return };
        self.logins.borrow_mut().remove(&key.uid);
        login.cancelled.cancel();
        self.naming.borrow_mut().handle_detach(&login.identity.login);
        tracing::info!(uid = key.uid, "detached");
    }

    /// Ends all flows and tunnels, and lets their last packets out.
    pub(super) async fn end_all(&self, packets: AbortOnDropHandle<io::Result<()>>) {
        for login in self.logins.borrow().values() {
            login.cancelled.cancel();
        }
        let farewell = async {
            tokio::select! {
                _ = packets => {}
                () = self.endpoint.wait_idle() => {}
            }
        };
        // Out of time: the peers learn of it by their own deadlines.
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
        self.endpoint
            .close(quinn::VarInt::from_u32(portlatch_protocol::stream::close::DETACHED), b"stopping");
    }
}

//! The worker: one thread that owns the TUN, the netstack, the DNS server, and the attached logins with their trackers
//! and tunnels, on its own current-thread runtime. Packets cross no thread, no channel and no lock.
//!
//! The rest of the daemon reaches it by [`Command`]s. Each flow's story is a local task here ([`crate::forward`]).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use portlatch_clock::Clock;
use portlatch_netstack::{Incoming, Stack, StackConfig};
use portlatch_protocol::attach::{Refusal, Status};
use portlatch_protocol::refusal::RefusalReason;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::budget::Budget;
use crate::flow::{HeldSyn, LocalStack, Memory};
use crate::forward::forward;
use crate::login::{Login, Place, Sight};
use crate::os::sock_diag::SocketOwners;
use crate::refusals::Refusals;
use crate::tun::Tun;
use crate::tunnel;
use crate::tunnel::credentials::STREAM_WINDOW;

pub(crate) mod command;
mod drive;
mod naming;
#[cfg(test)]
pub(crate) mod trap;

pub(crate) use command::Command;
use naming::Naming;
pub(crate) use naming::NamingParts;

/// Commands that may wait for the worker; the reception waits beyond it.
pub(crate) const MAX_COMMANDS: usize = 256;

/// What a worker is made of; everything that it will own.
pub(crate) struct WorkerParts {
    pub(crate) tun: Tun,
    pub(crate) stack: StackConfig,
    pub(crate) memory: Memory,
    pub(crate) owners: SocketOwners,
    pub(crate) naming: NamingParts,
    pub(crate) clock: Clock,
}

/// Who made a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    /// The socket's inode, by which an agent finds the program.
    pub(crate) inode: u64,
}

/// The worker's state, shared by the tasks on its thread.
pub(crate) struct Worker {
    stack: Rc<LocalStack>,
    owners: RefCell<SocketOwners>,
    ifindex: u32,
    naming: RefCell<Naming>,
    logins: RefCell<HashMap<u32, Rc<Login>>>,
    refusals: RefCell<Refusals>,
    tasks: RefCell<JoinSet<()>>,
    flows: Cell<usize>,
    endpoint: quinn::Endpoint,
    budget: Budget,
    clock: Clock,
    #[cfg(test)]
    traps: trap::Traps,
}

/// Why the worker ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkerError {
    /// No socket for tunnels.
    #[error("opening a UDP socket for the tunnels")]
    Endpoint(#[source] std::io::Error),
    /// The TUN is broken or was taken away.
    #[error("the TUN failed")]
    Tun(#[source] std::io::Error),
}

/// Runs the worker until it is told to stop; the caller's thread is the worker's.
pub(crate) async fn run(
    parts: WorkerParts,
    mut commands: mpsc::Receiver<Command>,
    stopping: CancellationToken,
) -> Result<(), WorkerError> {
    let WorkerParts { tun, stack, memory, owners, naming, clock } = parts;
    let stack = LocalStack::new(Stack::new(stack, memory, Instant::now()));
    let naming = naming.start(&stack);
    let worker = Rc::new(Worker {
        stack: Rc::clone(&stack),
        owners: RefCell::new(owners),
        ifindex: tun.ifindex(),
        naming: RefCell::new(naming),
        logins: RefCell::default(),
        refusals: RefCell::default(),
        tasks: RefCell::default(),
        flows: Cell::default(),
        endpoint: tunnel::endpoint::open().map_err(WorkerError::Endpoint)?,
        budget: Budget::new(STREAM_WINDOW as usize),
        clock,
        #[cfg(test)]
        traps: trap::Traps::default(),
    });
    // A task of its own takes its turn between flows and tunnels.
    let packets = tokio::task::spawn_local(drive::drive(Rc::new(tun), Rc::clone(&worker)));
    let mut packets = AbortOnDropHandle::new(packets);
    let orders = async {
        while let Some(command) = commands.recv().await {
            worker.handle_command(command);
        }
    };
    let ended = tokio::select! {
        () = stopping.cancelled() => Ok(()),
        ended = &mut packets => ended.unwrap_or_else(|error| Err(error.into())).map_err(WorkerError::Tun),
        () = orders => Ok(()),
    };
    worker.end_all(packets).await;
    ended
}

impl Worker {
    pub(crate) const fn clock(&self) -> &Clock {
        &self.clock
    }

    /// What stalled flows hold.
    pub(crate) const fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Whose SYN this is: one exact look-up of the 4-tuple. `None` if no local socket in SYN_SENT has it.
    pub(crate) fn owner_of(&self, source: SocketAddr, destination: SocketAddr) -> Option<Owner> {
        let found = self.owners.borrow_mut().owner_of_syn(source, destination, self.ifindex);
        let owner = found.inspect_err(|error| tracing::warn!(%error, "sock_diag failed")).ok()??;
        Some(Owner { uid: owner.uid, inode: u64::from(owner.inode) })
    }

    /// What this user means by this address and port.
    pub(crate) fn place(
        &self,
        uid: u32,
        destination: SocketAddr,
    ) -> Result<(Rc<Login>, Place), (Sight, RefusalReason)> {
        let naming = self.naming.borrow();
        let name = naming.name_of(destination.ip());
        let sight = || match &name {
            Some(name) => Sight::named(name, destination.port()),
            None => Sight::nameless(destination),
        };
        let logins = self.logins.borrow();
        let login = logins.get(&uid).ok_or_else(|| (sight(), RefusalReason::NoLogin))?;
        let Some(name) = &name else { return Err((sight(), RefusalReason::UnknownPort)) };
        let place = login.place(name, destination.port())?;
        Ok((Rc::clone(login), place))
    }

    /// Keeps a refusal for its user, and tells the agent.
    pub(crate) fn record_refusal(&self, owner: Owner, sight: Sight, reason: RefusalReason) {
        let Sight { resource, host, port } = sight;
        let time = self.clock.time_of_day().seconds();
        let refusal = Refusal { time, resource, host, port, inode: owner.inode, reason };
        tracing::debug!(uid = owner.uid, %reason, "refused");
        self.refusals.borrow_mut().record(owner.uid, refusal.clone());
        if let Some(login) = self.logins.borrow().get(&owner.uid) {
            login.tell_refusal(refusal);
        }
    }

    /// A task on this thread. A panic in it ends it alone.
    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.tasks.borrow_mut().spawn_local(task);
    }

    /// Takes away the tasks that have ended.
    fn reap(&self) {
        let mut tasks = self.tasks.borrow_mut();
        while let Some(ended) = tasks.try_join_next() {
            if let Err(error) = ended {
                tracing::error!(%error, "a flow's task failed");
            }
        }
    }

    fn handle_incoming(self: &Rc<Self>, incoming: Incoming) {
        let syn = HeldSyn::new(incoming, Rc::clone(&self.stack));
        if self.naming.borrow().is_server(incoming.destination) {
            return self.spawn(naming::serve_tcp(syn, Rc::clone(self)));
        }
        let worker = Rc::clone(self);
        self.spawn(async move {
            worker.flows.set(worker.flows.get() + 1);
            let counted = Counted(Rc::clone(&worker));
            forward(syn, worker).await;
            drop(counted);
        });
    }

    /// What this user's `portlatch status` shows of the daemon.
    fn status(&self, uid: u32) -> Status {
        let logins = self.logins.borrow();
        let login = logins.get(&uid);
        Status {
            agent: login.map(|login| login.agent_pid),
            grants: login.map(|login| login.grants()).unwrap_or_default(),
            refusals: self.refusals.borrow().of(uid),
            tunnels: login.map(|login| login.tunnels.names()).unwrap_or_default(),
            flows: u32::try_from(self.flows.get()).unwrap_or(u32::MAX),
        }
    }
}

/// A flow that is counted while it lives, a panic included.
struct Counted(Rc<Worker>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.flows.set(self.0.flows.get().saturating_sub(1));
    }
}

#[cfg(test)]
mod tests;

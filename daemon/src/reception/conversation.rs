//! One conversation, from `Hello` to the end: a command that asks for status, or an agent that attaches and stays.

use std::time::Duration;

use portlatch_protocol::attach::{AttachRefusal, Hello, Status, ToAgent, ToDaemon, VERSION};
use tokio::net::UnixStream;
use tokio::sync::oneshot;

use super::attach::{self, Attached};
use super::frames::{self, Hangup, Incoming, Outgoing};
use super::{Desk, Peer};
use crate::worker::Command;
use crate::worker::command::AttachKey;

/// The first frame must be there (reliability.md 2.4).
const HELLO_DEADLINE: Duration = Duration::from_secs(5);
/// Between two messages of a connection that is not attached.
const IDLE_DEADLINE: Duration = Duration::from_secs(30);

/// Holds the conversation until either side ends it.
pub(super) async fn hold(stream: UnixStream, peer: Peer, desk: &Desk) {
    let (mut incoming, mut outgoing) = frames::split(stream);
    let stopping = desk.stopping.clone();
    let ended = tokio::select! {
        () = stopping.cancelled() => return,
        ended = talk(&mut incoming, &mut outgoing, peer, desk) => ended,
    };
    match ended {
        Ok(()) | Err(Hangup::Closed) => {}
        Err(hangup) => {
            tracing::info!(uid = peer.uid, pid = peer.pid, %hangup, "a local connection was closed")
        }
    }
}

async fn talk(
    incoming: &mut Incoming,
    outgoing: &mut Outgoing,
    peer: Peer,
    desk: &Desk,
) -> Result<(), Hangup> {
    let ToDaemon::Hello(hello) = incoming.next_within(HELLO_DEADLINE).await? else {
        return Err(Hangup::OutOfTurn);
    };
    outgoing.send(&ToAgent::Welcome(Hello { version: VERSION, pid: std::process::id() })).await?;
    if hello.version != VERSION {
        let advice = "agent and daemon are of different versions: restart the older one".to_owned();
        return outgoing.send(&ToAgent::AttachRefused(AttachRefusal::Version, advice)).await;
    }
    loop {
        match incoming.next_within(IDLE_DEADLINE).await? {
            ToDaemon::StatusWanted => outgoing.send(&ToAgent::Status(status(desk, peer).await?)).await?,
            ToDaemon::MachineWanted => outgoing.send(&ToAgent::Machine(desk.machine.describe())).await?,
            ToDaemon::Attach(offer) => match attach::attach(offer, incoming, outgoing, peer, desk).await? {
                Some(attached) => return stay(attached, incoming, outgoing, peer, desk).await,
                None => return Ok(()),
            },
            ToDaemon::Hello(_)
            | ToDaemon::TunnelCertificate(_)
            | ToDaemon::Catalogue(_)
            | ToDaemon::TapNeeded(_)
            | ToDaemon::PromptOpened(..)
            | ToDaemon::Granted(..)
            | ToDaemon::Refused(..)
            | ToDaemon::Offer(..)
            | ToDaemon::Detach
            | ToDaemon::TunnelWanted(..)
            | ToDaemon::ForgetGrants => return Err(Hangup::OutOfTurn),
        }
    }
}

async fn status(desk: &Desk, peer: Peer) -> Result<Status, Hangup> {
    let (reply, answer) = oneshot::channel();
    let _ = desk.commands.send(Command::Status(peer.uid, reply)).await;
    answer.await.map_err(|_| Hangup::Closed)
}

/// The attached agent's messages to the worker, and the worker's to the agent, until one of them ends it.
async fn stay(
    mut attached: Attached,
    incoming: &mut Incoming,
    outgoing: &mut Outgoing,
    peer: Peer,
    desk: &Desk,
) -> Result<(), Hangup> {
    let _leave = Leave { key: attached.key, desk };
    loop {
        tokio::select! {
            () = attached.cancelled.cancelled() => return Ok(()),
            Some(message) = attached.from_worker.recv() => outgoing.send(&message).await?,
            message = incoming.next() => match message? {
                ToDaemon::Catalogue(part) => {
                    if let Some(catalogue) = attached.catalogue.handle_part(part)? {
                        let command = Command::Catalogue(attached.key, Box::new(catalogue));
                        let _ = desk.commands.send(command).await;
                        if !std::mem::replace(&mut attached.is_told, true) {
                            outgoing.send(&ToAgent::Attached).await?;
                        }
                    }
                }
                ToDaemon::StatusWanted => outgoing.send(&ToAgent::Status(status(desk, peer).await?)).await?,
                ToDaemon::MachineWanted => outgoing.send(&ToAgent::Machine(desk.machine.describe())).await?,
                ToDaemon::Detach => return Ok(()),
                message @ (ToDaemon::TapNeeded(_)
                | ToDaemon::PromptOpened(..)
                | ToDaemon::Granted(..)
                | ToDaemon::Refused(..)
                | ToDaemon::Offer(..)
                | ToDaemon::TunnelWanted(..)
                | ToDaemon::ForgetGrants) => {
                    let _ = desk.commands.send(Command::Agent(attached.key, message)).await;
                }
                ToDaemon::Hello(_) | ToDaemon::Attach(_) | ToDaemon::TunnelCertificate(_) => {
                    return Err(Hangup::OutOfTurn);
                }
            },
        }
    }
}

/// Tells the worker that the agent has left, however the conversation ended.
struct Leave<'a> {
    key: AttachKey,
    desk: &'a Desk,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        let (commands, key) = (self.desk.commands.clone(), self.key);
        // The worker's queue may be full for a moment and a drop cannot wait; this task ends as soon as there is room.
        tokio::spawn(async move {
            let _ = commands.send(Command::Detach(key)).await;
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use portlatch_clock::Clock;
    use portlatch_protocol::attach::CertificateBytes;
    use portlatch_protocol::frame::{FrameDecoder, MAX_LOCAL_FRAME, encode};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::{mpsc, watch};
    use tokio_util::sync::CancellationToken;

    use super::super::machine::Machine;
    use super::*;
    use crate::os::name_service::NameServicePlan;
    use crate::os::ranges::Range4;
    use crate::os::{Findings, StateDir};

    /// All that the daemon says to a peer that sends these messages, until it hangs up.
    async fn answers_to(messages: &[ToDaemon]) -> Vec<ToAgent> {
        let directory = tempfile::tempdir().unwrap();
        let plan =
            NameServicePlan { ifindex: 1, dns: vec![], zones: vec![], reverse: vec![], search: vec![] };
        let range = Range4::new([198, 18, 0, 0].into(), 16).unwrap();
        let mut names = Findings::default();
        names.add("dns", "no resolver", "start one");
        let desk = Desk {
            state: StateDir::open(directory.path()).unwrap(),
            commands: mpsc::channel(1).0,
            clock: Clock::movable().0,
            serials: Arc::default(),
            names: Arc::new(watch::channel(plan).0),
            machine: Machine::new(range, Findings::default(), watch::channel(names).1),
            stopping: CancellationToken::new(),
        };
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        for message in messages {
            ours.write_all(&encode(message, MAX_LOCAL_FRAME).unwrap()).await.unwrap();
        }
        let mut bytes = Vec::new();
        let (_, read) =
            tokio::join!(hold(theirs, Peer { uid: 1000, pid: 1 }, &desk), ours.read_to_end(&mut bytes));
        // A peer that is hung up on with unread bytes of its own sees a reset.
        let _ = read;
        let mut decoder = FrameDecoder::new(MAX_LOCAL_FRAME);
        decoder.handle_bytes(&bytes);
        std::iter::from_fn(|| decoder.poll_message().unwrap()).collect()
    }

    #[tokio::test]
    async fn a_peer_of_another_version_is_told_so_and_let_go() {
        let hello = ToDaemon::Hello(Hello { version: VERSION + 1, pid: 1 });
        let answers = answers_to(&[hello]).await;
        assert!(matches!(
            answers[..],
            [ToAgent::Welcome(_), ToAgent::AttachRefused(AttachRefusal::Version, _)]
        ));
    }

    #[tokio::test]
    async fn whoever_asks_is_told_of_the_machine() {
        let hello = ToDaemon::Hello(Hello { version: VERSION, pid: 1 });
        let answers = answers_to(&[hello, ToDaemon::MachineWanted, ToDaemon::TapNeeded(1)]).await;
        let [ToAgent::Welcome(_), ToAgent::Machine(machine)] = &answers[..] else { panic!("{answers:?}") };
        assert_eq!((machine.network, machine.prefix_length), ([198, 18, 0, 0].into(), 16));
        assert_eq!(machine.findings[0].what, "no resolver");
    }

    #[tokio::test]
    async fn a_message_out_of_turn_ends_the_conversation() {
        assert_eq!(answers_to(&[ToDaemon::StatusWanted]).await, [], "nothing before Hello");
        let hello = ToDaemon::Hello(Hello { version: VERSION, pid: 1 });
        for message in [ToDaemon::TapNeeded(1), ToDaemon::TunnelCertificate(vec![CertificateBytes(vec![0])])]
        {
            let answers = answers_to(&[hello.clone(), message]).await;
            assert!(matches!(answers[..], [ToAgent::Welcome(_)]), "{answers:?}");
        }
    }

    #[tokio::test]
    async fn a_cluster_that_root_did_not_list_is_refused_with_the_command_as_advice() {
        let offer = portlatch_protocol::attach::Attach {
            cluster: "evil.example.com".parse().unwrap(),
            user: "jerry".parse().unwrap(),
            login: "0a".parse().unwrap(),
            ca: CertificateBytes(vec![0; 64]),
            expires_in: Duration::from_secs(3600),
        };
        let hello = ToDaemon::Hello(Hello { version: VERSION, pid: 1 });
        let answers = answers_to(&[hello, ToDaemon::Attach(offer)]).await;
        let [ToAgent::Welcome(_), ToAgent::AttachRefused(AttachRefusal::UntrustedCluster, advice)] =
            &answers[..]
        else {
            panic!("{answers:?}");
        };
        assert!(advice.contains("portlatchd trust https://evil.example.com"), "{advice}");
    }
}

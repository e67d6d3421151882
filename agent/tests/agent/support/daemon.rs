//! The daemon, played by the test: frames on a unix socket, and the tunnel key.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use portlatch_protocol::attach::{
    AccessWanted, Attach, AttachRefusal, CataloguePart, CertificateBytes, Finding, Grant, HeldGrant, Hello,
    Machine, Refusal, Status, ToAgent, ToDaemon, VERSION,
};
use portlatch_protocol::frame::{FrameDecoder, MAX_LOCAL_FRAME, encode};
use portlatch_protocol::identity::{Identity, Subject};
use portlatch_protocol::refusal::RefusalReason;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use super::PATIENCE;
use super::control::Control;

pub(crate) struct Daemon(UnixListener);

impl Daemon {
    pub(crate) fn listen(socket: &Path) -> Self {
        Self(UnixListener::bind(socket).unwrap())
    }

    /// The next agent, after the greeting.
    pub(crate) async fn accept(&self) -> Agent {
        self.accept_speaking(VERSION).await
    }

    /// The next agent, greeted in this version.
    pub(crate) async fn accept_speaking(&self, version: u16) -> Agent {
        let (stream, _) = timeout(PATIENCE, self.0.accept()).await.expect("an agent connects").unwrap();
        let mut agent = Agent {
            stream,
            decoder: FrameDecoder::new(MAX_LOCAL_FRAME),
            grants: Vec::new(),
            refusals: Vec::new(),
            attached: None,
            findings: Vec::new(),
            hello: Hello { version: 0, pid: 0 },
        };
        let ToDaemon::Hello(hello) = agent.next().await else { panic!("the first message is no hello") };
        agent.hello = hello;
        agent.send(ToAgent::Welcome(Hello { version, pid: std::process::id() })).await;
        agent
    }
}

/// The agent at the other end.
pub(crate) struct Agent {
    stream: UnixStream,
    decoder: FrameDecoder,
    /// What status tells.
    pub(crate) grants: Vec<HeldGrant>,
    pub(crate) refusals: Vec<Refusal>,
    /// The agent that is attached, if it is not this one.
    pub(crate) attached: Option<u32>,
    /// What the machine lacks.
    pub(crate) findings: Vec<Finding>,
    pub(crate) hello: Hello,
}

impl Agent {
    pub(crate) async fn send(&mut self, message: ToAgent) {
        self.stream.write_all(&encode(&message, MAX_LOCAL_FRAME).unwrap()).await.unwrap();
    }

    /// The next message; questions for status are answered on the way.
    pub(crate) async fn next(&mut self) -> ToDaemon {
        let message = timeout(PATIENCE, self.any()).await.expect("the agent speaks");
        message.expect("the agent stays")
    }

    /// Whether the agent goes away.
    pub(crate) async fn leaves(&mut self) -> bool {
        timeout(PATIENCE, async { while self.any().await.is_some() {} }).await.is_ok()
    }

    /// Whether the agent says nothing for a moment.
    pub(crate) async fn is_quiet(&mut self) -> bool {
        self.is_quiet_for(Duration::from_millis(300)).await
    }

    pub(crate) async fn is_quiet_for(&mut self, moment: Duration) -> bool {
        timeout(moment, self.any()).await.is_err()
    }

    async fn any(&mut self) -> Option<ToDaemon> {
        loop {
            while let Some(message) = self.decoder.poll_message().unwrap() {
                match message {
                    ToDaemon::StatusWanted => self.send(ToAgent::Status(self.status())).await,
                    // The loopback's own addresses: what `localhost` resolves to is one of them.
                    ToDaemon::MachineWanted => {
                        let (network, findings) = (Ipv4Addr::new(127, 0, 0, 0), self.findings.clone());
                        self.send(ToAgent::Machine(Machine { network, prefix_length: 8, findings })).await;
                    }
                    message => return Some(message),
                }
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes).await {
                Ok(0) | Err(_) => return None,
                Ok(length) => self.decoder.handle_bytes(&bytes[..length]),
            }
        }
    }

    fn status(&self) -> Status {
        Status {
            agent: self.attached,
            grants: self.grants.clone(),
            refusals: self.refusals.clone(),
            tunnels: vec![],
            flows: 0,
        }
    }

    /// Answers questions for status for as long as it is polled.
    pub(crate) async fn idle(&mut self) {
        let message = self.any().await;
        panic!("the agent says {message:?}");
    }

    /// The login that the agent offers.
    pub(crate) async fn offered(&mut self) -> Attach {
        match self.next().await {
            ToDaemon::Attach(attach) => attach,
            other => panic!("no attach but {other:?}"),
        }
    }

    /// Goes through the attach and returns the login and the catalogue.
    pub(crate) async fn attach(&mut self, control: &Control) -> (Attach, CataloguePart) {
        let attaching = self.attach_until_told(control).await;
        self.send(ToAgent::Attached).await;
        attaching
    }

    /// Goes through the attach and does not say yet that all is served.
    pub(crate) async fn attach_until_told(&mut self, control: &Control) -> (Attach, CataloguePart) {
        let attach = self.offered().await;
        let key = rcgen::KeyPair::generate().unwrap();
        let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
        self.send(ToAgent::CertifyTunnel(CertificateBytes(csr.der().to_vec()))).await;
        let ToDaemon::TunnelCertificate(chain) = self.next().await else { panic!("no tunnel certificate") };
        let identity = Identity::from_certificate(&chain[0].0).unwrap();
        assert!(matches!(identity.subject, Subject::Tunnel(login) if login.login == attach.login));
        assert_eq!(identity.cluster, control.cluster());
        let catalogue = self.catalogue().await;
        (attach, catalogue)
    }

    /// The catalogue, its parts put together.
    pub(crate) async fn catalogue(&mut self) -> CataloguePart {
        let mut resources = Vec::new();
        loop {
            let ToDaemon::Catalogue(mut part) = self.next().await else { panic!("no part of a catalogue") };
            resources.append(&mut part.resources);
            if part.is_last {
                return CataloguePart { resources, ..part };
            }
        }
    }

    /// A program of this inode wants this port of the database.
    pub(crate) async fn wants(&mut self, request: u64, port: u16, inode: u64) {
        let wanted = AccessWanted {
            request,
            resource: "db/billing-db".parse().unwrap(),
            host: "billing-db.corp.internal".parse().unwrap(),
            port,
            inode,
        };
        self.send(ToAgent::AccessWanted(wanted)).await;
    }

    /// The agent needs a tap for this request, and a proxy is up.
    pub(crate) async fn proceeds(&mut self, request: u64) {
        assert_eq!(self.next().await, ToDaemon::TapNeeded(request));
        self.send(ToAgent::Proceed(request)).await;
    }

    /// A program of this inode wants this port, and its prompt opens.
    pub(crate) async fn prompts(&mut self, request: u64, port: u16, inode: u64) {
        self.wants(request, port, inode).await;
        self.proceeds(request).await;
        self.opens(request).await;
    }

    /// The prompt of this request opens; what it has left.
    pub(crate) async fn opens(&mut self, request: u64) -> Duration {
        match self.next().await {
            ToDaemon::PromptOpened(opened, left) if opened == request => left,
            other => panic!("no prompt for {request} but {other:?}"),
        }
    }

    /// A command wants a tunnel to its resource, and has it.
    pub(crate) async fn tunnel_for_command(&mut self) {
        let ToDaemon::TunnelWanted(request, _) = self.next().await else { panic!("no tunnel wanted") };
        self.send(ToAgent::Proceed(request)).await;
    }

    /// A grant that was tapped for beforehand.
    pub(crate) async fn offered_grant(&mut self) -> Grant {
        let ToDaemon::Offer(_, _, grant) = self.next().await else { panic!("no offer") };
        grant
    }

    /// The grant for this request.
    pub(crate) async fn granted(&mut self, request: u64) -> Grant {
        match self.next().await {
            ToDaemon::Granted(granted, grant) if granted == request => grant,
            other => panic!("no grant for {request} but {other:?}"),
        }
    }

    /// Why this request got none.
    pub(crate) async fn refused(&mut self, request: u64) -> RefusalReason {
        match self.next().await {
            ToDaemon::Refused(refused, reason) if refused == request => reason,
            other => panic!("no refusal of {request} but {other:?}"),
        }
    }

    pub(crate) async fn refuses_attach(&mut self, refusal: AttachRefusal, advice: &str) {
        self.offered().await;
        self.send(ToAgent::AttachRefused(refusal, advice.to_owned())).await;
    }
}

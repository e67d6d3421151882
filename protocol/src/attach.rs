//! What agent and daemon say to each other on the daemon's unix socket.
//!
//! ```text
//! agent                              daemon
//!   Hello ------------------------->          (both sides: the peer's uid comes from the socket, never from a message)
//!         <------------------------- Welcome
//!   Attach ------------------------>          cluster, login, zones; refused if root did not list the cluster
//!         <------------------------- CertifyTunnel(csr)     the tunnel key was made in the daemon's memory
//!   TunnelCertificate ------------->          certified by control over the agent's login
//!   Catalogue (in parts) ---------->
//!         <------------------------- Attached
//!         <------------------------- AccessWanted           once for all flows that wait
//!   Granted | Refused | TapNeeded ->
//!         <------------------------- Proceed | Cancel       a proxy of the resource is up, or none is
//!   PromptOpened ------------------>
//!         <------------------------- Waiting(0)             the last program has gone
//!   Granted | Refused ------------->
//! ```
//!
//! No path, command or interface name crosses here (invariant 5), and no login key, code or assertion.

use std::time::Duration;

use minicbor::{Decode, Encode};

pub use self::status::{Finding, HeldGrant, Machine, Refusal, Status};
use crate::names::{Hostname, Id, ResourceId, UserName};
use crate::refusal::RefusalReason;
use crate::resource::{ProxyAddress, Resource, Zone};

mod status;

/// The version of this conversation. A peer of another version is told so and let go.
pub const VERSION: u16 = 1;
/// How many resources a part of the catalogue holds at most, so that a part fits a frame whatever their labels.
pub const MAX_PART: usize = 2;
/// How many refusals are remembered for each user (design section 7, `status --json`).
pub const MAX_REFUSALS: usize = 100;

/// From an agent (or a `portlatch` command) to the daemon.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum ToDaemon {
    /// The first message.
    #[n(0)]
    Hello(#[n(0)] Hello),
    /// Offers a login.
    #[n(1)]
    Attach(#[n(0)] Attach),
    /// The tunnel certificate that was asked for, leaf first, each in DER.
    #[n(2)]
    TunnelCertificate(#[n(0)] Vec<CertificateBytes>),
    /// A part of the catalogue; the last part puts the whole in place of the one before.
    #[n(3)]
    Catalogue(#[n(0)] CataloguePart),
    /// Control wants a tap for this request. The agent prompts after `Proceed`.
    #[n(4)]
    TapNeeded(#[n(0)] u64),
    /// The prompt for this request is open now and has this long.
    #[n(5)]
    PromptOpened(#[n(0)] u64, #[n(1)] Duration),
    /// The grant for this request.
    #[n(6)]
    Granted(#[n(0)] u64, #[n(1)] Grant),
    /// No grant for this request.
    #[n(7)]
    Refused(#[n(0)] u64, #[n(1)] RefusalReason),
    /// A grant nobody asked for: the user tapped beforehand (`portlatch tap`).
    #[n(8)]
    Offer(#[n(0)] ResourceId, #[n(1)] u16, #[n(2)] Grant),
    /// The login ends: forget tunnel key, grants and flows.
    #[n(9)]
    Detach,
    /// Asks for `Status`; needs no attach.
    #[n(10)]
    StatusWanted,
    /// Asks whether a tunnel to a proxy of the resource is up, or can be made; answered by `Proceed` or `Cancel`.
    #[n(11)]
    TunnelWanted(#[n(0)] u64, #[n(1)] ResourceId),
    /// The screen was locked or the machine woke up: forget the grants that a tap brought; running flows go on.
    #[n(12)]
    ForgetGrants,
    /// Asks for `Machine`; needs no attach.
    #[n(13)]
    MachineWanted,
}

/// From the daemon to an agent (or a `portlatch` command).
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum ToAgent {
    /// The answer to `Hello`.
    #[n(0)]
    Welcome(#[n(0)] Hello),
    /// Have this PKCS #10 request (DER), signed by the new tunnel key, certified over the login.
    #[n(1)]
    CertifyTunnel(#[n(0)] CertificateBytes),
    /// The login serves this machine's user now.
    #[n(2)]
    Attached,
    /// The attach failed; the text says what to do.
    #[n(3)]
    AttachRefused(#[n(0)] AttachRefusal, #[n(1)] String),
    /// A grant is wanted.
    #[n(4)]
    AccessWanted(#[n(0)] AccessWanted),
    /// A tunnel to a proxy of the resource is up: the prompt may open.
    #[n(5)]
    Proceed(#[n(0)] u64),
    /// The request is over: no prompt, or close it.
    #[n(6)]
    Cancel(#[n(0)] u64, #[n(1)] RefusalReason),
    /// So many programs wait for this request; 0 means the last one has gone. With it the inode of the socket that waits for
    /// longest: whoever asked may have gone, and another one wait.
    #[n(7)]
    Waiting(#[n(0)] u64, #[n(1)] u32, #[n(2)] Option<u64>),
    /// A connection of this user was refused.
    #[n(8)]
    Refusal(#[n(0)] Refusal),
    /// The answer to `StatusWanted`.
    #[n(9)]
    Status(#[n(0)] Status),
    /// The answer to `MachineWanted`.
    #[n(10)]
    Machine(#[n(0)] Machine),
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Hello {
    /// [`VERSION`] of the speaker.
    #[n(0)]
    pub version: u16,
    /// Its process, for "already running".
    #[n(1)]
    pub pid: u32,
}

/// Bytes of a certificate or a request, DER.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct CertificateBytes(#[cbor(n(0), with = "minicbor::bytes")] pub Vec<u8>);

impl std::fmt::Debug for CertificateBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// The login that an agent offers.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct Attach {
    /// The cluster's public host, as root listed it.
    #[n(0)]
    pub cluster: Hostname,
    /// The user.
    #[n(1)]
    pub user: UserName,
    /// The login.
    #[n(2)]
    pub login: Id,
    /// The cluster's CA certificate, DER; its SHA-256 must be the pin that root listed.
    #[n(3)]
    pub ca: CertificateBytes,
    /// Until the login ends.
    #[n(4)]
    pub expires_in: Duration,
}

/// Why an attach failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum AttachRefusal {
    /// Root has not listed the cluster, or with another CA.
    #[n(0)]
    UntrustedCluster,
    /// Another agent of this user is attached.
    #[n(1)]
    AlreadyAttached,
    /// The tunnel certificate does not fit the key or the login.
    #[n(2)]
    BadCertificate,
    /// The daemon speaks another version.
    #[n(3)]
    Version,
    /// The machine's limits are used up.
    #[n(4)]
    Limit,
}

/// A part of the catalogue.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct CataloguePart {
    /// At most [`MAX_PART`] resources.
    #[n(0)]
    pub resources: Vec<Resource>,
    /// The zones; on the last part.
    #[n(1)]
    pub zones: Vec<Zone>,
    /// The live proxies; on the last part.
    #[n(2)]
    pub proxies: Vec<ProxyAddress>,
    /// Hosts of control and proxies: never answered by us, always forwarded; on the last part.
    #[n(3)]
    pub outside: Vec<Hostname>,
    /// Whether this was the last part.
    #[n(4)]
    pub is_last: bool,
}

/// A grant as the daemon holds it: unread, with what it must know to use it.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct Grant {
    /// The JWT.
    #[n(0)]
    pub token: String,
    /// How long it serves for new streams.
    #[n(1)]
    pub expires_in: Duration,
    /// How presence was proved; empty where no tap was needed.
    #[n(2)]
    pub amr: Vec<String>,
    /// The program that asked first, as the agent saw it; for the audit.
    #[n(3)]
    pub program: Option<String>,
}

impl std::fmt::Debug for Grant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grant")
            .field("expires_in", &self.expires_in)
            .field("amr", &self.amr)
            .finish_non_exhaustive()
    }
}

/// A grant is wanted for flows that wait.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct AccessWanted {
    /// Names this request in all that follows.
    #[n(0)]
    pub request: u64,
    /// The resource.
    #[n(1)]
    pub resource: ResourceId,
    /// The name that the program resolved.
    #[n(2)]
    pub host: Hostname,
    /// The port.
    #[n(3)]
    pub port: u16,
    /// The inode of the first program's socket; the agent finds the program by it.
    #[n(4)]
    pub inode: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame;

    #[test]
    fn messages_read_back_as_they_were_written() {
        let wanted = ToAgent::AccessWanted(AccessWanted {
            request: 7,
            resource: "db/billing-db".parse().unwrap(),
            host: "billing-db.corp.internal".parse().unwrap(),
            port: 5432,
            inode: 4242,
        });
        let bytes = frame::encode(&wanted, frame::MAX_LOCAL_FRAME).unwrap();
        assert_eq!(frame::decode::<ToAgent>(&bytes[frame::LENGTH_BYTES..]).unwrap(), wanted);
    }

    #[test]
    fn the_largest_part_of_a_catalogue_fits_a_frame() {
        // As large as documents can make it: 64 labels of 128 bytes each side, and 256 ports cut up by roles.
        let labels = (0..64).map(|n| (format!("{n:0128}"), "v".repeat(128))).collect();
        let host = format!("{}.corp.internal", ["a"; 60].join("."));
        let resource = Resource {
            id: format!("kube_cluster/{}", "n".repeat(64)).parse().unwrap(),
            host: host.parse().unwrap(),
            ports: vec![crate::ports::PortRange::new(1000, 65_535).unwrap(); 1024],
            hold: crate::resource::Hold::Hybrid,
            mfa: crate::resource::MfaNeed::Tap,
            labels,
            description: "\u{1f511}".repeat(256),
            proxies: vec!["p".repeat(64).parse().unwrap(); 8],
            protocol: Some("p".repeat(32)),
            refusal: crate::resource::RefusalStyle::Protocol,
        };
        let part = CataloguePart {
            resources: vec![resource; MAX_PART],
            zones: vec![],
            proxies: vec![],
            outside: vec![],
            is_last: false,
        };
        assert!(frame::encode(&ToDaemon::Catalogue(part), frame::MAX_LOCAL_FRAME).is_ok());
    }

    #[test]
    fn a_grant_is_never_printed() {
        let grant = Grant { token: "canary".into(), expires_in: Duration::ZERO, amr: vec![], program: None };
        assert!(!format!("{grant:?}").contains("canary"));
    }
}

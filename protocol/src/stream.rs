//! What daemon and proxy say at the head of a stream. One bidirectional QUIC stream carries one flow: the daemon sends
//! [`Open`], the proxy answers [`Answer`], and after `Opened` both directions are the flow's bytes. A half-close is the
//! stream's FIN, a reset its reset.

use minicbor::{Decode, Encode};

use crate::names::{Hostname, ResourceId};

/// QUIC's and the TLS carrier's ALPN.
pub const ALPN: &[u8] = b"portlatch/1";

/// Application error codes of resets on a stream, either way.
pub mod reset {
    /// The program or the target reset its connection.
    pub const BY_PEER: u32 = 1;
    /// The session was ended: lock, kill, end of the login, `max_session`.
    pub const SESSION_ENDED: u32 = 2;
    /// The stream's header was not a header.
    pub const BAD_HEADER: u32 = 3;
    /// The proxy is stopping and takes no new streams.
    pub const DRAINING: u32 = 4;
}

/// Application close codes of a tunnel.
pub mod close {
    /// The daemon leaves: detach, logout, stop.
    pub const DETACHED: u32 = 16;
    /// The proxy has stopped.
    pub const STOPPED: u32 = 17;
    /// The tunnel's user, login or device is locked or gone.
    pub const LOCKED: u32 = 18;
    /// Too many tunnels of this user, or too many in all.
    pub const LIMIT: u32 = 19;
    /// The proxy has no complete snapshot from control yet, or lost touch for too long.
    pub const NOT_READY: u32 = 20;
    /// The peer broke the protocol.
    pub const PROTOCOL: u32 = 21;
}

/// Asks for a session: the stream's first frame.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct Open {
    /// The resource.
    #[n(0)]
    pub resource: ResourceId,
    /// The port of it.
    #[n(1)]
    pub port: u16,
    /// The name whose address the program used; for a wildcard, whose names have one address, its parent.
    #[n(2)]
    pub host: Hostname,
    /// The grant, a JWT.
    #[n(3)]
    pub grant: String,
    /// The program that asked, as the agent saw it; a claim, for the audit only.
    #[n(4)]
    pub program: Option<String>,
}

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Open")
            .field("resource", &self.resource)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

/// The proxy's answer: the stream's first frame the other way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum Answer {
    /// The target is connected; bytes follow.
    #[n(0)]
    Opened,
    /// No session.
    #[n(1)]
    Refused(#[n(0)] OpenRefusal),
}

/// Why a proxy opened no session. What is wrong with a grant is told in as few words as the daemon needs to act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum OpenRefusal {
    /// The grant is not good for this: altered, foreign, for another key, resource or port.
    #[n(0)]
    BadGrant,
    /// The grant has ended or was revoked: ask control for another.
    #[n(1)]
    GrantEnded,
    /// A lock stands against it.
    #[n(2)]
    Locked,
    /// The resource is gone, or this proxy may not dial it.
    #[n(3)]
    UnknownResource,
    /// A limit of the user or the proxy is used up.
    #[n(4)]
    Limit,
    /// The target's address is one that proxies do not dial.
    #[n(5)]
    ForbiddenTarget,
    /// The target refused.
    #[n(6)]
    TargetRefused,
    /// The target is unreachable or silent.
    #[n(7)]
    TargetUnreachable,
    /// The proxy is stopping, not ready, or cannot write its audit.
    #[n(8)]
    Unavailable,
}

impl OpenRefusal {
    /// The word that the audit keeps.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadGrant => "bad_grant",
            Self::GrantEnded => "grant_ended",
            Self::Locked => "locked",
            Self::UnknownResource => "unknown_resource",
            Self::Limit => "limit",
            Self::ForbiddenTarget => "forbidden_target",
            Self::TargetRefused => "target_refused",
            Self::TargetUnreachable => "target_unreachable",
            Self::Unavailable => "unavailable",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame;
    use crate::grant::MAX_GRANT_BYTES;

    #[test]
    fn the_largest_open_fits_a_header_frame() {
        let open = Open {
            resource: format!("kube_cluster/{}", "n".repeat(64)).parse().unwrap(),
            port: u16::MAX,
            host: ["a"; 126].join(".").parse().unwrap(),
            grant: "g".repeat(MAX_GRANT_BYTES),
            program: Some("p".repeat(64)),
        };
        let bytes = frame::encode(&open, frame::MAX_STREAM_FRAME).unwrap();
        assert_eq!(frame::decode::<Open>(&bytes[frame::LENGTH_BYTES..]).unwrap(), open);
    }

    #[test]
    fn an_unknown_answer_is_malformed() {
        let bytes = minicbor::to_vec((9_u8, ())).unwrap();
        assert!(frame::decode::<Answer>(&bytes).is_err());
    }
}

//! What control tells its proxies, in process or by wire: everything once, then every change, and a beat with control's
//! time. What a proxy must know to decide on a stream is in the grant; this is the rest.
//!
//! ```text
//! proxy                    control
//!   Hello ------------------->          each side ends it with `OtherVersion` unless the other speaks its own
//!         <------------------- Hello
//!         <------------------- Snapshot, then Change and Beat
//! ```

use minicbor::{Decode, Encode};

use crate::attach::CertificateBytes;
use crate::names::{DeviceName, HostPattern, Hostname, Id, ProxyName, ResourceId, UserName};
use crate::ports::PortRange;

/// The version of this conversation. A peer of another version is told so and let go.
pub const VERSION: u16 = 1;
/// How often control beats.
pub const BEAT: std::time::Duration = std::time::Duration::from_secs(5);
/// After this silence a proxy takes no new stream (design section 1).
pub const MAX_SILENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// Each side's first word. It has this form in every version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Hello {
    /// [`VERSION`] of the speaker.
    #[n(0)]
    pub version: u16,
}

/// Control and proxy do not speak one version; the text says what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("control speaks version {control} of the watch and this proxy version {proxy}: upgrade {}", self.older())]
pub struct OtherVersion {
    /// What control speaks.
    pub control: u16,
    /// What the proxy speaks.
    pub proxy: u16,
}

impl Hello {
    /// What this build says.
    pub const OWN: Self = Self { version: VERSION };

    /// At control: whether a proxy that says this is understood.
    ///
    /// # Errors
    /// [`OtherVersion`]: it is told nothing.
    pub fn of_proxy(self) -> Result<(), OtherVersion> {
        OtherVersion { control: VERSION, proxy: self.version }.unless_same()
    }

    /// At a proxy: whether a control that says this is understood.
    ///
    /// # Errors
    /// [`OtherVersion`]: nothing of what it tells is believed.
    pub fn of_control(self) -> Result<(), OtherVersion> {
        OtherVersion { control: self.version, proxy: VERSION }.unless_same()
    }
}

impl OtherVersion {
    fn unless_same(self) -> Result<(), Self> {
        if self.control == self.proxy { Ok(()) } else { Err(self) }
    }

    const fn older(self) -> &'static str {
        if self.control < self.proxy { "control" } else { "the proxy" }
    }
}

/// One message of the watch.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum WatchMessage {
    /// Everything, in place of all before. The first message, and again whenever control cannot tell the difference.
    #[n(0)]
    Snapshot(#[n(0)] Snapshot),
    /// Something changed.
    #[n(1)]
    Change(#[n(0)] Change, #[n(1)] ControlTime),
    /// Nothing changed.
    #[n(2)]
    Beat(#[n(0)] ControlTime),
}

/// Control's time of day: milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(transparent)]
pub struct ControlTime(#[n(0)] pub i64);

/// All that a proxy watches.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct Snapshot {
    /// Control's time.
    #[n(0)]
    pub time: ControlTime,
    /// The cluster.
    #[n(1)]
    pub cluster: Hostname,
    /// The cluster's CA certificates: one, or two while they rotate.
    #[n(2)]
    pub authorities: Vec<CertificateBytes>,
    /// The keys that grants are signed with.
    #[n(3)]
    pub grant_keys: Vec<GrantKey>,
    /// The resources that this proxy may dial.
    #[n(4)]
    pub resources: Vec<ProxyResource>,
    /// Locks that stand.
    #[n(5)]
    pub locks: Vec<Lock>,
    /// Grants that were revoked and have not ended yet.
    #[n(6)]
    pub revoked: Vec<RevokedGrant>,
    /// Logins that ended before their certificates did.
    #[n(7)]
    pub ended_logins: Vec<Id>,
}

/// What changed.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum Change {
    /// A resource is new or different.
    #[n(0)]
    Resource(#[n(0)] ProxyResource),
    /// A resource is gone: its sessions are cut.
    #[n(1)]
    ResourceGone(#[n(0)] ResourceId),
    /// A lock stands: what it names is cut.
    #[n(2)]
    Locked(#[n(0)] Lock),
    /// A lock is lifted.
    #[n(3)]
    Unlocked(#[n(0)] Id),
    /// Grants are revoked: no new streams with them.
    #[n(4)]
    Revoked(#[n(0)] Vec<RevokedGrant>),
    /// A login is gone (logout, user removed): its sessions and tunnels are cut.
    #[n(5)]
    LoginEnded(#[n(0)] Id),
    /// The grant keys are these now.
    #[n(6)]
    GrantKeys(#[n(0)] Vec<GrantKey>),
}

/// A grant that was revoked before its time.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct RevokedGrant {
    /// Its identifier.
    #[n(0)]
    pub grant: Id,
    /// When it would have ended. Only then may its revocation be forgotten, on this very clock: if control's is set back,
    /// a grant lives that much longer.
    #[n(1)]
    pub expires: ControlTime,
}

/// A key that verifies grants.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct GrantKey {
    /// The JWT header's `kid`.
    #[n(0)]
    pub kid: Id,
    /// The P-256 public key: an uncompressed point of 65 bytes (SEC 1 section 2.3.3).
    #[n(1)]
    pub point: CertificateBytes,
}

/// A resource as the proxy that dials it knows it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ProxyResource {
    /// Its kind and name.
    #[n(0)]
    pub id: ResourceId,
    /// Its host names.
    #[n(1)]
    pub host: HostPattern,
    /// Where to dial.
    #[n(2)]
    pub target: Target,
    /// Its ports; the target's port is the same unless the target names one.
    #[n(3)]
    pub ports: Vec<PortRange>,
    /// Whether the target may be loopback, link-local and the like (design section 14).
    #[n(4)]
    pub allow_local_target: bool,
}

/// Where a proxy dials.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Target {
    /// A host name or IP address.
    #[n(0)]
    pub host: String,
    /// The port, where it is not the one that the program asked for.
    #[n(1)]
    pub port: Option<u16>,
}

/// An administrator's immediate no.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Lock {
    /// The lock's identifier.
    #[n(0)]
    pub id: Id,
    /// Whom or what it stands against.
    #[n(1)]
    pub target: LockTarget,
    /// When it ends by itself, in control's time.
    #[n(2)]
    pub expires: Option<ControlTime>,
}

/// Whom or what a lock stands against.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Encode, Decode)]
pub enum LockTarget {
    /// A user.
    #[n(0)]
    User(#[n(0)] UserName),
    /// A device, of any user.
    #[n(1)]
    Device(#[n(0)] DeviceName),
    /// A login.
    #[n(2)]
    Login(#[n(0)] Id),
    /// A resource.
    #[n(3)]
    Resource(#[n(0)] ResourceId),
    /// A proxy.
    #[n(4)]
    Proxy(#[n(0)] ProxyName),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_is_the_same_bytes_in_every_version() {
        assert_eq!(minicbor::to_vec(Hello { version: 1 }).unwrap(), [0x81, 0x01]);
        assert_eq!(minicbor::decode::<Hello>(&[0x82, 0x18, 0x2a, 0x00]).unwrap(), Hello { version: 42 });
    }

    #[test]
    fn a_peer_of_another_version_is_told_which_one_is_to_be_upgraded() {
        let newer = Hello { version: VERSION + 1 };
        assert_eq!(Hello::OWN.of_proxy(), Ok(()));
        assert_eq!(Hello::OWN.of_control(), Ok(()));
        assert_eq!(
            newer.of_proxy().unwrap_err().to_string(),
            "control speaks version 1 of the watch and this proxy version 2: upgrade control"
        );
        assert_eq!(
            newer.of_control().unwrap_err().to_string(),
            "control speaks version 2 of the watch and this proxy version 1: upgrade the proxy"
        );
    }
}

//! What tests of several files start from: a cluster with a CA, a grant key, one resource and one login.

pub(crate) mod ca;
pub(crate) mod network;

use std::sync::Arc;

use portlatch_clock::{Clock, TimeOfDay};
use portlatch_protocol::attach::CertificateBytes;
use portlatch_protocol::identity::Login;
use portlatch_protocol::names::Id;
use portlatch_protocol::ports::PortRange;
use portlatch_protocol::watch::{
    Change, ControlTime, GrantKey, ProxyResource, RevokedGrant, Snapshot, Target, WatchMessage,
};
use rcgen::KeyPair;

use crate::sessions::{End, LiveSession};
use crate::watch::View;

/// The cluster.
pub(crate) const CLUSTER: &str = "c.example";

pub(crate) fn control_time(clock: &Clock) -> ControlTime {
    ControlTime(clock.time_of_day().0)
}

pub(crate) fn login() -> Login {
    Login {
        user: "jerry".parse().unwrap(),
        login: "0af3".parse().unwrap(),
        device: "laptop".parse().unwrap(),
    }
}

/// `db/billing` on ports 5432 and 6432 to 6439, at an address that nobody dials.
pub(crate) fn resource() -> ProxyResource {
    ProxyResource {
        id: "db/billing".parse().unwrap(),
        host: "billing.corp.internal".parse().unwrap(),
        target: Target { host: "192.0.2.1".into(), port: None },
        ports: vec![PortRange::single(5432).unwrap(), PortRange::new(6432, 6439).unwrap()],
        allow_local_target: false,
    }
}

pub(crate) fn snapshot(clock: &Clock) -> Snapshot {
    Snapshot {
        time: control_time(clock),
        cluster: CLUSTER.parse().unwrap(),
        authorities: Vec::new(),
        grant_keys: Vec::new(),
        resources: vec![resource()],
        locks: Vec::new(),
        revoked: Vec::new(),
        ended_logins: Vec::new(),
    }
}

/// A view of that snapshot, for the proxy `p1`.
pub(crate) fn view(clock: &Clock) -> Arc<View> {
    let view = View::new("p1".parse().unwrap(), clock.clone());
    let _ = view.handle_message(WatchMessage::Snapshot(snapshot(clock)));
    view
}

/// The revocation of a grant that would have lived for a minute.
pub(crate) fn revoked(grant: Id, clock: &Clock) -> Change {
    let expires = ControlTime(control_time(clock).0 + 60_000);
    Change::Revoked(vec![RevokedGrant { grant, expires }])
}

/// The watch's form of a grant key.
pub(crate) fn grant_key(kid: &str, key: &KeyPair) -> GrantKey {
    GrantKey { kid: kid.parse().unwrap(), point: CertificateBytes(key.public_key_raw().to_vec()) }
}

/// A session of this user's, in no table.
pub(crate) fn live_session(user: &str) -> Arc<LiveSession> {
    Arc::new(LiveSession {
        id: "0d".parse().unwrap(),
        login: Login { user: user.parse().unwrap(), ..login() },
        resource: "db/billing".parse().unwrap(),
        port: 5432,
        target: "192.0.2.1:5432".parse().unwrap(),
        client: "192.0.2.2:1234".parse().unwrap(),
        program: None,
        started: TimeOfDay(0),
        bytes_in: 0.into(),
        bytes_out: 0.into(),
        end: End::default(),
    })
}

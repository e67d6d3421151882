//! What a proxy takes to check a grant: one that it sees for the first time, whose signature is verified, and one that
//! it has seen on the tunnel before. `scripts/bench --criterion` runs it.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use portlatch_clock::Clock;
use portlatch_protocol::attach::CertificateBytes;
use portlatch_protocol::grant::{AUDIENCE, Confirmation, ConnectionLimits, GrantClaims, JWT_TYPE};
use portlatch_protocol::identity::Login;
use portlatch_protocol::ports::PortRange;
use portlatch_protocol::stream::Open;
use portlatch_protocol::thumbprint::Thumbprint;
use portlatch_protocol::watch::{ControlTime, GrantKey, ProxyResource, Snapshot, Target, WatchMessage};
use portlatch_proxy::grant::{KnownGrants, TunnelIdentity, VerifiedGrant};
use portlatch_proxy::watch::View;
use rcgen::KeyPair;

const CLUSTER: &str = "c.example";
const KEY_ID: &str = "k1";
const PORT: u16 = 5432;

/// A proxy that watches a cluster, and a tunnel to it.
struct Bench {
    clock: Clock,
    view: Arc<View>,
    key: KeyPair,
    tunnel: TunnelIdentity,
}

impl Bench {
    fn new() -> Self {
        let clock = Clock::system();
        let key = KeyPair::generate().expect("a key");
        let view = View::new("p1".parse().expect("a name"), clock.clone());
        let resource = ProxyResource {
            id: "db/billing".parse().expect("a resource"),
            host: "billing.corp.internal".parse().expect("a host"),
            target: Target { host: "192.0.2.1".into(), port: None },
            ports: vec![PortRange::single(PORT).expect("a port")],
            allow_local_target: false,
        };
        let point = CertificateBytes(key.public_key_raw().to_vec());
        let _ = view.handle_message(WatchMessage::Snapshot(Snapshot {
            time: ControlTime(clock.time_of_day().0),
            cluster: CLUSTER.parse().expect("a host"),
            authorities: Vec::new(),
            grant_keys: vec![GrantKey { kid: KEY_ID.parse().expect("an id"), point }],
            resources: vec![resource],
            locks: Vec::new(),
            revoked: Vec::new(),
            ended_logins: Vec::new(),
        }));
        let login = Login {
            user: "jerry".parse().expect("a name"),
            login: "0af3".parse().expect("an id"),
            device: "laptop".parse().expect("a name"),
        };
        let own = KeyPair::generate().expect("a key");
        let own = Thumbprint::of_point(own.public_key_raw()).expect("a point");
        Self { clock, view, key, tunnel: TunnelIdentity { login, key: own } }
    }

    /// A stream that opens with a good grant.
    fn open(&self) -> Open {
        let Login { user, login, device } = self.tunnel.login.clone();
        let now = self.clock.time_of_day();
        let claims = GrantClaims {
            iss: CLUSTER.parse().expect("a host"),
            sub: user,
            aud: AUDIENCE.into(),
            jti: "0e".parse().expect("an id"),
            iat: now.seconds(),
            exp: now.after(Duration::from_secs(300)).seconds(),
            cnf: Confirmation { jkt: self.tunnel.key.clone() },
            login,
            device,
            resource: "db/billing".parse().expect("a resource"),
            port: PORT,
            amr: vec!["hwk".into(), "user".into()],
            auth_time: Some(now.seconds()),
            key_id: Some("0c".parse().expect("an id")),
            session_end: now.after(Duration::from_secs(8 * 3600)).seconds(),
            idle: None,
            limits: ConnectionLimits::default(),
        };
        let mut header = Header::new(Algorithm::ES256);
        header.typ = Some(JWT_TYPE.into());
        header.kid = Some(KEY_ID.into());
        let key = EncodingKey::from_ec_der(&self.key.serialize_der());
        Open {
            resource: "db/billing".parse().expect("a resource"),
            port: PORT,
            host: "billing.corp.internal".parse().expect("a host"),
            grant: jsonwebtoken::encode(&header, &claims, &key).expect("a grant"),
            program: Some("psql".into()),
        }
    }

    fn verify(&self, open: &Open, known: &KnownGrants) -> VerifiedGrant {
        VerifiedGrant::verify(black_box(open), &self.tunnel, &self.view, known).expect("it is good")
    }
}

fn checks(criterion: &mut Criterion) {
    let bench = Bench::new();
    let mut group = criterion.benchmark_group("grant check");
    group.bench_function("first", |b| {
        let open = bench.open();
        b.iter_batched_ref(KnownGrants::default, |known| bench.verify(&open, known), BatchSize::SmallInput);
    });
    group.bench_function("known", |b| {
        let (open, known) = (bench.open(), KnownGrants::default());
        bench.verify(&open, &known);
        b.iter(|| bench.verify(&open, &known));
    });
    group.finish();
}

criterion_group!(benches, checks);
criterion_main!(benches);

//! What every story starts from: two logins with a tunnel each, three resources, two grant keys, and grants of every
//! kind, good and bad. Made once: signing is what costs.

use std::sync::LazyLock;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portlatch_protocol::attach::CertificateBytes;
use portlatch_protocol::frame::{self, LENGTH_BYTES, MAX_STREAM_FRAME};
use portlatch_protocol::grant::{AUDIENCE, Confirmation, ConnectionLimits, GrantClaims, JWT_TYPE};
use portlatch_protocol::identity::Login;
use portlatch_protocol::names::{Hostname, ResourceId};
use portlatch_protocol::ports::PortRange;
use portlatch_protocol::stream::Open;
use portlatch_protocol::thumbprint::Thumbprint;
use portlatch_protocol::watch::{GrantKey, ProxyResource, Target};
use portlatch_proxy::grant::{GrantFault, TunnelIdentity};

use super::signatures;

/// Time goes in steps of this length, and whatever ends does so beside a step.
pub(super) const STEP: Duration = Duration::from_secs(8);
pub(super) const STEP_SECONDS: i64 = 8;
/// Where control's clock stands when a story begins, in seconds.
pub(super) const BEGIN: i64 = 1_800_000_000;
pub(super) const CLUSTER: &str = "c.example";
pub(super) const KIDS: [&str; 2] = ["k1", "k2"];
pub(super) const LOGINS: usize = 2;
pub(super) const RESOURCES: usize = 3;
pub(super) const PLACES: usize = 4;

/// A resource's port, as programs ask for it.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) number: usize,
    pub(super) id: ResourceId,
    pub(super) port: u16,
    pub(super) host: Hostname,
}

/// A grant, and the truth about it.
#[derive(Debug)]
pub(super) struct Token {
    number: usize,
    pub(super) text: String,
    pub(super) claims: GrantClaims,
    /// What its header says, and which key did sign it.
    pub(super) kid: usize,
    pub(super) signer: usize,
    /// What is wrong with its header.
    pub(super) header: Option<GrantFault>,
}

/// All of it.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) tunnels: [TunnelIdentity; LOGINS],
    pub(super) resources: [ProxyResource; RESOURCES],
    pub(super) places: [Place; PLACES],
    /// The first one for each place is the first login's and good.
    pub(super) tokens: Vec<Token>,
    /// Of a stream to each place, with each token.
    headers: Vec<[Open; PLACES]>,
    points: [Vec<u8>; 3],
}

pub(super) static CLUSTER_OF_ALL: LazyLock<Cluster> = LazyLock::new(Cluster::new);

impl Cluster {
    /// The watch's form of a key under this name.
    pub(super) fn key(&self, kid: usize, signer: usize) -> GrantKey {
        let point = CertificateBytes(self.points[signer].clone());
        GrantKey { kid: KIDS[kid].parse().expect("an identifier"), point }
    }

    /// The key that signs with this number, as a point.
    pub(super) fn point(&self, signer: usize) -> &[u8] {
        &self.points[signer]
    }

    /// A stream's header with this grant.
    pub(super) fn header(&self, token: &Token, place: &Place) -> &Open {
        &self.headers[token.number][place.number]
    }

    fn new() -> Self {
        signatures::remember();
        let keys: [EcdsaKeyPair; 3] = std::array::from_fn(|_| {
            EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a new key")
        });
        let points = std::array::from_fn(|at| keys[at].public_key().as_ref().to_vec());
        let tunnels = [("jerry", "0a01", "laptop"), ("tom", "0a02", "desktop")].map(tunnel);
        let resources = [
            resource("db/billing", "billing.corp.internal", &[(5432, 5432), (6432, 6439)]),
            resource("app/wiki", "wiki.corp.internal", &[(80, 80)]),
            resource("node/build", "build.corp.internal", &[(22, 22)]),
        ];
        let places = [(0, 0, 5432), (1, 0, 6433), (2, 1, 80), (3, 2, 22)].map(|(number, at, port)| {
            let of: &ProxyResource = &resources[at];
            let host = of.host.anchor();
            Place { number, id: of.id.clone(), port, host }
        });
        let mut tokens = Tokens { keys: &keys, all: Vec::new() };
        tokens.make(&tunnels, &places);
        let tokens = tokens.all;
        let headers_of = |token: &Token| places.each_ref().map(|place| header_of(place, token.text.clone()));
        let headers = tokens.iter().map(headers_of).collect();
        Self { tunnels, resources, places, tokens, headers, points }
    }
}

/// A stream's header, as it was written by one end and read by the other.
pub(super) fn header_of(place: &Place, grant: String) -> Open {
    let (resource, port, host) = (place.id.clone(), place.port, place.host.clone());
    let open = Open { resource, port, host, grant, program: Some("psql".into()) };
    let bytes = frame::encode(&open, MAX_STREAM_FRAME).expect("an Open fits its frame");
    let (prefix, content) = bytes.split_first_chunk::<LENGTH_BYTES>().expect("a length");
    assert_eq!(frame::content_length(*prefix, MAX_STREAM_FRAME).ok(), Some(content.len()));
    let read: Open = frame::decode(content).expect("our own header is read");
    assert_eq!(read, open);
    read
}

fn tunnel((user, login, device): (&str, &str, &str)) -> TunnelIdentity {
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a new key");
    let login = Login {
        user: user.parse().expect("a name"),
        login: login.parse().expect("an identifier"),
        device: device.parse().expect("a name"),
    };
    TunnelIdentity { login, key: Thumbprint::of_point(key.public_key().as_ref()).expect("a point") }
}

fn resource(id: &str, host: &str, ports: &[(u16, u16)]) -> ProxyResource {
    let range = |&(first, last): &(u16, u16)| PortRange::new(first, last).expect("a range");
    ProxyResource {
        id: id.parse().expect("a resource"),
        host: host.parse().expect("a host name"),
        target: Target { host: "192.0.2.1".into(), port: None },
        ports: ports.iter().map(range).collect(),
        allow_local_target: false,
    }
}

/// The grants as they are made.
struct Tokens<'a> {
    keys: &'a [EcdsaKeyPair; 3],
    all: Vec<Token>,
}

impl Tokens<'_> {
    fn make(&mut self, tunnels: &[TunnelIdentity; LOGINS], places: &[Place; PLACES]) {
        for tunnel in tunnels {
            for place in places {
                for (steps, kid) in [(37, 0), (20, 1), (7, 0)] {
                    let claims = self.claims(tunnel, place, steps);
                    self.add(claims, kid, kid);
                }
            }
        }
        let (own, other, place) = (&tunnels[0], &tunnels[1], &places[0]);
        let changes: [&dyn Fn(&mut GrantClaims); 9] = [
            &|claims| claims.aud = "portlatch-agent".into(),
            &|claims| claims.iss = "d.example".parse().expect("a name"),
            &|claims| claims.cnf.jkt = other.key.clone(),
            &|claims| claims.device = other.login.device.clone(),
            &|claims| claims.login = other.login.login.clone(),
            // Too long-lived at first, and good later on.
            &|claims| claims.exp += 20 * STEP_SECONDS,
            &|claims| claims.session_end = BEGIN + 4 * STEP_SECONDS + 4,
            &|claims| claims.limits = ConnectionLimits { connections: 2, rate: 1, burst: 3 },
            &|claims| claims.limits = ConnectionLimits { connections: 0, rate: 0, burst: 0 },
        ];
        for change in changes {
            let mut claims = self.claims(own, place, 37);
            change(&mut claims);
            self.add(claims, 0, 0);
        }
        for (kid, signer) in [(0, 1), (0, 2), (1, 0)] {
            let claims = self.claims(own, place, 37);
            self.add(claims, kid, signer);
        }
        let headers = [
            (r#"{"alg":"ES256","typ":"JWT","kid":"k1"}"#, GrantFault::WrongType),
            (r#"{"alg":"HS256","typ":"portlatch-grant+jwt","kid":"k1"}"#, GrantFault::WrongAlgorithm),
            (r#"{"alg":"none","typ":"portlatch-grant+jwt","kid":"k1"}"#, GrantFault::Malformed),
            (r#"{"alg":"ES256","typ":"portlatch-grant+jwt"}"#, GrantFault::UnknownKey),
        ];
        for (header, fault) in headers {
            let claims = self.claims(own, place, 37);
            let text = self.sign(header, &claims, 0);
            let number = self.all.len();
            self.all.push(Token { number, text, claims, kid: 0, signer: 0, header: Some(fault) });
        }
    }

    /// What a good grant says that ends a second before so many steps.
    fn claims(&self, tunnel: &TunnelIdentity, place: &Place, steps: i64) -> GrantClaims {
        let login = &tunnel.login;
        GrantClaims {
            iss: CLUSTER.parse().expect("a name"),
            sub: login.user.clone(),
            aud: AUDIENCE.into(),
            jti: format!("{:04x}", self.all.len()).parse().expect("an identifier"),
            iat: BEGIN,
            exp: BEGIN + steps * STEP_SECONDS - 1,
            cnf: Confirmation { jkt: tunnel.key.clone() },
            login: login.login.clone(),
            device: login.device.clone(),
            resource: place.id.clone(),
            port: place.port,
            amr: vec!["hwk".into(), "user".into()],
            auth_time: Some(BEGIN),
            key_id: None,
            session_end: BEGIN + 10_000 * STEP_SECONDS + 4,
            idle: None,
            limits: ConnectionLimits::default(),
        }
    }

    fn add(&mut self, claims: GrantClaims, kid: usize, signer: usize) {
        let header = format!(r#"{{"alg":"ES256","typ":"{JWT_TYPE}","kid":"{}"}}"#, KIDS[kid]);
        let text = self.sign(&header, &claims, signer);
        let number = self.all.len();
        self.all.push(Token { number, text, claims, kid, signer, header: None });
    }

    /// RFC 7515, without the code that reads it.
    fn sign(&self, header: &str, claims: &GrantClaims, signer: usize) -> String {
        let claims = serde_json::to_vec(claims).expect("claims are JSON");
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature =
            self.keys[signer].sign(&SystemRandom::new(), signed.as_bytes()).expect("a key that signs");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

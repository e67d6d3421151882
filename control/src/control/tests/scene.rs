//! A control service in a directory of its own, with a clock that tests move, and people who log in.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use portlatch_audit::Reader;
use portlatch_protocol::api::ceremony::{
    CeremonyOutcome, CeremonyPurpose, CeremonyRequest, DeviceChange, DeviceProof, ExecRequest, ExecTarget,
    PresenceProof,
};
use portlatch_protocol::api::{
    AccessAnswer, AccessRequest, Ceremony, FirstFactor, IssuedGrant, KeyTask, LoginAnswer, LoginGranted,
    LoginProof, LoginRequest, Secret, TunnelRequest,
};
use portlatch_protocol::thumbprint::Thumbprint;
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};
use webauthn_rs::prelude::SecurityKey;

use super::super::*;
use super::soft_key::{HOST, SoftKey};
use crate::admin::SourceFile;
use crate::grants::Asker;
use crate::store::logins::StoredLogin;

pub(super) const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));
pub(super) const PASSWORD: &str = "correct horse";

/// `billing` wants a tap, `vault` a PIN, `wiki` nothing, `brief` a tap each minute, `wide` one tap for all its ports.
pub(super) const DOCUMENTS: &str = "
kind: vnet_config
spec: {custom_dns_zones: [{suffix: corp.internal}]}
---
kind: role
metadata: {name: tap}
spec: {options: {require_session_mfa: true}, allow: {db_labels: {mfa: tap}}}
---
kind: role
metadata: {name: brief}
spec: {options: {require_session_mfa: true, mfa_verification_interval: 1m}, allow: {app_labels: {mfa: brief}}}
---
kind: role
metadata: {name: open}
spec: {options: {max_session: 1h}, allow: {app_labels: {mfa: none}}}
---
kind: db
metadata: {name: billing, labels: {mfa: tap}}
spec: {uri: 'tcp://10.0.0.5', tcp_ports: [{port: 5432}, {port: 5433}]}
---
kind: db
metadata: {name: vault, labels: {mfa: tap}}
spec: {uri: 'tcp://10.0.0.6:5432', mfa: {user_verification: true}}
---
kind: db
metadata: {name: wide, labels: {mfa: tap}}
spec: {uri: 'tcp://10.0.0.9', tcp_ports: [{port: 1000, end_port: 1009}], mfa: {scope: resource}}
---
kind: app
metadata: {name: wiki, labels: {mfa: none}}
spec: {uri: 'tcp://10.0.0.7:80'}
---
kind: app
metadata: {name: brief, labels: {mfa: brief}}
spec: {uri: 'tcp://10.0.0.8:80'}
---
kind: app
metadata: {name: secret, labels: {mfa: nobody}}
spec: {uri: 'tcp://10.0.0.10:80'}
";

struct NoSessions;

impl LiveSessions for NoSessions {
    fn list(&self) -> Vec<SessionLine> {
        Vec::new()
    }

    fn kill(&self, _: &Id) -> bool {
        false
    }
}

pub(super) struct Scene {
    pub(super) dir: tempfile::TempDir,
    pub(super) control: Arc<Control>,
    pub(super) clock: Clock,
    mover: tokio::sync::watch::Sender<Duration>,
}

/// Somebody with a key, a login and a tunnel.
pub(super) struct Person {
    pub(super) key: SoftKey,
    pub(super) granted: LoginGranted,
    pub(super) login: StoredLogin,
    pub(super) tunnel_key: Thumbprint,
}

pub(super) fn csr(key: &KeyPair) -> String {
    STANDARD.encode(CertificateParams::default().serialize_request(key).unwrap().der())
}

pub(super) fn file(text: &str) -> Vec<SourceFile> {
    vec![SourceFile { name: "test.yaml".to_owned(), text: text.to_owned() }]
}

pub(super) async fn open(dir: &Path, clock: Clock) -> Arc<Control> {
    open_as(HOST, dir, clock).await.unwrap()
}

pub(super) async fn open_as(host: &str, dir: &Path, clock: Clock) -> Result<Arc<Control>, OpenError> {
    let settings =
        ControlSettings { public_host: host.parse().unwrap(), public_port: 443, durability: Durability::Os };
    Control::open(dir, Keys::open(dir).unwrap(), settings, clock, Arc::new(NoSessions)).await
}

impl Scene {
    pub(super) async fn new() -> Self {
        Self::in_directory(tempfile::tempdir().unwrap()).await
    }

    /// Where thousands of rounds would wait for the disk.
    pub(super) async fn in_memory() -> Self {
        Self::in_directory(tempfile::tempdir_in("/dev/shm").unwrap()).await
    }

    async fn in_directory(dir: tempfile::TempDir) -> Self {
        // At the start of a code's step: no code runs out unless the test lets it.
        let now = Clock::movable().0.time_of_day().0;
        let (clock, mover) = Clock::still(portlatch_clock::TimeOfDay(now - now.rem_euclid(30_000)));
        Keys::create(dir.path(), &HOST.parse().unwrap(), clock.time_of_day()).unwrap();
        let control = open(dir.path(), clock.clone()).await;
        control.apply(&file(DOCUMENTS), "root").await.unwrap();
        Self { dir, control, clock, mover }
    }

    /// Where thousands of passwords are hashed.
    pub(super) fn with_quick_passwords(mut self) -> Self {
        let control = Arc::get_mut(&mut self.control).expect("the test holds control alone");
        control.passwords = Passwords::quick();
        self
    }

    /// Closes control and opens it again in the same directory.
    pub(super) async fn restart(self) -> Self {
        let Self { dir, control, clock, mover } = self;
        control.store.close().await;
        drop(Arc::try_unwrap(control).expect("the test holds control alone"));
        let control = open(dir.path(), clock.clone()).await;
        Self { dir, control, clock, mover }
    }

    pub(super) fn pass(&self, time: Duration) {
        let offset = *self.mover.borrow() + time;
        self.mover.send(offset).unwrap();
    }

    /// Sets the clocks back, as an administrator does who finds the time wrong.
    pub(super) fn set_back(&self, time: Duration) {
        let offset = *self.mover.borrow() - time;
        self.mover.send(offset).unwrap();
    }

    /// A key that this user's person holds and that control does not know yet.
    pub(super) fn made_key(&self, user: &portlatch_protocol::names::UserName) -> SecurityKey {
        let relying_party = &self.control.relying_party;
        let (options, state) = relying_party.begin_enrolment(user, [1; 16], &[]).unwrap();
        relying_party.finish_enrolment(&SoftKey::new().enrol(&options), &state).unwrap()
    }

    pub(super) async fn token_for(&self, user: &str) -> String {
        let roles = ["tap", "brief", "open"].map(|role| role.parse().unwrap()).to_vec();
        self.control.add_user(&user.parse().unwrap(), roles, "root").await.unwrap().token
    }

    pub(super) async fn person(&self, user: &str) -> Person {
        let token = self.token_for(user).await;
        let key = SoftKey::new();
        let granted = self.enrol(user, &token, &key, ADDRESS).await.unwrap();
        self.with_tunnel(key, granted).await
    }

    pub(super) async fn with_tunnel(&self, key: SoftKey, granted: LoginGranted) -> Person {
        let login = self.control.store.login(&granted.login).await.unwrap().unwrap();
        let csr = csr(&KeyPair::generate().unwrap());
        let asker = Asker { login: &login, address: ADDRESS };
        let tunnel = self.control.certify_tunnel(asker, &TunnelRequest { csr }).await.unwrap();
        Person { key, granted, login, tunnel_key: tunnel.thumbprint }
    }

    pub(super) async fn enrol(
        &self,
        user: &str,
        token: &str,
        key: &SoftKey,
        address: IpAddr,
    ) -> Result<LoginGranted, Denial> {
        let request = login_request(user, enrolment(token));
        let challenge = self.control.begin_login(&request, address).await?;
        let KeyTask::Enrol { options } = &challenge.task else { panic!("an enrolment was asked for") };
        let answer = LoginAnswer {
            proof: LoginProof::Key { credential: key.enrol(options) },
            csr: csr(&KeyPair::generate().unwrap()),
        };
        self.control.finish_login(&challenge.ceremony, &answer, address).await
    }

    /// One more login of a user who has a key.
    pub(super) async fn log_in_again(&self, person: &mut Person, device: &str) -> Person {
        let request = LoginRequest {
            user: person.granted.user.clone(),
            device: device.parse().unwrap(),
            proof: password(PASSWORD),
        };
        let challenge = self.control.begin_login(&request, ADDRESS).await.unwrap();
        let KeyTask::Assert { options } = &challenge.task else { panic!("a tap was asked for") };
        let proof = LoginProof::Key { credential: person.key.tap(options, None) };
        let answer = LoginAnswer { proof, csr: csr(&KeyPair::generate().unwrap()) };
        let granted = self.control.finish_login(&challenge.ceremony, &answer, ADDRESS).await.unwrap();
        self.with_tunnel(SoftKey::new(), granted).await
    }

    pub(super) async fn apply(&self, text: &str) {
        self.control.apply(&file(text), "root").await.unwrap();
    }

    pub(super) async fn begin(&self, person: &Person, purpose: &CeremonyPurpose) -> Result<Ceremony, Denial> {
        let request = CeremonyRequest { purpose: purpose.clone(), browser: None };
        self.control.begin_ceremony(person.asker(), &request).await
    }

    pub(super) async fn finish(
        &self,
        person: &Person,
        ceremony: &Ceremony,
        proof: PresenceProof,
    ) -> Result<CeremonyOutcome, Denial> {
        self.control.finish_ceremony(person.asker(), &ceremony.ceremony, &proof).await
    }

    /// Any ceremony, with an honest tap.
    pub(super) async fn prove(
        &self,
        person: &mut Person,
        purpose: &CeremonyPurpose,
    ) -> Result<CeremonyOutcome, Denial> {
        let ceremony = self.begin(person, purpose).await?;
        let proof = person.tap_for(&ceremony, purpose);
        self.finish(person, &ceremony, proof).await
    }

    /// Any ceremony, with a code.
    pub(super) async fn type_code(
        &self,
        person: &Person,
        purpose: &CeremonyPurpose,
        code: &str,
    ) -> Result<CeremonyOutcome, Denial> {
        let ceremony = self.begin(person, purpose).await?;
        let proof = PresenceProof::Code { code: Secret(code.to_owned()) };
        self.finish(person, &ceremony, proof).await
    }

    /// Gives the user an authenticator app, whose first code is used up.
    pub(super) async fn add_app(&self, person: &mut Person) -> App {
        let change = CeremonyPurpose::ManageDevices(DeviceChange::AddApp { name: "phone".to_owned() });
        let outcome = self.prove(person, &change).await.unwrap();
        let CeremonyOutcome::EnrolApp { ceremony, uri, .. } = outcome else { panic!("{outcome:?}") };
        let mut app =
            App { totp: totp_rs::Totp::from_url(&uri.0).unwrap(), id: person.granted.login.clone() };
        let proof = DeviceProof::Code { code: Secret(app.code(&self.clock)) };
        app.id = self.control.finish_enrolment(person.asker(), &ceremony, &proof).await.unwrap().id;
        app
    }

    /// The audit's records of a kind, oldest first.
    pub(super) fn audit(&self, kind: &str) -> Vec<Value> {
        let mut reader = Reader::open(&self.dir.path().join(AUDIT_FOLDER)).unwrap();
        let mut found = Vec::new();
        while let Some(record) = reader.next_record().unwrap() {
            if record.event == kind {
                found.push(serde_json::from_str(&record.line).unwrap());
            }
        }
        found
    }

    pub(super) fn last_reason(&self, kind: &str) -> String {
        self.audit(kind).last().expect("there is such a record")["reason"].as_str().unwrap_or("").to_owned()
    }

    pub(super) async fn ask(&self, person: &Person, resource: &str, port: u16) -> AccessAnswer {
        self.control.ask(person.asker(), &person.request(resource, port)).await.unwrap()
    }

    /// The whole ceremony, honestly.
    pub(super) async fn tap(
        &self,
        person: &mut Person,
        resource: &str,
        port: u16,
    ) -> Result<IssuedGrant, Denial> {
        let ceremony = self.control.begin_ceremony(person.asker(), &person.open(resource, port)).await?;
        let context = person.context(resource, port);
        let credential = person.key.tap(&ceremony.options, Some(context));
        let answer = PresenceProof::Key { credential };
        let outcome = self.control.finish_ceremony(person.asker(), &ceremony.ceremony, &answer).await?;
        let CeremonyOutcome::Granted(grant) = outcome else { panic!("an open ended in {outcome:?}") };
        Ok(grant)
    }
}

/// An authenticator app.
pub(super) struct App {
    totp: totp_rs::Totp,
    pub(super) id: Id,
}

impl App {
    pub(super) fn uri(&self) -> String {
        self.totp.to_url().unwrap()
    }

    /// The code that it shows now.
    pub(super) fn code(&self, clock: &Clock) -> String {
        self.code_at(clock.time_of_day().seconds())
    }

    pub(super) fn code_at(&self, seconds: i64) -> String {
        self.totp.generate(u64::try_from(seconds).unwrap()).to_string()
    }
}

impl Person {
    /// An honest tap for a ceremony.
    pub(super) fn tap_for(&mut self, ceremony: &Ceremony, purpose: &CeremonyPurpose) -> PresenceProof {
        let context = json!(purpose.context(&self.granted.login));
        PresenceProof::Key { credential: self.key.tap(&ceremony.options, Some(context)) }
    }

    /// The purpose of opening a port.
    pub(super) fn opening(&self, resource: &str, port: u16) -> CeremonyPurpose {
        CeremonyPurpose::Open(self.request(resource, port))
    }

    /// The purpose of an exec.
    pub(super) fn exec(&self, targets: &[(&str, u16)]) -> CeremonyPurpose {
        let target =
            |(resource, port): &(&str, u16)| ExecTarget { resource: resource.parse().unwrap(), port: *port };
        CeremonyPurpose::Exec(ExecRequest {
            targets: targets.iter().map(target).collect(),
            tunnel_key: self.tunnel_key.clone(),
            program: Some("psql -c 'select 1'".to_owned()),
        })
    }

    pub(super) fn asker(&self) -> Asker<'_> {
        Asker { login: &self.login, address: ADDRESS }
    }

    pub(super) fn request(&self, resource: &str, port: u16) -> AccessRequest {
        AccessRequest {
            resource: resource.parse().unwrap(),
            port,
            tunnel_key: self.tunnel_key.clone(),
            program: Some("psql\u{1b}[2J".to_owned()),
            pid: Some(4242),
        }
    }

    pub(super) fn open(&self, resource: &str, port: u16) -> CeremonyRequest {
        CeremonyRequest { purpose: CeremonyPurpose::Open(self.request(resource, port)), browser: None }
    }

    pub(super) fn context(&self, resource: &str, port: u16) -> Value {
        json!({"purpose": "open", "resource": resource, "port": port, "login": self.granted.login})
    }
}

pub(super) fn enrolment(token: &str) -> FirstFactor {
    FirstFactor::Enrolment { token: Secret(token.to_owned()), new_password: Secret(PASSWORD.to_owned()) }
}

pub(super) fn password(text: &str) -> FirstFactor {
    FirstFactor::Password { password: Secret(text.to_owned()) }
}

pub(super) fn is_tap_needed(answer: &AccessAnswer) -> bool {
    matches!(answer, AccessAnswer::TapNeeded { .. })
}

/// What a ceremony that opens a port ended in.
pub(super) fn grant_of(outcome: CeremonyOutcome) -> IssuedGrant {
    let CeremonyOutcome::Granted(grant) = outcome else { panic!("an open ended in {outcome:?}") };
    grant
}

pub(super) fn login_request(user: &str, proof: FirstFactor) -> LoginRequest {
    LoginRequest { user: user.parse().unwrap(), device: "laptop".parse().unwrap(), proof }
}

pub(super) fn granted(answer: AccessAnswer) -> IssuedGrant {
    match answer {
        AccessAnswer::Granted(grant) => grant,
        AccessAnswer::Refused { reason, message } => panic!("refused: {reason}: {message}"),
        AccessAnswer::TapNeeded { .. } => panic!("a tap was asked for"),
    }
}

/// The claims of a grant, once its signature holds.
pub(super) fn claims(scene: &Scene, grant: &IssuedGrant) -> portlatch_protocol::grant::GrantClaims {
    use jsonwebtoken::{Algorithm, DecodingKey, Validation};
    let header = jsonwebtoken::decode_header(&grant.token).unwrap();
    assert_eq!(header.typ.as_deref(), Some(portlatch_protocol::grant::JWT_TYPE));
    assert_eq!(header.kid.as_deref(), Some(scene.control.keys.grant_kid().as_str()));
    let mut validation = Validation::new(Algorithm::ES256);
    validation.set_audience(&[portlatch_protocol::grant::AUDIENCE]);
    // The test's clock is not jsonwebtoken's.
    validation.validate_exp = false;
    let key = DecodingKey::from_ec_der(scene.control.keys.grant_point());
    jsonwebtoken::decode(&grant.token, &key, &validation).unwrap().claims
}

//! Control, played by the test: TLS with a CA of its own, the API's paths, and a verifier for the software key. Policy
//! is by port: 80 is free, 403 is forbidden, the rest needs a tap.

use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use p256::ecdsa::signature::Verifier as _;
use p256::ecdsa::{Signature, VerifyingKey};
use portlatch_protocol::api::ceremony::{
    CeremonyOutcome, CeremonyPurpose, CeremonyRequest, ExecTarget, MfaDevice, MfaDeviceKind, MfaDevices,
};
use portlatch_protocol::api::{
    ALPN, AccessAnswer, AccessRequest, Catalogue, Ceremony, ClientDataContext, LoginGranted,
    TunnelCertificate,
};
use portlatch_protocol::identity::IdentityKind;
use portlatch_protocol::names::Hostname;
use portlatch_protocol::ports::PortRange;
use portlatch_protocol::refusal::RefusalReason;
use portlatch_protocol::resource::{Hold, MfaNeed, ProxyAddress, Resource, Zone};
use portlatch_protocol::thumbprint::Thumbprint;
use portlatch_protocol::tls::{Authority, CaPin, OneKindOfClient};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, SanType,
};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

mod answers;

pub(crate) use answers::{Memory, Verdicts};
use answers::{device, explanation, grant, outcome};

/// The name by which the loopback is reached; a relying party must have one.
const CLUSTER: &str = "localhost";
const LOGIN: &str = "0af3";

pub(crate) struct Control {
    port: u16,
    state: Arc<State>,
    _server: JoinSet<()>,
}

struct State {
    ca: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    revision: watch::Sender<u64>,
    story: Mutex<Story>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Peer {
    Anonymous,
    LoggedIn,
}

#[derive(Default)]
struct Story {
    credential: Option<(Vec<u8>, VerifyingKey)>,
    /// Challenges that nobody has answered, with what each is for; nothing for a login.
    open: Vec<(String, Option<CeremonyPurpose>)>,
    desktops: Vec<String>,
    devices: Vec<MfaDevice>,
    /// What is being enrolled.
    enrolling: Vec<(String, MfaDeviceKind, String)>,
    recovery_codes: Vec<String>,
    /// What an exec was tapped for.
    remembered: Vec<ExecTarget>,
    made: usize,
    reject_next: usize,
    programs: Vec<Option<String>>,
    logouts: usize,
    taps_forgotten: usize,
    memory: Memory,
    /// The code that is taken beside the key, if any is.
    code: Option<String>,
    /// Who logs in.
    user: Option<String>,
    /// The ports of which it is not yet decided.
    undecided: Vec<u16>,
    /// Every challenge that was made, as it travels.
    challenges: Vec<String>,
    /// The port of the one proxy, where all names are this machine's own.
    local: Option<u16>,
    /// What proved presence at prompts.
    proofs: Vec<String>,
    /// Whether what came of a proof is told.
    verdicts: Verdicts,
    extra: usize,
}

impl Control {
    pub(crate) async fn start() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.distinguished_name.push(DnType::CommonName, "test CA");
        let ca = params.self_signed(&key).unwrap().der().clone();
        let state = Arc::new(State {
            ca,
            issuer: Issuer::new(params, key),
            revision: watch::channel(1).0,
            story: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut server = JoinSet::new();
        server.spawn(serve(listener, state.tls(), state.clone()));
        Self { port, state, _server: server }
    }

    pub(crate) fn address(&self) -> String {
        format!("{CLUSTER}:{}", self.port)
    }

    pub(crate) fn pin(&self) -> String {
        CaPin::of(&self.state.ca).to_string()
    }

    pub(crate) fn cluster(&self) -> Hostname {
        CLUSTER.parse().unwrap()
    }

    /// Finds the next answers of the key wrong.
    pub(crate) fn reject_next(&self, answers: usize) {
        self.state.story.lock().unwrap().reject_next = answers;
    }

    /// How many challenges for access were made.
    pub(crate) fn challenges(&self) -> usize {
        self.state.story.lock().unwrap().made
    }

    /// Every challenge that was made, as it travels.
    pub(crate) fn all_challenges(&self) -> Vec<String> {
        self.state.story.lock().unwrap().challenges.clone()
    }

    /// Waits until no challenge is open any more.
    pub(crate) async fn has_no_open_challenge(&self) {
        self.comes_to(|story| story.open.iter().all(|(_, purpose)| purpose.is_none())).await;
    }

    /// Waits until access was asked for so often.
    pub(crate) async fn is_asked(&self, times: usize) {
        self.comes_to(|story| story.programs.len() >= times).await;
    }

    async fn comes_to(&self, is_there: impl Fn(&Story) -> bool) {
        let come = async {
            while !is_there(&self.state.story.lock().unwrap()) {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(super::PATIENCE, come).await.expect("control comes to it");
    }

    /// Of these ports it decides only when they are named no more.
    pub(crate) fn decides_later(&self, ports: &[u16]) {
        self.state.story.lock().unwrap().undecided = ports.to_vec();
    }

    /// The programs that the agent named.
    pub(crate) fn programs(&self) -> Vec<Option<String>> {
        self.state.story.lock().unwrap().programs.clone()
    }

    pub(crate) fn logouts(&self) -> usize {
        self.state.story.lock().unwrap().logouts
    }

    /// Adds a desktop to the catalogue.
    pub(crate) fn has_desktop(&self, name: &str) {
        self.state.story.lock().unwrap().desktops.push(name.to_owned());
        self.state.revision.send_modify(|revision| *revision += 1);
    }

    /// The user has this key.
    pub(crate) fn has_device(&self, id: &str, name: &str) {
        let device = device(id, MfaDeviceKind::SecurityKey, name);
        self.state.story.lock().unwrap().devices.push(device);
    }

    /// Takes this code beside the key.
    pub(crate) fn takes_code(&self, code: &str) {
        self.state.story.lock().unwrap().code = Some(code.to_owned());
    }

    /// The kinds of the proofs that were sent, good or not.
    pub(crate) fn proofs(&self) -> Vec<String> {
        self.state.story.lock().unwrap().proofs.clone()
    }

    /// Waits until so many proofs were taken, good or not.
    pub(crate) async fn is_proven(&self, times: usize) {
        self.comes_to(|story| story.proofs.len() >= times).await;
    }

    /// Whether what comes of a proof is told at once.
    pub(crate) fn gives(&self, verdicts: Verdicts) {
        self.state.story.lock().unwrap().verdicts = verdicts;
    }

    /// How often the agent had its taps forgotten.
    pub(crate) fn taps_forgotten(&self) -> usize {
        self.state.story.lock().unwrap().taps_forgotten
    }

    /// Waits until the agent has had its taps forgotten so often.
    pub(crate) async fn forgets_taps(&self, times: usize) {
        self.comes_to(|story| story.taps_forgotten >= times).await;
    }

    /// Whether taps can be forgotten.
    pub(crate) fn remembers_taps(&self, memory: Memory) {
        self.state.story.lock().unwrap().memory = memory;
    }

    /// Adds resources to the catalogue.
    pub(crate) fn add_resources(&self, more: usize) {
        self.state.story.lock().unwrap().extra += more;
        self.state.revision.send_modify(|revision| *revision += 1);
    }

    /// Every name is `localhost`, and so is the one proxy, at this port.
    pub(crate) fn is_local(&self, proxy: u16) {
        self.state.story.lock().unwrap().local = Some(proxy);
        self.state.revision.send_modify(|revision| *revision += 1);
    }

    /// Goes away.
    pub(crate) async fn stop(&mut self) {
        self._server.shutdown().await;
    }
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (tls, state) = (tls.clone(), state.clone());
        connections.spawn(async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            let peer = match stream.get_ref().1.peer_certificates() {
                Some(_) => Peer::LoggedIn,
                None => Peer::Anonymous,
            };
            let service = service_fn(move |request| {
                let state = state.clone();
                async move { Ok::<_, std::convert::Infallible>(state.answer(request, peer).await) }
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

fn reply(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    response
}

fn problem(status: StatusCode, code: &str) -> Response<Full<Bytes>> {
    reply(status, &json!({"code": code, "message": format!("the problem is {code}")}))
}

impl State {
    fn tls(&self) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        let uri = format!("portlatch://{CLUSTER}/control/main");
        params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let leaf = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let authority = Authority::new(CLUSTER.parse().unwrap(), std::slice::from_ref(&self.ca)).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(OneKindOfClient::optional(authority, IdentityKind::Login))
            .with_single_cert(
                vec![leaf, self.ca.clone()],
                PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            )
            .unwrap();
        config.alpn_protocols = vec![ALPN.to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }

    fn certify(&self, csr: &str, kind: &str) -> Vec<u8> {
        let csr = STANDARD.decode(csr).unwrap();
        let mut csr = CertificateSigningRequestParams::from_der(&csr.as_slice().into()).unwrap();
        let uri = format!("portlatch://{CLUSTER}/{kind}/{}/{LOGIN}/laptop", self.user());
        csr.params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into().unwrap())];
        csr.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        csr.signed_by(&self.issuer).unwrap().der().to_vec()
    }

    fn user(&self) -> String {
        self.story.lock().unwrap().user.clone().unwrap_or_else(|| "jerry".to_owned())
    }

    async fn answer(&self, request: Request<Incoming>, peer: Peer) -> Response<Full<Bytes>> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let path: Vec<&str> = parts.uri.path().trim_start_matches('/').split('/').collect();
        match (parts.method, &path[..]) {
            (Method::POST, ["v1", "login"]) => self.begin_login(&body),
            (Method::POST, ["v1", "login", ceremony]) => self.finish_login(ceremony, &body),
            _ if peer == Peer::Anonymous => problem(StatusCode::UNAUTHORIZED, "login_ended"),
            (Method::POST, ["v1", "logout"]) => {
                self.story.lock().unwrap().logouts += 1;
                reply(StatusCode::NO_CONTENT, &Value::Null)
            }
            (Method::POST, ["v1", "tunnel"]) => {
                let certificate = self.certify(body["csr"].as_str().unwrap(), "tunnel");
                let thumbprint = Thumbprint::of_certificate(&certificate).unwrap();
                let tunnel = TunnelCertificate { certificate: STANDARD.encode(certificate), thumbprint };
                reply(StatusCode::OK, &json!(tunnel))
            }
            (Method::GET, ["v1", "catalogue"]) => self.catalogue(parts.uri.query()).await,
            (Method::POST, ["v1", "access"]) => self.access(&serde_json::from_value(body).unwrap()).await,
            (Method::POST, ["v1", "why"]) => {
                reply(StatusCode::OK, &json!(explanation(&serde_json::from_value(body).unwrap())))
            }
            (Method::POST, ["v1", "ceremonies"]) => {
                self.begin_ceremony(serde_json::from_value(body).unwrap())
            }
            (Method::POST, ["v1", "ceremonies", ceremony]) => {
                let verdict = self.finish_ceremony(ceremony, &body);
                self.tells_verdicts().await;
                verdict
            }
            (Method::GET, ["v1", "devices"]) => {
                let story = self.story.lock().unwrap();
                let recovery_codes = u32::try_from(story.recovery_codes.len()).unwrap();
                reply(StatusCode::OK, &json!(MfaDevices { devices: story.devices.clone(), recovery_codes }))
            }
            (Method::POST, ["v1", "devices", ceremony]) => self.finish_enrolment(ceremony, &body),
            (Method::DELETE, ["v1", "taps"]) => {
                let mut story = self.story.lock().unwrap();
                if story.memory == Memory::Stubborn {
                    return problem(StatusCode::SERVICE_UNAVAILABLE, "unavailable");
                }
                story.taps_forgotten += 1;
                reply(StatusCode::NO_CONTENT, &Value::Null)
            }
            (Method::DELETE, ["v1", "ceremonies", ceremony]) => {
                self.story.lock().unwrap().open.retain(|(open, _)| open != ceremony);
                reply(StatusCode::NO_CONTENT, &Value::Null)
            }
            _ => problem(StatusCode::NOT_FOUND, "bad_request"),
        }
    }

    fn begin_ceremony(&self, request: CeremonyRequest) -> Response<Full<Bytes>> {
        self.story.lock().unwrap().made += 1;
        let takes_codes = matches!(request.purpose, CeremonyPurpose::Open(_));
        let (ceremony, options) = self.challenge(Some(request.purpose));
        let ceremony = Ceremony {
            ceremony: ceremony.parse().unwrap(),
            options,
            expires_in: 120,
            code_allowed: takes_codes && self.story.lock().unwrap().code.is_some(),
            browser: None,
        };
        reply(StatusCode::OK, &json!(ceremony))
    }

    async fn tells_verdicts(&self) {
        while self.story.lock().unwrap().verdicts == Verdicts::Held {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    /// A challenge whose name is the challenge itself, in hexadecimal.
    fn challenge(&self, purpose: Option<CeremonyPurpose>) -> (String, Value) {
        let mut challenge = [0; 16];
        getrandom::fill(&mut challenge).unwrap();
        let name = hex::encode(challenge);
        let mut story = self.story.lock().unwrap();
        story.open.push((name.clone(), purpose));
        story.challenges.push(URL_SAFE_NO_PAD.encode(challenge));
        let allowed = story.credential.as_ref().map(|(id, _)| URL_SAFE_NO_PAD.encode(id)).unwrap_or_default();
        let options = json!({"publicKey": {
            "challenge": URL_SAFE_NO_PAD.encode(challenge), "rpId": CLUSTER, "userVerification": "discouraged",
            "allowCredentials": [{"type": "public-key", "id": allowed}],
            "rp": {"name": "Portlatch", "id": CLUSTER},
            "user": {"id": "AAAA", "name": "jerry", "displayName": "jerry"},
            "pubKeyCredParams": [{"type": "public-key", "alg": -7}],
        }});
        (name, options)
    }

    fn begin_login(&self, body: &Value) -> Response<Full<Bytes>> {
        let proof = &body["proof"];
        let task = match (proof["type"].as_str(), proof["password"].as_str(), proof["token"].as_str()) {
            (Some("enrolment"), _, Some("token")) => "enrol",
            (Some("password"), Some("correct horse"), _) => "assert",
            _ => return problem(StatusCode::UNAUTHORIZED, "bad_login"),
        };
        self.story.lock().unwrap().user = body["user"].as_str().map(str::to_owned);
        let (ceremony, options) = self.challenge(None);
        let task = json!({"type": task, "options": options});
        reply(StatusCode::OK, &json!({"ceremony": ceremony, "task": task, "expires_in": 120}))
    }

    fn finish_login(&self, ceremony: &str, body: &Value) -> Response<Full<Bytes>> {
        if let Some(code) = body.pointer("/proof/code").and_then(Value::as_str) {
            let mut story = self.story.lock().unwrap();
            let Some(at) = story.recovery_codes.iter().position(|known| known == code) else {
                return problem(StatusCode::UNAUTHORIZED, "bad_login");
            };
            story.recovery_codes.remove(at);
            drop(story);
            return self.logged_in(body);
        }
        let credential = &body["proof"]["credential"];
        let enrolled = credential.pointer("/response/attestationObject").and_then(Value::as_str);
        if let Some(object) = enrolled {
            let object = URL_SAFE_NO_PAD.decode(object).unwrap();
            // x and y stand behind the map of the COSE key, whose bytes are fixed.
            let cose = &object[object.len() - 67..];
            let point = [&[4], &cose[..32], &cose[35..]].concat();
            let id = URL_SAFE_NO_PAD.decode(credential["id"].as_str().unwrap()).unwrap();
            let key = VerifyingKey::from_sec1_bytes(&point).unwrap();
            self.story.lock().unwrap().credential = Some((id, key));
        } else if !self.verify(ceremony, credential, None) {
            return problem(StatusCode::UNAUTHORIZED, "bad_login");
        }
        self.logged_in(body)
    }

    fn finish_enrolment(&self, ceremony: &str, proof: &Value) -> Response<Full<Bytes>> {
        let mut story = self.story.lock().unwrap();
        let Some(at) = story.enrolling.iter().position(|(open, ..)| open == ceremony) else {
            return problem(StatusCode::GONE, "ceremony_ended");
        };
        let is_good = match proof["type"].as_str().unwrap() {
            "code" => proof["code"].as_str() == story.code.as_deref(),
            kind => kind == "key" && proof.pointer("/credential/response/attestationObject").is_some(),
        };
        if !is_good {
            return problem(StatusCode::FORBIDDEN, "bad_code");
        }
        let (id, kind, name) = story.enrolling.remove(at);
        let device = device(&id, kind, &name);
        story.devices.push(device.clone());
        reply(StatusCode::OK, &json!(device))
    }

    fn logged_in(&self, body: &Value) -> Response<Full<Bytes>> {
        let granted = LoginGranted {
            cluster: CLUSTER.parse().unwrap(),
            user: self.user().parse().unwrap(),
            login: LOGIN.parse().unwrap(),
            device: "laptop".parse().unwrap(),
            certificate: STANDARD.encode(self.certify(body["csr"].as_str().unwrap(), "login")),
            ca: STANDARD.encode(&self.ca),
            expires_in: 12 * 3600,
        };
        reply(StatusCode::OK, &json!(granted))
    }

    /// What the key signed must be these bytes of `clientDataJSON`.
    fn verify(&self, ceremony: &str, credential: &Value, context: Option<&ClientDataContext>) -> bool {
        let bytes = |member: &str| {
            let text = credential.pointer(&format!("/response/{member}")).and_then(Value::as_str).unwrap();
            URL_SAFE_NO_PAD.decode(text).unwrap()
        };
        let challenge = URL_SAFE_NO_PAD.encode(hex::decode(ceremony).unwrap());
        let context = context.map_or(String::new(), |context| format!(r#","portlatch":{}"#, json!(context)));
        let expected: Value = serde_json::from_str(&format!(
            r#"{{"type":"webauthn.get","challenge":"{challenge}","origin":"portlatch-agent://{CLUSTER}","crossOrigin":false{context}}}"#
        ))
        .unwrap();
        let client_data = bytes("clientDataJSON");
        let signed = [bytes("authenticatorData"), Sha256::digest(&client_data).to_vec()].concat();
        let signature = Signature::from_der(&bytes("signature")).unwrap();
        let story = self.story.lock().unwrap();
        let (_, key) = story.credential.as_ref().unwrap();
        serde_json::from_slice::<Value>(&client_data).unwrap() == expected
            && key.verify(&signed, &signature).is_ok()
    }

    async fn catalogue(&self, query: Option<&str>) -> Response<Full<Bytes>> {
        let after: Option<u64> =
            query.and_then(|query| query.strip_prefix("after=")).map(|n| n.parse().unwrap());
        let mut revision = self.revision.subscribe();
        let newer = revision.wait_for(|revision| after.is_none_or(|after| *revision > after));
        let revision = *newer.await.unwrap();
        let (extra, desktops, local) = {
            let story = self.story.lock().unwrap();
            (story.extra, story.desktops.clone(), story.local)
        };
        let suffix = if local.is_some() { CLUSTER } else { "corp.internal" };
        let host = |name: &str| if local.is_some() { CLUSTER.to_owned() } else { format!("{name}.{suffix}") };
        let resource = |name: &str| Resource {
            id: format!("db/{name}").parse().unwrap(),
            host: host(name).parse().unwrap(),
            ports: vec![PortRange::new(1, 65_535).unwrap()],
            hold: Hold::Hybrid,
            mfa: MfaNeed::Tap,
            labels: [("env".to_owned(), "prod".to_owned())].into(),
            description: "Billing".into(),
            proxies: vec!["main".parse().unwrap()],
            protocol: None,
            refusal: Default::default(),
        };
        let others = (0..extra).map(|n| resource(&format!("db-{n}")));
        let desktops = desktops.iter().map(|name| Resource {
            id: format!("desktop/{name}").parse().unwrap(),
            ports: vec![PortRange::single(3389).unwrap()],
            ..resource(name)
        });
        let catalogue = Catalogue {
            revision,
            resources: std::iter::once(resource("billing-db")).chain(others).chain(desktops).collect(),
            zones: vec![Zone { suffix: suffix.parse().unwrap(), exclusive: false }],
            proxies: vec![ProxyAddress {
                name: "main".parse().unwrap(),
                host: "127.0.0.1".into(),
                port: local.unwrap_or(443),
            }],
            outside: vec![CLUSTER.parse().unwrap()],
        };
        reply(StatusCode::OK, &json!(catalogue))
    }

    async fn access(&self, request: &AccessRequest) -> Response<Full<Bytes>> {
        self.story.lock().unwrap().programs.push(request.program.clone());
        while self.story.lock().unwrap().undecided.contains(&request.port) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let target = ExecTarget { resource: request.resource.clone(), port: request.port };
        let answer = match request.port {
            _ if self.story.lock().unwrap().remembered.contains(&target) => {
                AccessAnswer::Granted(grant(&["hwk", "user"]))
            }
            80 => AccessAnswer::Granted(grant(&[])),
            403 => AccessAnswer::Refused { reason: RefusalReason::Policy, message: "not for you".into() },
            _ => AccessAnswer::TapNeeded { code_allowed: self.story.lock().unwrap().code.is_some() },
        };
        reply(StatusCode::OK, &json!(answer))
    }

    fn finish_ceremony(&self, ceremony: &str, proof: &Value) -> Response<Full<Bytes>> {
        let taken = {
            let mut story = self.story.lock().unwrap();
            let at = story.open.iter().position(|(open, _)| open == ceremony);
            at.map(|at| story.open.remove(at))
        };
        let Some((_, Some(purpose))) = taken else { return problem(StatusCode::GONE, "ceremony_ended") };
        let context = purpose.context(&LOGIN.parse().unwrap());
        let kind = proof["type"].as_str().unwrap();
        self.story.lock().unwrap().proofs.push(kind.to_owned());
        if kind == "code" {
            let expected = self.story.lock().unwrap().code.clone();
            return match proof["code"].as_str() == expected.as_deref() {
                true => reply(StatusCode::OK, &json!(CeremonyOutcome::Granted(grant(&["otp"])))),
                false => problem(StatusCode::FORBIDDEN, "bad_code"),
            };
        }
        let is_good = self.verify(ceremony, &proof["credential"], Some(&context));
        let mut story = self.story.lock().unwrap();
        let is_rejected = story.reject_next > 0;
        story.reject_next = story.reject_next.saturating_sub(1);
        match is_good && !is_rejected {
            true => reply(StatusCode::OK, &json!(outcome(&mut story, purpose))),
            false => problem(StatusCode::FORBIDDEN, "bad_assertion"),
        }
    }
}

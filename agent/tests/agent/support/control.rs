//! Control, played by the test: TLS with a CA of its own, the API's paths, and a verifier for the software key. Policy
//! is by port: 80 is free, 403 is forbidden, the rest needs a tap.

use std::sync::{Arc, Mutex};

use p256::ecdsa::VerifyingKey;
use portlatch_protocol::api::ceremony::{CeremonyPurpose, ExecTarget, MfaDevice, MfaDeviceKind};
use portlatch_protocol::names::Hostname;
use portlatch_protocol::tls::CaPin;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::CertificateDer;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

mod access;
mod answers;
mod ceremonies;
mod server;

use answers::device;
pub(crate) use answers::{Memory, Verdicts};
use server::serve;

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
    /// Whether codes pause: none is looked at, and none is offered.
    codes_pause: bool,
    /// Whether the key that logs in must verify its user.
    verifies: bool,
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

    /// Looks at no code any more: too many were wrong meanwhile.
    pub(crate) fn pauses_codes(&self) {
        self.state.story.lock().unwrap().codes_pause = true;
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

impl State {
    fn user(&self) -> String {
        self.story.lock().unwrap().user.clone().unwrap_or_else(|| "jerry".to_owned())
    }
}

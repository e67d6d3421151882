//! Keys in software on this machine's desk: real reports, real CTAP2, no hardware. The waits are short for
//! what is waited out, and long enough for a machine that stands still for a moment.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use p256::ecdsa::signature::Verifier as _;
use p256::ecdsa::{Signature, VerifyingKey};
use portlatch_virtual_key::{Event, Opened, Plugged, Settings};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use webauthn_rs_proto::{PublicKeyCredential, RegisterPublicKeyCredential};
use zeroize::Zeroizing;

use super::bus::{Found, Lost, OpenError, Report, Reports};
use super::*;
use crate::ceremony::ClientData;
use crate::keys::pin_entry::{NoPin, Pin, PinEntry, PinQuestion};
use crate::keys::{KeyNotice, NOTICES};

mod broken;
mod pins;
mod several;
mod taps;

const RP: &str = "proxy.example.com";
/// Longest wait for what must happen: only a fault takes it.
const SOON: Duration = Duration::from_secs(20);

const HASTE: Patience = Patience {
    poll: Duration::from_millis(20),
    settle: Duration::from_millis(300),
    init: Duration::from_secs(1),
    silence: Duration::from_secs(1),
    machine: Duration::from_secs(3),
    person: Duration::from_secs(10),
    stop: Duration::from_millis(500),
    farewell: SOON,
    glance: Duration::from_millis(5),
    busy: Duration::from_millis(30),
};

/// Keys that are plugged in, or lie beside.
#[derive(Default)]
struct Desk {
    keys: Mutex<Vec<Plugged>>,
    /// Whether keys cannot say how long they have been in; if they can, they say: for an hour, however short it is.
    is_ageless: AtomicBool,
    locked: Mutex<HashSet<usize>>,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Desk")
    }
}

impl Bus for Desk {
    fn list(&self) -> io::Result<Vec<Found>> {
        let keys = self.keys.lock().unwrap();
        let age = (!self.is_ageless.load(Ordering::Relaxed)).then_some(Duration::from_secs(3600));
        let plugged = keys.iter().enumerate().filter(|(_, key)| key.is_plugged());
        let found = plugged.map(|(number, key)| {
            let times = key.record().iter().filter(|seen| seen.event == Event::Plugged).count();
            Found { key: KeyId { device: format!("key{number}"), instance: times.to_string() }, age }
        });
        Ok(found.collect())
    }

    fn open(&self, key: &KeyId) -> Result<Box<dyn Reports>, OpenError> {
        let number: usize = key.device.trim_start_matches("key").parse().unwrap();
        if self.locked.lock().unwrap().contains(&number) {
            return Err(OpenError::NoAccess("no access: your seat is not active".to_owned()));
        }
        let opened = self.keys.lock().unwrap()[number].open();
        opened.map_or_else(
            || Err(OpenError::Io(io::ErrorKind::NotFound.into())),
            |key| Ok(Box::new(Wire(key)) as _),
        )
    }
}

struct Wire(Opened);

impl Reports for Wire {
    fn send(&mut self, report: &Report) -> Result<(), Lost> {
        self.0.send(report).map_err(|_| Lost)
    }

    fn receive(&mut self, time: Duration) -> Result<Option<Report>, Lost> {
        self.0.receive(time).map_err(|_| Lost)
    }
}

/// A person who gives these PINs in turn, then none, and remembers what was asked.
#[derive(Debug, Default)]
struct Answers {
    pins: Mutex<VecDeque<Result<&'static str, NoPin>>>,
    asked: Mutex<Vec<PinQuestion>>,
}

impl PinEntry for Answers {
    fn ask(&self, question: PinQuestion) -> BoxFuture<'_, Result<Pin, NoPin>> {
        self.asked.lock().unwrap().push(question);
        let pin = self.pins.lock().unwrap().pop_front();
        Box::pin(async move {
            match pin {
                Some(pin) => pin.map(|pin| Pin::new(Zeroizing::new(pin.to_owned()))),
                // The person thinks.
                None => std::future::pending().await,
            }
        })
    }
}

/// A desk, a person, and the code under test.
struct Scene {
    desk: Arc<Desk>,
    person: Arc<Answers>,
    usb: Arc<UsbKeys>,
}

/// A use that goes on.
struct Using<A> {
    result: JoinHandle<Result<A, KeyError>>,
    notices: mpsc::Receiver<KeyNotice>,
    cancel: CancellationToken,
    client_data: ClientData,
}

impl Scene {
    fn with<const N: usize>(keys: [&Plugged; N]) -> Self {
        let desk = Arc::new(Desk::default());
        desk.keys.lock().unwrap().extend(keys.into_iter().cloned());
        let person = Arc::new(Answers::default());
        let usb = Arc::new(UsbKeys::on(desk.clone(), HASTE));
        Self { desk, person, usb }
    }

    fn will_answer<const N: usize>(&self, pins: [Result<&'static str, NoPin>; N]) {
        self.person.pins.lock().unwrap().extend(pins);
    }

    fn asked(&self) -> Vec<PinQuestion> {
        self.person.asked.lock().unwrap().clone()
    }

    /// The key that is in is enrolled, with a touch.
    async fn enrolled(&self, key: &Plugged) -> Enrolled {
        let using = self.enrol(&[]);
        touch(key, 0).await;
        Enrolled::of(&using.end().await.unwrap(), key.record().len())
    }

    fn enrol(&self, exclude: &[Vec<u8>]) -> Using<RegisterPublicKeyCredential> {
        let exclude: Vec<_> =
            exclude.iter().map(|id| json!({"type": "public-key", "id": base64url(id)})).collect();
        let options = serde_json::from_value(json!({
            "rp": {"name": "Portlatch", "id": RP},
            "user": {"id": "AAAA", "name": "jerry", "displayName": "jerry"},
            "challenge": "YWJj",
            "pubKeyCredParams": [{"type": "public-key", "alg": -7}, {"type": "public-key", "alg": -257}],
            "excludeCredentials": exclude,
        }));
        let options = options.unwrap();
        let client_data = ClientData::for_enrolment(b"abc", &RP.parse().unwrap());
        self.using(client_data, move |usb, attempt| {
            Box::pin(async move { usb.enrol(options, attempt).await })
        })
    }

    fn tap(&self, allow: &[Vec<u8>]) -> Using<PublicKeyCredential> {
        self.assert(allow, "discouraged")
    }

    fn assert(&self, allow: &[Vec<u8>], verification: &str) -> Using<PublicKeyCredential> {
        let allow: Vec<_> =
            allow.iter().map(|id| json!({"type": "public-key", "id": base64url(id)})).collect();
        let options = serde_json::from_value(json!({
            "challenge": "YWJj", "rpId": RP, "userVerification": verification, "allowCredentials": allow,
        }));
        let options = options.unwrap();
        let client_data = ClientData::for_login(b"abc", &RP.parse().unwrap());
        self.using(client_data, move |usb, attempt| {
            Box::pin(async move { usb.assert(options, attempt).await })
        })
    }

    fn using<A: Send + 'static>(
        &self,
        client_data: ClientData,
        start: impl FnOnce(Arc<UsbKeys>, Attempt) -> BoxFuture<'static, Result<A, KeyError>>,
    ) -> Using<A> {
        let (sender, notices) = mpsc::channel(NOTICES);
        let cancel = CancellationToken::new();
        let attempt = Attempt {
            client_data: client_data.clone(),
            cancel: cancel.clone(),
            notices: sender,
            pins: self.person.clone(),
        };
        let result = tokio::spawn(start(self.usb.clone(), attempt));
        Using { result, notices, cancel, client_data }
    }
}

impl<A> Using<A> {
    async fn end(self) -> Result<A, KeyError> {
        tokio::time::timeout(SOON, self.result).await.expect("a use must end").unwrap()
    }

    /// Waits for this notice.
    async fn hears(&mut self, expected: &KeyNotice) {
        let heard = async { while self.notices.recv().await.as_ref() != Some(expected) {} };
        tokio::time::timeout(SOON, heard).await.unwrap_or_else(|_| panic!("{expected:?} was not said"));
    }

    async fn cancelled(self) -> Result<A, KeyError> {
        self.cancel.cancel();
        self.end().await
    }
}

/// A credential and what verifies it.
struct Enrolled {
    id: Vec<u8>,
    verifying: VerifyingKey,
    /// What the key's record had seen when it was made.
    seen: usize,
}

impl Enrolled {
    fn of(made: &RegisterPublicKeyCredential, seen: usize) -> Self {
        // P-256's COSE key ends every attestation object of ours: x behind three bytes, y likewise.
        let object = &made.response.attestation_object;
        let cose = &object[object.len() - 67..];
        let point = [&[4], &cose[..32], &cose[35..]].concat();
        Self { id: made.raw_id.clone(), verifying: VerifyingKey::from_sec1_bytes(&point).unwrap(), seen }
    }

    fn ids(&self) -> [Vec<u8>; 1] {
        [self.id.clone()]
    }

    /// The answer is this credential's, over these client data; says its flags.
    fn check(&self, answer: &PublicKeyCredential, client_data: &ClientData) -> u8 {
        assert_eq!(answer.raw_id, self.id);
        assert_eq!(answer.response.client_data_json, client_data.bytes());
        let data = &answer.response.authenticator_data;
        assert_eq!(data[..32], *Sha256::digest(RP));
        let signature = Signature::from_der(&answer.response.signature).unwrap();
        let signed = [data.as_slice(), &Sha256::digest(client_data.bytes())].concat();
        self.verifying.verify(&signed, &signature).unwrap();
        data[32]
    }
}

const PRESENT: u8 = 0x01;
const PRESENT_AND_VERIFIED: u8 = 0x05;

/// Touches a key once it blinks, at the earliest behind this event of its record; says which event that was.
async fn touch(key: &Plugged, from: usize) -> usize {
    let seen = sees(key, from, Event::Blinks).await;
    key.touch();
    seen
}

/// Waits until a key has seen an event; says which one it was.
async fn sees(key: &Plugged, from: usize, event: Event) -> usize {
    let (key, wanted) = (key.clone(), event.clone());
    let seen =
        tokio::task::spawn_blocking(move || key.wait_for(from, SOON, |seen| *seen == wanted)).await.unwrap();
    seen.unwrap_or_else(|| panic!("{event:?} was not seen"))
}

fn count(key: &Plugged, from: usize, is_meant: impl Fn(&Event) -> bool) -> usize {
    key.record().iter().skip(from).filter(|seen| is_meant(&seen.event)).count()
}

const fn is_signing(event: &Event) -> bool {
    matches!(event, Event::Assertion { up: true, .. })
}

fn base64url(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

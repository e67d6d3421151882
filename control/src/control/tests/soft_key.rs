//! A security key of bytes: every part of its answer can be made wrong.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{KeyPair, SigningKey as _};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub(super) const HOST: &str = "proxy.example.com";
pub(super) const AGENT_ORIGIN: &str = "portlatch-agent://proxy.example.com";
pub(super) const PAGE_ORIGIN: &str = "https://proxy.example.com";

pub(super) const USER_PRESENT: u8 = 0x01;
pub(super) const USER_VERIFIED: u8 = 0x04;
pub(super) const BACKUP_ELIGIBLE: u8 = 0x08;
pub(super) const BACKED_UP: u8 = 0x10;
const ATTESTED: u8 = 0x40;

pub(super) struct SoftKey {
    pub(super) key: KeyPair,
    pub(super) id: Vec<u8>,
    pub(super) counter: u32,
    /// What it says of backups, always.
    pub(super) backup: u8,
}

/// An answer in the making: as it should be, until a test says otherwise.
pub(super) struct Answer {
    pub(super) kind: &'static str,
    pub(super) challenge: String,
    pub(super) origin: String,
    pub(super) cross_origin: Option<bool>,
    pub(super) context: Option<Value>,
    pub(super) rp_id: String,
    pub(super) flags: u8,
    pub(super) counter: u32,
    pub(super) id: Vec<u8>,
    pub(super) user_handle: Option<Vec<u8>>,
    pub(super) extensions: Value,
    pub(super) signs: Vec<u8>,
}

impl SoftKey {
    pub(super) fn new() -> Self {
        let mut id = vec![0; 32];
        getrandom::fill(&mut id).unwrap();
        Self { key: KeyPair::generate().unwrap(), id, counter: 0, backup: 0 }
    }

    pub(super) fn enrol(&self, options: &Value) -> Value {
        self.enrol_at(options, AGENT_ORIGIN)
    }

    pub(super) fn enrol_at(&self, options: &Value, origin: &str) -> Value {
        let challenge = options["publicKey"]["challenge"].as_str().unwrap();
        let client_data = json!({"type": "webauthn.create", "challenge": challenge, "origin": origin});
        let client_data = client_data.to_string().into_bytes();
        let mut data = auth_data(HOST, USER_PRESENT | ATTESTED | self.backup, 0);
        data.extend([0; 16]);
        data.extend(u16::try_from(self.id.len()).unwrap().to_be_bytes());
        data.extend(&self.id);
        let (x, y) = self.key.public_key_raw()[1..].split_at(32);
        data.extend([0xa5, 0x01, 0x02, 0x03, 0x26, 0x20, 0x01, 0x21, 0x58, 0x20]);
        data.extend(x);
        data.extend([0x22, 0x58, 0x20]);
        data.extend(y);
        let mut object = b"\xa3\x63fmt\x64none\x67attStmt\xa0\x68authData\x58".to_vec();
        object.push(u8::try_from(data.len()).unwrap());
        object.extend(data);
        json!({
            "id": encode(&self.id), "rawId": encode(&self.id), "type": "public-key",
            "response": {"attestationObject": encode(&object), "clientDataJSON": encode(&client_data)},
        })
    }

    /// An honest answer to a challenge.
    pub(super) fn answer(&mut self, options: &Value, context: Option<Value>) -> Answer {
        self.counter += 1;
        Answer {
            kind: "webauthn.get",
            challenge: options["publicKey"]["challenge"].as_str().unwrap().to_owned(),
            origin: AGENT_ORIGIN.to_owned(),
            cross_origin: Some(false),
            context,
            rp_id: HOST.to_owned(),
            flags: USER_PRESENT | self.backup,
            counter: self.counter,
            id: self.id.clone(),
            user_handle: None,
            extensions: json!({}),
            signs: Vec::new(),
        }
    }

    /// The answer as an agent sends it.
    pub(super) fn sign(&self, answer: &Answer) -> Value {
        let mut client_data = json!({
            "type": answer.kind, "challenge": answer.challenge, "origin": answer.origin,
        });
        if let Some(cross_origin) = answer.cross_origin {
            client_data["crossOrigin"] = cross_origin.into();
        }
        if let Some(context) = &answer.context {
            client_data["portlatch"] = context.clone();
        }
        let client_data = client_data.to_string().into_bytes();
        let data = auth_data(&answer.rp_id, answer.flags, answer.counter);
        let signed = [&data, Sha256::digest(&client_data).as_slice(), &answer.signs].concat();
        let signature = self.key.sign(&signed).unwrap();
        json!({
            "id": encode(&answer.id), "rawId": encode(&answer.id), "type": "public-key",
            "response": {
                "authenticatorData": encode(&data),
                "clientDataJSON": encode(&client_data),
                "signature": encode(&signature),
                "userHandle": answer.user_handle.as_deref().map(encode),
            },
            "clientExtensionResults": answer.extensions,
        })
    }

    /// An honest answer, signed.
    pub(super) fn tap(&mut self, options: &Value, context: Option<Value>) -> Value {
        let answer = self.answer(options, context);
        self.sign(&answer)
    }
}

fn auth_data(rp_id: &str, flags: u8, counter: u32) -> Vec<u8> {
    let mut data = Sha256::digest(rp_id).to_vec();
    data.push(flags);
    data.extend(counter.to_be_bytes());
    data
}

fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

//! A security key of bytes, as control sees it (WebAuthn level 3, sections 6.1 and 6.5): it taps at once.

use anyhow::{Context as _, Result};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::HOST;

const USER_PRESENT: u8 = 0x01;
const ATTESTED: u8 = 0x40;
const ID_BYTES: usize = 32;

pub(super) struct SoftKey {
    key: EcdsaKeyPair,
    id: [u8; ID_BYTES],
    counter: u32,
}

impl SoftKey {
    pub(super) fn new(number: usize) -> Result<Self> {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).context("making a key")?;
        let id = Sha256::digest(number.to_be_bytes()).into();
        Ok(Self { key, id, counter: 0 })
    }

    /// What it says when it is made known.
    pub(super) fn enrol(&self, options: &Value) -> Result<Value> {
        let client_data = client_data("webauthn.create", options, None)?;
        let mut data = authenticator_data(USER_PRESENT | ATTESTED, 0);
        data.extend([0; 16]);
        data.extend([0, u8::try_from(ID_BYTES)?]);
        data.extend(self.id);
        let (x, y) = self.key.public_key().as_ref()[1..].split_at(32);
        // A COSE key (RFC 9053 section 7.1): EC2, ES256, P-256, and the two coordinates.
        data.extend([0xa5, 0x01, 0x02, 0x03, 0x26, 0x20, 0x01, 0x21, 0x58, 0x20]);
        data.extend(x);
        data.extend([0x22, 0x58, 0x20]);
        data.extend(y);
        let mut object = b"\xa3\x63fmt\x64none\x67attStmt\xa0\x68authData\x58".to_vec();
        object.push(u8::try_from(data.len())?);
        object.extend(data);
        let response =
            json!({ "attestationObject": encode(&object), "clientDataJSON": encode(&client_data) });
        let id = encode(&self.id);
        Ok(json!({ "id": id, "rawId": id, "type": "public-key", "response": response }))
    }

    /// A tap.
    pub(super) fn tap(&mut self, options: &Value, context: Option<Value>) -> Result<Value> {
        self.counter += 1;
        let client_data = client_data("webauthn.get", options, context)?;
        let data = authenticator_data(USER_PRESENT, self.counter);
        let signed = [data.as_slice(), Sha256::digest(&client_data).as_slice()].concat();
        let signature = self.key.sign(&SystemRandom::new(), &signed).context("signing")?;
        let response = json!({
            "authenticatorData": encode(&data),
            "clientDataJSON": encode(&client_data),
            "signature": encode(signature.as_ref()),
        });
        let id = encode(&self.id);
        Ok(json!({
            "id": id, "rawId": id, "type": "public-key", "response": response, "clientExtensionResults": {},
        }))
    }
}

fn client_data(kind: &str, options: &Value, context: Option<Value>) -> Result<Vec<u8>> {
    let challenge = options["publicKey"]["challenge"].as_str().context("a challenge")?;
    let origin = format!("portlatch-agent://{HOST}");
    let mut data = json!({ "type": kind, "challenge": challenge, "origin": origin, "crossOrigin": false });
    if let Some(context) = context {
        data["portlatch"] = context;
    }
    Ok(data.to_string().into_bytes())
}

fn authenticator_data(flags: u8, counter: u32) -> Vec<u8> {
    let mut data = Sha256::digest(HOST).to_vec();
    data.push(flags);
    data.extend(counter.to_be_bytes());
    data
}

fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

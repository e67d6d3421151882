//! Challenges and what answers them: of logins, of prompts, of new devices.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use p256::ecdsa::signature::Verifier as _;
use p256::ecdsa::{Signature, VerifyingKey};
use portlatch_protocol::api::ceremony::{CeremonyOutcome, CeremonyPurpose, CeremonyRequest};
use portlatch_protocol::api::{Ceremony, ClientDataContext, LoginGranted};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::answers::{device, grant, outcome};
use super::server::{problem, reply};
use super::{CLUSTER, LOGIN, State, Verdicts};

impl State {
    pub(super) fn begin_login(&self, body: &Value) -> Response<Full<Bytes>> {
        let proof = &body["proof"];
        let task = match (proof["type"].as_str(), proof["password"].as_str(), proof["token"].as_str()) {
            (Some("enrolment"), _, Some("token")) => "enrol",
            (Some("password"), Some("correct horse"), _) => "assert",
            (Some("passkey"), None, None) => "verify",
            _ => return problem(StatusCode::UNAUTHORIZED, "bad_login"),
        };
        self.story.lock().unwrap().user = body["user"].as_str().map(str::to_owned);
        let (ceremony, mut options) = self.challenge(None);
        if task == "verify" {
            options["publicKey"]["userVerification"] = json!("required");
            self.story.lock().unwrap().verifies = true;
        }
        let task = json!({"type": task.replace("verify", "assert"), "options": options});
        reply(StatusCode::OK, &json!({"ceremony": ceremony, "task": task, "expires_in": 120}))
    }

    pub(super) fn finish_login(&self, ceremony: &str, body: &Value) -> Response<Full<Bytes>> {
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
        } else if !self.verify(ceremony, credential, None) || !self.is_verified(credential) {
            return problem(StatusCode::UNAUTHORIZED, "bad_login");
        }
        self.logged_in(body)
    }

    /// Whether the key verified its user, where it was to.
    fn is_verified(&self, credential: &Value) -> bool {
        let data = credential.pointer("/response/authenticatorData").and_then(Value::as_str).unwrap();
        let flags = URL_SAFE_NO_PAD.decode(data).unwrap()[32];
        let is_wanted = std::mem::take(&mut self.story.lock().unwrap().verifies);
        !is_wanted || flags & 0x04 != 0
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

    pub(super) fn begin_ceremony(&self, request: CeremonyRequest) -> Response<Full<Bytes>> {
        let code_allowed = {
            let mut story = self.story.lock().unwrap();
            story.made += 1;
            matches!(request.purpose, CeremonyPurpose::Open(_)) && story.code.is_some() && !story.codes_pause
        };
        let (ceremony, options) = self.challenge(Some(request.purpose));
        let ceremony = Ceremony {
            ceremony: ceremony.parse().unwrap(),
            options,
            expires_in: 120,
            code_allowed,
            browser: None,
        };
        reply(StatusCode::OK, &json!(ceremony))
    }

    pub(super) fn finish_ceremony(&self, ceremony: &str, proof: &Value) -> Response<Full<Bytes>> {
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
            let story = self.story.lock().unwrap();
            if story.codes_pause {
                return problem(StatusCode::TOO_MANY_REQUESTS, "codes_paused");
            }
            return match proof["code"].as_str() == story.code.as_deref() {
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

    pub(super) async fn tells_verdicts(&self) {
        while self.story.lock().unwrap().verdicts == Verdicts::Held {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    pub(super) fn finish_enrolment(&self, ceremony: &str, proof: &Value) -> Response<Full<Bytes>> {
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
}

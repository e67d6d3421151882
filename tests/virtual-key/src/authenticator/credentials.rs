//! Making credentials and asserting with them (CTAP 2.1 sections 6.1 and 6.2).

use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature, SigningKey};

use super::client_pin::permission;
use super::{
    Authenticator, Credential, Deed, Presence, Reply, Request, Status, Verified, asks_for_touch_alone,
    hash_of,
};
use crate::cbor::Value;
use crate::pin_protocol::{cose, new_secret, random};
use crate::record::Event;
use crate::settings::Fault;

/// The model: "portlatch virtual" in ASCII, cut to 16 bytes.
pub(super) const AAGUID: &[u8; 16] = b"portlatchvirtual";
/// Bytes of a credential's identifier; the usual size, so that lists are as long as in life.
pub(super) const ID_LENGTH: usize = 64;
/// P-256 with SHA-256 (RFC 9053 section 2.1).
pub(super) const ES256: i64 = -7;

const PRESENT: u8 = 0x01;
const VERIFIED: u8 = 0x04;
const ATTESTED: u8 = 0x40;

impl Authenticator {
    pub(super) fn make_credential(&mut self, parameters: &Value) -> Result<Reply, Status> {
        let proof = parameters.member(8).and_then(Value::as_bytes);
        if asks_for_touch_alone(proof) {
            return Ok(Reply::OnTouch(Deed::Refuse(self.touched_alone())));
        }
        let missing = Status::MissingParameter;
        let hash = parameters.member(1).and_then(Value::as_bytes).ok_or(missing)?;
        let rp_id = parameters.member(2).and_then(|rp| rp.member("id")?.as_text()).ok_or(missing)?;
        parameters.member(3).and_then(|user| user.member("id")?.as_bytes()).ok_or(missing)?;
        let algorithms = parameters.member(4).and_then(Value::as_array).ok_or(missing)?;
        if !algorithms.iter().any(|entry| entry.member("alg").and_then(Value::as_int) == Some(ES256)) {
            return Err(Status::UnsupportedAlgorithm);
        }
        let option = |name| parameters.member(7)?.member(name)?.as_bool();
        if option("rk") == Some(true) {
            return Err(Status::UnsupportedOption);
        }
        if option("up") == Some(false) {
            return Err(Status::InvalidOption);
        }
        let protocol = parameters.member(9).and_then(Value::as_int);
        let request = Request { hash, rp_id, proof, protocol, uv: option("uv") == Some(true) };
        let verified = self.verification(&request, permission::MAKE)?;
        let is_bare_tap_enough =
            !self.pins.is_set() || (self.settings.is_two_one && self.settings.makes_without_pin);
        if verified == Verified::No && (self.settings.always_verifies || !is_bare_tap_enough) {
            return Err(Status::PuatRequired);
        }
        let excluded = self.known_of(parameters.member(5), rp_id);
        if !excluded.is_empty() {
            return Ok(Reply::OnTouch(Deed::Refuse(Status::CredentialExcluded)));
        }
        Ok(Reply::OnTouch(Deed::Make { hash: hash.to_vec(), rp_id: rp_id.to_owned(), verified }))
    }

    pub(super) fn make(&mut self, hash: &[u8], rp_id: String, verified: Verified) -> Value {
        let key = new_secret();
        let id = random::<ID_LENGTH>();
        let attested = [
            AAGUID.as_slice(),
            &u16::try_from(ID_LENGTH).expect("small").to_be_bytes(),
            &id,
            &cose(&key.public_key(), ES256).encode(),
        ]
        .concat();
        let data = self.data(&rp_id, PRESENT | ATTESTED, verified, &attested);
        let signature = sign(&key, &data, hash);
        self.credentials.insert(id.to_vec(), Credential { rp_id, key });
        self.pins.spend_token();
        // Attested by the credential itself (WebAuthn Level 2 section 8.2, "self").
        let statement = Value::map([("alg", Value::Int(ES256)), ("sig", Value::Bytes(signature))]);
        Value::map([(1, Value::text("packed")), (2, Value::Bytes(data)), (3, statement)])
    }

    pub(super) fn get_assertion(&mut self, parameters: &Value) -> Result<Reply, Status> {
        let missing = Status::MissingParameter;
        let rp_id = parameters.member(1).and_then(Value::as_text).ok_or(missing)?;
        let hash = parameters.member(2).and_then(Value::as_bytes).ok_or(missing)?;
        let listed = parameters.member(3).and_then(Value::as_array).map_or(0, <[_]>::len);
        let option = |name| parameters.member(5)?.member(name)?.as_bool();
        let up = option("up").unwrap_or(true);
        self.record.push(Event::Assertion { up, hash: hash.to_vec(), listed });
        let proof = parameters.member(6).and_then(Value::as_bytes);
        if asks_for_touch_alone(proof) {
            return Ok(Reply::OnTouch(Deed::Refuse(self.touched_alone())));
        }
        if self.settings.longest_list.is_some_and(|longest| listed > longest) {
            return Err(Status::InvalidParameter);
        }
        if option("rk").is_some() {
            return Err(Status::UnsupportedOption);
        }
        let protocol = parameters.member(7).and_then(Value::as_int);
        let request = Request { hash, rp_id, proof, protocol, uv: option("uv") == Some(true) };
        let verified = self.verification(&request, permission::ASSERT)?;
        if self.settings.always_verifies && up && verified == Verified::No {
            return Err(Status::PuatRequired);
        }
        let id =
            self.known_of(parameters.member(3), rp_id).into_iter().next().ok_or(Status::NoCredentials)?;
        if !up {
            let answer = self.assert(&id, hash, Presence::Silent, listed);
            return Ok(Reply::Now(answer.map(Some)));
        }
        Ok(Reply::OnTouch(Deed::Assert { id, hash: hash.to_vec(), verified, listed }))
    }

    pub(super) fn assert(
        &mut self,
        id: &[u8],
        hash: &[u8],
        presence: Presence,
        listed: usize,
    ) -> Result<Value, Status> {
        let credential = self.credentials.get(id).ok_or(Status::NoCredentials)?;
        let (rp_id, key) = (credential.rp_id.clone(), credential.key.clone());
        let (flags, verified) = match presence {
            Presence::Silent => (0, Verified::No),
            Presence::Touched(verified) => (PRESENT, verified),
        };
        let data = self.data(&rp_id, flags, verified, &[]);
        let signature = sign(&key, &data, hash);
        if matches!(presence, Presence::Touched(_)) {
            self.pins.spend_token();
        }
        let descriptor = Value::map([("id", Value::Bytes(id.to_vec())), ("type", Value::text("public-key"))]);
        let mut members = vec![(2, Value::Bytes(data)), (3, Value::Bytes(signature))];
        if !(self.settings.omits_only_credential && listed == 1) {
            members.insert(0, (1, descriptor));
        }
        Ok(Value::Map(members.into_iter().map(|(name, value)| (Value::Int(name), value)).collect()))
    }

    /// WebAuthn Level 2 section 6.1.
    fn data(&mut self, rp_id: &str, flags: u8, verified: Verified, attested: &[u8]) -> Vec<u8> {
        self.counter += 1;
        let flags = match verified {
            Verified::Yes => flags | VERIFIED,
            Verified::No | Verified::ByTouch => flags,
        };
        let mut data = [hash_of(rp_id).as_slice(), &[flags], &self.counter.to_be_bytes(), attested].concat();
        if self.settings.fault == Some(Fault::ShortAuthenticatorData) {
            data.truncate(36);
        }
        data
    }

    /// Those credentials of the list that are ours and this relying party's.
    fn known_of(&self, list: Option<&Value>, rp_id: &str) -> Vec<Vec<u8>> {
        let list = list.and_then(Value::as_array).unwrap_or_default();
        let ids = list.iter().filter_map(|entry| entry.member("id")?.as_bytes());
        let is_known = |id: &&[u8]| self.credentials.get(*id).is_some_and(|known| known.rp_id == rp_id);
        ids.filter(is_known).map(<[u8]>::to_vec).collect()
    }

    const fn touched_alone(&self) -> Status {
        match self.pins.is_set() {
            true => Status::PinInvalid,
            false => Status::PinNotSet,
        }
    }
}

fn sign(key: &p256::SecretKey, data: &[u8], hash: &[u8]) -> Vec<u8> {
    let signature: Signature = SigningKey::from(key).sign(&[data, hash].concat());
    signature.to_der().as_bytes().to_vec()
}

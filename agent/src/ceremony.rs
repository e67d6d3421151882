//! `clientDataJSON`: what the security key signs, besides what it adds itself.
//!
//! The bytes are built here once, hashed by the key and sent to control unchanged. The order of the members is the one
//! of WebAuthn's own serialisation (Level 2, section 5.8.1.1), with our member behind them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portlatch_protocol::api::{ClientDataContext, agent_origin};
use portlatch_protocol::names::Hostname;
use serde::Serialize;
use webauthn_rs_proto::{
    CreationChallengeResponse, PublicKeyCredentialCreationOptions, PublicKeyCredentialRequestOptions,
    RequestChallengeResponse,
};

use crate::control::ApiError;

/// What a key is to sign, out of WebAuthn's `{"publicKey": ...}`. As a browser would, the agent has no key answer for a
/// relying party other than the cluster itself.
///
/// # Errors
/// [`ApiError::BadAnswer`] or [`ApiError::BadOptions`].
pub(crate) fn request_options(
    options: serde_json::Value,
    cluster: &Hostname,
) -> Result<PublicKeyCredentialRequestOptions, ApiError> {
    let options: RequestChallengeResponse = serde_json::from_value(options).map_err(ApiError::BadAnswer)?;
    match options.public_key.rp_id == cluster.as_str() {
        true => Ok(options.public_key),
        false => Err(ApiError::BadOptions("a foreign relying party")),
    }
}

/// What a key is to make, likewise.
///
/// # Errors
/// [`ApiError::BadAnswer`] or [`ApiError::BadOptions`].
pub(crate) fn creation_options(
    options: serde_json::Value,
    cluster: &Hostname,
) -> Result<PublicKeyCredentialCreationOptions, ApiError> {
    let options: CreationChallengeResponse = serde_json::from_value(options).map_err(ApiError::BadAnswer)?;
    match options.public_key.rp.id == cluster.as_str() {
        true => Ok(options.public_key),
        false => Err(ApiError::BadOptions("a foreign relying party")),
    }
}

/// The bytes of one ceremony's `clientDataJSON`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClientData(Vec<u8>);

#[derive(Serialize)]
struct Collected<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    challenge: String,
    origin: String,
    #[serde(rename = "crossOrigin")]
    cross_origin: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    portlatch: Option<&'a ClientDataContext>,
}

impl ClientData {
    /// For making a credential.
    pub(crate) fn for_enrolment(challenge: &[u8], cluster: &Hostname) -> Self {
        Self::build("webauthn.create", challenge, cluster, None)
    }

    /// For the assertion of a login.
    pub(crate) fn for_login(challenge: &[u8], cluster: &Hostname) -> Self {
        Self::build("webauthn.get", challenge, cluster, None)
    }

    /// For the assertion at a prompt: it commits to what the prompt shows.
    pub(crate) fn for_purpose(challenge: &[u8], cluster: &Hostname, context: &ClientDataContext) -> Self {
        Self::build("webauthn.get", challenge, cluster, Some(context))
    }

    fn build(
        kind: &'static str,
        challenge: &[u8],
        cluster: &Hostname,
        portlatch: Option<&ClientDataContext>,
    ) -> Self {
        let challenge = URL_SAFE_NO_PAD.encode(challenge);
        let collected =
            Collected { kind, challenge, origin: agent_origin(cluster), cross_origin: false, portlatch };
        Self(serde_json::to_vec(&collected).expect("strings and numbers are JSON"))
    }

    /// The bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(data: &ClientData) -> &str {
        std::str::from_utf8(data.bytes()).unwrap()
    }

    #[test]
    fn the_bytes_of_an_open_are_these() {
        let context = ClientDataContext::Open {
            resource: "db/billing-db".parse().unwrap(),
            port: 5432,
            login: "0af3".parse().unwrap(),
        };
        let data =
            ClientData::for_purpose(&[0xfb, 0xff, 0xfe], &"Proxy.Example.com".parse().unwrap(), &context);
        assert_eq!(
            text(&data),
            r#"{"type":"webauthn.get","challenge":"-__-","origin":"portlatch-agent://proxy.example.com","crossOrigin":false,"portlatch":{"purpose":"open","resource":"db/billing-db","port":5432,"login":"0af3"}}"#
        );
    }

    #[test]
    fn another_relying_party_s_challenge_is_not_answered() {
        let cluster = "proxy.example.com".parse().unwrap();
        let options = |rp: &str| {
            serde_json::json!({"publicKey": {"challenge": "YWJj", "rpId": rp, "allowCredentials": [],
                "userVerification": "discouraged"}})
        };
        assert!(request_options(options("proxy.example.com"), &cluster).is_ok());
        assert!(matches!(request_options(options("bank.example"), &cluster), Err(ApiError::BadOptions(_))));
    }

    #[test]
    fn the_bytes_of_login_and_enrolment_have_no_context() {
        let cluster = "proxy.example.com".parse().unwrap();
        assert_eq!(
            text(&ClientData::for_login(b"abc", &cluster)),
            r#"{"type":"webauthn.get","challenge":"YWJj","origin":"portlatch-agent://proxy.example.com","crossOrigin":false}"#
        );
        assert_eq!(
            text(&ClientData::for_enrolment(b"abc", &cluster)),
            r#"{"type":"webauthn.create","challenge":"YWJj","origin":"portlatch-agent://proxy.example.com","crossOrigin":false}"#
        );
    }
}

//! One user with a key: enrolled once, then one ceremony after another.

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use portlatch_control::control::Control;
use portlatch_protocol::api::ceremony::CeremonyPurpose;
use portlatch_protocol::names::Id;
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};

use super::server::{Client, Server};
use super::soft_key::SoftKey;

/// A user's agent, with its connection.
pub(super) struct Asker {
    client: Client,
    key: SoftKey,
    purpose: Value,
    context: Value,
}

impl Asker {
    /// Makes a user, enrols the key, signs in, and has a tunnel key certified.
    pub(super) async fn enrolled(control: &Control, server: &Server, number: usize) -> Result<Self> {
        let user = format!("user{number}");
        let token = control.add_user(&user.parse()?, vec!["tap".parse()?], "bench").await?.token;
        let (mut client, key) = (server.connect().await?, SoftKey::new(number)?);
        let proof = json!({ "type": "enrolment", "token": token, "new_password": "correct horse battery" });
        let request = json!({ "user": user, "device": "laptop", "proof": proof });
        let challenge = client.post("/v1/login", &request).await?;
        let credential = key.enrol(&challenge["task"]["options"])?;
        let answer = json!({ "proof": { "type": "key", "credential": credential }, "csr": request_of()? });
        let granted = client.post(&format!("/v1/login/{}", word(&challenge, "ceremony")?), &answer).await?;
        server.show(&mut client, STANDARD.decode(word(&granted, "certificate")?)?);
        let tunnel = client.post("/v1/tunnel", &json!({ "csr": request_of()? })).await?;
        let access = json!({
            "resource": "db/billing", "port": 5432, "tunnel_key": word(&tunnel, "thumbprint")?, "program": "psql",
        });
        let login: Id = word(&granted, "login")?.parse()?;
        let opening = CeremonyPurpose::Open(serde_json::from_value(access)?);
        Ok(Self { client, key, context: json!(opening.context(&login)), purpose: json!(opening) })
    }

    /// A whole ceremony, to the grant.
    pub(super) async fn tap(&mut self) -> Result<()> {
        let ceremony = self.client.post("/v1/ceremonies", &json!({ "purpose": self.purpose })).await?;
        let credential = self.key.tap(&ceremony["options"], Some(self.context.clone()))?;
        let path = format!("/v1/ceremonies/{}", word(&ceremony, "ceremony")?);
        let outcome = self.client.post(&path, &json!({ "type": "key", "credential": credential })).await?;
        ensure!(outcome["type"] == "granted", "a ceremony ended in {outcome}");
        Ok(())
    }
}

/// PKCS #10 of a new key, in base64.
fn request_of() -> Result<String> {
    let request = CertificateParams::default().serialize_request(&KeyPair::generate()?)?;
    Ok(STANDARD.encode(request.der()))
}

fn word<'a>(answer: &'a Value, member: &str) -> Result<&'a str> {
    answer[member].as_str().with_context(|| format!("no {member} in {answer}"))
}

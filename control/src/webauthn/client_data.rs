//! What stands around an assertion and is not signed-over structure of webauthn-rs: our own strict reading of
//! `clientDataJSON`, and of the client's extension results.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portlatch_protocol::api::ClientDataContext;

use super::KeyError;

/// Longest `clientDataJSON` that is read: ours has some 300 bytes, and some 8 KiB where an `exec` names 64 resources.
const MAX_CLIENT_DATA: usize = 16 * 1024;

/// The members of `clientDataJSON` that control compares itself. A member that stands twice is an error, so that no two
/// readers of one document can see different values.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct ClientData {
    /// Where the client says it was.
    pub origin: String,
    /// Whether it was in a foreign frame.
    #[serde(rename = "crossOrigin")]
    pub cross_origin: Option<bool>,
    /// What the agent showed.
    #[serde(rename = "portlatch")]
    pub context: Option<ClientDataContext>,
}

impl ClientData {
    /// The client data of a `PublicKeyCredential` in JSON.
    ///
    /// # Errors
    /// [`KeyError::Malformed`]; [`KeyError::Context`] if only our own member is not as it should be.
    pub fn of_answer(answer: &serde_json::Value) -> Result<Self, KeyError> {
        let encoded = answer.pointer("/response/clientDataJSON").and_then(serde_json::Value::as_str);
        let encoded =
            encoded.filter(|text| text.len() <= MAX_CLIENT_DATA * 4 / 3 + 4).ok_or(KeyError::Malformed)?;
        let bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| KeyError::Malformed)?;
        serde_json::from_slice(&bytes).map_err(|error| match error.is_data() {
            // Well-formed JSON of another shape: a context with a name that is none, or a member that stands twice.
            true => KeyError::Context,
            false => KeyError::Malformed,
        })
    }
}

/// Refuses results of extensions: control asks for none with a tap. `false` and `null` say "not done".
pub(super) fn check_extensions(answer: &serde_json::Value) -> Result<(), KeyError> {
    for member in ["clientExtensionResults", "extensions"] {
        let Some(results) = answer.get(member) else { continue };
        let results = results.as_object().ok_or(KeyError::Malformed)?;
        let is_result =
            |value: &serde_json::Value| !(value.is_null() || value == &serde_json::Value::Bool(false));
        if results.values().any(is_result) {
            return Err(KeyError::Extension);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(client_data: &str) -> serde_json::Value {
        serde_json::json!({"response": {"clientDataJSON": URL_SAFE_NO_PAD.encode(client_data)}})
    }

    #[test]
    fn the_context_is_read_from_the_signed_bytes() {
        let text = r#"{"type":"webauthn.get","challenge":"AA","origin":"portlatch-agent://p.example",
            "crossOrigin":false,"portlatch":{"purpose":"open","resource":"db/billing","port":5432,"login":"0af3"}}"#;
        let context = ClientData::of_answer(&answer(text)).unwrap().context.unwrap();
        let (resource, login) = ("db/billing".parse().unwrap(), "0af3".parse().unwrap());
        assert_eq!(context, ClientDataContext::Open { resource, port: 5432, login });
    }

    #[test]
    fn a_member_that_stands_twice_is_refused() {
        for twice in [
            r#"{"origin":"portlatch-agent://p.example","origin":"https://p.example"}"#,
            r#"{"origin":"a","portlatch":{"purpose":"open","resource":"db/a","port":1,"login":"0a"},"portlatch":{"purpose":"open","resource":"db/b","port":1,"login":"0a"}}"#,
            r#"{"origin":"a","portlatch":{"purpose":"open","resource":"db/a","resource":"db/b","port":1,"login":"0a"}}"#,
        ] {
            assert!(ClientData::of_answer(&answer(twice)).is_err(), "{twice}");
        }
    }

    #[test]
    fn bytes_that_are_no_client_data_are_malformed() {
        for bad in ["", "{", "nonsense"] {
            assert!(matches!(ClientData::of_answer(&answer(bad)), Err(KeyError::Malformed)), "{bad:?}");
        }
        assert!(matches!(ClientData::of_answer(&serde_json::json!({})), Err(KeyError::Malformed)));
        let long = answer(&format!(r#"{{"origin":"{}"}}"#, "x".repeat(2 * MAX_CLIENT_DATA)));
        assert!(matches!(ClientData::of_answer(&long), Err(KeyError::Malformed)));
    }

    #[test]
    fn extensions_that_were_not_asked_for_are_refused() {
        let with = |results: serde_json::Value| serde_json::json!({"clientExtensionResults": results});
        for harmless in [serde_json::json!({}), serde_json::json!({"appid": false, "hmac_get_secret": null})]
        {
            assert!(check_extensions(&with(harmless)).is_ok());
        }
        for bad in [serde_json::json!({"appid": true}), serde_json::json!({"largeBlob": {"blob": "AA"}})] {
            assert!(matches!(check_extensions(&with(bad)), Err(KeyError::Extension)));
        }
    }
}

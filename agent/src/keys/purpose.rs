//! What a tap is for, out of the very bytes that the key signs: what a person is told with the question for a PIN cannot be
//! another thing.

use serde_json::Value;

use crate::ceremony::ClientData;
use crate::safe_text::safe;

/// The end of a sentence: "to open billing-db, port 5432".
pub(super) fn purpose(client_data: &ClientData) -> String {
    let collected: Value = serde_json::from_slice(client_data.bytes()).unwrap_or_default();
    let text = |pointer: &str| collected.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let cluster = safe(text("/origin").rsplit('/').next().unwrap_or_default());
    match (text("/type"), text("/portlatch/purpose")) {
        ("webauthn.create", _) => format!("to enrol it at {cluster}"),
        (_, "open") => {
            let resource = text("/portlatch/resource").rsplit('/').next().unwrap_or_default();
            let port = collected.pointer("/portlatch/port").and_then(Value::as_u64).unwrap_or_default();
            format!("to open {}, port {port}", safe(resource))
        }
        (_, "exec") => {
            let targets = collected.pointer("/portlatch/targets").and_then(Value::as_array);
            format!("to run a command on {} resources", targets.map_or(0, Vec::len))
        }
        (_, "manage_devices") => format!("to change your keys at {cluster}"),
        (_, _) => format!("to log in to {cluster}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portlatch_protocol::api::ClientDataContext;

    #[test]
    fn the_purpose_is_what_is_signed() {
        let cluster = "proxy.example.com".parse().unwrap();
        let context = ClientDataContext::Open {
            resource: "db/billing-db".parse().unwrap(),
            port: 5432,
            login: "0af3".parse().unwrap(),
        };
        let open = ClientData::for_purpose(b"x", &cluster, &context);
        assert_eq!(purpose(&open), "to open billing-db, port 5432");
        assert_eq!(purpose(&ClientData::for_login(b"x", &cluster)), "to log in to proxy.example.com");
        assert_eq!(purpose(&ClientData::for_enrolment(b"x", &cluster)), "to enrol it at proxy.example.com");
    }
}

//! The API's description of itself, in OpenAPI 3.1, made from the same types that are sent.

use std::sync::LazyLock;

use http::header::CONTENT_TYPE;
use utoipa::OpenApi;

use super::{pages, routes};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Portlatch agent API",
        description = "What agents say to control. TLS with ALPN portlatch-api/1; \
        all but the login itself need the certificate of a login."
    ),
    paths(
        routes::begin_login,
        routes::finish_login,
        routes::logout,
        routes::certify_tunnel,
        routes::catalogue,
        routes::ask,
        routes::begin_ceremony,
        routes::finish_ceremony,
        routes::cancel_ceremony,
        routes::mfa_devices,
        routes::finish_enrolment,
        routes::forget_taps,
        pages::decision,
        pages::begin_login,
        pages::finish_login,
        pages::login_decision,
        routes::why,
        serve,
    )
)]
struct Description;

/// Made once: whoever asks for it need not be anybody, and it is some work.
static TEXT: LazyLock<String> =
    LazyLock::new(|| Description::openapi().to_json().expect("a description is JSON"));

/// This description.
#[utoipa::path(get, path = "/v1/openapi.json", responses((status = 200, description = "OpenAPI 3.1")))]
pub(super) async fn serve() -> ([(http::HeaderName, &'static str); 1], &'static str) {
    ([(CONTENT_TYPE, "application/json")], TEXT.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of `portlatch_protocol::api`, and this description.
    const ROUTES: [(&str, &str); 18] = [
        ("post", "/v1/login"),
        ("post", "/v1/login/{ceremony}"),
        ("post", "/v1/logout"),
        ("post", "/v1/tunnel"),
        ("get", "/v1/catalogue"),
        ("post", "/v1/access"),
        ("post", "/v1/ceremonies"),
        ("post", "/v1/ceremonies/{ceremony}"),
        ("delete", "/v1/ceremonies/{ceremony}"),
        ("get", "/v1/devices"),
        ("post", "/v1/devices/{ceremony}"),
        ("delete", "/v1/taps"),
        ("post", "/v1/ceremonies/{ceremony}/page"),
        ("post", "/v1/browser-logins"),
        ("post", "/v1/browser-logins/{ceremony}"),
        ("post", "/v1/browser-logins/{ceremony}/page"),
        ("post", "/v1/why"),
        ("get", "/v1/openapi.json"),
    ];

    #[test]
    fn every_route_is_described_and_nothing_else() {
        let json = serde_json::to_value(Description::openapi()).unwrap();
        let paths = json["paths"].as_object().unwrap();
        let described: Vec<(&str, &str)> = paths
            .iter()
            .flat_map(|(path, methods)| {
                methods.as_object().unwrap().keys().map(move |method| (method.as_str(), path.as_str()))
            })
            .collect();
        for route in ROUTES {
            assert!(described.contains(&route), "{route:?} is not described");
        }
        assert_eq!(described.len(), ROUTES.len());
        // What the router serves is read from its source: axum has no list of its routes.
        let source = include_str!("../api.rs");
        let served: Vec<(String, String)> = source
            .lines()
            .filter_map(|line| {
                let (path, rest) = line.trim().strip_prefix(".route(\"")?.split_once("\", ")?;
                Some((rest.split_once('(')?.0.to_owned(), path.to_owned()))
            })
            .collect();
        assert_eq!(served.len(), ROUTES.len());
        for (method, path) in served {
            assert!(described.contains(&(&method, &path)), "{method} {path} is served and not described");
        }
    }

    #[test]
    fn every_type_that_is_referred_to_is_described() {
        let text = serde_json::to_string(&Description::openapi()).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        for reference in text.split("\"#/components/schemas/").skip(1) {
            let name = reference.split('"').next().unwrap();
            assert!(json["components"]["schemas"].get(name).is_some(), "{name} is not described");
        }
    }
}

//! The API over HTTP on loopback, as an agent speaks it. TLS is the caller's; here it is played by what it would say.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Extension;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use portlatch_protocol::api::MAX_BODY;
use portlatch_protocol::identity::Identity;
use rcgen::KeyPair;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use super::super::*;
use super::scene::{PASSWORD, Scene, csr, file};
use super::soft_key::SoftKey;
use crate::api::Peer;

/// A server whose peers show the certificate that the test puts there.
struct Server {
    address: SocketAddr,
    shown: Arc<Mutex<Option<Vec<u8>>>>,
    _serving: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn start(scene: &Scene) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shown = Arc::new(Mutex::new(None::<Vec<u8>>));
        let peers = shown.clone();
        let put_peer = move |mut request: axum::extract::Request, next: axum::middleware::Next| {
            let certificate = peers.lock().unwrap().clone();
            async move {
                let identity = certificate.as_deref().map(|der| Identity::from_certificate(der).unwrap());
                request.extensions_mut().insert(Peer { identity, certificate, address });
                next.run(request).await
            }
        };
        let router = scene.control.router().layer(axum::middleware::from_fn(put_peer)).layer(Extension(()));
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, shown, _serving: serving }
    }

    async fn send(&self, method: Method, path: &str, body: impl Into<Bytes>) -> (StatusCode, Value) {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "proxy.example.com")
            .header("content-type", "application/json")
            .body(Full::new(body.into()))
            .unwrap();
        let response = tokio::time::timeout(Duration::from_secs(30), sender.send_request(request))
            .await
            .unwrap()
            .unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        connection.abort();
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    async fn post(&self, path: &str, body: Value) -> (StatusCode, Value) {
        self.send(Method::POST, path, body.to_string()).await
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        self.send(Method::GET, path, "").await
    }

    fn show(&self, certificate: Option<Vec<u8>>) {
        *self.shown.lock().unwrap() = certificate;
    }

    /// Enrols a user; the login's certificate is shown from then on.
    async fn enrol(&self, scene: &Scene, user: &str, key: &SoftKey) -> Value {
        let token = scene.token_for(user).await;
        let proof = json!({"type": "enrolment", "token": token, "new_password": PASSWORD});
        let request = json!({"user": user, "device": "laptop", "proof": proof});
        let (status, challenge) = self.post("/v1/login", request).await;
        assert_eq!(status, StatusCode::OK, "{challenge}");
        let answer = json!({
            "proof": {"type": "key", "credential": key.enrol(&challenge["task"]["options"])},
            "csr": csr(&KeyPair::generate().unwrap()),
        });
        let path = format!("/v1/login/{}", challenge["ceremony"].as_str().unwrap());
        let (status, granted) = self.post(&path, answer).await;
        assert_eq!(status, StatusCode::OK, "{granted}");
        self.show(Some(STANDARD.decode(granted["certificate"].as_str().unwrap()).unwrap()));
        granted
    }
}

#[tokio::test]
async fn from_the_enrolment_to_a_grant_and_out_again() {
    let scene = Scene::new().await;
    let address =
        ProxyAddress { name: "main".parse().unwrap(), host: "proxy.example.com".to_owned(), port: 443 };
    scene.control.register_proxy(address, Labels::new()).await.unwrap();
    let server = Server::start(&scene).await;
    let mut key = SoftKey::new();
    let login = server.enrol(&scene, "jerry", &key).await;

    let (status, tunnel) =
        server.post("/v1/tunnel", json!({"csr": csr(&KeyPair::generate().unwrap())})).await;
    assert_eq!(status, StatusCode::OK, "{tunnel}");
    let (status, catalogue) = server.get("/v1/catalogue").await;
    assert_eq!(status, StatusCode::OK);
    let names: Vec<_> =
        catalogue["resources"].as_array().unwrap().iter().map(|it| it["id"].as_str().unwrap()).collect();
    assert_eq!(names, ["app/brief", "app/wiki", "db/billing", "db/vault", "db/wide"]);
    assert_eq!(catalogue["proxies"][0]["name"], "main");
    assert_eq!(catalogue["resources"][0]["proxies"], json!(["main"]));
    assert_eq!(catalogue["outside"], json!(["proxy.example.com"]));

    let request = json!({"resource": "db/billing", "port": 5432, "tunnel_key": tunnel["thumbprint"]});
    let (_, answer) = server.post("/v1/access", request.clone()).await;
    assert_eq!(answer["type"], "tap_needed");
    let mut purpose = request.clone();
    purpose["type"] = "open".into();
    let begin = json!({"purpose": purpose});
    let (status, ceremony) = server.post("/v1/ceremonies", begin.clone()).await;
    assert_eq!(status, StatusCode::OK, "{ceremony}");
    let context = json!({"purpose": "open", "resource": "db/billing", "port": 5432, "login": login["login"]});
    let proof = json!({"type": "key", "credential": key.tap(&ceremony["options"], Some(context))});
    let path = format!("/v1/ceremonies/{}", ceremony["ceremony"].as_str().unwrap());
    let (status, grant) = server.post(&path, proof.clone()).await;
    assert_eq!((status, &grant["amr"]), (StatusCode::OK, &json!(["hwk", "user"])), "{grant}");
    let (status, gone) = server.post(&path, proof.clone()).await;
    assert_eq!((status, &gone["code"]), (StatusCode::GONE, &json!("ceremony_ended")));
    let (_, silent) = server.post("/v1/access", request.clone()).await;
    assert_eq!(silent["type"], "granted");
    let (_, open) = server.post("/v1/ceremonies", begin).await;
    let path = format!("/v1/ceremonies/{}", open["ceremony"].as_str().unwrap());
    assert_eq!(server.send(Method::DELETE, &path, "").await.0, StatusCode::NO_CONTENT);

    assert_eq!(server.send(Method::POST, "/v1/logout", "").await.0, StatusCode::NO_CONTENT);
    let (status, problem) = server.post("/v1/access", request).await;
    assert_eq!((status, &problem["code"]), (StatusCode::UNAUTHORIZED, &json!("login_ended")));
}

#[tokio::test]
async fn nothing_but_the_login_works_without_a_logins_certificate() {
    let scene = Scene::new().await;
    let server = Server::start(&scene).await;
    let thumbprint = "cn-I_WNMClehiVp51i_0VpOENW1upEerA8sEam5hn-s";
    let access = json!({"resource": "db/billing", "port": 5432, "tunnel_key": thumbprint});
    let mut purpose = access.clone();
    purpose["type"] = "open".into();
    let requests = [
        (Method::POST, "/v1/logout", json!(null)),
        (Method::POST, "/v1/tunnel", json!({"csr": "AA=="})),
        (Method::GET, "/v1/catalogue", json!(null)),
        (Method::POST, "/v1/access", access),
        (Method::POST, "/v1/ceremonies", json!({"purpose": purpose})),
        (Method::POST, "/v1/ceremonies/0a", json!({"type": "key", "credential": {}})),
        (Method::DELETE, "/v1/ceremonies/0a", json!(null)),
    ];
    // None; then one of another kind; then one of the right name over another key.
    let person = scene.person("jerry").await;
    let key = ProvenKey::from_request(&STANDARD.decode(csr(&KeyPair::generate().unwrap())).unwrap());
    let (key, login, now) = (key.unwrap(), &person.login, scene.clock.time_of_day());
    let tunnel = scene.control.signer().tunnel(&login.login, &key, login.expires, now).unwrap();
    let other = scene.control.signer().login(&login.login, &key, login.expires, now).unwrap();
    let proxy = scene.control.signer().proxy(&"p1".parse().unwrap(), &key, now).unwrap();
    for shown in [None, Some(tunnel.to_vec()), Some(other.to_vec()), Some(proxy.to_vec())] {
        server.show(shown);
        for (method, path, body) in &requests {
            let (status, problem) = server.send(method.clone(), path, body.to_string()).await;
            assert_eq!(
                (status, &problem["code"]),
                (StatusCode::UNAUTHORIZED, &json!("login_ended")),
                "{method} {path}"
            );
        }
    }
}

#[tokio::test]
async fn what_is_no_request_is_told_so_and_harms_nothing() {
    let scene = Scene::new().await;
    let server = Server::start(&scene).await;
    let large = json!({"user": "x".repeat(MAX_BODY)}).to_string();
    for (method, path, body, expected) in [
        (Method::GET, "/", String::new(), StatusCode::NOT_FOUND),
        (Method::GET, "/v1/nothing", String::new(), StatusCode::NOT_FOUND),
        (Method::GET, "/v1/login", String::new(), StatusCode::METHOD_NOT_ALLOWED),
        (Method::POST, "/v1/login", "{".to_owned(), StatusCode::BAD_REQUEST),
        (Method::POST, "/v1/login", "{}".to_owned(), StatusCode::UNPROCESSABLE_ENTITY),
        (Method::POST, "/v1/login", large, StatusCode::PAYLOAD_TOO_LARGE),
    ] {
        let (status, problem) = server.send(method, path, body).await;
        assert_eq!(status, expected, "{path}: {problem}");
        assert!(problem["code"].is_string() && problem["message"].is_string(), "{problem}");
    }
    assert_eq!(server.get("/v1/openapi.json").await.0, StatusCode::OK);
    let (status, problem) =
        server.post("/v1/login/%20%20", json!({"proof": {"type": "key", "credential": {}}, "csr": ""})).await;
    assert_eq!((status, &problem["code"]), (StatusCode::GONE, &json!("ceremony_ended")));
}

#[tokio::test]
async fn whoever_waits_for_the_catalogue_hears_of_a_change_and_of_a_lock() {
    let scene = Scene::new().await;
    let server = Server::start(&scene).await;
    server.enrol(&scene, "jerry", &SoftKey::new()).await;
    let (_, catalogue) = server.get("/v1/catalogue").await;
    let path = format!("/v1/catalogue?after={}", catalogue["revision"]);
    let text = "kind: app\nmetadata: {name: new, labels: {mfa: none}}\nspec: {uri: 'tcp://10.0.0.20:80'}";
    let text = file(text);
    let (changed, applied) = tokio::join!(server.get(&path), scene.control.apply(&text, "root"));
    applied.unwrap();
    assert_eq!(changed.0, StatusCode::OK);
    assert_eq!(changed.1["resources"].as_array().unwrap().len(), 6);
    let path = format!("/v1/catalogue?after={}", changed.1["revision"]);
    let target = crate::admin::LockedBy::User("jerry".parse().unwrap());
    let (locked, done) = tokio::join!(server.get(&path), scene.control.lock(target, None, None, "root"));
    done.unwrap();
    assert_eq!((locked.0, &locked.1["code"]), (StatusCode::FORBIDDEN, &json!("locked")));
    assert_eq!(server.get("/v1/catalogue?after=soon").await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_proxy_that_comes_and_goes_changes_the_catalogue() {
    let scene = Scene::new().await;
    let server = Server::start(&scene).await;
    server.enrol(&scene, "jerry", &SoftKey::new()).await;
    let (_, before) = server.get("/v1/catalogue").await;
    assert_eq!(before["proxies"], json!([]));
    let address = ProxyAddress { name: "main".parse().unwrap(), host: "192.0.2.1".to_owned(), port: 443 };
    let path = format!("/v1/catalogue?after={}", before["revision"]);
    let (with, done) = tokio::join!(server.get(&path), scene.control.register_proxy(address, Labels::new()));
    done.unwrap();
    assert_eq!(with.1["proxies"][0]["host"], "192.0.2.1");
    assert_eq!(with.1["outside"], json!(["proxy.example.com"]), "an address is no name");
    scene.control.deregister_proxy(&"main".parse().unwrap()).await.unwrap();
    assert_eq!(server.get("/v1/catalogue").await.1["proxies"], json!([]));
}

/// How many of so many requests are told that they are too many; no other refusal comes.
async fn limited(server: &Server, (method, path, body): (Method, &str, Value), times: usize) -> usize {
    let mut limited = 0;
    for _ in 0..times {
        let (status, problem) = server.send(method.clone(), path, body.to_string()).await;
        limited += usize::from(status == StatusCode::TOO_MANY_REQUESTS);
        assert!(!status.is_server_error(), "{path}: {problem}");
    }
    limited
}

// E: a thousand requests; a login in a thief's hands fills no audit, and holds nobody up.
#[tokio::test]
async fn whatever_a_login_asks_for_again_and_again_is_limited_and_fills_no_audit() {
    let scene = Scene::new().await;
    let server = Server::start(&scene).await;
    server.enrol(&scene, "jerry", &SoftKey::new()).await;
    let credential = json!({"type": "key", "credential": {}});
    for request in [
        (Method::GET, "/v1/catalogue", json!(null)),
        (Method::GET, "/v1/devices", json!(null)),
        (Method::POST, "/v1/ceremonies/0a", credential.clone()),
        (Method::POST, "/v1/devices/0a", credential),
        (Method::DELETE, "/v1/ceremonies/0a", json!(null)),
        (Method::POST, "/v1/ceremonies/0a/page", json!(null)),
        (Method::POST, "/v1/tunnel", json!({"csr": "AA=="})),
    ] {
        let path = request.1.to_owned();
        assert!(limited(&server, request, 250).await > 0, "{path}");
        scene.pass(Duration::from_secs(300));
    }
    let records = scene.audit("mfa.fail").len() + scene.audit("access.denied").len();
    assert!(records < 400, "{records} of 1,750 requests");
}

#[tokio::test]
async fn rights_are_given_back_however_often_somebody_says_so_and_recorded_a_few_times() {
    let scene = Scene::new().await;
    let server = Server::start(&scene).await;
    server.enrol(&scene, "jerry", &SoftKey::new()).await;
    assert_eq!(limited(&server, (Method::DELETE, "/v1/taps", json!(null)), 200).await, 0);
    assert!(scene.audit("mfa.forget").len() < 20);
    assert_eq!(limited(&server, (Method::POST, "/v1/logout", json!(null)), 100).await, 0);
    assert_eq!(limited(&server, (Method::DELETE, "/v1/taps", json!(null)), 100).await, 0);
    assert_eq!(scene.audit("logout").len(), 1);
    assert!(scene.audit("mfa.forget").len() < 30);
}

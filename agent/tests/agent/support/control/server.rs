//! The listener of control, as the test plays it: TLS, certificates, and which path leads where.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use portlatch_protocol::api::ceremony::MfaDevices;
use portlatch_protocol::api::{ALPN, TunnelCertificate};
use portlatch_protocol::identity::IdentityKind;
use portlatch_protocol::thumbprint::Thumbprint;
use portlatch_protocol::tls::{Authority, OneKindOfClient};
use rcgen::{CertificateParams, CertificateSigningRequestParams, ExtendedKeyUsagePurpose, KeyPair, SanType};
use rustls::pki_types::PrivatePkcs8KeyDer;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::answers::explanation;
use super::{CLUSTER, LOGIN, Memory, State};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Peer {
    Anonymous,
    LoggedIn,
}

pub(super) async fn serve(listener: TcpListener, tls: TlsAcceptor, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (tls, state) = (tls.clone(), state.clone());
        connections.spawn(async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            let peer = match stream.get_ref().1.peer_certificates() {
                Some(_) => Peer::LoggedIn,
                None => Peer::Anonymous,
            };
            let service = service_fn(move |request| {
                let state = state.clone();
                async move { Ok::<_, std::convert::Infallible>(state.answer(request, peer).await) }
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

pub(super) fn reply(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    response
}

pub(super) fn problem(status: StatusCode, code: &str) -> Response<Full<Bytes>> {
    reply(status, &json!({"code": code, "message": format!("the problem is {code}")}))
}

impl State {
    pub(super) fn tls(&self) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        let uri = format!("portlatch://{CLUSTER}/control/main");
        params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let leaf = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let authority = Authority::new(CLUSTER.parse().unwrap(), std::slice::from_ref(&self.ca)).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(OneKindOfClient::optional(authority, IdentityKind::Login))
            .with_single_cert(
                vec![leaf, self.ca.clone()],
                PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            )
            .unwrap();
        config.alpn_protocols = vec![ALPN.to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }

    pub(super) fn certify(&self, csr: &str, kind: &str) -> Vec<u8> {
        let csr = STANDARD.decode(csr).unwrap();
        let mut csr = CertificateSigningRequestParams::from_der(&csr.as_slice().into()).unwrap();
        let uri = format!("portlatch://{CLUSTER}/{kind}/{}/{LOGIN}/laptop", self.user());
        csr.params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into().unwrap())];
        csr.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        csr.signed_by(&self.issuer).unwrap().der().to_vec()
    }

    async fn answer(&self, request: Request<Incoming>, peer: Peer) -> Response<Full<Bytes>> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let path: Vec<&str> = parts.uri.path().trim_start_matches('/').split('/').collect();
        match (parts.method, &path[..]) {
            (Method::POST, ["v1", "login"]) => self.begin_login(&body),
            (Method::POST, ["v1", "login", ceremony]) => self.finish_login(ceremony, &body),
            _ if peer == Peer::Anonymous => problem(StatusCode::UNAUTHORIZED, "login_ended"),
            (Method::POST, ["v1", "logout"]) => {
                self.story.lock().unwrap().logouts += 1;
                reply(StatusCode::NO_CONTENT, &Value::Null)
            }
            (Method::POST, ["v1", "tunnel"]) => {
                let certificate = self.certify(body["csr"].as_str().unwrap(), "tunnel");
                let thumbprint = Thumbprint::of_certificate(&certificate).unwrap();
                let tunnel = TunnelCertificate { certificate: STANDARD.encode(certificate), thumbprint };
                reply(StatusCode::OK, &json!(tunnel))
            }
            (Method::GET, ["v1", "catalogue"]) => self.catalogue(parts.uri.query()).await,
            (Method::POST, ["v1", "access"]) => self.access(&serde_json::from_value(body).unwrap()).await,
            (Method::POST, ["v1", "why"]) => {
                reply(StatusCode::OK, &json!(explanation(&serde_json::from_value(body).unwrap())))
            }
            (Method::POST, ["v1", "ceremonies"]) => {
                self.begin_ceremony(serde_json::from_value(body).unwrap())
            }
            (Method::POST, ["v1", "ceremonies", ceremony]) => {
                let verdict = self.finish_ceremony(ceremony, &body);
                self.tells_verdicts().await;
                verdict
            }
            (Method::GET, ["v1", "devices"]) => {
                let story = self.story.lock().unwrap();
                let recovery_codes = u32::try_from(story.recovery_codes.len()).unwrap();
                reply(StatusCode::OK, &json!(MfaDevices { devices: story.devices.clone(), recovery_codes }))
            }
            (Method::POST, ["v1", "devices", ceremony]) => self.finish_enrolment(ceremony, &body),
            (Method::DELETE, ["v1", "taps"]) => {
                let mut story = self.story.lock().unwrap();
                if story.memory == Memory::Stubborn {
                    return problem(StatusCode::SERVICE_UNAVAILABLE, "unavailable");
                }
                story.taps_forgotten += 1;
                reply(StatusCode::NO_CONTENT, &Value::Null)
            }
            (Method::DELETE, ["v1", "ceremonies", ceremony]) => {
                self.story.lock().unwrap().open.retain(|(open, _)| open != ceremony);
                reply(StatusCode::NO_CONTENT, &Value::Null)
            }
            _ => problem(StatusCode::NOT_FOUND, "bad_request"),
        }
    }
}

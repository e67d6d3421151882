//! One request and its answer: HTTP/1.1 inside TLS. An idle connection is kept for the next request; one that turns out
//! dead before it took the request is replaced once, so that nothing is ever sent twice.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, DATE, HOST};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use portlatch_protocol::api::MAX_ANSWER;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::ApiError;
use crate::address::ClusterAddress;

/// How long TCP and TLS have to come up: a network that takes longer does not carry a session either.
const CONNECT_TIME: Duration = Duration::from_secs(10);

/// Where requests go, and the connection of the one before.
#[derive(Debug)]
pub(super) struct Exchange {
    address: ClusterAddress,
    tls: Arc<ClientConfig>,
    /// A std mutex: it is held to take or put back the connection, never across a wait.
    idle: Mutex<Option<Connection>>,
}

/// An answer, read whole.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
    /// When the server sent it, by its clock, in seconds since 1970 (RFC 9110 section 6.6.1).
    pub(super) date: Option<i64>,
}

#[derive(Debug)]
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    _driver: AbortOnDropHandle<()>,
}

impl Exchange {
    pub(super) const fn new(address: ClusterAddress, tls: Arc<ClientConfig>) -> Self {
        Self { address, tls, idle: Mutex::new(None) }
    }

    /// Sends one request and reads its answer, all within `time`.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        time: Duration,
    ) -> Result<Answer, ApiError> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.address.to_string())
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .expect("a path of ours is a URI");
        let answer = tokio::time::timeout(time, self.send(request)).await;
        answer.unwrap_or_else(|_| Err(ApiError::Silent { host: self.host(), waited: time }))
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Answer, ApiError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).take();
        let request = match idle {
            None => request,
            Some(mut connection) => match connection.sender.try_send_request(request).await {
                Ok(response) => return self.read(connection, response).await,
                Err(mut error) => match error.take_message() {
                    Some(unsent) => unsent,
                    None => return Err(self.broken(error.into_error())),
                },
            },
        };
        let mut connection = self.connect().await?;
        let response = connection.sender.send_request(request).await.map_err(|error| self.broken(error))?;
        self.read(connection, response).await
    }

    async fn read(
        &self,
        connection: Connection,
        response: http::Response<hyper::body::Incoming>,
    ) -> Result<Answer, ApiError> {
        let (status, date) = (response.status(), date(response.headers()));
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|error| match error.downcast::<hyper::Error>() {
            Ok(error) => self.broken(*error),
            Err(error) => {
                debug_assert!(error.is::<LengthLimitError>());
                ApiError::TooLong { host: self.host() }
            }
        })?;
        *self.idle.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection);
        Ok(Answer { status, body: body.to_bytes(), date })
    }

    async fn connect(&self) -> Result<Connection, ApiError> {
        let connecting = tokio::time::timeout(CONNECT_TIME, self.secured()).await;
        let stream = connecting
            .unwrap_or_else(|_| Err(ApiError::Silent { host: self.host(), waited: CONNECT_TIME }))?;
        let (sender, driver) = handshake(TokioIo::new(stream))
            .await
            .map_err(|source| ApiError::Broken { host: self.host(), source })?;
        // What goes wrong on the connection is told to whoever waits for an answer on it.
        let driver = tokio::spawn(async move {
            let _ = driver.await;
        });
        Ok(Connection { sender, _driver: AbortOnDropHandle::new(driver) })
    }

    async fn secured(&self) -> Result<tokio_rustls::client::TlsStream<TcpStream>, ApiError> {
        let ClusterAddress { host, port } = &self.address;
        let stream =
            TcpStream::connect((host.as_str(), *port)).await.map_err(|error| self.unreachable(error))?;
        stream.set_nodelay(true).map_err(|error| self.unreachable(error))?;
        let name =
            ServerName::try_from(host.to_string()).map_err(|error| ApiError::Setup(error.to_string()))?;
        let connector = TlsConnector::from(self.tls.clone());
        connector.connect(name, stream).await.map_err(|error| self.unreachable(error))
    }

    fn unreachable(&self, error: std::io::Error) -> ApiError {
        match tls_cause(&error) {
            Some(reason) if is_about_our_certificate(reason) => ApiError::NotAccepted { host: self.host() },
            Some(reason) => ApiError::NotTheCluster { host: self.host(), reason: reason.clone() },
            None => ApiError::Connect { host: self.host(), source: error },
        }
    }

    /// In TLS 1.3 a server that does not take our certificate says so only after the handshake.
    fn broken(&self, error: hyper::Error) -> ApiError {
        match tls_cause(&error) {
            Some(reason) if is_about_our_certificate(reason) => ApiError::NotAccepted { host: self.host() },
            Some(_) | None => ApiError::Broken { host: self.host(), source: error },
        }
    }

    fn host(&self) -> String {
        self.address.to_string()
    }
}

fn date(headers: &HeaderMap) -> Option<i64> {
    let date = OffsetDateTime::parse(headers.get(DATE)?.to_str().ok()?, &Rfc2822);
    date.ok().map(OffsetDateTime::unix_timestamp)
}

/// The TLS error at the bottom of another one. An I/O error hides what it carries from `source`.
fn tls_cause<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e rustls::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(tls) = error.downcast_ref() {
            return Some(tls);
        }
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        cause = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

fn is_about_our_certificate(error: &rustls::Error) -> bool {
    use rustls::AlertDescription as Alert;
    let rustls::Error::AlertReceived(alert) = error else { return false };
    [
        Alert::BadCertificate,
        Alert::UnsupportedCertificate,
        Alert::CertificateRevoked,
        Alert::CertificateExpired,
        Alert::CertificateUnknown,
        Alert::UnknownCA,
        Alert::AccessDenied,
        Alert::CertificateRequired,
    ]
    .contains(alert)
}

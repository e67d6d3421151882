//! The one request that the page's redirect makes to this machine (RFC 8252 section 7.3). Everything else that comes to the
//! port, from whatever page or program, is told that there is nothing, and changes nothing. Who else can reach the port may
//! make up codes: which of them is the page's is control's to say, so that one does not keep out the next.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{HOST, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use portlatch_protocol::api::Secret;
use sha2::{Digest as _, Sha256};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Connections at once: a browser opens some beforehand, and uses one; another user of this machine who holds on to some
/// should not have them all.
const MAX_CONNECTIONS: usize = 128;
/// What a connection has to say what it wants; those that a browser opened beforehand it opens again.
const HEAD_TIME: Duration = Duration::from_secs(2);
/// What a connection has in all.
const CONNECTION_TIME: Duration = Duration::from_secs(5);
/// Largest head of a request.
const MAX_HEAD: usize = 16 * 1024;
/// Longest code that is taken; control's have 43 characters.
const MAX_CODE: usize = 128;
/// How long the loop rests when the system has no socket left for it.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// In the colours of the cluster's pages: for whoever looks at it, this is one more of them.
const STYLE: &str = ":root{color-scheme:light dark}\
     body{margin:0;padding:1px 1rem;background:#f3f5f9;color:#18202e;\
     font:1rem/1.55 system-ui,\"Segoe UI\",Roboto,\"Noto Sans\",\"DejaVu Sans\",sans-serif}\
     main{max-width:32rem;margin:4rem auto;padding:1.25rem 1.5rem;background:#fff;border:1px solid #d5dbe6;\
     border-left:.3rem solid #14663b;border-radius:.75rem}h1{margin:0 0 .5rem;font-size:1.5rem}p{margin:0}\
     @media(prefers-color-scheme:dark){body{background:#0f131b;color:#e8edf6}\
     main{background:#182030;border-color:#2d394e;border-left-color:#84dba8}}";

/// What the redirect must look like.
struct Expected {
    path: String,
    host: String,
}

/// Waits for redirects to `path` and gives their codes, for as long as somebody takes them. The connection that brought a
/// code is answered by then.
pub(super) async fn serve_codes(listener: &TcpListener, port: u16, path: &str, codes: mpsc::Sender<Secret>) {
    let expected = Arc::new(Expected { path: path.to_owned(), host: format!("127.0.0.1:{port}") });
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => drop(connections.spawn(serve(stream, Arc::clone(&expected)))),
                Err(error) => {
                    tracing::debug!(%error, "a browser's connection could not be taken");
                    tokio::time::sleep(ACCEPT_REST).await;
                }
            },
            Some(ended) = connections.join_next() => {
                if let Ok(Some(code)) = ended
                    && codes.send(code).await.is_err()
                {
                    return;
                }
            }
        }
    }
}

/// One connection with one request; the code, if it was the one.
async fn serve(stream: TcpStream, expected: Arc<Expected>) -> Option<Secret> {
    let found = Arc::new(Mutex::new(None));
    let service = service_fn({
        let found = Arc::clone(&found);
        move |request: Request<Incoming>| {
            let code = expected.code_in(&request);
            let answer = if code.is_some() { done() } else { nothing() };
            if let Some(code) = code {
                *found.lock().unwrap_or_else(PoisonError::into_inner) = Some(code);
            }
            async move { Ok::<_, Infallible>(answer) }
        }
    });
    let served = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    // Whether or not the browser reads the answer, what it brought counts.
    let _ = timeout(CONNECTION_TIME, served).await;
    found.lock().unwrap_or_else(PoisonError::into_inner).take()
}

impl Expected {
    /// The code of the request, if it is a redirect.
    fn code_in<B>(&self, request: &Request<B>) -> Option<Secret> {
        // A name that leads to this address is another site's (DNS rebinding): only the number is ours.
        let host = request.headers().get(HOST).map(HeaderValue::as_bytes);
        let is_redirect = request.method() == Method::GET
            && host == Some(self.host.as_bytes())
            && request.uri().path() == self.path;
        let code = request.uri().query().and_then(|query| query.strip_prefix("code="))?;
        let is_code = !code.is_empty()
            && code.len() <= MAX_CODE
            && code.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        (is_redirect && is_code).then(|| Secret(code.to_owned()))
    }
}

fn done() -> Response<Full<Bytes>> {
    let page = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><title>Done · Portlatch</title>\
         <style>{STYLE}</style></head><body><main><h1>Done</h1>\
         <p>You can close this window and go back to your program.</p></main></body></html>"
    );
    let mut answer = Response::new(Full::new(Bytes::from(page)));
    let style = STANDARD.encode(Sha256::digest(STYLE));
    let policy =
        format!("default-src 'none'; style-src 'sha256-{style}'; frame-ancestors 'none'; base-uri 'none'");
    let policy = HeaderValue::from_str(&policy).expect("base64 and our own words are visible ASCII");
    answer.headers_mut().insert("content-security-policy", policy);
    with_headers(answer, "text/html; charset=utf-8")
}

fn nothing() -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from_static(b"There is nothing here.\n")));
    *answer.status_mut() = StatusCode::NOT_FOUND;
    with_headers(answer, "text/plain; charset=utf-8")
}

fn with_headers(mut answer: Response<Full<Bytes>>, kind: &'static str) -> Response<Full<Bytes>> {
    for (name, value) in [
        ("content-type", kind),
        ("cache-control", "no-store"),
        ("referrer-policy", "no-referrer"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const PATH: &str = "/portlatch/0a0b";

    struct Port {
        port: u16,
        codes: mpsc::Receiver<Secret>,
    }

    impl Port {
        async fn open() -> Self {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let (found, codes) = mpsc::channel(1);
            tokio::spawn(async move { serve_codes(&listener, port, PATH, found).await });
            Self { port, codes }
        }

        fn host(&self) -> String {
            format!("127.0.0.1:{}", self.port)
        }

        async fn send(&self, line: &str, host: &str) -> String {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await.unwrap();
            stream.write_all(format!("{line} HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        }
    }

    #[tokio::test]
    async fn the_redirect_s_code_is_taken_and_answered_with_a_page() {
        let mut port = Port::open().await;
        let answer = port.send(&format!("GET {PATH}?code=A-z_09"), &port.host()).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("close this window"), "{answer}");
        assert!(answer.contains("default-src 'none'") && !answer.contains("A-z_09"), "{answer}");
        assert_eq!(port.codes.recv().await.unwrap(), Secret("A-z_09".into()));
    }

    #[tokio::test]
    async fn whatever_else_comes_changes_nothing() {
        let mut port = Port::open().await;
        let (host, other_name) = (port.host(), format!("localhost:{}", port.port));
        for (line, host) in [
            (format!("GET {PATH}?code=x"), other_name.as_str()),
            (format!("GET {PATH}?code=x"), "evil.example"),
            (format!("POST {PATH}?code=x"), host.as_str()),
            (format!("OPTIONS {PATH}?code=x"), host.as_str()),
            ("GET /portlatch/ffff?code=x".to_owned(), host.as_str()),
            ("GET /?code=x".to_owned(), host.as_str()),
            (PATH.replace("/portlatch", "GET /portlatch"), host.as_str()),
            (format!("GET {PATH}?code="), host.as_str()),
            (format!("GET {PATH}?code=a%3Cb"), host.as_str()),
            (format!("GET {PATH}?code={}", "x".repeat(MAX_CODE + 1)), host.as_str()),
            ("GET /favicon.ico".to_owned(), host.as_str()),
        ] {
            let answer = port.send(&line, host).await;
            assert!(answer.starts_with("HTTP/1.1 404"), "{line}: {answer}");
        }
        assert!(port.codes.try_recv().is_err());
        port.send(&format!("GET {PATH}?code=good"), &host).await;
        assert_eq!(port.codes.recv().await.unwrap(), Secret("good".into()));
    }

    #[tokio::test]
    async fn a_code_that_somebody_made_up_does_not_keep_the_redirect_s_out() {
        let mut port = Port::open().await;
        for code in ["made-up", "good"] {
            let answer = port.send(&format!("GET {PATH}?code={code}"), &port.host()).await;
            assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
            assert_eq!(port.codes.recv().await.unwrap(), Secret(code.into()));
        }
    }

    #[tokio::test]
    async fn connections_that_say_nothing_do_not_keep_the_redirect_out() {
        let mut port = Port::open().await;
        let mut silent = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            silent.push(TcpStream::connect((Ipv4Addr::LOCALHOST, port.port)).await.unwrap());
        }
        let (line, host) = (format!("GET {PATH}?code=good"), port.host());
        let answer = timeout(Duration::from_secs(30), port.send(&line, &host)).await;
        assert!(answer.unwrap().starts_with("HTTP/1.1 200 OK"));
        assert_eq!(port.codes.recv().await.unwrap(), Secret("good".into()));
    }
}

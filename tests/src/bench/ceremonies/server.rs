//! Control's API on loopback. TLS would say who asks; here the asker's header does, by the certificate's number.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, bail, ensure};
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use portlatch_control::api::Peer;
use portlatch_control::control::Control;
use portlatch_protocol::identity::Identity;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Says whose certificate was shown.
const SHOWN: &str = "x-certificate";

/// The server, until it is dropped.
pub(super) struct Server {
    address: SocketAddr,
    shown: Arc<Mutex<Vec<Vec<u8>>>>,
    serving: JoinHandle<()>,
}

impl Server {
    pub(super) async fn start(control: &Arc<Control>) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("listening on loopback")?;
        let address = listener.local_addr()?;
        let shown = Arc::new(Mutex::new(Vec::<Vec<u8>>::new()));
        let certificates = Arc::clone(&shown);
        let put_peer = move |mut request: Request, next: Next| {
            let number = request.headers().get(SHOWN).and_then(|number| number.to_str().ok()?.parse().ok());
            let all = certificates.lock().unwrap_or_else(PoisonError::into_inner);
            let certificate = number.and_then(|number: usize| all.get(number).cloned());
            drop(all);
            async move {
                let identity = certificate.as_deref().and_then(|der| Identity::from_certificate(der).ok());
                request.extensions_mut().insert(Peer { identity, certificate, address });
                next.run(request).await
            }
        };
        let router = control.router().layer(from_fn(put_peer));
        let serving = tokio::spawn(async move {
            // It ends with the run.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { address, shown, serving })
    }

    /// A connection of somebody without a certificate.
    pub(super) async fn connect(&self) -> Result<Client> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        Ok(Client { stream: BufStream::new(stream), shown: None })
    }

    /// Has this connection show a certificate from now on.
    pub(super) fn show(&self, client: &mut Client, certificate: Vec<u8>) {
        let mut all = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        client.shown = Some(all.len());
        all.push(certificate);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// An HTTP/1.1 connection that stays open.
pub(super) struct Client {
    stream: BufStream<TcpStream>,
    shown: Option<usize>,
}

impl Client {
    /// Posts JSON, and reads the JSON of the answer.
    pub(super) async fn post(&mut self, path: &str, body: &Value) -> Result<Value> {
        let body = body.to_string();
        let shown = self.shown.map(|number| format!("{SHOWN}: {number}\r\n")).unwrap_or_default();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\n{shown}content-length: {}\r\n\r\n",
            super::HOST,
            body.len()
        );
        self.stream.write_all(head.as_bytes()).await?;
        self.stream.write_all(body.as_bytes()).await?;
        self.stream.flush().await?;
        self.answer().await.with_context(|| format!("asking for {path}"))
    }

    async fn answer(&mut self) -> Result<Value> {
        let (mut status, mut length) = (String::new(), 0);
        self.stream.read_line(&mut status).await?;
        loop {
            let mut line = String::new();
            ensure!(self.stream.read_line(&mut line).await? > 0, "the connection has ended");
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.parse().context("a length")?;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await?;
        if !status.starts_with("HTTP/1.1 200") {
            bail!("{} {}", status.trim_end(), String::from_utf8_lossy(&body));
        }
        Ok(serde_json::from_slice(&body)?)
    }
}

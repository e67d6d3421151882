//! `run`: control and proxy in one process, from the lock on the directory to the last record of the audit.

mod adapters;
mod own;
mod pages;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use portlatch_audit::{Event, EventKind, Spool, SpoolConfig};
use portlatch_clock::Clock;
use portlatch_control::config::ProxyConfig;
use portlatch_control::control::{Control, ControlSettings};
use portlatch_control::keys::Keys;
use portlatch_protocol::resource::ProxyAddress;
use portlatch_protocol::watch::Hello;
use portlatch_proxy::certificate::ServerCertificate;
use portlatch_proxy::endpoint::{self, EndpointSettings, UdpPort};
use portlatch_proxy::listener::{Certificates, Listener};
use portlatch_proxy::proxy::Proxy;
use portlatch_proxy::record::Recorder;
use portlatch_proxy::stop::Signals;
use sd_notify::NotifyState;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::adapters::{ControlMessages, ProxySessions, serve_control};
use self::own::{ProxyKey, RunLock};
use self::pages::PagesFiles;

/// Half of a certificate's life: a renewal that fails has the other half to succeed.
const RENEW_AFTER: Duration = Duration::from_secs(12 * 3600);
/// How soon a renewal that failed is tried again.
const RENEW_AGAIN: Duration = Duration::from_secs(60);
/// How often the audit's head is signed (design section 12).
const SIGN_EVERY: Duration = Duration::from_secs(60);
/// What control has to write its last record and close its database.
const CONTROL_DEADLINE: Duration = Duration::from_secs(10);

/// Serves until told to stop.
pub(crate) async fn run(dir: &Path, config: ProxyConfig) -> anyhow::Result<()> {
    let _lock = RunLock::take(dir)?;
    // Before anything is there to be stopped.
    let signals = Signals::listen().context("listening to signals")?;
    let (service, port) = Service::open(dir, config).await?;
    service.serve(port, signals).await
}

/// All parts, open and not yet serving.
struct Service {
    config: ProxyConfig,
    clock: Clock,
    spool: Arc<Spool>,
    proxy: Arc<Proxy>,
    control: Arc<Control>,
    messages: ControlMessages,
    key: ProxyKey,
    tunnels: Arc<ServerCertificate>,
    certificates: Certificates,
    pages: Option<PagesFiles>,
    listener: Listener,
}

impl Service {
    async fn open(dir: &Path, config: ProxyConfig) -> anyhow::Result<(Self, UdpPort)> {
        let clock = Clock::system();
        let keys = Keys::open(dir)?;
        let spool = Arc::new(open_spool(dir, &config, &clock)?);
        for session in &spool.recovery().lost {
            let session = session.session.as_ref().map(ToString::to_string).unwrap_or_default();
            tracing::warn!(session, "a session was lost when the process before this one ended");
        }
        let recorder =
            Recorder::new(Arc::clone(&spool), config.durability, clock.clone(), config.name.clone());
        let proxy = Proxy::new(config.name.clone(), clock.clone(), recorder);
        let settings = ControlSettings {
            public_host: config.public.host.clone(),
            public_port: config.public.port,
            durability: config.durability,
        };
        let live = Arc::new(ProxySessions(Arc::clone(&proxy)));
        let control = Control::open(dir, keys, settings, clock.clone(), live).await?;
        let watch = control.watch(Hello::OWN, config.name.clone(), config.labels.clone())?;
        let messages = ControlMessages(watch);
        let key = ProxyKey::generate().context("making the proxy's key")?;
        let (chain, control_key) = control.server_identity()?;
        let ca = chain.last().context("control's certificate has no CA beside it")?.clone();
        let api = ServerCertificate::new(chain, control_key)?;
        let (pages, shown) = match config.https_keypair.clone() {
            Some(files) => PagesFiles::open(files).map(|(files, shown)| (Some(files), shown))?,
            None => (None, Arc::clone(&api)),
        };
        let certificates = Certificates { api, pages: shown };
        let leaf = control.issue_proxy_certificate(&config.name, &key.request()?)?;
        let tunnels = ServerCertificate::new(vec![leaf, ca], key.private())?;
        let settings = EndpointSettings {
            address: config.listen,
            authority: control.authority(),
            certificate: Arc::clone(&tunnels),
            reset_secret: own::reset_secret(dir)?,
        };
        let port = endpoint::open(settings, Arc::clone(&proxy.view))?;
        let listener = Listener::open(config.listen, control.authority(), certificates.clone(), &proxy.view)?;
        let service = Self {
            config,
            clock,
            spool,
            proxy,
            control,
            messages,
            key,
            tunnels,
            certificates,
            pages,
            listener,
        };
        Ok((service, port))
    }

    async fn serve(self, port: UdpPort, signals: Signals) -> anyhow::Result<()> {
        let (proxy, control) = (Arc::clone(&self.proxy), Arc::clone(&self.control));
        proxy.recorder.write(Event::new(EventKind::ProxyStart)).await?;
        let control_stop = CancellationToken::new();
        let mut control_run = tokio::spawn({
            let (control, stop) = (Arc::clone(&control), control_stop.clone());
            async move { control.run(stop).await }
        });
        let mut tunnels = tokio::spawn(endpoint::serve(Arc::clone(&proxy), port));
        let address = ProxyAddress {
            name: self.config.name.clone(),
            host: self.config.public.host.to_string(),
            port: self.config.public.port,
        };
        let labels = self.config.labels.clone();
        let (listen, public) = (self.config.listen, self.config.public.host.clone());
        let mut tasks = self.spawn_rest();
        control.register_proxy(address, labels).await?;
        tracing::info!(%listen, %public, "serving");
        notify(&[NotifyState::Ready]);
        let ended = tokio::select! {
            () = follow_stop(&proxy, &control, signals) => Ok(()),
            // Neither ends before it is told to: without the one there are no streams, without the other no decisions.
            result = &mut control_run => broken("control", result.map(|run| run.map_err(anyhow::Error::from))),
            result = &mut tunnels => match proxy.stop.ended.is_cancelled() {
                true => Ok(()),
                false => broken("the endpoint", result.map(Ok)),
            },
            // One that is missing would not be noticed: locks that cut nothing, an API that answers nobody.
            Some(result) = tasks.join_next() => match proxy.stop.ended.is_cancelled() {
                true => Ok(()),
                false => broken("a part of the proxy", result.map(Ok)),
            },
        };
        proxy.stop.draining.cancel();
        proxy.stop.ended.cancel();
        if !tunnels.is_finished() {
            // It writes the ends of its sessions; that it panicked is in the log.
            let _ = tunnels.await;
        }
        while tasks.join_next().await.is_some() {}
        proxy.recorder.write(Event::new(EventKind::ProxyStop)).await?;
        control_stop.cancel();
        if !control_run.is_finished() && timeout(CONTROL_DEADLINE, control_run).await.is_err() {
            tracing::error!("control did not end in time");
        }
        ended
    }

    /// Everything beside control and the tunnels: it ends when the proxy has ended.
    fn spawn_rest(self) -> JoinSet<()> {
        let (proxy, key) = (self.proxy, Arc::new(self.key));
        let mut tasks = JoinSet::new();
        tasks.spawn(follow(Arc::clone(&proxy), self.messages));
        tasks.spawn(self.listener.serve(proxy.stop.clone(), serve_control(&self.control)));
        if let Some(files) = self.pages {
            tasks.spawn(files.follow(self.certificates.pages, proxy.stop.clone()));
        }
        let (tunnels, api) = (self.tunnels, self.certificates.api);
        let renewal = Renewal { control: self.control, key: Arc::clone(&key), tunnels, api };
        tasks.spawn(renewal.run(Arc::clone(&proxy), self.clock.clone()));
        tasks.spawn(sign_heads(self.spool, key, proxy, self.clock));
        tasks
    }
}

fn open_spool(dir: &Path, config: &ProxyConfig, clock: &Clock) -> anyhow::Result<Spool> {
    let spool = SpoolConfig {
        directory: dir.join("audit"),
        source: config.name.to_string(),
        cluster: config.public.host.clone(),
        durability: config.durability,
        max_bytes: SpoolConfig::DEFAULT_MAX_BYTES,
    };
    Spool::open(spool, clock.time_of_day()).map_err(anyhow::Error::from)
}

/// A part that must not end has ended.
fn broken(part: &str, result: Result<anyhow::Result<()>, tokio::task::JoinError>) -> anyhow::Result<()> {
    result.with_context(|| format!("{part} broke"))?.with_context(|| format!("{part} broke"))?;
    anyhow::bail!("{part} ended by itself")
}

async fn follow(proxy: Arc<Proxy>, messages: ControlMessages) {
    if let Err(error) = proxy.follow(messages).await {
        tracing::error!("{error}");
    }
}

/// Returns once a signal has stopped everything. While sessions run to their end, catalogues name this proxy no more.
async fn follow_stop(proxy: &Proxy, control: &Control, signals: Signals) {
    let unlist = async {
        proxy.stop.draining.cancelled().await;
        tracing::info!(sessions = proxy.sessions.count(), "stopping: no new sessions");
        notify(&[NotifyState::Stopping]);
        if let Err(error) = control.deregister_proxy(&proxy.name).await {
            tracing::warn!(%error, "the proxy is still listed");
        }
    };
    tokio::join!(proxy.stop.follow_signals(signals, &proxy.clock, proxy.is_idle()), unlist);
}

/// Without a service manager there is nobody to tell.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager was not told");
    }
}

/// Keeps both certificates fresh.
struct Renewal {
    control: Arc<Control>,
    key: Arc<ProxyKey>,
    tunnels: Arc<ServerCertificate>,
    api: Arc<ServerCertificate>,
}

impl Renewal {
    async fn run(self, proxy: Arc<Proxy>, clock: Clock) {
        let mut wait = RENEW_AFTER;
        loop {
            tokio::select! {
                () = clock.sleep(wait) => {}
                () = proxy.stop.ended.cancelled() => return,
            }
            wait = match self.renew(&proxy) {
                Ok(()) => RENEW_AFTER,
                Err(error) => {
                    tracing::error!("the certificates could not be renewed: {error:#}");
                    RENEW_AGAIN
                }
            };
        }
    }

    fn renew(&self, proxy: &Proxy) -> anyhow::Result<()> {
        let (chain, key) = self.control.server_identity()?;
        let ca = chain.last().context("control's certificate has no CA beside it")?.clone();
        let leaf = self.control.issue_proxy_certificate(&proxy.name, &self.key.request()?)?;
        self.api.replace(chain, key)?;
        self.tunnels.replace(vec![leaf, ca], self.key.private())?;
        Ok(())
    }
}

async fn sign_heads(spool: Arc<Spool>, key: Arc<ProxyKey>, proxy: Arc<Proxy>, clock: Clock) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(SIGN_EVERY) => {}
            () = proxy.stop.ended.cancelled() => return,
        }
        let (spool, key, now) = (Arc::clone(&spool), Arc::clone(&key), clock.time_of_day());
        let signed = tokio::task::spawn_blocking(move || spool.sign_head(&|message| key.sign(message), now));
        if let Ok(Err(error)) = signed.await {
            tracing::error!(%error, "the audit's head is not signed");
        }
    }
}

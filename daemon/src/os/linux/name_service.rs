//! The system's resolver sends the names of our zones to our DNS server, and we know the resolvers that the machine
//! has without us.
//!
//! | mode | what happens |
//! |---|---|
//! | `auto` | as `resolved` where it runs, now or later; else nothing, and `doctor` says what to do |
//! | `resolved` | systemd-resolved: our zones on our link, over D-Bus |
//! | `resolv.conf` | our server first in `/etc/resolv.conf`; we answer or forward everything |
//! | `off` | nothing; the administrator points a resolver at us |
//!
//! What was set goes away with [`remove`](NameService::remove); after a kill resolved forgets it with the link, and the
//! file is restored at the next start or by `portlatchd cleanup`.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use portlatch_protocol::names::Hostname;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use super::resolved::ResolvedError;

use super::resolv_conf_file::{ResolvConfFile, Restored};
use super::resolved::{Change, Resolved};
use crate::config::DnsMode;
use crate::os::ranges::{Range4, Range6};
use crate::os::{Findings, StateDir};

/// How often the file is looked at. It may be a bind mount or on an overlay, which inotify does not see; and a machine
/// must not be without upstream servers for more than two seconds after boot.
const LOOK_AT_FILE: Duration = Duration::from_secs(2);
/// How often resolved is asked whether it still knows us; it also says so when something changes.
const ASK_RESOLVED: Duration = Duration::from_secs(30);
/// The least between two answers to what is heard from resolved: nobody is fought faster than that.
const PAUSE: Duration = Duration::from_secs(1);
/// Another program that keeps writing `/etc/resolv.conf` is not fought for ever.
const MOST_REWRITES: usize = 3;
const REWRITE_WINDOW: Duration = Duration::from_secs(60);

/// What the system's resolver shall know. Can be applied again whenever it changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameServicePlan {
    /// Our link.
    pub ifindex: u32,
    /// Our DNS server's addresses, IPv4 first.
    pub dns: Vec<IpAddr>,
    /// The zones whose names come to us.
    pub zones: Vec<Hostname>,
    /// The zones of our own addresses' names: they come to us as well.
    pub reverse: Vec<Hostname>,
    /// Zones that are tried behind short names: only what the administrator lists, since every short name is then seen
    /// by us.
    pub search: Vec<Hostname>,
}

/// How it begins.
#[derive(Debug, Clone)]
pub struct NameServiceOptions {
    /// The administrator's choice.
    pub mode: DnsMode,
    /// Our ranges: addresses inside them are never an upstream server.
    pub range4: Range4,
    /// As above.
    pub range6: Option<Range6>,
    /// Where the original of `/etc/resolv.conf` is kept.
    pub state: StateDir,
}

/// Why the system's resolver does not know our zones.
#[derive(Debug, thiserror::Error)]
pub enum NameServiceError {
    /// systemd-resolved.
    #[error(transparent)]
    Resolved(#[from] ResolvedError),
    /// The file.
    #[error("/etc/resolv.conf cannot be changed")]
    ResolvConf(#[source] std::io::Error),
}

/// The system's resolver, as far as we have to do with it.
pub struct NameService {
    options: NameServiceOptions,
    file: ResolvConfFile,
    backend: Backend,
    applied: Option<NameServicePlan>,
    findings: Findings,
}

enum Backend {
    Resolved(Box<Resolved>),
    ResolvConf {
        rewritten: Vec<Instant>,
        rewriting: Rewriting,
    },
    /// resolved may still come: at boot it starts when it likes.
    AwaitingResolved,
    Off,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rewriting {
    Going,
    GivenUp,
}

impl NameService {
    /// Undoes what a killed daemon left, and finds what there is to work with. Never fails: what is missing is a
    /// finding.
    pub async fn open(options: NameServiceOptions) -> Self {
        let file = ResolvConfFile::system(&options.state);
        let mut findings = Findings::default();
        // In resolv.conf mode the next `apply` would only write it again; the original is known either way.
        if options.mode != DnsMode::ResolvConf {
            match file.restore() {
                Ok(Restored::Original) => tracing::info!("restored /etc/resolv.conf"),
                Ok(Restored::Nothing) => {}
                Err(error) => findings.add(
                    "resolv.conf",
                    format!("its original could not be restored after a crash ({error})"),
                    "run `portlatchd cleanup` as root",
                ),
            }
        }
        let backend = match options.mode {
            DnsMode::Off => Backend::Off,
            DnsMode::ResolvConf => Backend::ResolvConf { rewritten: Vec::new(), rewriting: Rewriting::Going },
            DnsMode::Auto | DnsMode::Resolved => match Resolved::find().await {
                Some(resolved) => Backend::Resolved(Box::new(resolved)),
                None => Backend::AwaitingResolved,
            },
        };
        let mut service = Self { options, file, backend, applied: None, findings };
        service.note_backend();
        service
    }

    /// What a person should know.
    pub fn findings(&self) -> &Findings {
        &self.findings
    }

    /// Makes the system's resolver know this plan. Before the link is up, so that nothing of LLMNR or mDNS is ever sent
    /// on it. Twice equals once.
    ///
    /// # Errors
    /// A [`NameServiceError`]; names then do not resolve, all else works.
    pub async fn apply(&mut self, plan: &NameServicePlan) -> Result<(), NameServiceError> {
        self.applied = Some(plan.clone());
        match &self.backend {
            Backend::Resolved(resolved) => Ok(resolved.set_link(plan, &mut self.findings).await?),
            Backend::ResolvConf { rewriting: Rewriting::Going, .. } => self
                .file
                .take(&plan.dns, &plan.search, |address| self.options.is_ours(address))
                .map_err(NameServiceError::ResolvConf),
            Backend::ResolvConf { rewriting: Rewriting::GivenUp, .. }
            | Backend::AwaitingResolved
            | Backend::Off => Ok(()),
        }
    }

    /// Takes our part away: the machine resolves names as it did before us.
    ///
    /// # Errors
    /// A [`NameServiceError`].
    pub async fn remove(&mut self) -> Result<(), NameServiceError> {
        let Some(plan) = self.applied.take() else { return Ok(()) };
        match &self.backend {
            Backend::Resolved(resolved) => Ok(resolved.revert_link(plan.ifindex).await?),
            Backend::ResolvConf { .. } => {
                self.file.restore().map(|_| ()).map_err(NameServiceError::ResolvConf)
            }
            Backend::AwaitingResolved | Backend::Off => Ok(()),
        }
    }

    /// Has the system's resolver forget its answers: after a login or a new grant, a name that did not exist may.
    pub async fn flush(&self) {
        if let Backend::Resolved(resolved) = &self.backend
            && let Err(error) = resolved.flush().await
        {
            tracing::debug!(%error, "cached answers stay for up to their negative TTL");
        }
    }

    /// The resolvers that this machine has without us, never one of our own addresses.
    pub async fn upstreams(&self) -> Vec<SocketAddr> {
        let is_ours = |address: IpAddr| self.options.is_ours(address);
        if let Backend::Resolved(resolved) = &self.backend {
            let ifindex = self.applied.as_ref().map_or(0, |plan| plan.ifindex);
            match resolved.upstreams(ifindex).await {
                Ok(mut servers) => {
                    servers.retain(|server| !is_ours(server.ip()));
                    return servers;
                }
                Err(error) => tracing::debug!(%error, "asking resolv.conf for the upstream servers"),
            }
        }
        self.file.upstreams(is_ours)
    }

    /// Waits until something may have changed that makes [`apply`](Self::apply) or [`upstreams`](Self::upstreams)
    /// worth repeating; half a minute at most. Cancelled while it hears of something, that is found half a minute later.
    pub async fn changed(&mut self) {
        let Backend::Resolved(resolved) = &mut self.backend else {
            return tokio::time::sleep(LOOK_AT_FILE).await;
        };
        tokio::select! {
            change = resolved.changed() => if change == Change::Servers {
                // Most often it is the echo of our own change.
                tokio::time::sleep(PAUSE).await;
            },
            () = tokio::time::sleep(ASK_RESOLVED) => {}
        }
    }

    /// Looks whether what was applied still stands, and applies it again if not: after resolved was restarted or came
    /// up, or another program wrote the file.
    pub async fn keep(&mut self) {
        self.find_resolved_again().await;
        let Some(plan) = self.applied.clone() else { return };
        if let Backend::Resolved(resolved) = &self.backend
            && matches!(resolved.knows(&plan).await, Ok(true))
        {
            return;
        }
        if let Backend::ResolvConf { rewritten, rewriting } = &mut self.backend {
            if self.file.is_taken() || *rewriting == Rewriting::GivenUp {
                return;
            }
            let now = Instant::now();
            rewritten.retain(|at| now.duration_since(*at) < REWRITE_WINDOW);
            if rewritten.len() >= MOST_REWRITES {
                *rewriting = Rewriting::GivenUp;
                self.findings.add(
                    "resolv.conf",
                    "another program keeps writing /etc/resolv.conf: our names do not resolve",
                    "have that program leave it alone, or set another `dns` in daemon.toml; then restart portlatchd",
                );
                self.findings.log();
                return;
            }
            rewritten.push(now);
        }
        if let Err(error) = self.apply(&plan).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the system's resolver does not know our zones"
            );
        }
    }

    /// Keeps the system's resolver at the newest plan, `upstreams` at the machine's resolvers and `findings` at what a
    /// person should know, until `stop`; then takes our part away.
    pub async fn serve(
        mut self,
        mut plans: watch::Receiver<NameServicePlan>,
        upstreams: watch::Sender<Vec<SocketAddr>>,
        findings: watch::Sender<Findings>,
        stop: CancellationToken,
    ) {
        loop {
            let plan = plans.borrow_and_update().clone();
            if self.applied.as_ref() != Some(&plan)
                && let Err(error) = self.apply(&plan).await
            {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "the system's resolver does not know our zones");
            }
            findings.send_replace(self.findings.clone());
            let servers = self.upstreams().await;
            upstreams.send_if_modified(|known| {
                let is_new = *known != servers;
                *known = servers;
                is_new
            });
            tokio::select! {
                () = stop.cancelled() => break,
                changed = plans.changed() => if changed.is_err() { break },
                () = self.changed() => self.keep().await,
            }
        }
        if let Err(error) = self.remove().await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "the system's resolver still has our part: run `portlatchd cleanup`");
        }
    }

    async fn find_resolved_again(&mut self) {
        match &self.backend {
            Backend::Resolved(resolved) if !resolved.is_alive() => self.backend = Backend::AwaitingResolved,
            Backend::AwaitingResolved => {}
            Backend::Resolved(_) | Backend::ResolvConf { .. } | Backend::Off => return,
        }
        if let Some(resolved) = Resolved::find().await {
            tracing::info!("systemd-resolved is there now");
            self.backend = Backend::Resolved(Box::new(resolved));
            self.note_backend();
        }
    }

    fn note_backend(&mut self) {
        let (what, advice) = match (&self.backend, self.options.mode) {
            (Backend::AwaitingResolved, DnsMode::Resolved) => {
                ("systemd-resolved does not run: our names do not resolve", "start systemd-resolved")
            }
            (Backend::AwaitingResolved, _) => (
                "no systemd-resolved on this machine: our names do not resolve",
                "set `dns = \"resolv.conf\"` in /etc/portlatch/daemon.toml to put our DNS server first in \
                 /etc/resolv.conf, or start systemd-resolved",
            ),
            (Backend::Resolved(_), _) if !programs_ask_resolved() => (
                "systemd-resolved runs, but programs do not ask it: our names may not resolve",
                "link /etc/resolv.conf to /run/systemd/resolve/stub-resolv.conf, or put `resolve` before `dns` in \
                 /etc/nsswitch.conf",
            ),
            (Backend::Resolved(_) | Backend::ResolvConf { .. } | Backend::Off, _) => {
                self.findings.remove("dns");
                return;
            }
        };
        self.findings.add("dns", what, advice);
    }
}

impl NameServiceOptions {
    fn is_ours(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.range4.contains(address),
            IpAddr::V6(address) => self.range6.is_some_and(|range| range.contains(address)),
        }
    }
}

/// What makes glibc's programs ask resolved: its module before `dns`, or its stub as the only server.
fn programs_ask_resolved() -> bool {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    asks_resolved(&read("/etc/nsswitch.conf"), &read("/etc/resolv.conf"))
}

fn asks_resolved(nsswitch: &str, resolv_conf: &str) -> bool {
    let hosts = nsswitch.lines().find_map(|line| line.trim_start().strip_prefix("hosts:")).unwrap_or("dns");
    let mut sources = hosts.split_ascii_whitespace().filter(|word| ["resolve", "dns"].contains(word));
    if sources.next() == Some("resolve") {
        return true;
    }
    let servers: Vec<&str> =
        resolv_conf.lines().filter_map(|line| line.strip_prefix("nameserver")).map(str::trim).collect();
    !servers.is_empty() && servers.iter().all(|server| ["127.0.0.53", "127.0.0.54"].contains(server))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whether_programs_ask_resolved_is_read_from_what_they_read() {
        assert!(asks_resolved("hosts: files resolve [!UNAVAIL=return] dns\n", ""));
        assert!(asks_resolved("hosts: files dns\n", "nameserver 127.0.0.53\noptions edns0\n"));
        assert!(!asks_resolved("hosts: files dns resolve\n", "# systemd-resolved\nnameserver 192.0.2.1\n"));
        assert!(!asks_resolved("", "nameserver 127.0.0.53\nnameserver 192.0.2.1\n"));
    }
}

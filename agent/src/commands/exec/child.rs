//! One command on one resource: its arguments and environment, its process group, and its end.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use portlatch_protocol::names::ResourceKind;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::choice::Target;
use super::output::{Outputs, Sink};
use super::summary::{End, Result as JobResult};
use crate::safe_text::plain;

/// How long a command has to end when it is told to.
const GRACE: Duration = Duration::from_secs(5);
/// Between two looks whether a command waits for the terminal, which it does not get.
const LOOK: Duration = Duration::from_secs(1);

/// A command for one resource.
pub(super) struct Job<'j> {
    pub(super) command: &'j [OsString],
    pub(super) target: Target,
    pub(super) outputs: &'j Outputs,
}

/// The commands that run.
pub(super) struct Running {
    jobs: JoinSet<JobResult>,
    cancel: CancellationToken,
}

impl Running {
    pub(super) fn new() -> Self {
        Self { jobs: JoinSet::new(), cancel: CancellationToken::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.jobs.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    pub(super) fn start(&mut self, job: Job<'_>) {
        let cancel = self.cancel.clone();
        let (mut command, target) = (job.command(), job.target.clone());
        match job.outputs.open(&target.name) {
            Ok(sink) => {
                self.jobs.spawn(async move { run(&mut command, target, sink, cancel).await });
            }
            Err(error) => {
                let end = End::Failed { code: None, signal: None, why: Some(error) };
                self.jobs.spawn(async move { JobResult::new(&target, end, Duration::ZERO, None) });
            }
        }
    }

    /// The next one that ends. Cancel-safe.
    pub(super) async fn next(&mut self) -> JobResult {
        let ended = self.jobs.join_next().await;
        ended.expect("one runs").expect("a job does not panic")
    }

    /// Ends them all.
    pub(super) async fn stop(&mut self) -> Vec<JobResult> {
        self.cancel.cancel();
        let mut ended = Vec::new();
        while !self.is_empty() {
            ended.push(self.next().await);
        }
        ended
    }
}

impl Job<'_> {
    fn command(&self) -> Command {
        let Target { name, host, port, .. } = &self.target;
        let (host, port) = (host.to_string(), port.to_string());
        let values = [("{host}", host.as_str()), ("{port}", &port), ("{name}", name)];
        let mut command = Command::new(&self.command[0]);
        command.args(self.command[1..].iter().map(|argument| filled(argument, &values)));
        command.envs([("PORTLATCH_HOST", &host), ("PORTLATCH_PORT", &port), ("PORTLATCH_NAME", name)]);
        if self.speaks("postgres", &["psql"]) {
            // An address beats the name, and would be another server's.
            command.env("PGHOST", &host).env("PGPORT", &port).env_remove("PGHOSTADDR");
        }
        if self.speaks("mysql", &["mysql", "mariadb"]) {
            command.env("MYSQL_HOST", &host).env("MYSQL_TCP_PORT", &port);
        }
        // A group of its own, so that whatever it starts is ended with it; and no terminal, which ten would share.
        command.stdin(Stdio::null()).process_group(0).kill_on_drop(true);
        command
    }

    /// Whether the environment of this protocol's clients is of use: the resource may be one, or the command is its
    /// client.
    fn speaks(&self, protocol: &str, clients: &[&str]) -> bool {
        let is_client = std::path::Path::new(&self.command[0])
            .file_name()
            .is_some_and(|name| clients.iter().any(|client| name == OsStr::new(client)));
        let may_be = match &self.target.protocol {
            Some(spoken) => spoken == protocol,
            None => self.target.id.kind == ResourceKind::Db,
        };
        is_client || may_be
    }
}

/// The argument with these words replaced, each once wherever it stands.
fn filled(argument: &OsStr, values: &[(&str, &str)]) -> OsString {
    let (mut rest, mut out) = (argument.as_bytes(), Vec::with_capacity(argument.len()));
    'bytes: while let Some(byte) = rest.first() {
        for (word, value) in values {
            if let Some(behind) = rest.strip_prefix(word.as_bytes()) {
                out.extend_from_slice(value.as_bytes());
                rest = behind;
                continue 'bytes;
            }
        }
        out.push(*byte);
        rest = &rest[1..];
    }
    OsString::from_vec(out)
}

async fn run(command: &mut Command, target: Target, sink: Sink, cancel: CancellationToken) -> JobResult {
    let began = Instant::now();
    let end = match sink.attach(command).and_then(|()| command.spawn()) {
        Ok(mut child) => {
            let has_ended = CancellationToken::new();
            let copying = sink.copy(&mut child, &target.name, has_ended.clone());
            let waiting = async {
                let end = wait(&mut child, cancel).await;
                has_ended.cancel();
                end
            };
            let (end, ()) = tokio::join!(waiting, copying);
            end
        }
        Err(error) => End::Failed { code: None, signal: None, why: Some(plain(&error)) },
    };
    let kept = sink.finish();
    match kept {
        Ok(output) => JobResult::new(&target, end, began.elapsed(), output),
        Err(why) => {
            let end = End::Failed { code: None, signal: None, why: Some(why) };
            JobResult::new(&target, end, began.elapsed(), None)
        }
    }
}

async fn wait(child: &mut Child, cancel: CancellationToken) -> End {
    let group = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            status = child.wait() => return status.map_or_else(
                |error| End::Failed { code: None, signal: None, why: Some(plain(&error)) },
                End::of,
            ),
            () = cancel.cancelled() => {
                end_group(child, group).await;
                return End::Stopped;
            }
            _ = look.tick() => if group.is_some_and(waits_for_terminal) {
                end_group(child, group).await;
                let why = "it wanted to read from the terminal, which several commands cannot share".to_owned();
                return End::Failed { code: None, signal: None, why: Some(why) };
            },
        }
    }
}

/// Asks the group to end, and ends it if it does not.
async fn end_group(child: &mut Child, group: Option<Pid>) {
    let signal = |signal| group.is_some_and(|group| kill_process_group(group, signal).is_ok());
    signal(Signal::TERM);
    // Whoever is stopped hears nothing.
    signal(Signal::CONT);
    let is_over = tokio::time::timeout(GRACE, child.wait()).await.is_ok();
    // What it started may live on where the command itself has ended.
    if signal(Signal::KILL) || !is_over {
        let _ = child.wait().await;
    }
}

/// Whether the kernel has stopped it: it reads the terminal from the background (SIGTTIN).
fn waits_for_terminal(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    // Behind the name, which is in parentheses and may have any in it.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}

impl End {
    fn of(status: ExitStatus) -> Self {
        match status.success() {
            true => Self::Succeeded,
            false => Self::Failed { code: status.code(), signal: status.signal(), why: None },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_replaced_once_wherever_they_stand() {
        let values = [("{host}", "{port}"), ("{port}", "5432"), ("{name}", "billing-db")];
        let fill = |text: &str| filled(OsStr::new(text), &values).into_string().unwrap();
        assert_eq!(fill("host={host} port={port}"), "host={port} port=5432");
        assert_eq!(fill("{name}{name}.sql"), "billing-dbbilling-db.sql");
        assert_eq!(fill("{nam}{} {host"), "{nam}{} {host");
    }

    #[test]
    fn an_address_from_elsewhere_does_not_beat_the_resource_s_name() {
        let command = ["psql".into()];
        let outputs = Outputs::new(None, crate::terminal::Stream::Out).unwrap();
        let target = Target {
            id: "db/billing-db".parse().unwrap(),
            name: "billing-db".to_owned(),
            host: "billing-db.corp.internal".parse().unwrap(),
            port: 5432,
            protocol: None,
        };
        let command = Job { command: &command, target, outputs: &outputs }.command();
        let set: Vec<_> = command.as_std().get_envs().collect();
        let is = |name: &str, value: Option<&str>| set.contains(&(OsStr::new(name), value.map(OsStr::new)));
        assert!(is("PGHOSTADDR", None), "{set:?}");
        assert!(is("PGHOST", Some("billing-db.corp.internal")), "{set:?}");
    }

    #[test]
    fn bytes_that_are_no_text_pass_unchanged() {
        let argument = OsStr::from_bytes(b"\xff{port}\xfe");
        assert_eq!(filled(argument, &[("{port}", "1")]).as_bytes(), b"\xff1\xfe");
    }
}

//! `portlatch exec`: one tap, then one command once for each resource that matches.

use std::collections::VecDeque;
use std::time::Duration;

use portlatch_clock::{BootTime, Clock};
use tokio::signal::unix::SignalKind;

use super::asking::ask_person;
use super::{told_to_stop, unless_stopped};
use crate::cli::Exec;
use crate::failure::Failure;
use crate::files::Files;
use crate::local::{LocalError, Tell, Want};
use crate::mfa_mode::MfaMode;
use crate::program;
use crate::safe_text::safe;
use crate::terminal::{Keyboard, Stream, Typed};

mod child;
mod choice;
mod directory;
mod output;
mod progress;
mod summary;

use child::{Job, Running};
pub(crate) use choice::Labels;
use choice::{Choice, Target};
use output::Outputs;
use progress::Progress;
use summary::{Result as JobResult, Summary};

/// Commands at once (design section 7's `exec`).
const AT_ONCE: usize = 10;
/// A command that is started just before the tap's time is over would be prompted for on its own.
const MARGIN: Duration = Duration::from_secs(5);

/// Lists what matches, asks, taps, runs, and sums up.
pub(crate) async fn exec(options: &Exec, files: &Files, clock: &Clock) -> Result<(), Failure> {
    let stream = if options.json { Stream::Err } else { Stream::Out };
    let (targets, until) = unless_stopped(prepare(options, files, clock, stream)).await?;
    let outputs = Outputs::new(options.output_dir.as_deref(), stream)?;
    let run = Run { options, files, clock, stream, outputs };
    let (summary, ended) = run.all(targets, until).await?;
    run.outputs.keep(&summary)?;
    let stopped = ended?;
    match options.json {
        true => super::print_json(&summary)?,
        false => stream.say(&summary.line())?,
    }
    match (stopped, summary.is_success()) {
        (Some(signal), _) => Err(Failure::Stopped(signal)),
        (None, true) => Ok(()),
        (None, false) => Err(Failure::Said),
    }
}

/// What to run on, and until when the tap for it serves.
async fn prepare(
    options: &Exec,
    files: &Files,
    clock: &Clock,
    stream: Stream,
) -> Result<(Vec<Target>, BootTime), Failure> {
    if options.mfa_mode == Some(MfaMode::Otp) {
        return Err(Failure::Usage("exec takes no codes: tap your security key".to_owned()));
    }
    let name = &options.command[0];
    if program::find(name).is_none() {
        let name = safe(&name.to_string_lossy());
        return Err(Failure::Failed(format!("there is no program {name}: write its name or its path")));
    }
    options.output_dir.as_deref().map_or(Ok(()), directory::check)?;
    let catalogue = super::ls::catalogue(files, clock).await?;
    let Choice { targets, remarks } = Choice::of(&catalogue, options)?;
    for remark in remarks {
        stream.say(&remark)?;
    }
    let command = shown(&options.command);
    stream.say(&format!("{command} runs on:"))?;
    for target in &targets {
        stream.say(&format!("  {} ({}:{})", target.name, target.host, target.port))?;
    }
    if !options.yes {
        agree(targets.len(), stream).await?;
    }
    let until = tap(options, files, clock, stream, &targets).await?;
    Ok((targets, until))
}

/// The person says yes, or nothing happens.
async fn agree(resources: usize, stream: Stream) -> Result<(), Failure> {
    if !std::io::IsTerminal::is_terminal(&std::io::stdin()) {
        return Err(Failure::Usage("there is no terminal to ask: add --yes".to_owned()));
    }
    let plural = if resources == 1 { "resource" } else { "resources" };
    stream.say(&format!("Proceed with {resources} {plural}? Type y and Enter."))?;
    let mut keyboard = Keyboard::open();
    loop {
        if let Typed::Line(line) = keyboard.next().await {
            return match line.trim() {
                "y" | "Y" | "yes" => Ok(()),
                _ => Err(Failure::because("nothing was run, since you did not say yes")),
            };
        }
    }
}

/// One ceremony for these, and until when it serves.
async fn tap(
    options: &Exec,
    files: &Files,
    clock: &Clock,
    stream: Stream,
    targets: &[Target],
) -> Result<BootTime, Failure> {
    let want = Want::Exec {
        targets: targets.iter().map(Target::for_control).collect(),
        // No more than its name: arguments may hold passwords, and this is shown and recorded far from here.
        command: shown(&options.command[..1]),
        pid: std::process::id(),
        mode: options.mfa_mode,
    };
    let Tell::Tapped { seconds, .. } = ask_person(files, &want, stream).await? else {
        return Err(LocalError::NotUnderstood.into());
    };
    Ok(clock.boot_time() + Duration::from_secs(seconds).saturating_sub(MARGIN))
}

/// The command for people: its words, safe to show.
fn shown(command: &[std::ffi::OsString]) -> String {
    let words: Vec<_> = command.iter().map(|word| word.to_string_lossy()).collect();
    safe(&words.join(" "))
}

/// What all commands of one exec share.
struct Run<'r> {
    options: &'r Exec,
    files: &'r Files,
    clock: &'r Clock,
    stream: Stream,
    outputs: Outputs,
}

/// The commands on their way.
struct Batch {
    waiting: VecDeque<Target>,
    running: Running,
    results: Vec<JobResult>,
    progress: Progress,
    /// When the tap serves no more.
    until: BootTime,
    /// Whether the person knows that it does not.
    is_over_told: bool,
}

impl Run<'_> {
    /// Runs them all, at most [`AT_ONCE`] at a time; and what ended that early, if something did: a signal, or nobody who
    /// reads what is said.
    async fn all(
        &self,
        targets: Vec<Target>,
        until: BootTime,
    ) -> Result<(Summary, Result<Option<SignalKind>, Failure>), Failure> {
        let mut batch = Batch {
            progress: Progress::new(self.stream, targets.len()),
            waiting: targets.into(),
            running: Running::new(),
            results: Vec::new(),
            until,
            is_over_told: false,
        };
        let stop = told_to_stop()?;
        let ended = tokio::select! {
            done = self.work_off(&mut batch) => done.map(|()| None),
            signal = stop => Ok(Some(signal)),
        };
        // None runs and none waits, unless all was stopped.
        batch.results.extend(batch.running.stop().await);
        batch.results.extend(batch.waiting.iter().map(JobResult::not_started_any_more));
        Ok((Summary::new(&self.options.command, batch.results), ended))
    }

    /// Whoever drops this between two steps finds each command either waiting, running or with a result.
    async fn work_off(&self, batch: &mut Batch) -> Result<(), Failure> {
        let mut tick = tokio::time::interval(Progress::TICK);
        loop {
            let is_over = self.clock.boot_time() >= batch.until;
            while batch.running.len() < AT_ONCE && !is_over {
                let Some(target) = batch.waiting.pop_front() else { break };
                batch.progress.begins(&target);
                batch.running.start(Job { command: &self.options.command, target, outputs: &self.outputs });
            }
            if is_over && !batch.waiting.is_empty() {
                self.see_to_rest(batch).await?;
            }
            if batch.running.is_empty() {
                match batch.waiting.is_empty() {
                    true => return Ok(()),
                    false => continue,
                }
            }
            tokio::select! {
                result = batch.running.next() => {
                    let told = batch.progress.ends(&result);
                    batch.results.push(result);
                    told?;
                }
                _ = tick.tick() => batch.progress.tick()?,
            }
        }
    }

    /// The tap's time was over before all had begun: another one for the rest, once the person has hands for it.
    async fn see_to_rest(&self, batch: &mut Batch) -> Result<(), Failure> {
        if !std::mem::replace(&mut batch.is_over_told, true) {
            let text = "The tap serves no more: the rest needs another one, when these have ended.";
            batch.progress.say(text)?;
        }
        if !batch.running.is_empty() {
            return Ok(());
        }
        let rest: Vec<Target> = batch.waiting.iter().cloned().collect();
        match tap(self.options, self.files, self.clock, self.stream, &rest).await {
            Ok(until) => (batch.until, batch.is_over_told) = (until, false),
            Err(error) => {
                batch.waiting.clear();
                batch.results.extend(rest.iter().map(|target| JobResult::not_started(target, &error)));
            }
        }
        Ok(())
    }
}

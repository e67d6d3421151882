//! What came of an exec: for people one line, for programs `summary.json`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::choice::Target;
use crate::failure::Failure;

/// What came of all.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    command: Vec<String>,
    total: usize,
    succeeded: usize,
    results: Vec<Result>,
}

/// What came of one.
#[derive(Debug, Serialize)]
pub(super) struct Result {
    name: String,
    host: String,
    port: u16,
    status: Status,
    exit_code: Option<i32>,
    signal: Option<i32>,
    /// Why, where the exit code does not say it.
    reason: Option<String>,
    seconds: f64,
    output: Option<PathBuf>,
}

/// How it ended, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    Succeeded,
    Failed,
    /// Ended by whoever ran the exec.
    Stopped,
    NotStarted,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    Succeeded,
    Failed { code: Option<i32>, signal: Option<i32>, why: Option<String> },
    Stopped,
}

impl Summary {
    /// Of these results, by name.
    pub(super) fn new(command: &[OsString], mut results: Vec<Result>) -> Self {
        results.sort_by(|a, b| a.name.cmp(&b.name));
        let succeeded = results.iter().filter(|result| result.status == Status::Succeeded).count();
        let command = command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        Self { command, total: results.len(), succeeded, results }
    }

    /// Whether each one succeeded.
    pub(super) const fn is_success(&self) -> bool {
        self.succeeded == self.total
    }

    /// The last line.
    pub(super) fn line(&self) -> String {
        let count = |status| self.results.iter().filter(|result| result.status == status).count();
        let mut line = format!("Summary: {} of {} succeeded", self.succeeded, self.total);
        for (status, what) in [(Status::Stopped, "stopped"), (Status::NotStarted, "not started")] {
            match count(status) {
                0 => {}
                some => line.push_str(&format!(", {some} {what}")),
            }
        }
        line.push('.');
        line
    }
}

impl Result {
    pub(super) fn new(target: &Target, end: End, took: Duration, output: Option<PathBuf>) -> Self {
        let (status, exit_code, signal, reason) = match end {
            End::Succeeded => (Status::Succeeded, Some(0), None, None),
            End::Failed { code, signal, why } => (Status::Failed, code, signal, why),
            End::Stopped => (Status::Stopped, None, None, None),
        };
        Self {
            name: target.name.clone(),
            host: target.host.to_string(),
            port: target.port,
            status,
            exit_code,
            signal,
            reason,
            // Milliseconds are enough for a person, and for a graph.
            seconds: (took.as_secs_f64() * 1000.0).round() / 1000.0,
            output,
        }
    }

    /// It was not started, since there was no tap for it.
    pub(super) fn not_started(target: &Target, why: &Failure) -> Self {
        let reason = Some(why.to_string());
        Self { reason, ..Self::not_started_any_more(target) }
    }

    /// It was not started, since all was stopped before.
    pub(super) fn not_started_any_more(target: &Target) -> Self {
        Self { status: Status::NotStarted, ..Self::new(target, End::Stopped, Duration::ZERO, None) }
    }

    /// One line for a person.
    pub(super) fn line(&self) -> String {
        let Self { name, status, exit_code, signal, reason, seconds, .. } = self;
        let what = match (status, reason, exit_code, signal) {
            (Status::Succeeded, ..) => "succeeded".to_owned(),
            (Status::Stopped, ..) => "stopped".to_owned(),
            (Status::NotStarted, ..) => "not started".to_owned(),
            (Status::Failed, Some(reason), ..) => format!("failed: {reason}"),
            (Status::Failed, None, Some(code), _) => format!("failed with exit code {code}"),
            (Status::Failed, None, None, Some(signal)) => format!("ended by signal {signal}"),
            (Status::Failed, None, None, None) => "failed".to_owned(),
        };
        format!("{name}: {what} ({seconds:.1} s)")
    }

    /// The resource.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether it did.
    pub(super) fn is_success(&self) -> bool {
        self.status == Status::Succeeded
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn target(name: &str) -> Target {
        Target {
            id: format!("db/{name}").parse().unwrap(),
            name: name.to_owned(),
            host: format!("{name}.corp.internal").parse().unwrap(),
            port: 5432,
            protocol: None,
        }
    }

    #[test]
    fn the_last_line_says_how_many_succeeded_and_what_became_of_the_rest() {
        let good = || Result::new(&target("a"), End::Succeeded, Duration::ZERO, None);
        let bad = Result::new(
            &target("b"),
            End::Failed { code: Some(2), signal: None, why: None },
            Duration::ZERO,
            None,
        );
        assert_eq!(bad.line(), "b: failed with exit code 2 (0.0 s)");
        let stopped = Result::new(&target("c"), End::Stopped, Duration::ZERO, None);
        assert_eq!(Summary::new(&[], vec![good(), good()]).line(), "Summary: 2 of 2 succeeded.");
        let mixed = Summary::new(&[], vec![good(), bad, stopped, Result::not_started_any_more(&target("d"))]);
        assert_eq!(mixed.line(), "Summary: 1 of 4 succeeded, 1 stopped, 1 not started.");
        assert!(!mixed.is_success());
    }

    #[test]
    fn the_json_is_for_programs() {
        let end = End::Failed { code: None, signal: Some(9), why: None };
        let result = Result::new(&target("b"), end, Duration::from_millis(1234), Some("logs/b.log".into()));
        let summary = Summary::new(&["psql".into(), "-c".into()], vec![result]);
        assert_eq!(
            serde_json::to_value(&summary).unwrap(),
            json!({"command": ["psql", "-c"], "total": 1, "succeeded": 0, "results": [{"name": "b",
                "host": "b.corp.internal", "port": 5432, "status": "failed", "exit_code": null, "signal": 9,
                "reason": null, "seconds": 1.234, "output": "logs/b.log"}]})
        );
    }
}

//! A program that a test runs on a host of the lab, with its output as it comes.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::end_group;

/// A running program. Dropped, it is ended.
#[derive(Debug)]
pub struct Program {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    errors: Receiver<String>,
    line: String,
    seen: Vec<String>,
    began: Instant,
}

/// What came of a program.
#[derive(Debug)]
pub struct Outcome {
    /// The command line, for messages.
    pub line: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// How long it ran.
    pub took: Duration,
}

impl Outcome {
    /// Itself, if the program succeeded.
    ///
    /// # Panics
    /// If it did not.
    #[track_caller]
    pub fn expect_success(self) -> Self {
        assert!(self.status.success(), "{self}");
        self
    }

    /// Itself, if the program failed.
    ///
    /// # Panics
    /// If it did not.
    #[track_caller]
    pub fn expect_failure(self) -> Self {
        assert!(!self.status.success(), "{self}");
        self
    }

    /// Its standard output as JSON.
    ///
    /// # Panics
    /// If it is none.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error} in the output of {self}"))
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { line, status, stdout, stderr, took } = self;
        write!(f, "{line}: {status} after {took:?}\n{stdout}\n{stderr}")
    }
}

impl Program {
    pub(super) fn start(mut command: Command) -> Self {
        let line = command.get_args().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join(" ");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.process_group(0).spawn().expect("nsenter runs");
        Self {
            lines: lines_of(child.stdout.take().expect("a pipe was asked for")),
            errors: lines_of(child.stderr.take().expect("a pipe was asked for")),
            input: child.stdin.take(),
            child,
            line,
            seen: Vec::new(),
            began: Instant::now(),
        }
    }

    /// The next line of its output.
    ///
    /// # Panics
    /// If none comes in time, or the output has ended.
    #[track_caller]
    pub fn read_line(&mut self, patience: Duration) -> String {
        match self.lines.recv_timeout(patience) {
            Ok(line) => {
                self.seen.push(line.clone());
                line
            }
            Err(RecvTimeoutError::Timeout) => panic!("no line within {patience:?} from {}", self.line),
            Err(RecvTimeoutError::Disconnected) => {
                let errors: Vec<String> = self.errors.iter().collect();
                panic!("the output of {} ended after {:?}: {}", self.line, self.seen, errors.join("\n"))
            }
        }
    }

    /// Types a line.
    pub fn write_line(&mut self, text: &str) {
        let input = self.input.as_mut().expect("the input is open");
        // A program that has ended is found by what it wrote, not by this.
        let _ = writeln!(input, "{text}");
    }

    /// Whether it is still running.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Its pid on the machine, which is the one on the host too.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Closes its input and waits for its end.
    ///
    /// # Panics
    /// If it does not end in time.
    #[track_caller]
    pub fn finish(mut self, patience: Duration) -> Outcome {
        drop(self.input.take());
        // From here: a program may have run for longer than that before it was to end.
        let end = Instant::now() + patience;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child of ours") {
                break status;
            }
            assert!(Instant::now() < end, "{} did not end within {patience:?}", self.line);
            std::thread::sleep(Duration::from_millis(2));
        };
        let took = self.began.elapsed();
        self.seen.extend(self.lines.iter());
        let stderr: Vec<String> = self.errors.iter().collect();
        Outcome {
            line: std::mem::take(&mut self.line),
            status,
            stdout: self.seen.join("\n"),
            stderr: stderr.join("\n"),
            took,
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        end_group(self.child.id());
        let _ = self.child.wait();
    }
}

/// Reads a pipe to its end on a thread of its own, so that no program waits for a test to read.
fn lines_of(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

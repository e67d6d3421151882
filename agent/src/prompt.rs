//! A prompt as a person sees it: one line that names resource, host, port, program, pid and the time left.

use serde::{Deserialize, Serialize};

/// The open prompt; also a row of `status --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PromptView {
    /// Names it, for denying it.
    pub(crate) id: u64,
    /// The resource's name.
    pub(crate) resource: String,
    /// The host name that the program asked for.
    pub(crate) host: String,
    /// The port.
    pub(crate) port: u16,
    /// The program, if it was found.
    pub(crate) program: Option<String>,
    /// Its process.
    pub(crate) pid: Option<u32>,
    /// Until it closes.
    pub(crate) seconds_left: u64,
}

/// Whether a program still waits for the prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Waiting {
    /// Yes.
    Yes,
    /// The last one has gone.
    GaveUp,
}

impl PromptView {
    /// The line (design section 7).
    pub(crate) fn line(&self, waiting: Waiting) -> String {
        let Self { resource: name, host, port, seconds_left, .. } = self;
        let program = self.program.as_deref();
        let who = match (program, self.pid) {
            (Some(program), Some(pid)) => format!("{program}, pid {pid}"),
            (Some(program), None) => program.to_owned(),
            (None, _) => "an unknown program".to_owned(),
        };
        match waiting {
            Waiting::Yes => {
                format!("Tap your security key: {name} ({host}:{port}) for {who} - {seconds_left} s left")
            }
            Waiting::GaveUp => {
                let gone = program.unwrap_or("the program");
                format!(
                    "Tap your security key: {name} ({host}:{port}) - {gone} gave up: tap, then run it again - {seconds_left} s left"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(program: Option<&str>) -> PromptView {
        PromptView {
            id: 1,
            resource: "billing-db".into(),
            host: "billing-db.corp.internal".into(),
            port: 5432,
            program: program.map(Into::into),
            pid: program.map(|_| 4242),
            seconds_left: 58,
        }
    }

    #[test]
    fn the_line_is_the_one_of_the_design() {
        assert_eq!(
            view(Some("psql")).line(Waiting::Yes),
            "Tap your security key: billing-db (billing-db.corp.internal:5432) for psql, pid 4242 - 58 s left"
        );
    }

    #[test]
    fn a_program_that_was_not_found_is_said_to_be_unknown() {
        assert!(view(None).line(Waiting::Yes).contains("for an unknown program - 58 s left"));
    }

    #[test]
    fn a_program_that_gave_up_is_named() {
        assert!(view(Some("psql")).line(Waiting::GaveUp).contains("psql gave up: tap, then run it again"));
    }
}

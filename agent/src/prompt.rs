//! A prompt as a person sees it: one line that says how to answer it, what it is about, who asks, and the time left.

use serde::{Deserialize, Serialize};

/// The open prompt as a row of `status --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PromptView {
    /// Names it, for denying it.
    pub(crate) id: u64,
    /// The resource's name; of several, each.
    pub(crate) resource: String,
    /// The host name that the program asked for; empty where there is more than one resource, or none.
    pub(crate) host: String,
    /// The port, likewise 0.
    pub(crate) port: u16,
    /// The program, if it was found.
    pub(crate) program: Option<String>,
    /// Its process.
    pub(crate) pid: Option<u32>,
    /// Until it closes.
    pub(crate) seconds_left: u64,
}

/// The open prompt with all that front-ends show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Prompt {
    /// What status shows.
    pub(crate) view: PromptView,
    /// What it is about.
    pub(crate) about: About,
    /// Whether a program still waits for it.
    pub(crate) waiting: Waiting,
    /// How it can be answered.
    pub(crate) means: Means,
}

/// What a prompt is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum About {
    /// One port.
    Port,
    /// One command on several resources.
    Exec {
        /// How many.
        resources: usize,
    },
    /// A change of the user's own keys and apps, as a person would say it.
    Devices(String),
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

/// How a prompt can be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Means {
    /// With a security key.
    Key,
    /// With a security key, or a code of an authenticator app.
    KeyOrCode,
    /// With a code.
    Code,
    /// On a page in the browser.
    Browser,
    /// With a security key, once its PIN is typed.
    Pin,
}

impl Means {
    /// What the person is to do.
    pub(crate) const fn task(self) -> &'static str {
        match self {
            Self::Key => "Tap your security key",
            Self::KeyOrCode => "Tap your security key, or enter a code",
            Self::Code => "Enter a code of your authenticator app",
            Self::Browser => "Approve in your browser",
            Self::Pin => "Type the PIN of your security key",
        }
    }

    /// Whether a code answers it.
    pub(crate) const fn takes_codes(self) -> bool {
        match self {
            Self::KeyOrCode | Self::Code => true,
            Self::Key | Self::Browser | Self::Pin => false,
        }
    }
}

impl Prompt {
    /// The line (design section 7).
    pub(crate) fn line(&self) -> String {
        let left = self.view.seconds_left;
        format!("{}: {} - {left} s left", self.means.task(), self.matter())
    }

    /// What it is about and who asks, without the countdown.
    pub(crate) fn matter(&self) -> String {
        let PromptView { resource: name, host, port, .. } = &self.view;
        match (&self.about, self.waiting) {
            (About::Port, Waiting::Yes) => format!("{name} ({host}:{port}) for {}", self.asker()),
            (About::Port, Waiting::GaveUp) => {
                let gone = self.view.program.as_deref().unwrap_or("the program");
                let task = match self.means {
                    Means::Key | Means::KeyOrCode => "tap",
                    Means::Code => "enter a code",
                    Means::Browser => "approve",
                    Means::Pin => "type the PIN",
                };
                format!("{name} ({host}:{port}) - {gone} gave up: {task}, then run it again")
            }
            (About::Exec { resources: 1 }, _) => format!("{} on {name}", self.asker()),
            (About::Exec { resources }, _) => format!("{} on {resources} resources: {name}", self.asker()),
            (About::Devices(change), _) => format!("{change}, for {}", self.asker()),
        }
    }

    /// The same prompt, this much later.
    pub(crate) fn after(&self, seconds: u64) -> Self {
        let seconds_left = self.view.seconds_left.saturating_sub(seconds);
        Self { view: PromptView { seconds_left, ..self.view.clone() }, ..self.clone() }
    }

    fn asker(&self) -> String {
        match (self.view.program.as_deref(), self.view.pid) {
            (Some(program), Some(pid)) => format!("{program}, pid {pid}"),
            (Some(program), None) => program.to_owned(),
            (None, _) => "an unknown program".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(program: Option<&str>) -> Prompt {
        let view = PromptView {
            id: 1,
            resource: "billing-db".into(),
            host: "billing-db.corp.internal".into(),
            port: 5432,
            program: program.map(Into::into),
            pid: program.map(|_| 4242),
            seconds_left: 58,
        };
        Prompt { view, about: About::Port, waiting: Waiting::Yes, means: Means::Key }
    }

    #[test]
    fn the_line_is_the_one_of_the_design() {
        assert_eq!(
            prompt(Some("psql")).line(),
            "Tap your security key: billing-db (billing-db.corp.internal:5432) for psql, pid 4242 - 58 s left"
        );
    }

    #[test]
    fn a_program_that_was_not_found_is_said_to_be_unknown() {
        assert!(prompt(None).line().contains("for an unknown program - 58 s left"));
    }

    #[test]
    fn a_program_that_gave_up_is_named() {
        let prompt = Prompt { waiting: Waiting::GaveUp, ..prompt(Some("psql")) };
        assert!(prompt.line().contains("psql gave up: tap, then run it again"));
    }

    #[test]
    fn the_line_says_what_answers_it() {
        let line = |means| Prompt { means, ..prompt(Some("psql")) }.line();
        assert!(line(Means::KeyOrCode).starts_with("Tap your security key, or enter a code: billing-db ("));
        assert!(line(Means::Code).starts_with("Enter a code of your authenticator app: billing-db ("));
        assert!(line(Means::Browser).starts_with("Approve in your browser: billing-db ("));
    }

    #[test]
    fn all_resources_of_an_exec_are_named() {
        let mut prompt =
            Prompt { about: About::Exec { resources: 2 }, ..prompt(Some("portlatch exec psql")) };
        prompt.view.resource = "billing-db, users-db".into();
        assert_eq!(
            prompt.line(),
            "Tap your security key: portlatch exec psql, pid 4242 on 2 resources: billing-db, users-db - 58 s left"
        );
    }

    #[test]
    fn the_countdown_ends_at_nothing() {
        assert_eq!(prompt(None).after(10).view.seconds_left, 48);
        assert_eq!(prompt(None).after(100).view.seconds_left, 0);
    }
}

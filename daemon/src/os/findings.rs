//! What a person should know about this machine: things that work less well than they could, and what to do. `doctor`
//! shows them, the log has them once.

use std::fmt;

/// One thing that is not as it should be, though the daemon goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is about: one word, the same at each report of it.
    pub subject: &'static str,
    /// What is wrong, in a sentence without a full stop.
    pub what: String,
    /// What to do about it.
    pub advice: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.subject, self.what, self.advice)
    }
}

/// A list of findings, at most one for each subject: the newest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings(Vec<Finding>);

impl Findings {
    /// Adds a finding; it takes the place of an earlier one about the same subject.
    pub fn add(&mut self, subject: &'static str, what: impl Into<String>, advice: impl Into<String>) {
        let finding = Finding { subject, what: what.into(), advice: advice.into() };
        match self.0.iter_mut().find(|known| known.subject == subject) {
            Some(known) => *known = finding,
            None => self.0.push(finding),
        }
    }

    /// Takes away what was found about this subject: it is well now.
    pub fn remove(&mut self, subject: &'static str) {
        self.0.retain(|known| known.subject != subject);
    }

    /// Adds those of `other`.
    pub fn extend(&mut self, other: Self) {
        for Finding { subject, what, advice } in other.0 {
            self.add(subject, what, advice);
        }
    }

    /// Each finding, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Finding> {
        self.0.iter()
    }

    /// Whether all is well.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Writes each to the log.
    pub fn log(&self) {
        for Finding { subject, what, advice } in &self.0 {
            tracing::warn!(subject, advice, "{what}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_reported_once_with_its_newest_state() {
        let mut findings = Findings::default();
        findings.add("ipv6", "off", "nothing");
        findings.add("dns", "off", "set dns");
        findings.add("ipv6", "refused", "look");
        let shown: Vec<String> = findings.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["ipv6: refused; look", "dns: off; set dns"]);
    }
}

//! What agents are told of the machine: the range of our addresses, and what a person should know.

use portlatch_protocol::attach;
use tokio::sync::watch;

use crate::os::ranges::Range4;
use crate::os::{Finding, Findings};

/// What is known of the machine.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    range4: Range4,
    /// Of the start: the kernel and the network do not change.
    findings: Findings,
    /// Of the name service, which comes and goes.
    of_names: watch::Receiver<Findings>,
}

impl Machine {
    /// A machine of which this is known.
    pub(crate) const fn new(range4: Range4, findings: Findings, of_names: watch::Receiver<Findings>) -> Self {
        Self { range4, findings, of_names }
    }

    /// As agents are told.
    pub(super) fn describe(&self) -> attach::Machine {
        let of_names = self.of_names.borrow();
        let told = |Finding { subject, what, advice }: &Finding| attach::Finding {
            subject: (*subject).to_owned(),
            what: what.clone(),
            advice: advice.clone(),
        };
        attach::Machine {
            network: self.range4.network(),
            prefix_length: self.range4.prefix_length(),
            findings: self.findings.iter().chain(of_names.iter()).map(told).collect(),
        }
    }
}

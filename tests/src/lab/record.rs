//! What a user and an administrator can read afterwards: `status --json` and the audit.

use std::time::Duration;

use serde_json::Value;

use super::{Account, Host, Lab, PATIENCE, wait_for};

impl Lab {
    /// `portlatch status --json` of a user.
    pub fn status(&self, account: Account) -> Value {
        self.portlatch(account, &["status", "--json"]).expect_success().json()
    }

    /// Waits until a prompt for this resource and port is open, and returns it.
    pub fn wait_for_prompt(&self, account: Account, resource: &str, port: u16) -> Value {
        wait_for(&format!("a prompt for {resource}:{port}"), PATIENCE, || {
            let prompts = self.prompts(account);
            prompts.into_iter().find(|prompt| names(prompt, resource, port))
        })
    }

    /// The prompts that are open.
    pub fn prompts(&self, account: Account) -> Vec<Value> {
        self.status(account)["prompts"].as_array().expect("prompts are a list").clone()
    }

    /// The reason of a user's newest refusal at this port.
    pub fn newest_refusal(&self, account: Account, port: u16) -> Option<String> {
        let status = self.status(account);
        let refusals = status["refusals"].as_array().expect("refusals are a list");
        let newest = refusals.iter().find(|refusal| refusal["port"] == port)?;
        Some(newest["reason"].as_str().expect("a reason is a word").to_owned())
    }

    /// Waits until the newest refusal at this port has this reason.
    pub fn wait_for_refusal(&self, account: Account, port: u16, reason: &str) {
        wait_for(&format!("a refusal at port {port} for {reason}"), PATIENCE, || {
            self.newest_refusal(account, port).filter(|newest| newest == reason)
        });
    }

    /// The whole audit, oldest first.
    pub fn audit(&self) -> Vec<Value> {
        let outcome = self.administer(&["audit", "tail", "--lines", "100000"]);
        let parse =
            |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"));
        outcome.stdout.lines().map(parse).collect()
    }

    /// How many records of this event the audit has.
    pub fn count(&self, event: &str) -> usize {
        self.audit().iter().filter(|record| record["event"] == event).count()
    }

    /// Waits until the audit has a record that fits.
    pub fn wait_for_record(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        wait_for(what, Duration::from_secs(10), || self.audit().into_iter().find(|record| fits(record)))
    }

    /// How many times a proxy has begun to dial a target, as the company's host counts it.
    pub fn dials(&self) -> u64 {
        let counter = ["nft", "--json", "list", "counter", "inet", "lab", "dials"];
        let told = self.run(Host::Company, Account::Root, &counter).expect_success().json();
        let objects = told["nftables"].as_array().expect("nft lists objects");
        let packets = objects.iter().find_map(|object| object["counter"]["packets"].as_u64());
        packets.expect("the company's host counts")
    }

    /// Asserts that nobody changed the audit.
    pub fn assert_audit_verifies(&self) {
        self.administer(&["audit", "verify"]);
    }
}

/// Whether a prompt, grant or refusal is about this resource and port. A resource is shown with or without its kind.
pub fn names(entry: &Value, resource: &str, port: u16) -> bool {
    let shown = entry["resource"].as_str().unwrap_or_default();
    (shown == resource || shown.ends_with(&format!("/{resource}"))) && entry["port"] == port
}

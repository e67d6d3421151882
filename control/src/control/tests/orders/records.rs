//! What the audit says since it was looked at last.

use serde_json::Value;

use super::super::super::*;
use super::super::scene::Scene;

#[derive(Default)]
pub(super) struct Records {
    seen: usize,
    new: Vec<Value>,
}

impl Records {
    /// Reads on.
    pub(super) fn read(&mut self, scene: &Scene) {
        let mut reader = portlatch_audit::Reader::open(&scene.dir.path().join(AUDIT_FOLDER)).unwrap();
        self.new.clear();
        let mut number = 0;
        while let Some(record) = reader.next_record().unwrap() {
            number += 1;
            if number > self.seen {
                self.new.push(serde_json::from_str(&record.line).unwrap());
            }
        }
        self.seen = number;
    }

    /// The new ones of a kind.
    pub(super) fn of(&self, kind: &str) -> Vec<&Value> {
        self.new.iter().filter(|record| record["event"] == kind).collect()
    }

    pub(super) fn count(&self, kind: &str) -> usize {
        self.of(kind).len()
    }

    /// Refusals among them, each with its reason.
    pub(super) fn refusals(&self) -> usize {
        let is_told = |record: &&&Value| record["reason"].as_str().is_some_and(|reason| !reason.is_empty());
        let (denied, failed) = (self.of("access.denied"), self.of("mfa.fail"));
        denied.iter().chain(&failed).filter(is_told).count()
    }
}

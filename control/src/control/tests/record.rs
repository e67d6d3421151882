//! What a refusal leaves on the record: one line more that names its reason, and no grant.

use portlatch_audit::Reader;
use serde_json::Value;

use super::super::*;
use super::scene::Scene;

/// How much was on the record at a moment.
pub(super) struct Mark(usize);

impl Scene {
    /// What is on the record now.
    pub(super) fn mark(&self) -> Mark {
        Mark(self.records().len())
    }

    /// What came on the record since, oldest first.
    pub(super) fn records_since(&self, mark: &Mark) -> Vec<Value> {
        self.records().split_off(mark.0)
    }

    /// Since then something was refused: there is one record more of this kind, it has this reason, and nothing was granted.
    /// What made room for a new challenge is none of it.
    pub(super) fn refused_since(&self, mark: &Mark, kind: &str, reason: &str) {
        let new = self.records_since(mark);
        let of_kind = new.iter().filter(|it| it["event"] == kind && it["reason"] != "displaced");
        let reasons: Vec<&Value> = of_kind.map(|it| &it["reason"]).collect();
        assert_eq!(reasons, [reason], "{new:#?}");
        assert!(new.iter().all(|it| it["event"] != "grant"), "{new:#?}");
    }

    /// Since then nobody was shown to be there, nor signed in.
    pub(super) fn nothing_proved_since(&self, mark: &Mark) {
        for record in self.records_since(mark) {
            let event = record["event"].as_str().unwrap();
            let is_proof = matches!(event, "mfa.ok" | "mfa.redeem" | "grant" | "device.add");
            assert!(!(is_proof || event == "login" && record["reason"].is_null()), "{record:#}");
        }
    }

    fn records(&self) -> Vec<Value> {
        let mut reader = Reader::open(&self.dir.path().join(AUDIT_FOLDER)).unwrap();
        let mut found = Vec::new();
        while let Some(record) = reader.next_record().unwrap() {
            found.push(serde_json::from_str(&record.line).unwrap());
        }
        found
    }
}

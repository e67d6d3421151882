//! Labels of things, and the rules that roles match them with.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json};

use super::fault::{Report, Spot, quoted};
use super::fields::Fields;
use super::node::{Entry, Node, Value};
use super::values;

/// Longest key and value: fits a column of a table.
pub(crate) const MAX_LABEL: usize = 128;
/// Most labels of one thing and most keys of one rule.
pub(crate) const MAX_LABELS: usize = 64;
/// The key or value that stands for every one.
const ANY: &str = "*";

/// The labels of a resource or proxy.
pub type Labels = BTreeMap<String, String>;

/// Which labels a rule asks for: every key must be there with one of its values. A rule without keys matches nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelRule(BTreeMap<String, Vec<String>>);

impl LabelRule {
    /// The rule that asks for these values of these keys.
    pub fn new(keys: impl IntoIterator<Item = (String, Vec<String>)>) -> Self {
        Self(keys.into_iter().collect())
    }

    /// Whether something with these labels is meant.
    pub fn matches(&self, labels: &Labels) -> bool {
        !self.0.is_empty()
            && self
                .0
                .iter()
                .all(|(key, values)| is_everything(key, values) || has_one_of(labels, key, values))
    }

    /// Whether it asks for nothing, and so matches nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn to_json(&self) -> Json {
        let value = |values: &Vec<String>| match values.as_slice() {
            [one] => Json::from(one.as_str()),
            several => Json::from(several),
        };
        self.0.iter().map(|(key, values)| (key.clone(), value(values))).collect::<Map<_, _>>().into()
    }
}

impl std::fmt::Display for LabelRule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (n, (key, values)) in self.0.iter().enumerate() {
            let separator = if n == 0 { "" } else { ", " };
            write!(f, "{separator}{key}={}", values.join("|"))?;
        }
        Ok(())
    }
}

fn is_everything(key: &str, values: &[String]) -> bool {
    key == ANY && values.iter().any(|value| value == ANY)
}

fn has_one_of(labels: &Labels, key: &str, values: &[String]) -> bool {
    labels.get(key).is_some_and(|label| values.iter().any(|value| value == ANY || value == label))
}

/// Reads the labels of a thing.
pub(super) fn read_labels(fields: &mut Fields<'_, '_>, name: &str) -> Labels {
    let Some(entries) = entries(fields, name) else { return Labels::new() };
    let mut labels = Labels::new();
    for entry in entries {
        check(&entry.key, entry.key_spot, fields.report);
        match values::text(&entry.value) {
            Some(text) => {
                check(text, entry.value.spot, fields.report);
                labels.insert(entry.key.clone(), text.to_owned());
            }
            None => {
                let message = format!(
                    "the label {} has one value, not {}",
                    quoted(&entry.key),
                    entry.value.described()
                );
                fields.report.fault(entry.value.spot, message);
            }
        }
    }
    labels
}

/// Reads a rule.
pub(super) fn read_rule(fields: &mut Fields<'_, '_>, name: &str) -> Option<LabelRule> {
    let entries = entries(fields, name)?;
    let rule = entries.iter().map(|entry| (entry.key.clone(), read_alternatives(entry, fields.report)));
    Some(LabelRule::new(rule.collect::<Vec<_>>()))
}

fn read_alternatives(entry: &Entry, report: &mut Report) -> Vec<String> {
    check(&entry.key, entry.key_spot, report);
    refuse_pattern(&entry.key, entry.key_spot, report);
    let nodes = match &entry.value.value {
        Value::Sequence(items) => items.as_slice(),
        Value::Scalar { .. } | Value::Mapping(_) => std::slice::from_ref(&entry.value),
    };
    if nodes.is_empty() {
        report.fault(
            entry.value.spot,
            format!("{} with no value never matches: name one, or `*`", quoted(&entry.key)),
        );
    }
    let values: Vec<String> =
        nodes.iter().filter_map(|node| read_alternative(node, &entry.key, report)).collect();
    let is_half_a_wildcard =
        entry.key == ANY && !values.is_empty() && values.iter().any(|value| value != ANY);
    if is_half_a_wildcard {
        report.fault(entry.value.spot, "the key `*` takes the value `*` alone");
    }
    values
}

fn read_alternative(node: &Node, key: &str, report: &mut Report) -> Option<String> {
    let Some(text) = values::text(node).filter(|_| !node.is_null()) else {
        let message =
            format!("{} takes a value, a list of values or `*`, not {}", quoted(key), node.described());
        report.fault(node.spot, message);
        return None;
    };
    check(text, node.spot, report);
    refuse_pattern(text, node.spot, report);
    Some(text.to_owned())
}

fn refuse_pattern(text: &str, spot: Spot, report: &mut Report) {
    // Taken literally such a text would match nothing: harmless in `allow`, but a hole in `deny`.
    let is_pattern = (text.contains('*') && text != ANY) || text.starts_with('^') || text.contains("{{");
    if is_pattern {
        report.fault(
            spot,
            format!("{} looks like a pattern: labels are taken literally, or are `*`", quoted(text)),
        );
    }
}

fn entries<'n>(fields: &mut Fields<'n, '_>, name: &str) -> Option<&'n [Entry]> {
    let node = fields.get(name)?;
    let Value::Mapping(entries) = &node.value else {
        fields.wrong(node, name, "a mapping of labels");
        return None;
    };
    if entries.len() > MAX_LABELS {
        fields.report.fault(node.spot, format!("{name} has at most {MAX_LABELS} labels"));
        return None;
    }
    Some(entries)
}

fn check(text: &str, spot: Spot, report: &mut Report) {
    if text.len() > MAX_LABEL {
        report.fault(spot, format!("{} is longer than {MAX_LABEL} bytes", quoted(text)));
    }
    if text.chars().any(char::is_control) {
        report.fault(spot, format!("{} has a character that cannot be shown", quoted(text)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn rule(pairs: &[(&str, &[&str])]) -> LabelRule {
        let values = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
        LabelRule::new(pairs.iter().map(|(key, alternatives)| ((*key).to_owned(), values(alternatives))))
    }

    #[test]
    fn every_key_must_match_one_of_its_values() {
        let rule = rule(&[("env", &["prod", "staging"]), ("site", &["berlin"])]);
        assert!(rule.matches(&labels(&[("env", "staging"), ("site", "berlin"), ("more", "x")])));
        assert!(!rule.matches(&labels(&[("env", "dev"), ("site", "berlin")])));
        assert!(!rule.matches(&labels(&[("env", "prod")])));
    }

    #[test]
    fn a_rule_without_labels_matches_nothing() {
        assert!(!LabelRule::default().matches(&labels(&[("env", "prod")])));
        assert!(!LabelRule::default().matches(&Labels::new()));
    }

    #[test]
    fn the_wildcard_key_matches_even_what_has_no_labels() {
        let all = rule(&[("*", &["*"])]);
        assert!(all.matches(&Labels::new()) && all.matches(&labels(&[("env", "prod")])));
    }

    #[test]
    fn the_wildcard_value_asks_for_the_key() {
        let any_env = rule(&[("env", &["*"])]);
        assert!(any_env.matches(&labels(&[("env", "prod")])));
        assert!(!any_env.matches(&labels(&[("tier", "prod")])));
    }
}

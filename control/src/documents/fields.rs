//! The fields of one mapping: which are known, which are kept without a meaning, and what their values are. Whatever is
//! wrong goes to the report, and reading goes on.

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use serde_json::Value as Json;

use super::fault::{Report, Spot, quoted};
use super::node::{Entry, Node, Value};
use super::values;
use crate::nearest::suggestion;

/// Which fields a mapping may have.
pub(super) struct Shape {
    /// Where it stands, for messages: `spec.allow`.
    pub(super) path: &'static str,
    /// Fields that mean something.
    pub(super) known: &'static [&'static str],
    /// Fields of Teleport's that mean nothing here.
    pub(super) foreign: &'static [(&'static str, Tolerance)],
}

/// With which values a foreign field may be ignored without anybody getting more access than its author meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tolerance {
    /// With any: it only ever gives.
    Any,
    /// Only where it says yes to what happens anyway: `no` would restrict.
    Yes,
    /// Only where it says no: `yes` would restrict.
    No,
    /// Only where nothing is in it: anything would restrict.
    Empty,
}

/// A foreign field that was kept: where it stands, and what is in it.
pub(super) type Kept = Vec<(String, Json)>;

/// The fields of one mapping.
pub(super) struct Fields<'n, 'r> {
    path: &'static str,
    spot: Spot,
    entries: &'n [Entry],
    pub(super) report: &'r mut Report,
}

impl<'n, 'r> Fields<'n, 'r> {
    /// Opens a mapping and reports every field that it may not have. Nothing at all counts as a mapping without fields.
    pub(super) fn open(
        node: &'n Node,
        shape: &Shape,
        kept: &mut Kept,
        report: &'r mut Report,
    ) -> Option<Self> {
        let entries = match &node.value {
            Value::Mapping(entries) => entries.as_slice(),
            Value::Scalar { .. } if node.is_null() => &[],
            Value::Scalar { .. } | Value::Sequence(_) => {
                report.fault(node.spot, format!("{} is a mapping, not {}", shape.path, node.described()));
                return None;
            }
        };
        for entry in entries.iter().filter(|entry| !shape.known.contains(&entry.key.as_str())) {
            check_foreign(entry, shape, kept, report);
        }
        Some(Self { path: shape.path, spot: node.spot, entries, report })
    }

    /// What stands in a field; a field with nothing in it is not there.
    pub(super) fn get(&self, name: &str) -> Option<&'n Node> {
        let entry = self.entries.iter().find(|entry| entry.key == name)?;
        (!entry.value.is_null()).then_some(&entry.value)
    }

    /// What stands in a field that must be there.
    pub(super) fn required(&mut self, name: &str) -> Option<&'n Node> {
        let node = self.get(name);
        if node.is_none() {
            self.report.fault(self.spot, format!("{} needs the field `{name}`", self.path));
        }
        node
    }

    /// A text.
    pub(super) fn text(&mut self, name: &str) -> Option<&'n str> {
        let node = self.get(name)?;
        let text = values::text(node);
        if text.is_none() {
            self.wrong(node, name, "a text");
        }
        text
    }

    /// A text that something can be made of.
    pub(super) fn parsed<T: FromStr<Err: Display>>(&mut self, name: &str) -> Option<T> {
        let node = self.get(name)?;
        let text = self.text(name)?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.report.fault(node.spot, format!("{}.{name} {}: {error}", self.path, quoted(text)));
                None
            }
        }
    }

    /// A truth; `no` where nothing stands.
    pub(super) fn flag(&mut self, name: &str) -> bool {
        let Some(node) = self.get(name) else { return false };
        let truth = node.as_truth();
        if truth.is_none() {
            self.wrong(node, name, "`true` or `false`");
        }
        truth.unwrap_or(false)
    }

    /// A duration of at least a second.
    pub(super) fn duration(&mut self, name: &str) -> Option<Duration> {
        let node = self.get(name)?;
        match values::duration(node) {
            Ok(duration) if duration.is_zero() => {
                self.report.fault(node.spot, format!("{}.{name} must be longer than nothing", self.path));
                None
            }
            Ok(duration) => Some(duration),
            Err(why) => {
                self.report.fault(node.spot, format!("{}.{name}: {why}", self.path));
                None
            }
        }
    }

    /// A number from 1 up.
    pub(super) fn count(&mut self, name: &str) -> Option<u32> {
        let node = self.get(name)?;
        let count = values::text(node).and_then(|text| text.parse().ok()).filter(|count| *count > 0);
        if count.is_none() {
            self.wrong(node, name, "a whole number from 1 to 4294967295");
        }
        count
    }

    /// One of several words.
    pub(super) fn choice<T: Copy>(&mut self, name: &str, choices: &[(&'static str, T)]) -> Option<T> {
        let node = self.get(name)?;
        let text = self.text(name)?;
        let found = choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
            let message =
                format!("{}.{name} is one of {}, not {}", self.path, words.join(", "), quoted(text));
            self.report.fault(node.spot, message);
        }
        found
    }

    /// A list's items.
    pub(super) fn list(&mut self, name: &str) -> Option<&'n [Node]> {
        let node = self.get(name)?;
        match &node.value {
            Value::Sequence(items) => Some(items),
            Value::Scalar { .. } | Value::Mapping(_) => {
                self.wrong(node, name, "a list");
                None
            }
        }
    }

    /// A list of texts that something can be made of.
    pub(super) fn list_of<T: FromStr<Err: Display>>(&mut self, name: &str) -> Option<Vec<T>> {
        let items = self.list(name)?;
        let mut parsed = Vec::with_capacity(items.len());
        for item in items {
            match values::text(item).map(|text| (text, text.parse())) {
                Some((_, Ok(value))) => parsed.push(value),
                Some((text, Err(error))) => {
                    self.report.fault(item.spot, format!("{}.{name} {}: {error}", self.path, quoted(text)));
                }
                None => self.wrong(item, name, "a list of texts"),
            }
        }
        Some(parsed)
    }

    /// Reports that a field has a value of the wrong kind.
    pub(super) fn wrong(&mut self, node: &Node, name: &str, right: &str) {
        self.report.fault(node.spot, format!("{}.{name} is {right}, not {}", self.path, node.described()));
    }

    /// Where a field stands; where the mapping does if the field is not there.
    pub(super) fn spot(&self, name: &str) -> Spot {
        self.get(name).map_or(self.spot, |node| node.spot)
    }
}

fn check_foreign(entry: &Entry, shape: &Shape, kept: &mut Kept, report: &mut Report) {
    let Some((_, tolerance)) = shape.foreign.iter().find(|(name, _)| *name == entry.key) else {
        let hint = suggestion(&entry.key, shape.known);
        report
            .fault(entry.key_spot, format!("unknown field {} in {}: {hint}", quoted(&entry.key), shape.path));
        return;
    };
    let name = format!("{}.{}", shape.path, entry.key);
    let is_harmless = match tolerance {
        Tolerance::Any => true,
        Tolerance::Yes => entry.value.is_null() || entry.value.as_truth() == Some(true),
        Tolerance::No => entry.value.is_null() || entry.value.as_truth() == Some(false),
        Tolerance::Empty => entry.value.is_empty(),
    };
    if !is_harmless {
        let message = format!("{name} would restrict access and cannot be enforced here: remove it");
        report.fault(entry.key_spot, message);
        return;
    }
    if entry.value.is_empty() {
        return;
    }
    if *tolerance == Tolerance::Any {
        report.warn(entry.key_spot, foreign_note(&name));
    }
    kept.push((name, entry.value.to_json()));
}

fn foreign_note(name: &str) -> String {
    match name {
        "spec.allow.logins" => "spec.allow.logins is kept but not enforced: SSH is not opened".to_owned(),
        _ => format!("{name} is kept but has no effect here"),
    }
}

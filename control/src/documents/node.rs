//! A document as a tree whose every part knows its line and column. Scalars stay as they were written: whether `yes` is
//! a truth or a label's value is for the field to say, not for YAML.
//!
//! Aliases, tags and repeated keys are refused: the first can make a small file huge, the others make it say something
//! else than it seems to.

use std::collections::HashSet;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput};
use serde_json::Value as Json;

use super::fault::{Report, Spot, quoted};

/// Largest file: sixteen thousand resources of the usual size.
pub(super) const MAX_FILE: usize = 4 * 1024 * 1024;
/// Most documents in a file.
const MAX_DOCUMENTS: usize = 16 * 1024;
/// Deepest nesting: twice what the deepest field needs.
const MAX_DEPTH: usize = 16;

/// A part of a document.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) spot: Spot,
    pub(super) value: Value,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    /// As written; `is_plain` means without quotes.
    Scalar {
        text: String,
        is_plain: bool,
    },
    Sequence(Vec<Node>),
    Mapping(Vec<Entry>),
}

/// A key and its value.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_spot: Spot,
    pub(super) value: Node,
}

impl Node {
    /// Every document of a YAML text that could be read; what could not is in the report.
    pub(super) fn read_yaml(text: &str, report: &mut Report) -> Vec<Self> {
        if text.len() > MAX_FILE {
            report
                .fault(Some((1, 1)), format!("a file has at most {} MiB: split it", MAX_FILE / 1024 / 1024));
            return Vec::new();
        }
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut reader = Reader { parser: Parser::new_from_str(text), report };
        reader.documents()
    }

    /// The tree of a JSON value; it has no places.
    pub(super) fn from_json(json: &Json) -> Self {
        let plain = |text: String| Value::Scalar { text, is_plain: true };
        let value = match json {
            Json::Null => plain("null".to_owned()),
            Json::Bool(truth) => plain(truth.to_string()),
            Json::Number(number) => plain(number.to_string()),
            Json::String(text) => Value::Scalar { text: text.clone(), is_plain: false },
            Json::Array(items) => Value::Sequence(items.iter().map(Self::from_json).collect()),
            Json::Object(fields) => {
                let entry = |(key, value)| Entry {
                    key: String::clone(key),
                    key_spot: None,
                    value: Self::from_json(value),
                };
                Value::Mapping(fields.iter().map(entry).collect())
            }
        };
        Self { spot: None, value }
    }

    /// The JSON value of what stands here, for fields that are kept and not read.
    pub(super) fn to_json(&self) -> Json {
        match &self.value {
            Value::Scalar { .. } if self.is_null() => Json::Null,
            Value::Scalar { text, is_plain: true } => match (text.as_str(), text.parse::<i64>()) {
                ("true", _) => Json::Bool(true),
                ("false", _) => Json::Bool(false),
                (_, Ok(number)) => Json::from(number),
                (_, Err(_)) => Json::String(text.clone()),
            },
            Value::Scalar { text, is_plain: false } => Json::String(text.clone()),
            Value::Sequence(items) => items.iter().map(Self::to_json).collect(),
            Value::Mapping(entries) => {
                entries.iter().map(|entry| (entry.key.clone(), entry.value.to_json())).collect()
            }
        }
    }

    /// Whether nothing stands here: `key:`, `key: ~` or `key: null`.
    pub(super) fn is_null(&self) -> bool {
        let nothing = ["", "~", "null", "Null", "NULL"];
        matches!(&self.value, Value::Scalar { text, is_plain: true } if nothing.contains(&text.as_str()))
    }

    /// Whether what stands here has nothing in it.
    pub(super) fn is_empty(&self) -> bool {
        match &self.value {
            Value::Scalar { text, .. } => text.is_empty() || self.is_null(),
            Value::Sequence(items) => items.is_empty(),
            Value::Mapping(entries) => entries.is_empty(),
        }
    }

    /// The truth that stands here, in YAML 1.2's words or YAML 1.1's.
    pub(super) fn as_truth(&self) -> Option<bool> {
        let Value::Scalar { text, .. } = &self.value else { return None };
        match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" => Some(true),
            "false" | "no" | "off" => Some(false),
            _ => None,
        }
    }

    /// What stands here, in a word for messages.
    pub(super) fn described(&self) -> String {
        match &self.value {
            Value::Scalar { .. } if self.is_null() => "nothing".to_owned(),
            Value::Scalar { text, .. } => quoted(text),
            Value::Sequence(_) => "a list".to_owned(),
            Value::Mapping(_) => "a mapping".to_owned(),
        }
    }
}

struct Reader<'t, 'r> {
    parser: Parser<'t, StrInput<'t>>,
    report: &'r mut Report,
}

/// Reading went on as far as it could, and why it ended is in the report.
struct Stopped;

impl<'t> Reader<'t, '_> {
    fn documents(&mut self) -> Vec<Node> {
        let mut documents = Vec::new();
        while let Ok(Some((event, span))) = self.next() {
            let is_first_beyond =
                matches!(event, Event::DocumentStart(_)) && documents.len() == MAX_DOCUMENTS;
            if is_first_beyond {
                self.report
                    .fault(spot(span), format!("a file has at most {MAX_DOCUMENTS} documents: split it"));
                return documents;
            }
            let is_content = matches!(
                event,
                Event::Alias(_) | Event::Scalar(..) | Event::SequenceStart(..) | Event::MappingStart(..)
            );
            if !is_content {
                continue;
            }
            match self.node(event, span, 0) {
                // `---` with nothing behind it, as at a file's end.
                Ok(node) if node.is_null() => {}
                Ok(node) => documents.push(node),
                Err(Stopped) => return documents,
            }
        }
        documents
    }

    fn next(&mut self) -> Result<Option<(Event<'t>, Span)>, Stopped> {
        match self.parser.next_event().transpose() {
            Ok(event) => Ok(event),
            Err(error) => {
                let marker = error.marker();
                let message = format!("this is no YAML: {}", error.info());
                self.report.fault(Some((marker.line().max(1), marker.col() + 1)), message);
                Err(Stopped)
            }
        }
    }

    fn next_in_collection(&mut self, start: Span) -> Result<(Event<'t>, Span), Stopped> {
        match self.next()? {
            Some(next) => Ok(next),
            None => self.stop(start, "this is no YAML: the file ends within it"),
        }
    }

    fn stop<T>(&mut self, span: Span, message: impl Into<String>) -> Result<T, Stopped> {
        self.report.fault(spot(span), message);
        Err(Stopped)
    }

    fn node(&mut self, event: Event<'t>, span: Span, depth: usize) -> Result<Node, Stopped> {
        if depth > MAX_DEPTH {
            return self.stop(span, format!("nested more than {MAX_DEPTH} deep"));
        }
        let is_tagged = match &event {
            Event::Scalar(_, _, _, tag) | Event::SequenceStart(_, tag) | Event::MappingStart(_, tag) => {
                tag.is_some()
            }
            Event::Alias(_)
            | Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::SequenceEnd
            | Event::MappingEnd => false,
        };
        if is_tagged {
            self.report.fault(spot(span), "tags (`!...`) have no meaning here: remove it");
        }
        let value = match event {
            Event::Scalar(text, style, _, _) => {
                Value::Scalar { text: text.into_owned(), is_plain: style == ScalarStyle::Plain }
            }
            Event::SequenceStart(..) => self.sequence(span, depth)?,
            Event::MappingStart(..) => self.mapping(span, depth)?,
            Event::Alias(_) => {
                self.report
                    .fault(spot(span), "aliases (`*name`) are not accepted: write out what it stands for");
                Value::Scalar { text: String::new(), is_plain: true }
            }
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::SequenceEnd
            | Event::MappingEnd => {
                return self.stop(span, "this is no YAML: something ends that did not begin");
            }
        };
        Ok(Node { spot: spot(span), value })
    }

    fn sequence(&mut self, start: Span, depth: usize) -> Result<Value, Stopped> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next_in_collection(start)?;
            if matches!(event, Event::SequenceEnd) {
                return Ok(Value::Sequence(items));
            }
            items.push(self.node(event, span, depth + 1)?);
        }
    }

    fn mapping(&mut self, start: Span, depth: usize) -> Result<Value, Stopped> {
        let (mut entries, mut seen) = (Vec::new(), HashSet::new());
        loop {
            let (event, span) = self.next_in_collection(start)?;
            if matches!(event, Event::MappingEnd) {
                return Ok(Value::Mapping(entries));
            }
            let key = self.node(event, span, depth + 1)?;
            let (event, span) = self.next_in_collection(start)?;
            let value = self.node(event, span, depth + 1)?;
            let Value::Scalar { text, .. } = key.value else {
                self.report.fault(key.spot, "a field's name is a word, not a list or mapping");
                continue;
            };
            if !seen.insert(text.clone()) {
                self.report.fault(key.spot, format!("{} stands here twice: remove one", quoted(&text)));
                continue;
            }
            entries.push(Entry { key: text, key_spot: key.spot, value });
        }
    }
}

fn spot(span: Span) -> Spot {
    Some((span.start.line().max(1), span.start.col() + 1))
}

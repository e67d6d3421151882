//! Documents as YAML again, for people: block style, the fields in the order in which one writes them.

use std::fmt::Write;

use serde_json::{Map, Value as Json};

use super::values::parse_duration;

/// Fields that come first, in this order; the others follow by name.
const ORDER: [&str; 12] = [
    "kind",
    "version",
    "metadata",
    "name",
    "description",
    "labels",
    "spec",
    "options",
    "allow",
    "deny",
    "port",
    "suffix",
];
/// Words that YAML 1.1 or 1.2 takes for something else than a text.
const RESERVED: [&str; 10] = ["true", "false", "yes", "no", "on", "off", "y", "n", "null", "nan"];

/// The value as a YAML text that ends with a line break.
pub fn to_yaml(value: &Json) -> String {
    let mut text = String::new();
    match value {
        Json::Object(fields) if !fields.is_empty() => write_mapping(&mut text, fields, 0),
        Json::Array(items) if !items.is_empty() => write_sequence(&mut text, items, 0),
        Json::Object(_) | Json::Array(_) | Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => {
            text.push_str(&scalar(value));
            text.push('\n');
        }
    }
    text
}

fn write_mapping(text: &mut String, fields: &Map<String, Json>, indent: usize) {
    let mut entries: Vec<(&String, &Json)> = fields.iter().collect();
    let rank = |name: &str| ORDER.iter().position(|known| *known == name).unwrap_or(ORDER.len());
    entries.sort_by(|(left, _), (right, _)| (rank(left), left).cmp(&(rank(right), right)));
    for (position, (name, value)) in entries.into_iter().enumerate() {
        // The first field of a list's item stands behind its dash.
        let is_behind_dash = position == 0 && text.ends_with("- ");
        if !is_behind_dash {
            push_indent(text, indent);
        }
        text.push_str(&word(name));
        text.push(':');
        write_value(text, value, indent);
    }
}

fn write_value(text: &mut String, value: &Json, indent: usize) {
    match value {
        Json::Object(fields) if !fields.is_empty() => {
            text.push('\n');
            write_mapping(text, fields, indent + 2);
        }
        Json::Array(items) if !items.is_empty() => {
            text.push('\n');
            write_sequence(text, items, indent);
        }
        Json::Object(_) | Json::Array(_) | Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => {
            text.push(' ');
            text.push_str(&scalar(value));
            text.push('\n');
        }
    }
}

fn write_sequence(text: &mut String, items: &[Json], indent: usize) {
    for item in items {
        push_indent(text, indent);
        match item {
            Json::Object(fields) if !fields.is_empty() => {
                text.push_str("- ");
                write_mapping(text, fields, indent + 2);
            }
            Json::Array(inner) if !inner.is_empty() => {
                text.push_str("-\n");
                write_sequence(text, inner, indent + 2);
            }
            Json::Object(_)
            | Json::Array(_)
            | Json::Null
            | Json::Bool(_)
            | Json::Number(_)
            | Json::String(_) => {
                text.push_str("- ");
                text.push_str(&scalar(item));
                text.push('\n');
            }
        }
    }
}

fn push_indent(text: &mut String, indent: usize) {
    text.extend(std::iter::repeat_n(' ', indent));
}

fn scalar(value: &Json) -> String {
    match value {
        Json::String(string) => word(string),
        Json::Null | Json::Bool(_) | Json::Number(_) => value.to_string(),
        Json::Array(_) => "[]".to_owned(),
        Json::Object(_) => "{}".to_owned(),
    }
}

/// A text, in quotes unless no reader of YAML can take it for anything else.
fn word(text: &str) -> String {
    let begins_well = text.starts_with(|c: char| c.is_ascii_alphabetic());
    let is_simple =
        text.chars().all(|c| c.is_ascii_alphanumeric() || "_./:@+-".contains(c)) && !text.ends_with(':');
    let is_reserved = RESERVED.contains(&text.to_ascii_lowercase().as_str());
    let is_duration = text.len() > 1 && parse_duration(text).is_some();
    if is_duration || (begins_well && is_simple && !is_reserved) {
        return text.to_owned();
    }
    quote(text)
}

fn quote(text: &str) -> String {
    let mut quoted = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            plain if is_printable(plain) => quoted.push(plain),
            other => write!(quoted, "\\U{:08X}", u32::from(other)).expect("a string takes everything"),
        }
    }
    quoted.push('"');
    quoted
}

/// What YAML 1.2 section 5.1 lets stand in a quoted text, less the breaks and the marks that no editor shows.
fn is_printable(character: char) -> bool {
    !character.is_control()
        && !matches!(character, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

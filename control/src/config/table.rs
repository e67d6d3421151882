//! Reading a TOML table key by key, collecting what is wrong with the line and column of each.

use std::fmt::Display;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::documents::fault::{Fault, Place, quoted};
use crate::nearest::suggestion;

/// A configuration with more faults is none.
const MAX_FAULTS: usize = 100;

/// What is wrong with a file.
pub(super) struct Faults<'t> {
    file: Arc<str>,
    text: &'t str,
    found: Vec<(usize, Fault)>,
    /// Where the text is no TOML: what stands there was guessed, and is not worth a second fault.
    guessed: Vec<usize>,
}

impl<'t> Faults<'t> {
    pub(super) fn new(file: &str, text: &'t str) -> Self {
        Self { file: file.into(), text, found: Vec::new(), guessed: Vec::new() }
    }

    /// What could be read of the text.
    pub(super) fn parse(&mut self) -> Spanned<DeTable<'t>> {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        for error in errors {
            let message = error.message().lines().next().unwrap_or_default();
            let span = error.span().unwrap_or_default();
            self.add(span.clone(), format!("this is no TOML: {message}"));
            self.guessed.push(span.start);
        }
        table
    }

    pub(super) fn add(&mut self, span: Range<usize>, message: impl Into<String>) {
        if self.found.len() < MAX_FAULTS && !self.guessed.contains(&span.start) {
            let place = Some(self.place(span.start));
            self.found.push((span.start, Fault { place, message: message.into() }));
        }
    }

    fn place(&self, offset: usize) -> Place {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Place {
            file: Arc::clone(&self.file),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }

    fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    pub(super) fn finish(mut self) -> Result<(), Vec<Fault>> {
        if self.is_empty() {
            return Ok(());
        }
        self.found.sort_by_key(|(offset, _)| *offset);
        Err(self.found.into_iter().map(|(_, fault)| fault).collect())
    }
}

/// One table of the file.
pub(super) struct Table<'p, 't> {
    entries: &'p DeTable<'t>,
    span: Range<usize>,
    /// `https_keypair.`; nothing for the file's own table.
    prefix: String,
}

impl<'p, 't> Table<'p, 't> {
    /// The file's own table.
    pub(super) fn root(table: &'p Spanned<DeTable<'t>>, known: &[&str], faults: &mut Faults<'_>) -> Self {
        let own = Self { entries: table.get_ref(), span: 0..0, prefix: String::new() };
        own.report_unknown("", known, faults);
        own
    }

    /// A table within it.
    pub(super) fn new(
        entries: &'p DeTable<'t>,
        span: Range<usize>,
        name: &str,
        known: &[&str],
        faults: &mut Faults<'_>,
    ) -> Self {
        let own = Self { entries, span, prefix: format!("{name}.") };
        own.report_unknown(&format!(" in {name}"), known, faults);
        own
    }

    fn report_unknown(&self, place: &str, known: &[&str], faults: &mut Faults<'_>) {
        for key in self.entries.keys().filter(|key| !known.contains(&key.get_ref().as_ref())) {
            let name = key.get_ref();
            faults
                .add(key.span(), format!("unknown key {}{place}: {}", quoted(name), suggestion(name, known)));
        }
    }

    fn get(&self, name: &str) -> Option<&'p Spanned<DeValue<'t>>> {
        self.entries.iter().find(|(key, _)| key.get_ref() == name).map(|(_, value)| value)
    }

    /// Where a key's value stands; the table's own place if it is not there.
    pub(super) fn span(&self, name: &str) -> Range<usize> {
        self.get(name).map_or_else(|| self.span.clone(), Spanned::span)
    }

    /// A text that something can be made of.
    pub(super) fn parsed<T: FromStr<Err: Display>>(&self, name: &str, faults: &mut Faults<'_>) -> Option<T> {
        let value = self.get(name)?;
        let prefix = &self.prefix;
        let Some(text) = value.get_ref().as_str() else {
            faults.add(value.span(), format!("`{prefix}{name}` is a text in quotes"));
            return None;
        };
        let parsed = text.parse();
        parsed
            .map_err(|error| faults.add(value.span(), format!("`{prefix}{name}` {}: {error}", quoted(text))))
            .ok()
    }

    /// The same for what must be there.
    pub(super) fn required<T: FromStr<Err: Display>>(
        &self,
        name: &str,
        faults: &mut Faults<'_>,
    ) -> Option<T> {
        if self.get(name).is_none() {
            faults.add(self.span.clone(), format!("`{}{name}` is missing", self.prefix));
        }
        self.parsed(name, faults)
    }

    /// One of several words.
    pub(super) fn choice<T: Copy>(
        &self,
        name: &str,
        choices: &[(&str, T)],
        faults: &mut Faults<'_>,
    ) -> Option<T> {
        let text: String = self.parsed(name, faults)?;
        let found = choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
            let message =
                format!("`{}{name}` is one of {}, not {}", self.prefix, words.join(", "), quoted(&text));
            faults.add(self.span(name), message);
        }
        found
    }

    /// A table.
    pub(super) fn table(&self, name: &str, faults: &mut Faults<'_>) -> Option<&'p DeTable<'t>> {
        let value = self.get(name)?;
        let table = value.get_ref().as_table();
        if table.is_none() {
            faults.add(value.span(), format!("`{}{name}` is a table", self.prefix));
        }
        table
    }
}

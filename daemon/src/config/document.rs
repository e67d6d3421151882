//! A TOML file that is read key by key, gathering every fault instead of stopping at the first.

use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::{Fault, Faults};

/// A file being read.
pub(crate) struct Document<'t> {
    path: PathBuf,
    text: &'t str,
    root: Option<DeTable<'t>>,
    faults: Vec<Fault>,
}

/// A value with its place.
pub(crate) type Entry<'t> = Spanned<DeValue<'t>>;

impl<'t> Document<'t> {
    /// Reads the text's form. What is malformed is a fault; what is left of it can still be read.
    pub(crate) fn parse(path: &Path, text: &'t str) -> Self {
        let (root, errors) = DeTable::parse_recoverable(text);
        let mut document = Self { path: path.to_owned(), text, root: None, faults: Vec::new() };
        for error in errors {
            document.fault(error.span().unwrap_or(0..0), error.message().to_owned());
        }
        document.root = Some(root.into_inner());
        document
    }

    /// The outermost table; once.
    pub(crate) fn root(&mut self) -> DeTable<'t> {
        self.root.take().unwrap_or_default()
    }

    /// Everything was looked at.
    pub(crate) fn finish(self) -> Result<(), Faults> {
        Faults::of(self.faults)
    }

    /// Notes a fault.
    pub(crate) fn fault(&mut self, span: Range<usize>, message: String) {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |rest| rest.chars().count()) + 1;
        self.faults.push(Fault { path: self.path.clone(), line, column, message });
    }

    /// Every other key is a fault.
    pub(crate) fn only(&mut self, table: &DeTable<'_>, keys: &[&str]) {
        for key in table.keys().filter(|key| !keys.contains(&key.get_ref().as_ref())) {
            let name = key.get_ref();
            let nearest = keys.iter().min_by_key(|known| distance(name, known));
            let advice = match nearest {
                Some(known) if distance(name, known) <= 2 => format!("did you mean `{known}`?"),
                Some(_) | None => format!("the keys are {}", keys.join(", ")),
            };
            self.fault(key.span(), format!("unknown key `{name}`: {advice}"));
        }
    }

    /// The key's text, through `parse`, which may say what is wrong; `None` if the key is not there or has a fault.
    pub(crate) fn parsed<T>(
        &mut self,
        table: &DeTable<'_>,
        key: &str,
        right: &str,
        parse: impl FnOnce(&str) -> Result<T, Option<String>>,
    ) -> Option<T> {
        let value = table.get(key)?;
        self.text_of(value, right, parse)
    }

    /// As [`parsed`](Self::parsed), for each element of a list.
    pub(crate) fn list<T>(
        &mut self,
        table: &DeTable<'_>,
        key: &str,
        right: &str,
        mut parse: impl FnMut(&str) -> Result<T, Option<String>>,
    ) -> Option<Vec<T>> {
        let value = table.get(key)?;
        let Some(elements) = value.get_ref().as_array() else {
            self.wrong_kind(value, right);
            return None;
        };
        let parsed: Vec<Option<T>> =
            elements.iter().map(|element| self.text_of(element, right, &mut parse)).collect();
        parsed.into_iter().collect()
    }

    /// Notes that a value is of the wrong kind.
    pub(crate) fn wrong_kind(&mut self, value: &Entry<'_>, right: &str) {
        let kind = value.get_ref().type_str();
        let article = if kind.starts_with(['a', 'i']) { "an" } else { "a" };
        self.fault(value.span(), format!("this is {article} {kind}: it takes {right}"));
    }

    fn text_of<T>(
        &mut self,
        value: &Entry<'_>,
        right: &str,
        parse: impl FnOnce(&str) -> Result<T, Option<String>>,
    ) -> Option<T> {
        let Some(text) = value.get_ref().as_str() else {
            self.wrong_kind(value, right);
            return None;
        };
        match parse(text) {
            Ok(parsed) => Some(parsed),
            Err(reason) => {
                let reason = reason.map(|reason| format!("{reason}; ")).unwrap_or_default();
                self.fault(value.span(), format!("{text:?} is not right here: {reason}it takes {right}"));
                None
            }
        }
    }
}

/// How many letters must be changed, added, taken away or swapped with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let changed = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut least = changed.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    least = least.min(rows[i - 2][j - 2] + 1);
                }
                least
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_near() {
        assert_eq!(distance("rnage", "range"), 1);
        assert_eq!(distance("dsn", "dns"), 1);
        assert_eq!(distance("", "dns"), 3);
        assert!(distance("zones", "interface") > 2);
    }
}

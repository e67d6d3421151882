//! What is wrong with a document, and where; collected, so that an administrator sees everything at once.

use std::fmt;
use std::sync::Arc;

use portlatch_protocol::names::Hostname;

/// Past this many faults a file is not one that was nearly right; the rest is counted only.
const MAX_FAULTS: usize = 200;
/// How much of a text that somebody wrote is repeated in a message.
const MAX_QUOTED: usize = 60;

/// A place in a file; lines and columns are counted from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file, as it was named.
    pub file: Arc<str>,
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// Something that keeps documents from being put in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where; nothing for a document that was in force already.
    pub place: Option<Place>,
    /// What is wrong, and what would be right.
    pub message: String,
}

/// Something that is kept without effect, or that will not work as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Where; nothing for a document that was in force already.
    pub place: Option<Place>,
    /// What it is.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_placed(f, self.place.as_ref(), &self.message)
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_placed(f, self.place.as_ref(), &self.message)
    }
}

fn write_placed(f: &mut fmt::Formatter<'_>, place: Option<&Place>, message: &str) -> fmt::Result {
    match place {
        Some(place) => write!(f, "{place}: {message}"),
        None => f.write_str(message),
    }
}

/// Where a document was written. It is not part of what the document says, so all origins are equal.
#[derive(Debug, Clone, Default)]
pub struct Origin(pub Option<Place>);

impl PartialEq for Origin {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Origin {}

/// Line and column of a node; nothing for one that came out of the store.
pub(super) type Spot = Option<(usize, usize)>;

/// Collects what is found while one file is read.
pub(super) struct Report {
    file: Arc<str>,
    /// The cluster's public host, where documents may refer to it.
    pub(super) public_host: Option<Hostname>,
    faults: Vec<Fault>,
    warnings: Vec<Warning>,
    uncounted: usize,
}

impl Report {
    pub(super) fn new(file: &str, public_host: Option<Hostname>) -> Self {
        Self { file: file.into(), public_host, faults: Vec::new(), warnings: Vec::new(), uncounted: 0 }
    }

    pub(super) fn fault(&mut self, spot: Spot, message: impl Into<String>) {
        if self.faults.len() >= MAX_FAULTS {
            self.uncounted += 1;
            return;
        }
        self.faults.push(Fault { place: self.place(spot), message: message.into() });
    }

    pub(super) fn warn(&mut self, spot: Spot, message: impl Into<String>) {
        if self.warnings.len() < MAX_FAULTS {
            self.warnings.push(Warning { place: self.place(spot), message: message.into() });
        }
    }

    pub(super) fn place(&self, spot: Spot) -> Option<Place> {
        spot.map(|(line, column)| Place { file: Arc::clone(&self.file), line, column })
    }

    /// The faults in the order of their places, if there are any; else the warnings.
    pub(super) fn finish(mut self) -> Result<Vec<Warning>, Vec<Fault>> {
        if self.faults.is_empty() {
            return Ok(self.warnings);
        }
        self.faults.sort_by_key(|fault| fault.place.as_ref().map(|place| (place.line, place.column)));
        if self.uncounted > 0 {
            let message = format!("and {} more faults in {}", self.uncounted, self.file);
            self.faults.push(Fault { place: None, message });
        }
        Err(self.faults)
    }
}

/// A text that somebody wrote, short and on one line, for a message.
pub(crate) fn quoted(text: &str) -> String {
    let short: String = text.chars().take(MAX_QUOTED).collect();
    let more = if short.len() < text.len() { "..." } else { "" };
    format!("`{}{more}`", short.escape_debug())
}

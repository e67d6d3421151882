//! The file behind the map: a line with the range, then a line for every mapping made and, seldom, for every name seen
//! again. Each line carries its checksum, so that what a crash left half written is known for what it is.
//!
//! ```text
//! portlatch-addresses 1 198.18.0.0/16 5b1f00aa
//! + 3 1790000000000 billing-db.corp.internal 9f1c2a3b
//! ~ 3 1790021600000 cafe0102
//! ```

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use portlatch_clock::TimeOfDay;
use portlatch_protocol::names::HostPattern;
use sha2::{Digest as _, Sha256};

use super::{MAX_NAMES, Ranges};

const MAGIC: &str = "portlatch-addresses 1";
/// Lines that a compact file has none of are suffered up to this many beyond one for each name.
const SPARE_LINES: usize = 1024;
/// A journal is rewritten long before it is this long: a longer one is not ours.
const MAX_LENGTH: u64 = (2 * MAX_NAMES as u64 + SPARE_LINES as u64) * 320;
/// Noted names wait for the next commit up to this many bytes; then they are written, unsynced.
const MAX_PENDING: usize = 64 * 1024;

/// Why the address map could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file is there and cannot be read.
    #[error("the address map {path} cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("the address map cannot be written")]
    Write(#[source] io::Error),
}

/// One line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// The name has this place.
    Mapped { index: u32, seen: TimeOfDay, pattern: HostPattern },
    /// The name in this place was seen again.
    Seen { index: u32, seen: TimeOfDay },
}

/// The open file.
pub(super) struct Journal {
    path: PathBuf,
    /// `None` once a write failed or the file was found damaged: what it ends with is unknown, so it must be rewritten.
    file: Option<File>,
    pending: Vec<u8>,
    lines: usize,
    #[cfg(test)]
    fails: bool,
}

impl Journal {
    /// Opens the file and reads what it holds for this range.
    pub(super) fn open(path: PathBuf, ranges: &Ranges) -> Result<(Self, Vec<Record>), OpenError> {
        let content = match read(&path) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(OpenError::Read { path, source }),
        };
        let (records, is_whole) = parse(&content, ranges);
        let file = match is_whole {
            true => OpenOptions::new().append(true).open(&path).ok(),
            false => None,
        };
        if !is_whole && !content.is_empty() {
            tracing::warn!(kept = records.len(), "the address map was cut, damaged or of another range");
        }
        let journal = Self {
            path,
            file,
            pending: Vec::new(),
            lines: records.len(),
            #[cfg(test)]
            fails: false,
        };
        Ok((journal, records))
    }

    /// Whether the file must be rewritten, or has so many lines that it should be.
    pub(super) const fn wants_rewrite(&self, names: usize) -> bool {
        self.file.is_none() || self.lines > 2 * names + SPARE_LINES
    }

    /// Notes a mapping for the next commit.
    pub(super) fn note_mapped(&mut self, index: u32, seen: TimeOfDay, pattern: &HostPattern) {
        self.note(&mapped_line(index, seen, pattern));
    }

    /// Notes that a name was seen.
    pub(super) fn note_seen(&mut self, index: u32, seen: TimeOfDay) {
        self.note(&format!("~ {index} {}", seen.0));
    }

    fn note(&mut self, line: &str) {
        if self.file.is_none() {
            // The rewrite that is due writes everything.
            return;
        }
        push_line(&mut self.pending, line);
        self.lines += 1;
        if self.pending.len() > MAX_PENDING {
            // A failure shows at the next commit, since the file is given up.
            let _ = self.write_pending();
        }
    }

    /// Writes what was noted and waits until it is on the disk.
    pub(super) fn commit(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        self.write_pending()?;
        let Some(file) = &self.file else { return Ok(()) };
        let synced = file.sync_data();
        if synced.is_err() {
            // After a failed sync the kernel may have dropped the pages: only writing them again is sure.
            self.file = None;
        }
        synced
    }

    fn write_pending(&mut self) -> io::Result<()> {
        let pending = std::mem::take(&mut self.pending);
        #[cfg(test)]
        if std::mem::take(&mut self.fails) {
            self.file = None;
            return Err(io::ErrorKind::StorageFull.into());
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        let written = file.write_all(&pending);
        if written.is_err() {
            self.file = None;
        }
        written
    }

    /// Puts a file with these mappings in place of the one there is.
    pub(super) fn rewrite<'a>(
        &mut self,
        ranges: &Ranges,
        mappings: impl Iterator<Item = (u32, TimeOfDay, &'a HostPattern)>,
    ) -> io::Result<()> {
        self.pending.clear();
        self.file = None;
        let mut content = Vec::new();
        let mut lines = 0;
        push_line(&mut content, &header(ranges));
        for (index, seen, pattern) in mappings {
            push_line(&mut content, &mapped_line(index, seen, pattern));
            lines += 1;
        }
        let aside = self.path.with_extension("new");
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&aside)?;
        file.write_all(&content)?;
        file.sync_all()?;
        std::fs::rename(&aside, &self.path)?;
        if let Some(folder) = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            File::open(folder)?.sync_all()?;
        }
        self.file = Some(OpenOptions::new().append(true).open(&self.path)?);
        self.lines = lines;
        Ok(())
    }

    /// Lets the next write fail, as a full disk does.
    #[cfg(test)]
    pub(super) fn fail_writes(&mut self) {
        self.fails = true;
    }
}

fn read(path: &PathBuf) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.take(MAX_LENGTH).read_to_end(&mut content)?;
    Ok(content)
}

/// The records of the whole lines, and whether the content was nothing but whole lines of this range.
fn parse(content: &[u8], ranges: &Ranges) -> (Vec<Record>, bool) {
    let mut lines = content.split_inclusive(|byte| *byte == b'\n');
    if lines.next().and_then(checked) != Some(header(ranges).as_str()) {
        return (Vec::new(), false);
    }
    let mut is_whole = true;
    let mut records = Vec::new();
    for line in lines {
        match checked(line).and_then(parse_record) {
            Some(record) => records.push(record),
            None => is_whole = false,
        }
    }
    (records, is_whole)
}

fn parse_record(line: &str) -> Option<Record> {
    let mut words = line.split(' ');
    let kind = words.next()?;
    let (index, seen) = (words.next()?.parse().ok()?, TimeOfDay(words.next()?.parse().ok()?));
    match (kind, words.next(), words.next()) {
        ("+", Some(name), None) => Some(Record::Mapped { index, seen, pattern: name.parse().ok()? }),
        ("~", None, None) => Some(Record::Seen { index, seen }),
        _ => None,
    }
}

fn header(ranges: &Ranges) -> String {
    let (network, prefix) = ranges.v4();
    format!("{MAGIC} {network}/{prefix}")
}

fn mapped_line(index: u32, seen: TimeOfDay, pattern: &HostPattern) -> String {
    format!("+ {index} {} {pattern}", seen.0)
}

fn push_line(content: &mut Vec<u8>, line: &str) {
    content.extend_from_slice(line.as_bytes());
    content.push(b' ');
    content.extend_from_slice(checksum(line).as_bytes());
    content.push(b'\n');
}

/// The line without its checksum, if it is whole.
fn checked(line: &[u8]) -> Option<&str> {
    let line = std::str::from_utf8(line.strip_suffix(b"\n")?).ok()?;
    let (line, sum) = line.rsplit_once(' ')?;
    (checksum(line) == sum).then_some(line)
}

/// Tells a torn line from a whole one; it need not withstand an attacker, who could rewrite the file anyway.
fn checksum(line: &str) -> String {
    hex::encode(&Sha256::digest(line.as_bytes())[..4])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ranges() -> Ranges {
        Ranges::new(("198.18.0.0".parse().unwrap(), 16), None).unwrap()
    }

    #[test]
    fn a_damaged_line_is_left_out_and_its_neighbours_are_kept() {
        let mut content = Vec::new();
        push_line(&mut content, &header(&ranges()));
        for index in 3..6 {
            push_line(&mut content, &format!("+ {index} 7 n{index}.corp.internal"));
        }
        let damaged = content.iter().position(|byte| *byte == b'4').unwrap();
        content[damaged] = b'9';
        let (records, is_whole) = parse(&content, &ranges());
        let kept: Vec<_> =
            records.iter().map(|record| matches!(record, Record::Mapped { index: 3 | 5, .. })).collect();
        assert_eq!((kept, is_whole), (vec![true, true], false));
    }

    proptest! {
        #[test]
        fn no_content_makes_the_parser_panic(content in proptest::collection::vec(any::<u8>(), 0..512)) {
            let mut whole = Vec::new();
            push_line(&mut whole, &header(&ranges()));
            whole.extend_from_slice(&content);
            let (records, _) = parse(&whole, &ranges());
            prop_assert!(records.is_empty());
        }
    }
}

//! Reading: the records of all sources, merged by time, to the end and on from there.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use crate::chain::LineFrame;
use crate::segment;

/// A longer line is no record of ours; it is given out in pieces of this size.
const MAX_LINE: u64 = 64 * 1024;

/// A record as it stands in its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Who wrote it.
    pub source: String,
    /// Its number there; 0 if the line is no record.
    pub seq: u64,
    /// RFC 3339 with milliseconds; empty if the line is no record.
    pub time: String,
    /// What happened; empty if the line is no record.
    pub event: String,
    /// The line: one JSON object.
    pub line: String,
}

/// Why records could not be read.
#[derive(Debug, thiserror::Error)]
#[error("{path} cannot be read: {source}")]
pub struct ReadError {
    /// The file or folder.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// Reads records, oldest first. [`Reader::next_record`] gives `None` at the end and may be asked again later: that is
/// how a reader follows writers at work.
#[derive(Debug)]
pub struct Reader {
    directory: PathBuf,
    sources: BTreeMap<String, Cursor>,
}

impl Reader {
    /// A reader of everything under an audit folder.
    ///
    /// # Errors
    /// [`ReadError`] if the folder cannot be read.
    pub fn open(directory: &Path) -> Result<Self, ReadError> {
        let mut reader = Self { directory: directory.to_owned(), sources: BTreeMap::new() };
        reader.find_sources()?;
        Ok(reader)
    }

    /// The next record by time.
    ///
    /// # Errors
    /// [`ReadError`] if a file cannot be read.
    pub fn next_record(&mut self) -> Result<Option<Record>, ReadError> {
        if let Some(record) = self.take_oldest()? {
            return Ok(Some(record));
        }
        self.find_sources()?;
        self.take_oldest()
    }

    fn take_oldest(&mut self) -> Result<Option<Record>, ReadError> {
        for (name, cursor) in &mut self.sources {
            cursor.fill(name).map_err(|source| ReadError { path: cursor.folder.clone(), source })?;
        }
        let waiting = self.sources.values_mut().filter(|cursor| cursor.next.is_some());
        let oldest = waiting.min_by(|a, b| a.time().cmp(b.time()));
        Ok(oldest.and_then(|cursor| cursor.next.take()))
    }

    fn find_sources(&mut self) -> Result<(), ReadError> {
        let found = segment::sources(&self.directory)
            .map_err(|source| ReadError { path: self.directory.clone(), source })?;
        for (name, folder) in found {
            self.sources.entry(name).or_insert_with(|| Cursor::new(folder));
        }
        Ok(())
    }
}

/// A place in one source's records.
#[derive(Debug)]
struct Cursor {
    folder: PathBuf,
    segment: Option<(u64, BufReader<File>)>,
    /// What is there of a line whose end is not written yet.
    partial: Vec<u8>,
    next: Option<Record>,
}

impl Cursor {
    const fn new(folder: PathBuf) -> Self {
        Self { folder, segment: None, partial: Vec::new(), next: None }
    }

    fn time(&self) -> &str {
        self.next.as_ref().map_or("", |record| &record.time)
    }

    /// Reads the next record, if there is one.
    fn fill(&mut self, source: &str) -> io::Result<()> {
        while self.next.is_none() {
            // Asked for before reading: a segment is complete only if its successor was there before its end was met.
            let successor = self.successor()?;
            if self.read_line()? {
                let line = String::from_utf8_lossy(&std::mem::take(&mut self.partial)).into_owned();
                self.next = Some(record(source, line));
            } else if let Some(successor) = successor {
                let file = File::open(&successor.path)?;
                self.segment = Some((successor.first, BufReader::new(file)));
                self.partial.clear();
            } else {
                break;
            }
        }
        Ok(())
    }

    fn successor(&self) -> io::Result<Option<segment::Segment>> {
        if let Some((_, reader)) = &self.segment
            && !reader.buffer().is_empty()
        {
            return Ok(None);
        }
        let current = self.segment.as_ref().map(|(first, _)| *first);
        let segments = segment::segments(&self.folder)?;
        Ok(segments.into_iter().find(|segment| current.is_none_or(|current| segment.first > current)))
    }

    /// Whether a whole line is in `partial` now.
    fn read_line(&mut self) -> io::Result<bool> {
        let Some((_, reader)) = &mut self.segment else { return Ok(false) };
        let room = MAX_LINE.saturating_sub(u64::try_from(self.partial.len()).unwrap_or(MAX_LINE));
        reader.take(room).read_until(b'\n', &mut self.partial)?;
        let is_whole = self.partial.pop_if(|byte| *byte == b'\n').is_some();
        Ok(is_whole || u64::try_from(self.partial.len()).unwrap_or(MAX_LINE) >= MAX_LINE)
    }
}

fn record(source: &str, line: String) -> Record {
    let frame: Option<LineFrame> = serde_json::from_str(&line).ok();
    let (seq, time, event) = frame.map(|frame| (frame.seq, frame.time, frame.event)).unwrap_or_default();
    Record { source: source.to_owned(), seq, time, event, line }
}

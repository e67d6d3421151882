//! `audit verify`: reads every chain from its first record to its head and stops at the first thing that does not fit.
//!
//! It finds every flipped bit, and every record taken away, added or moved, up to the head on this machine. Who can
//! write these files can also write a new chain with a new head, but cannot sign it without the source's key: up to the
//! newest signed head whose key is known, the records are those that were written. What comes after it, and a chain
//! that shows no signed head where there should be one each minute, only a head held elsewhere settles.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use portlatch_protocol::names::Hostname;

use crate::chain::{self, Link};
use crate::event::EventKind;
use crate::segment::{self, Segment};

/// Nothing of ours writes a longer line; a longer one is not held in memory.
const MAX_LINE: u64 = 64 * 1024;

/// That all chains are whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// In order of name.
    pub sources: Vec<SourceReport>,
}

/// One source's chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceReport {
    /// The source.
    pub source: String,
    /// Its records.
    pub records: u64,
    /// The SHA-256 of its last line, to be compared with a copy held elsewhere.
    pub last_hash: String,
    /// The newest head whose signature was checked.
    pub signed: Option<SignedHead>,
    /// Whether half a record stands at the end: it is being written now, or a crash tore it.
    pub has_torn_tail: bool,
}

/// A head that was signed by the source's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedHead {
    /// The number of the last record that it covers.
    pub covers: u64,
    /// When it was signed, as its signature says: RFC 3339 with milliseconds.
    pub time: String,
}

/// Whether a head's signature holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signature {
    /// It does.
    Good,
    /// It does not.
    Bad,
    /// Nobody here knows the source's key.
    UnknownKey,
}

/// What does not fit.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// A file cannot be read.
    #[error("{path} cannot be read: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line is not the record that must stand there.
    #[error("{path}, line {line}: not the record {expected} that was written here")]
    Broken {
        /// The segment.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// The number that the record must have.
        expected: u64,
    },
    /// A whole segment is missing or has another name.
    #[error("{path}: the records {expected} to {first} are missing before it")]
    Missing {
        /// The segment after the gap.
        path: PathBuf,
        /// The number that must come next.
        expected: u64,
        /// The number that comes.
        first: u64,
    },
    /// A signed head does not name the records before it, or its signature does not hold.
    #[error("{path}, line {line}: the signed head is not of the records before it")]
    BadSignature {
        /// The segment.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
    },
    /// The chain ends before its head.
    #[error("audit of {source_name:?}: records up to {head} were written, and the last one there is {last}")]
    Short {
        /// The source.
        source_name: String,
        /// The head's number.
        head: u64,
        /// The last record's number.
        last: u64,
    },
    /// The head is damaged or missing.
    #[error("audit of {source_name:?}: its head is damaged or missing")]
    BadHead {
        /// The source.
        source_name: String,
    },
}

/// Verifies every source under an audit folder, but no signatures.
///
/// # Errors
/// A [`VerifyError`] at the first fault.
pub fn verify(directory: &Path) -> Result<Report, VerifyError> {
    verify_signed(directory, &|_, _, _| Signature::UnknownKey)
}

/// Verifies every source under an audit folder. `check` is asked about each signed head: of this source, is this the
/// signature of this message?
///
/// # Errors
/// A [`VerifyError`] at the first fault.
pub fn verify_signed(directory: &Path, check: &CheckHead<'_>) -> Result<Report, VerifyError> {
    let mut report = Report::default();
    let sources = segment::sources(directory).map_err(|source| at(directory, source))?;
    for (source, folder) in sources {
        report.sources.push(verify_source(source, &folder, check)?);
    }
    Ok(report)
}

/// Says whether a source's signature of a message holds.
pub type CheckHead<'a> = dyn Fn(&str, &[u8], &[u8]) -> Signature + 'a;

fn at(path: &Path, source: io::Error) -> VerifyError {
    VerifyError::Io { path: path.to_owned(), source }
}

fn verify_source(source: String, folder: &Path, check: &CheckHead<'_>) -> Result<SourceReport, VerifyError> {
    // Before the records: a writer at work moves it on only behind them.
    let head_path = folder.join(segment::HEAD);
    let head = match chain::read_head(&head_path) {
        Ok(head) => head,
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Err(VerifyError::BadHead { source_name: source });
        }
        Err(error) => return Err(at(&head_path, error)),
    };
    let segments = segment::segments(folder).map_err(|error| at(folder, error))?;
    let heads = Heads { source: &source, check, recent: VecDeque::new(), newest: None };
    let mut walk = Walk { last: Link::START, head, has_torn_tail: false, heads };
    for segment in &segments {
        walk.segment(segment)?;
    }
    let (last, has_torn_tail, signed) = (walk.last, walk.has_torn_tail, walk.heads.newest);
    match head {
        Some(head) if head.seq > last.seq => {
            Err(VerifyError::Short { source_name: source, head: head.seq, last: last.seq })
        }
        // Without a head only what was written in the last moments before a crash can be there: less than a segment.
        None if segments.len() > 1 || !head_path.exists() => {
            Err(VerifyError::BadHead { source_name: source })
        }
        Some(_) | None => Ok(SourceReport {
            source,
            records: last.seq,
            last_hash: last.hash.to_hex(),
            signed,
            has_torn_tail,
        }),
    }
}

struct Walk<'a> {
    last: Link,
    head: Option<Link>,
    has_torn_tail: bool,
    heads: Heads<'a>,
}

impl Walk<'_> {
    fn segment(&mut self, segment: &Segment) -> Result<(), VerifyError> {
        let expected = self.last.seq + 1;
        if segment.first != expected || self.has_torn_tail {
            return Err(VerifyError::Missing { path: segment.path.clone(), expected, first: segment.first });
        }
        let file = File::open(&segment.path).map_err(|error| at(&segment.path, error))?;
        let mut reader = BufReader::new(file);
        let mut bytes = Vec::new();
        for line in 1.. {
            bytes.clear();
            let mut limited = io::Read::take(&mut reader, MAX_LINE);
            let read = limited.read_until(b'\n', &mut bytes).map_err(|error| at(&segment.path, error))?;
            if read == 0 {
                break;
            }
            if !self.line(&bytes) {
                let expected = self.last.seq + 1;
                return Err(VerifyError::Broken { path: segment.path.clone(), line, expected });
            }
            if !self.heads.follow(self.last, &bytes) {
                return Err(VerifyError::BadSignature { path: segment.path.clone(), line });
            }
        }
        Ok(())
    }

    /// Whether the line is the next one.
    fn line(&mut self, bytes: &[u8]) -> bool {
        let is_known = self.head.is_some_and(|head| self.last.seq < head.seq);
        let Some(text) = bytes.strip_suffix(b"\n") else {
            let is_torn = !is_known && !self.has_torn_tail;
            self.has_torn_tail = true;
            return is_torn;
        };
        let Some((link, _)) = chain::follow(self.last, text) else { return false };
        self.last = link;
        !self.has_torn_tail && self.head.is_none_or(|head| head.seq != link.seq || head.hash == link.hash)
    }
}

/// Links behind the last one that a signed head may name: it is written a moment after it was made.
const RECENT: usize = 4096;

/// Checks the signed heads of one source.
struct Heads<'a> {
    source: &'a str,
    check: &'a CheckHead<'a>,
    recent: VecDeque<Link>,
    newest: Option<SignedHead>,
}

/// What the record of a signed head says.
#[derive(serde::Deserialize)]
struct HeadRecord {
    time: String,
    cluster: Hostname,
    event: EventKind,
    detail: Option<String>,
    signature: Option<String>,
}

impl Heads<'_> {
    /// Takes the record that `last` is; `false` if it is a signed head that does not hold.
    fn follow(&mut self, last: Link, line: &[u8]) -> bool {
        self.recent.push_back(last);
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
        // Most records are none: those are not decoded a second time.
        let word = EventKind::ChainHead.as_str().as_bytes();
        if !line.windows(word.len()).any(|window| window == word) {
            return true;
        }
        match serde_json::from_slice::<HeadRecord>(line) {
            Ok(record) if record.event == EventKind::ChainHead => self.holds(record),
            Ok(_) | Err(_) => true,
        }
    }

    fn holds(&mut self, record: HeadRecord) -> bool {
        let Some((covers, message, signature)) = self.signed(&record) else { return false };
        match (self.check)(self.source, &message, &signature) {
            Signature::Bad => false,
            Signature::UnknownKey => true,
            Signature::Good => {
                self.newest = Some(SignedHead { covers, time: record.time });
                true
            }
        }
    }

    /// What was signed, if it names one of the records before.
    fn signed(&self, record: &HeadRecord) -> Option<(u64, Vec<u8>, Vec<u8>)> {
        let (seq, hash) = record.detail.as_deref()?.split_once(' ')?;
        let seq: u64 = seq.parse().ok()?;
        let named = self.recent.iter().rev().find(|link| link.seq == seq)?;
        if named.hash.to_hex() != hash {
            return None;
        }
        let message = chain::head_message(&record.cluster, self.source, seq, &named.hash.0, &record.time);
        Some((seq, message, hex::decode(record.signature.as_deref()?).ok()?))
    }
}

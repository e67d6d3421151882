//! The chain: how a record becomes a line, how a line names the one before it, and the head that names the newest line
//! known to be on the disk.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use portlatch_clock::TimeOfDay;
use portlatch_protocol::names::Hostname;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use time::macros::format_description;

use crate::event::Event;

/// The SHA-256 of a line without its newline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LineHash(pub(crate) [u8; 32]);

impl LineHash {
    /// What the first line names as the line before it.
    pub(crate) const NONE: Self = Self([0; 32]);

    pub(crate) fn of(line: &[u8]) -> Self {
        Self(Sha256::digest(line).into())
    }

    pub(crate) fn to_hex(self) -> String {
        hex::encode(self.0)
    }
}

/// A place in the chain: a record's number and its line's hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) seq: u64,
    pub(crate) hash: LineHash,
}

impl Link {
    /// Before the first record.
    pub(crate) const START: Self = Self { seq: 0, hash: LineHash::NONE };
}

#[derive(serde::Serialize)]
struct Line<'a> {
    seq: u64,
    prev: &'a str,
    time: &'a str,
    cluster: &'a Hostname,
    #[serde(flatten)]
    event: &'a Event,
}

/// The line of the record after `last`, without its newline.
pub(crate) fn line(last: Link, time: TimeOfDay, cluster: &Hostname, event: &Event) -> Vec<u8> {
    let line = Line {
        seq: last.seq + 1,
        prev: &last.hash.to_hex(),
        time: &timestamp(time),
        cluster,
        event: &event.clipped(),
    };
    // Every field is text, a number or a list of texts, and writing to memory cannot fail.
    serde_json::to_vec(&line).expect("a record encodes into memory")
}

/// RFC 3339 in UTC with milliseconds.
pub(crate) fn timestamp(time: TimeOfDay) -> String {
    const FORM: &[time::format_description::BorrowedFormatItem<'_>] =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    let moment = OffsetDateTime::from_unix_timestamp_nanos(i128::from(time.0) * 1_000_000);
    moment.ok().and_then(|moment| moment.format(FORM).ok()).unwrap_or_default()
}

/// What chain and merge need of a line.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct LineFrame {
    pub(crate) seq: u64,
    pub(crate) prev: String,
    pub(crate) time: String,
    pub(crate) event: String,
}

/// The link that `line` is, if it follows `last`.
pub(crate) fn follow(last: Link, line: &[u8]) -> Option<(Link, LineFrame)> {
    let frame: LineFrame = serde_json::from_slice(line).ok()?;
    let follows = frame.seq == last.seq + 1 && frame.prev == last.hash.to_hex();
    follows.then(|| (Link { seq: frame.seq, hash: LineHash::of(line) }, frame))
}

/// Bytes of the head's one line: 20 digits, a space, 64 hexadecimal digits, a newline.
const HEAD_BYTES: usize = 20 + 1 + 64 + 1;

/// Writes the head in place. It is shorter than a disk sector, and written only after the line that it names is on the
/// disk, so a crash leaves the old one or the new one.
pub(crate) fn write_head(file: &File, link: Link) -> io::Result<()> {
    file.write_all_at(format!("{:020} {}\n", link.seq, link.hash.to_hex()).as_bytes(), 0)
}

/// The head in a file; `Ok(None)` if the file is empty or not there.
pub(crate) fn read_head(path: &Path) -> io::Result<Option<Link>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) if bytes.is_empty() => return Ok(None),
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    parse_head(&bytes)
        .map(Some)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the head is damaged"))
}

fn parse_head(bytes: &[u8]) -> Option<Link> {
    let bytes: &[u8; HEAD_BYTES] = bytes.try_into().ok()?;
    let text = std::str::from_utf8(bytes).ok()?.strip_suffix('\n')?;
    let (seq, digits) = text.split_once(' ')?;
    let is_canonical = seq.len() == 20 && !digits.contains(|c: char| c.is_ascii_uppercase());
    let mut hash = [0; 32];
    hex::decode_to_slice(digits, &mut hash).ok()?;
    is_canonical.then_some(Link { seq: seq.parse().ok()?, hash: LineHash(hash) })
}

/// What a source's key signs: that the chain of `source` had the line with this SHA-256 as its record `seq` at `time`, as
/// records write it.
pub fn head_message(cluster: &Hostname, source: &str, seq: u64, line_hash: &[u8; 32], time: &str) -> Vec<u8> {
    // The time stands last: what stands before it cannot have a NUL, so that no two messages are the same text.
    let hash = hex::encode(line_hash);
    format!("portlatch audit head 2\0{cluster}\0{source}\0{seq}\0{hash}\0{time}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventKind;

    #[test]
    fn a_line_has_the_names_of_the_design_and_leaves_out_what_says_nothing() {
        let event =
            Event { user: Some("jerry".parse().unwrap()), port: Some(5432), ..Event::new(EventKind::MfaOk) };
        let line = line(Link::START, TimeOfDay(1_795_000_000_123), &"c.example".parse().unwrap(), &event);
        let zeros = "0".repeat(64);
        assert_eq!(
            String::from_utf8(line).unwrap(),
            format!(r#"{{"seq":1,"prev":"{zeros}","time":"2026-11-18T11:06:40.123Z","cluster":"c.example","#,)
                + r#""event":"mfa.ok","user":"jerry","port":5432}"#
        );
    }

    #[test]
    fn a_head_reads_back_and_a_damaged_one_does_not() {
        let link = Link { seq: 7, hash: LineHash::of(b"x") };
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("head");
        write_head(&File::create(&path).unwrap(), link).unwrap();
        assert_eq!(read_head(&path).unwrap(), Some(link));
        std::fs::write(&path, "7 beef\n").unwrap();
        assert!(read_head(&path).is_err());
    }
}

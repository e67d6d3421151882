//! Opening after whatever happened: finds where the chain ends, cuts what a crash tore, and finds sessions without an
//! end.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;

use portlatch_protocol::names::Id;

use super::Recovery;
use crate::chain::{self, LineFrame, LineHash, Link};
use crate::event::{Event, EventKind};
use crate::segment::{self, Segment};

/// Where writing goes on.
pub(super) struct Found {
    pub(super) segment: File,
    pub(super) segment_bytes: u64,
    pub(super) total_bytes: u64,
    pub(super) last: Link,
    pub(super) recovery: Recovery,
}

pub(super) fn recover(folder: &Path) -> io::Result<Found> {
    let mut recovery = Recovery::default();
    let head = match chain::read_head(&folder.join(segment::HEAD)) {
        Ok(head) => head,
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            recovery.damage = Some(error.to_string());
            None
        }
        Err(error) => return Err(error),
    };
    let end = find_end(folder, head, &mut recovery)?;
    let segments = segment::segments(folder)?;
    recovery.lost = open_sessions(&segments)?;
    let head = head.unwrap_or(Link::START);
    let (segment, segment_bytes, last) = match end {
        Some(End { segment, bytes, last }) if last.seq >= head.seq => {
            (segment::open(&segment.path)?, bytes, last)
        }
        Some(_) | None => (segment::create(folder, head.seq + 1)?, 0, head),
    };
    let mut total_bytes = 0;
    for segment in segments {
        total_bytes += segment.path.metadata()?.len();
    }
    Ok(Found { segment, segment_bytes, total_bytes, last, recovery })
}

/// The last whole record.
struct End {
    segment: Segment,
    bytes: u64,
    last: Link,
}

/// Finds the chain's end and cuts what stands behind it, where the head does not know it. What the head knows and is
/// not there is damage, and stays as it is for `verify`.
fn find_end(folder: &Path, head: Option<Link>, recovery: &mut Recovery) -> io::Result<Option<End>> {
    let known = head.map_or(0, |head| head.seq);
    let mut segments = segment::segments(folder)?;
    while let Some(segment) = segments.pop() {
        let content = std::fs::read(&segment.path)?;
        let (last, good_bytes) = walk(&content, segment.first, head, recovery);
        if last.seq < known {
            recovery.damage.get_or_insert_with(|| format!("records {} to {known} are damaged", last.seq + 1));
            return Ok(None);
        }
        let extra = content.len() - good_bytes;
        recovery.cut_bytes += u64::try_from(extra).unwrap_or(u64::MAX);
        if good_bytes == 0 {
            // The crash came between the making of a segment and the end of its first record.
            std::fs::remove_file(&segment.path)?;
            continue;
        }
        if extra > 0 {
            let file = segment::open(&segment.path)?;
            file.set_len(u64::try_from(good_bytes).unwrap_or(u64::MAX))?;
            file.sync_all()?;
        }
        let bytes = u64::try_from(good_bytes).unwrap_or(u64::MAX);
        return Ok(Some(End { segment, bytes, last }));
    }
    if known > 0 {
        recovery.damage.get_or_insert_with(|| format!("all records up to {known} are gone"));
    }
    Ok(None)
}

/// The last line of `content` that is whole and chained, and the bytes up to its end.
fn walk(content: &[u8], first: u64, head: Option<Link>, recovery: &mut Recovery) -> (Link, usize) {
    let mut last = Link { seq: first.saturating_sub(1), hash: first_prev(content).unwrap_or(LineHash::NONE) };
    let mut good_bytes = 0;
    for line in content.split_inclusive(|byte| *byte == b'\n') {
        let Some(text) = line.strip_suffix(b"\n") else { break };
        let Some((link, _)) = chain::follow(last, text) else { break };
        if head.is_some_and(|head| head.seq == link.seq && head.hash != link.hash) {
            recovery
                .damage
                .get_or_insert_with(|| format!("record {} is not the one that was written", link.seq));
        }
        last = link;
        good_bytes += line.len();
    }
    (last, good_bytes)
}

/// What the first line names as its predecessor. Whether that is true is for `verify` to say.
fn first_prev(content: &[u8]) -> Option<LineHash> {
    let line = content.split(|byte| *byte == b'\n').next()?;
    let frame: LineFrame = serde_json::from_slice(line).ok()?;
    let mut hash = [0; 32];
    hex::decode_to_slice(frame.prev, &mut hash).ok()?;
    Some(LineHash(hash))
}

/// The records of sessions that began and did not end. Those of before the last `audit.open` have been dealt with.
fn open_sessions(segments: &[Segment]) -> io::Result<Vec<Event>> {
    let marker = format!("\"event\":\"{}\"", EventKind::AuditOpen);
    let mut contents = Vec::new();
    for segment in segments.iter().rev() {
        let content = String::from_utf8_lossy(&std::fs::read(&segment.path)?).into_owned();
        let has_marker = content.contains(&marker);
        // Only these lines are kept: a segment's worth of others must not stay in memory.
        let is_wanted = |line: &&str| line.contains("\"event\":\"session.") || line.contains(&marker);
        contents.push(content.lines().filter(is_wanted).map(str::to_owned).collect::<Vec<_>>());
        if has_marker {
            break;
        }
    }
    let mut open: BTreeMap<Id, Event> = BTreeMap::new();
    for line in contents.into_iter().rev().flatten() {
        let Ok(event) = serde_json::from_str::<Event>(&line) else { continue };
        match (event.kind, event.session.clone()) {
            (EventKind::AuditOpen, _) => open.clear(),
            (EventKind::SessionStart, Some(session)) => drop(open.insert(session, event)),
            (EventKind::SessionEnd | EventKind::SessionLost, Some(session)) => drop(open.remove(&session)),
            _ => {}
        }
    }
    Ok(open.into_values().collect())
}

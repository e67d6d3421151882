//! Whether an answer answers our question, and what of it may go on.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;

use hickory_proto::op::Message;
use hickory_proto::rr::rdata::SVCB;
use hickory_proto::rr::rdata::svcb::SvcParamValue;
use hickory_proto::rr::{RData, Record};

use crate::addresses::Ranges;
use crate::dns::answer::{self, Kept};
use crate::dns::message::{HEADER, Header, Question, Records, record_type};

/// The answer to `asked` that goes on to who asked: as it came, but for addresses of our own range. `None` if it is
/// the answer to another question, or malformed.
pub fn checked_answer(asked: &[u8], answered: &[u8], ranges: &Ranges) -> Option<Vec<u8>> {
    let (asked_header, header) = (Header::read(asked)?, Header::read(answered)?);
    if !header.is_response() || !header.is_query() || header.id != asked_header.id || header.counts[0] != 1 {
        return None;
    }
    let question = Question::read(answered)?;
    if !question.is_same(&Question::read(asked)?) {
        return None;
    }
    let mut relayed = answered.to_vec();
    if header.is_truncated() {
        // Only that it is cut is of use, and it may be cut within a record.
        answer::empty(&mut relayed, Kept::Truncated);
        return Some(relayed);
    }
    match find(answered, header, HEADER + question.bytes.len(), ranges)? {
        Found::Clean => Some(relayed),
        Found::Suspicious => Some(without_ours(answered, ranges).unwrap_or_else(|| {
            answer::empty(&mut relayed, Kept::Whole);
            relayed
        })),
    }
}

/// The question as a number, to count those that are the same.
pub(super) fn question_hash(question: &Question<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    question.bytes.to_ascii_lowercase().hash(&mut hasher);
    hasher.finish()
}

enum Found {
    Clean,
    /// It has an address of ours, or a record that may hold one.
    Suspicious,
}

fn find(answer: &[u8], header: Header, first_record: usize, ranges: &Ranges) -> Option<Found> {
    let mut records = Records::new(answer, first_record);
    let mut found = Found::Clean;
    for _ in 0..header.counts[1..].iter().map(|count| u32::from(*count)).sum() {
        let record = records.read_next()?;
        let is_suspicious = match (record.record_type, record.data.len()) {
            (record_type::A, 4) => ranges.contains(<[u8; 4]>::try_from(record.data).map(IpAddr::from).ok()?),
            (record_type::AAAA, 16) => {
                ranges.contains(<[u8; 16]>::try_from(record.data).map(IpAddr::from).ok()?)
            }
            (record_type::A | record_type::AAAA, _) => return None,
            (record_type::SVCB | record_type::HTTPS, _) => true,
            _ => false,
        };
        if is_suspicious {
            found = Found::Suspicious;
        }
    }
    Some(found)
}

/// The answer without the records that hold an address of ours; `None` if it cannot be taken apart.
fn without_ours(answer: &[u8], ranges: &Ranges) -> Option<Vec<u8>> {
    let mut message = Message::from_vec(answer).ok()?;
    let mut removed = 0;
    for section in [&mut message.answers, &mut message.authorities, &mut message.additionals] {
        let before = section.len();
        section.retain(|record| !holds_ours(record, ranges));
        removed += before - section.len();
    }
    if removed == 0 {
        return Some(answer.to_vec());
    }
    tracing::warn!(removed, "a resolver answered with addresses of this machine's own range");
    message.to_vec().ok()
}

fn holds_ours(record: &Record, ranges: &Ranges) -> bool {
    // Any other record names no address that a program would connect to.
    if let RData::SVCB(service) = &record.data {
        return hints_at_ours(service, ranges);
    }
    if let RData::HTTPS(service) = &record.data {
        return hints_at_ours(&service.0, ranges);
    }
    record.data.ip_addr().is_some_and(|address| ranges.contains(address))
}

fn hints_at_ours(service: &SVCB, ranges: &Ranges) -> bool {
    service.svc_params.iter().any(|(_, value)| {
        if let SvcParamValue::Ipv4Hint(hints) = value {
            return hints.0.iter().any(|hint| ranges.contains(hint.0.into()));
        }
        if let SvcParamValue::Ipv6Hint(hints) = value {
            return hints.0.iter().any(|hint| ranges.contains(hint.0.into()));
        }
        false
    })
}

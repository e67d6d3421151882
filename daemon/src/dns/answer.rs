//! Writing answers: at most one record each, with names as pointers into the question, whose case they so repeat.

use std::net::{Ipv4Addr, Ipv6Addr};

use portlatch_protocol::names::Hostname;

use super::message::{CLASS_IN, Edns, HEADER, Header, Query, Question, record_type};
use super::{NEGATIVE_TTL, TTL};

/// The UDP payload that we ask for: fits every path unfragmented (DNS flag day 2020).
const OUR_PAYLOAD: u16 = 1232;
/// Offset of the question's name, as a compression pointer.
const POINTER_TO_QUESTION: u16 = 0xc000 | HEADER as u16;

/// How a query went (RFC 1035 section 4.1.1, RFC 6895 section 2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// As asked.
    NoError,
    /// The query cannot be read.
    FormErr,
    /// We do not know.
    ServFail,
    /// There is no such name.
    NxDomain,
    /// We do not do this.
    NotImp,
    /// We do not do this for you.
    Refused,
    /// A version of EDNS that is not spoken here.
    BadVers,
}

impl Code {
    pub(super) const fn bits(self) -> u16 {
        match self {
            Self::NoError => 0,
            Self::FormErr => 1,
            Self::ServFail => 2,
            Self::NxDomain => 3,
            Self::NotImp => 4,
            Self::Refused => 5,
            Self::BadVers => 16,
        }
    }
}

/// An answer to a message that is no readable query: the header alone.
pub fn header_only(header: Header, code: Code) -> Vec<u8> {
    let mut answer = Vec::with_capacity(HEADER);
    put_header(&mut answer, header, 0, code, [0; 4]);
    answer
}

/// The one record of an answer.
#[derive(Debug, Clone, Copy)]
pub enum Answer<'a> {
    /// Nothing but the code.
    Empty,
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// An IPv6 address.
    V6(Ipv6Addr),
    /// The name of an address.
    Name(&'a Hostname),
    /// The zone itself, as the answer to a question for it.
    Zone,
    /// Nothing, for as long as the zone's record says; the zone has so many labels.
    Nothing {
        /// How many of the name's last labels are the zone.
        apex_labels: usize,
    },
}

/// Writes the answer to `query`.
pub fn to_query(query: &Query<'_>, code: Code, answer: Answer<'_>) -> Vec<u8> {
    // Header, question, one record with two short names in it, OPT.
    let mut message = Vec::with_capacity(HEADER + query.question.bytes.len() + 96);
    let (answers, authorities) = match answer {
        Answer::Empty => (0, 0),
        Answer::V4(_) | Answer::V6(_) | Answer::Name(_) | Answer::Zone => (1, 0),
        Answer::Nothing { .. } => (0, 1),
    };
    let authoritative = if answers + authorities > 0 { Header::AUTHORITATIVE } else { 0 };
    let counts = [1, answers, authorities, u16::from(query.edns.is_some())];
    put_header(&mut message, query.header, authoritative, code, counts);
    message.extend_from_slice(query.question.bytes);
    match answer {
        Answer::Empty => {}
        Answer::V4(address) => put_record(&mut message, record_type::A, &address.octets()),
        Answer::V6(address) => put_record(&mut message, record_type::AAAA, &address.octets()),
        Answer::Name(host) => put_pointer_record(&mut message, host),
        Answer::Zone => put_zone(&mut message, HEADER),
        Answer::Nothing { apex_labels } => put_zone(&mut message, query.question.suffix_offset(apex_labels)),
    }
    if let Some(edns) = query.edns {
        put_opt(&mut message, edns, code);
    }
    message
}

/// Cuts an answer to what fits: header and question, with the bit that says so.
pub fn truncate(message: &mut Vec<u8>, limit: usize) {
    if message.len() > limit {
        empty(message, Kept::Truncated);
    }
}

/// What an answer without its records says of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// There are more records than fit.
    Truncated,
    /// There are none.
    Whole,
}

/// Leaves of an answer its header and its question.
pub(super) fn empty(message: &mut Vec<u8>, kept: Kept) {
    let flag = match kept {
        Kept::Truncated => Header::TRUNCATED,
        Kept::Whole => 0,
    };
    let questions = Question::read(message).map(|question| HEADER + question.bytes.len());
    message.truncate(questions.unwrap_or(HEADER));
    let Some(header) = Header::read(message) else { return };
    message[2..4].copy_from_slice(&(header.flags | flag).to_be_bytes());
    message[4..6].copy_from_slice(&u16::from(questions.is_some()).to_be_bytes());
    message[6..HEADER].fill(0);
}

fn put_header(message: &mut Vec<u8>, query: Header, flags: u16, code: Code, counts: [u16; 4]) {
    let echoed = query.flags & (Header::OPCODE | Header::RECURSION_DESIRED | Header::CHECKING_DISABLED);
    let flags = flags | echoed | Header::RESPONSE | Header::RECURSION_AVAILABLE | (code.bits() & 0x000f);
    for word in [query.id, flags].into_iter().chain(counts) {
        put_u16(message, word);
    }
}

fn put_record(message: &mut Vec<u8>, record_type: u16, data: &[u8]) {
    put_record_head(message, HEADER, record_type, TTL.as_secs());
    put_u16(message, u16::try_from(data.len()).unwrap_or(u16::MAX));
    message.extend_from_slice(data);
}

fn put_pointer_record(message: &mut Vec<u8>, host: &Hostname) {
    put_record_head(message, HEADER, record_type::PTR, TTL.as_secs());
    let length_at = message.len();
    put_u16(message, 0);
    for label in host.as_str().split('.') {
        put_label(message, label);
    }
    message.push(0);
    patch_length(message, length_at);
}

/// The SOA of the zone whose name begins at `apex`: how long "no" may be remembered (RFC 2308 section 3).
fn put_zone(message: &mut Vec<u8>, apex: usize) {
    put_record_head(message, apex, record_type::SOA, NEGATIVE_TTL.as_secs());
    let length_at = message.len();
    put_u16(message, 0);
    // Primary server: the zone itself, which has no other name; responsible: hostmaster at the zone.
    put_u16(message, pointer(apex));
    put_label(message, "hostmaster");
    put_u16(message, pointer(apex));
    // Serial, refresh, retry and expire are for secondary servers, which there are none of.
    let minimum = u32::try_from(NEGATIVE_TTL.as_secs()).unwrap_or(0);
    for number in [1, 3600, 600, 86_400, minimum] {
        message.extend_from_slice(&number.to_be_bytes());
    }
    patch_length(message, length_at);
}

fn put_opt(message: &mut Vec<u8>, edns: Edns, code: Code) {
    message.push(0);
    put_u16(message, record_type::OPT);
    put_u16(message, OUR_PAYLOAD);
    message.extend_from_slice(&[u8::try_from(code.bits() >> 4).unwrap_or(0), 0]);
    put_u16(message, edns.wants_dnssec);
    put_u16(message, 0);
}

fn put_record_head(message: &mut Vec<u8>, name_at: usize, record_type: u16, ttl: u64) {
    put_u16(message, pointer(name_at));
    put_u16(message, record_type);
    put_u16(message, CLASS_IN);
    message.extend_from_slice(&u32::try_from(ttl).unwrap_or(0).to_be_bytes());
}

/// Names pointed to stand in the question, which ends before offset 12 + 259.
fn pointer(at: usize) -> u16 {
    u16::try_from(at).map_or(POINTER_TO_QUESTION, |at| 0xc000 | at)
}

fn put_label(message: &mut Vec<u8>, label: &str) {
    message.push(u8::try_from(label.len()).unwrap_or(0));
    message.extend_from_slice(label.as_bytes());
}

fn patch_length(message: &mut [u8], length_at: usize) {
    let length = u16::try_from(message.len() - length_at - 2).unwrap_or(u16::MAX);
    message[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
}

fn put_u16(message: &mut Vec<u8>, word: u16) {
    message.extend_from_slice(&word.to_be_bytes());
}

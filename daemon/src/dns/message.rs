//! Reading a query in place: no tree of records is built, since a query has one question, and of its records only EDNS
//! matters. hickory-proto, which knows every record, is used where records must be taken apart (`forwarder`).

use portlatch_protocol::names::Hostname;

use super::Via;

/// Length of a message's header (RFC 1035 section 4.1.1).
pub const HEADER: usize = 12;
/// What a client takes that says nothing (RFC 1035 section 2.3.4).
const DEFAULT_PAYLOAD: u16 = 512;
/// Longest name on the wire (RFC 1035 section 2.3.4).
const MAX_WIRE_NAME: usize = 255;

/// Types of records that are told apart (IANA, DNS parameters).
pub mod record_type {
    /// An IPv4 address.
    pub const A: u16 = 1;
    /// Start of authority.
    pub const SOA: u16 = 6;
    /// A name, for an address.
    pub const PTR: u16 = 12;
    /// An IPv6 address.
    pub const AAAA: u16 = 28;
    /// EDNS.
    pub const OPT: u16 = 41;
    /// Service binding; may hold addresses.
    pub const SVCB: u16 = 64;
    /// Service binding of HTTPS; may hold addresses.
    pub const HTTPS: u16 = 65;
    /// Key exchange.
    pub const TKEY: u16 = 249;
    /// Signature of a transaction.
    pub const TSIG: u16 = 250;
    /// Incremental transfer of a zone.
    pub const IXFR: u16 = 251;
    /// Transfer of a zone.
    pub const AXFR: u16 = 252;
    /// Obsolete.
    pub const MAILB: u16 = 253;
    /// Obsolete.
    pub const MAILA: u16 = 254;
    /// Whatever there is.
    pub const ANY: u16 = 255;
}

/// The internet class.
pub const CLASS_IN: u16 = 1;

/// The header of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The asker's number.
    pub id: u16,
    /// Everything between the number and the counts.
    pub flags: u16,
    /// Questions, answers, authorities, additionals.
    pub counts: [u16; 4],
}

impl Header {
    pub(super) const RESPONSE: u16 = 0x8000;
    pub(super) const OPCODE: u16 = 0x7800;
    pub(super) const AUTHORITATIVE: u16 = 0x0400;
    pub(super) const TRUNCATED: u16 = 0x0200;
    pub(super) const RECURSION_DESIRED: u16 = 0x0100;
    pub(super) const RECURSION_AVAILABLE: u16 = 0x0080;
    pub(super) const CHECKING_DISABLED: u16 = 0x0010;

    /// The header of `message`, if it is long enough to have one.
    pub fn read(message: &[u8]) -> Option<Self> {
        let header = message.first_chunk::<HEADER>()?;
        let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        Some(Self { id: word(0), flags: word(2), counts: [word(4), word(6), word(8), word(10)] })
    }

    /// Whether it is an answer.
    pub const fn is_response(self) -> bool {
        self.flags & Self::RESPONSE != 0
    }

    /// Whether the answer was cut.
    pub const fn is_truncated(self) -> bool {
        self.flags & Self::TRUNCATED != 0
    }

    /// Whether the operation is an ordinary query.
    pub const fn is_query(self) -> bool {
        self.flags & Self::OPCODE == 0
    }

    /// The low bits of the answer's code.
    pub const fn code_bits(self) -> u16 {
        self.flags & 0x000f
    }
}

/// The one question of a message.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// Name, type and class as they stand in the message.
    pub bytes: &'a [u8],
    /// The type asked for.
    pub record_type: u16,
    /// The class asked for.
    pub class: u16,
}

impl<'a> Question<'a> {
    /// The question behind the header, if it is well formed and uses no compression (there is nothing before it that it
    /// could point to).
    pub fn read(message: &'a [u8]) -> Option<Self> {
        let mut end = HEADER;
        loop {
            let length = usize::from(*message.get(end)?);
            if length > 63 || end + length + 1 - HEADER >= MAX_WIRE_NAME + usize::from(length == 0) {
                return None;
            }
            end += 1 + length;
            if length == 0 {
                break;
            }
        }
        let tail = message.get(end..end + 4)?;
        Some(Self {
            bytes: &message[HEADER..end + 4],
            record_type: u16::from_be_bytes([tail[0], tail[1]]),
            class: u16::from_be_bytes([tail[2], tail[3]]),
        })
    }

    /// Whether `other` asks the same; names are compared without case.
    pub fn is_same(&self, other: &Question<'_>) -> bool {
        // Lengths of labels are below the letters, so they are compared as they are.
        self.bytes.eq_ignore_ascii_case(other.bytes)
            && (self.record_type, self.class) == (other.record_type, other.class)
    }

    /// The name as a host's name.
    pub fn name(&self) -> QueryName {
        let mut text = [0; MAX_WIRE_NAME];
        let mut length = 0;
        // Behind the last label that no host name has; a dot inside a label would read as a border.
        let mut nameable = 0;
        for label in labels(self.bytes) {
            if length > 0 {
                text[length] = b'.';
                length += 1;
            }
            text[length..length + label.len()].copy_from_slice(label);
            length += label.len();
            if !label.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
                nameable = length + 1;
            }
        }
        let mut rest =
            std::str::from_utf8(text.get(nameable..length).unwrap_or_default()).unwrap_or_default();
        if nameable == 0
            && let Ok(host) = rest.parse()
        {
            return QueryName::Host(host);
        }
        loop {
            if let Ok(suffix) = rest.parse() {
                return QueryName::NoHost { below: Some(suffix) };
            }
            let Some((_, shorter)) = rest.split_once('.') else { return QueryName::NoHost { below: None } };
            rest = shorter;
        }
    }

    /// Where in the message the last `count` labels of the name begin.
    pub(super) fn suffix_offset(&self, count: usize) -> usize {
        let total = labels(self.bytes).count();
        let skipped = labels(self.bytes).take(total.saturating_sub(count));
        HEADER + skipped.map(|label| label.len() + 1).sum::<usize>()
    }
}

/// The name that a query asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueryName {
    /// One that a host may have.
    Host(Hostname),
    /// One that no host has.
    NoHost {
        /// Its longest ending that a host may have; none for the root.
        below: Option<Hostname>,
    },
}

/// The labels of an uncompressed name that was checked before.
fn labels(mut name: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = name.split_first()?;
        let (label, rest) = rest.split_at_checked(usize::from(*length))?;
        name = rest;
        (!label.is_empty()).then_some(label)
    })
}

/// What a query says of EDNS (RFC 6891).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edns {
    /// How long a datagram the asker takes.
    pub payload: u16,
    /// Its version.
    pub version: u8,
    /// Whether signatures are wanted.
    pub(super) wants_dnssec: u16,
}

/// A query that was read.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// Its header.
    pub header: Header,
    /// Its question.
    pub question: Question<'a>,
    /// Its EDNS.
    pub edns: Option<Edns>,
}

/// What of a message is malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

impl<'a> Query<'a> {
    /// The query in `message`, whose header was read and which has one question.
    ///
    /// # Errors
    /// [`Malformed`] for anything that is not a whole question followed by whole records and nothing else.
    pub fn read(header: Header, message: &'a [u8]) -> Result<Self, Malformed> {
        let question = Question::read(message).ok_or(Malformed)?;
        let [_, answers, authorities, additionals] = header.counts;
        let mut records = Records::new(message, HEADER + question.bytes.len());
        for _ in 0..u32::from(answers) + u32::from(authorities) {
            records.read_next().filter(|record| record.record_type != record_type::OPT).ok_or(Malformed)?;
        }
        let mut edns = None;
        for _ in 0..additionals {
            let record = records.read_next().ok_or(Malformed)?;
            if record.record_type != record_type::OPT {
                continue;
            }
            if edns.is_some() || record.name != [0] {
                return Err(Malformed);
            }
            let [_, version, flags @ ..] = record.ttl;
            edns = Some(Edns {
                payload: record.class,
                version,
                wants_dnssec: u16::from_be_bytes(flags) & 0x8000,
            });
        }
        if records.at != message.len() {
            return Err(Malformed);
        }
        Ok(Self { header, question, edns })
    }

    /// How long an answer may be.
    pub fn limit(&self, via: Via) -> usize {
        match via {
            Via::Tcp => usize::from(u16::MAX),
            Via::Udp => {
                usize::from(self.edns.map_or(DEFAULT_PAYLOAD, |edns| edns.payload.max(DEFAULT_PAYLOAD)))
            }
        }
    }
}

/// One record as it stands in a message.
#[derive(Debug, Clone, Copy)]
pub(super) struct RawRecord<'a> {
    /// The owner's name as it stands there, perhaps ending in a pointer.
    pub(super) name: &'a [u8],
    pub(super) record_type: u16,
    pub(super) class: u16,
    pub(super) ttl: [u8; 4],
    pub(super) data: &'a [u8],
}

/// Walks over the records of a message without following pointers.
pub(super) struct Records<'a> {
    message: &'a [u8],
    pub(super) at: usize,
}

impl<'a> Records<'a> {
    pub(super) const fn new(message: &'a [u8], at: usize) -> Self {
        Self { message, at }
    }

    /// The next record; `None` if there is no whole one.
    pub(super) fn read_next(&mut self) -> Option<RawRecord<'a>> {
        let name = self.read_name()?;
        let fixed = self.take(10)?;
        let data = self.take(usize::from(u16::from_be_bytes([fixed[8], fixed[9]])))?;
        Some(RawRecord {
            name,
            record_type: u16::from_be_bytes([fixed[0], fixed[1]]),
            class: u16::from_be_bytes([fixed[2], fixed[3]]),
            ttl: [fixed[4], fixed[5], fixed[6], fixed[7]],
            data,
        })
    }

    fn read_name(&mut self) -> Option<&'a [u8]> {
        let start = self.at;
        loop {
            match usize::from(*self.take(1)?.first()?) {
                0 => break,
                length @ 1..=63 => self.take(length)?,
                192..=255 => {
                    self.take(1)?;
                    break;
                }
                _ => return None,
            };
        }
        Some(&self.message[start..self.at])
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let taken = self.message.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(taken)
    }
}

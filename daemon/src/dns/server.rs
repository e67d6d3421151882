//! What becomes of a query: an answer of our own, a question for the other resolvers, or silence.
//!
//! Pure, and the same for UDP and TCP. It keeps no state but its counters, so that no query can make it grow.

use portlatch_clock::TimeOfDay;

use super::Via;
use super::answer::{self, Answer, Code};
use super::arpa;
use super::message::{CLASS_IN, Header, Query, QueryName, record_type};
use super::names::{NameAnswer, Names, ReverseAnswer};

/// What to do with a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send this back.
    Answer(Vec<u8>),
    /// Ask the other resolvers with these bytes, and send back what they say.
    Forward(Vec<u8>),
    /// Nothing: it was no query.
    Drop,
}

/// What becomes of names outside all of our zones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outside {
    /// We should never be asked: the system's resolver sends us our zones alone.
    Refuse,
    /// All queries of the machine come to us (`dns = resolv.conf`).
    Forward,
}

/// How many queries went which way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Answered with a name's records, or that there are none.
    pub answered: u64,
    /// Handed to the other resolvers.
    pub forwarded: u64,
    /// Answered that this is not done.
    pub refused: u64,
    /// No query, or a malformed one.
    pub malformed: u64,
}

/// The DNS server.
#[derive(Debug)]
pub struct Server {
    outside: Outside,
    counters: Counters,
}

/// A decision, before it is bytes.
enum Decision<'a> {
    Answer(Code, Answer<'a>),
    Forward,
}

impl Server {
    /// A server that does this with names outside all zones.
    pub fn new(outside: Outside) -> Self {
        Self { outside, counters: Counters::default() }
    }

    /// How many queries went which way since the start.
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// What to do with `message`.
    pub fn handle_query(
        &mut self,
        message: &[u8],
        via: Via,
        names: &mut dyn Names,
        now: TimeOfDay,
    ) -> Action {
        let Some(header) = Header::read(message).filter(|header| !header.is_response()) else {
            self.counters.malformed += 1;
            return Action::Drop;
        };
        let query = match read(header, message) {
            Ok(query) => query,
            Err(Code::FormErr) => {
                self.counters.malformed += 1;
                return Action::Answer(answer::header_only(header, Code::FormErr));
            }
            Err(code) => {
                self.counters.refused += 1;
                return Action::Answer(answer::header_only(header, code));
            }
        };
        if let Some(code) = not_done(&query) {
            self.counters.refused += 1;
            return Action::Answer(answer::to_query(&query, code, Answer::Empty));
        }
        self.resolve(message, &query, via, names, now)
    }

    fn resolve(
        &mut self,
        message: &[u8],
        query: &Query<'_>,
        via: Via,
        names: &mut dyn Names,
        now: TimeOfDay,
    ) -> Action {
        let name = query.question.name();
        let reverse = match &name {
            QueryName::Host(host) => arpa::parse(host.as_str()).map(|prefix| names.reverse(prefix)),
            QueryName::NoHost { .. } => None,
        };
        let decision = match (&reverse, &name) {
            (Some(ReverseAnswer::OutsideRange), _) | (None, QueryName::NoHost { below: None }) => {
                self.decide_outside()
            }
            (Some(answer), _) => decide_reverse(query, answer),
            (None, QueryName::Host(host)) => self.decide(query, &name, names.lookup(host, now)),
            (None, QueryName::NoHost { below: Some(below) }) => {
                self.decide(query, &name, names.lookup_no_host(below))
            }
        };
        match decision {
            Decision::Forward => {
                self.counters.forwarded += 1;
                Action::Forward(message.to_vec())
            }
            Decision::Answer(code, answer) => {
                match code {
                    Code::Refused => self.counters.refused += 1,
                    Code::NoError
                    | Code::NxDomain
                    | Code::ServFail
                    | Code::FormErr
                    | Code::NotImp
                    | Code::BadVers => self.counters.answered += 1,
                }
                let mut bytes = answer::to_query(query, code, answer);
                answer::truncate(&mut bytes, query.limit(via));
                Action::Answer(bytes)
            }
        }
    }

    const fn decide_outside(&self) -> Decision<'static> {
        match self.outside {
            Outside::Refuse => Decision::Answer(Code::Refused, Answer::Empty),
            Outside::Forward => Decision::Forward,
        }
    }

    fn decide(&self, query: &Query<'_>, name: &QueryName, answer: NameAnswer) -> Decision<'static> {
        match answer {
            NameAnswer::Ours { addresses, apex_labels } => {
                let nothing = Answer::Nothing { apex_labels };
                let answer = match query.question.record_type {
                    // The least that ANY may be answered with: one set of records (RFC 8482 section 4.1).
                    record_type::A | record_type::ANY => Answer::V4(addresses.v4),
                    record_type::AAAA => addresses.v6.map_or(nothing, Answer::V6),
                    _ => nothing,
                };
                Decision::Answer(Code::NoError, answer)
            }
            NameAnswer::Exists { apex_labels } => {
                let is_zone = matches!(name, QueryName::Host(host) if host.labels() == apex_labels);
                let answer = match query.question.record_type {
                    record_type::SOA | record_type::ANY if is_zone => Answer::Zone,
                    _ => Answer::Nothing { apex_labels },
                };
                Decision::Answer(Code::NoError, answer)
            }
            NameAnswer::DoesNotExist { apex_labels } => {
                Decision::Answer(Code::NxDomain, Answer::Nothing { apex_labels })
            }
            NameAnswer::NotOurs => Decision::Forward,
            NameAnswer::Unknown => Decision::Answer(Code::ServFail, Answer::Empty),
            NameAnswer::OutsideZones => self.decide_outside(),
        }
    }
}

fn decide_reverse<'a>(query: &Query<'_>, answer: &'a ReverseAnswer) -> Decision<'a> {
    match answer {
        ReverseAnswer::Ours { name, apex_labels } => {
            let answer = match query.question.record_type {
                record_type::PTR | record_type::ANY => Answer::Name(name),
                _ => Answer::Nothing { apex_labels: *apex_labels },
            };
            Decision::Answer(Code::NoError, answer)
        }
        ReverseAnswer::Exists { apex_labels } => {
            Decision::Answer(Code::NoError, Answer::Nothing { apex_labels: *apex_labels })
        }
        ReverseAnswer::DoesNotExist { apex_labels } => {
            Decision::Answer(Code::NxDomain, Answer::Nothing { apex_labels: *apex_labels })
        }
        ReverseAnswer::OutsideRange => Decision::Forward,
    }
}

fn read(header: Header, message: &[u8]) -> Result<Query<'_>, Code> {
    if !header.is_query() {
        return Err(Code::NotImp);
    }
    if header.counts[0] != 1 {
        return Err(Code::FormErr);
    }
    Query::read(header, message).map_err(|_| Code::FormErr)
}

/// The code for queries that are well formed and never answered.
fn not_done(query: &Query<'_>) -> Option<Code> {
    if query.edns.is_some_and(|edns| edns.version != 0) {
        return Some(Code::BadVers);
    }
    if query.question.class != CLASS_IN {
        return Some(Code::Refused);
    }
    match query.question.record_type {
        record_type::AXFR | record_type::IXFR => Some(Code::Refused),
        record_type::OPT
        | record_type::TKEY
        | record_type::TSIG
        | record_type::MAILA
        | record_type::MAILB => Some(Code::NotImp),
        _ => None,
    }
}

#[cfg(test)]
mod tests;

//! Arbitrary bytes through everything that reads DNS: driven by cargo-fuzz, and by the replay of the committed corpus.

use portlatch_clock::TimeOfDay;
use portlatch_protocol::names::Hostname;

use super::Via;
use super::arpa::Prefix;
use super::forwarder;
use super::framer::TcpFramer;
use super::message::{Header, Query};
use super::names::{NameAnswer, Names, ReverseAnswer};
use super::server::{Action, Outside, Server};
use crate::addresses::{AddressPair, Ranges};

/// Names whose answer depends on their length alone, so that every kind of answer is met.
struct EveryAnswer(AddressPair);

impl EveryAnswer {
    fn choose(&self, number: usize, apex_labels: usize) -> NameAnswer {
        match number % 6 {
            0 => NameAnswer::Exists { apex_labels },
            1 => NameAnswer::NotOurs,
            2 => NameAnswer::DoesNotExist { apex_labels },
            3 => NameAnswer::Unknown,
            4 => NameAnswer::OutsideZones,
            _ => NameAnswer::Ours { addresses: self.0, apex_labels },
        }
    }
}

impl Names for EveryAnswer {
    fn lookup(&mut self, name: &Hostname, _now: TimeOfDay) -> NameAnswer {
        self.choose(name.as_str().len(), name.labels())
    }

    fn lookup_no_host(&mut self, below: &Hostname) -> NameAnswer {
        self.choose(below.as_str().len(), 1)
    }

    fn reverse(&mut self, prefix: Prefix) -> ReverseAnswer {
        let apex_labels = 3;
        match prefix.length {
            32 | 128 => ReverseAnswer::DoesNotExist { apex_labels },
            8.. => ReverseAnswer::Exists { apex_labels },
            _ => ReverseAnswer::OutsideRange,
        }
    }
}

/// The bytes as a datagram, as a TCP stream, and as the answer of an upstream resolver to a question of its own.
///
/// # Panics
/// If a response is answered, an answer is not the answer to its query, or is longer than the asker takes.
pub fn fuzz_dns(bytes: &[u8]) {
    let mut server = Server::new(Outside::Forward);
    let ranges = Ranges::new((std::net::Ipv4Addr::new(198, 18, 0, 0), 16), None).expect("a usable range");
    let mut names = EveryAnswer(ranges.dns());
    check(&mut server, bytes, Via::Udp, &mut names);

    let mut framer = TcpFramer::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        // Pieces of changing lengths: a query may begin and end anywhere in them.
        let piece = rest.len().min(1 + usize::from(rest[0]));
        let taken = framer.handle_bytes(&rest[..piece]);
        rest = &rest[taken..];
        while let Ok(Some(query)) = framer.poll_query() {
            check(&mut server, query, Via::Tcp, &mut names);
        }
        if taken == 0 {
            break;
        }
    }

    if let Some(cleaned) = forwarder::checked_answer(bytes, bytes, &ranges) {
        assert!(Header::read(&cleaned).is_some(), "an answer has a header");
    }
}

fn check(server: &mut Server, message: &[u8], via: Via, names: &mut EveryAnswer) {
    let now = TimeOfDay(0);
    match server.handle_query(message, via, names, now) {
        Action::Drop => assert!(Header::read(message).is_none_or(Header::is_response), "a query was dropped"),
        Action::Forward(query) => assert_eq!(query, message, "a query was altered"),
        Action::Answer(answer) => {
            let asked = Header::read(message).expect("an answered query has a header");
            let header = Header::read(&answer).expect("an answer has a header");
            assert!(!asked.is_response(), "a response was answered");
            assert!(header.is_response() && header.id == asked.id, "not an answer to this query");
            let limit = Query::read(asked, message).map_or(512, |query| query.limit(via));
            assert!(answer.len() <= limit, "an answer is longer than the asker takes");
            assert_eq!(server.handle_query(&answer, via, names, now), Action::Drop);
        }
    }
}

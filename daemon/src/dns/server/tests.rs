//! What each kind of query gets; hickory-proto reads the answers.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query as Question, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use portlatch_protocol::names::Hostname;
use proptest::prelude::*;

use super::*;
use crate::addresses::AddressPair;
use crate::dns::arpa::Prefix;

const NOON: TimeOfDay = TimeOfDay(1_790_000_000_000);

/// db.corp.internal is ours (with IPv6), v4.corp.internal without; everything below prod.internal is exclusive.
struct FixedNames;

impl Names for FixedNames {
    fn lookup(&mut self, name: &Hostname, _: TimeOfDay) -> NameAnswer {
        let apex_labels = 2;
        let pair = |v6| AddressPair { v4: "198.18.0.7".parse().unwrap(), v6 };
        match name.as_str() {
            "db.corp.internal" => NameAnswer::Ours { addresses: pair("fd12::7".parse().ok()), apex_labels },
            "v4.corp.internal" => NameAnswer::Ours { addresses: pair(None), apex_labels },
            "prod.internal" | "eu.prod.internal" => NameAnswer::Exists { apex_labels },
            "new.corp.internal" => NameAnswer::Unknown,
            other if other.ends_with("prod.internal") => NameAnswer::DoesNotExist { apex_labels },
            other if other.ends_with("corp.internal") => NameAnswer::NotOurs,
            _ => NameAnswer::OutsideZones,
        }
    }

    fn lookup_no_host(&mut self, below: &Hostname) -> NameAnswer {
        match below.as_str() {
            "prod.internal" => NameAnswer::DoesNotExist { apex_labels: 2 },
            "corp.internal" => NameAnswer::NotOurs,
            _ => NameAnswer::OutsideZones,
        }
    }

    fn reverse(&mut self, prefix: Prefix) -> ReverseAnswer {
        let ours: IpAddr = "198.18.0.7".parse().unwrap();
        let nothing: IpAddr = "198.18.0.8".parse().unwrap();
        let apex_labels = 4;
        match prefix {
            Prefix { address, length: 32 } if address == ours => {
                ReverseAnswer::Ours { name: "db.corp.internal".parse().unwrap(), apex_labels }
            }
            Prefix { address, length: 32 } if address == nothing => {
                ReverseAnswer::DoesNotExist { apex_labels }
            }
            Prefix { length: 16..=31, .. } => ReverseAnswer::Exists { apex_labels },
            Prefix { .. } => ReverseAnswer::OutsideRange,
        }
    }
}

#[test]
fn every_question_gets_the_answer_of_the_table() {
    use ResponseCode::{NXDomain, NoError, Refused, ServFail};
    for (name, record_type, code, data) in [
        ("db.corp.internal.", RecordType::A, NoError, "198.18.0.7"),
        ("db.corp.internal.", RecordType::AAAA, NoError, "fd12::7"),
        ("db.corp.internal.", RecordType::ANY, NoError, "198.18.0.7"),
        ("v4.corp.internal.", RecordType::AAAA, NoError, "corp.internal. 5"),
        ("db.corp.internal.", RecordType::HTTPS, NoError, "corp.internal. 5"),
        ("db.corp.internal.", RecordType::SVCB, NoError, "corp.internal. 5"),
        ("db.corp.internal.", RecordType::MX, NoError, "corp.internal. 5"),
        ("db.corp.internal.", RecordType::TXT, NoError, "corp.internal. 5"),
        ("new.corp.internal.", RecordType::A, ServFail, ""),
        ("x.prod.internal.", RecordType::A, NXDomain, "prod.internal. 5"),
        ("x.prod.internal.", RecordType::MX, NXDomain, "prod.internal. 5"),
        ("eu.prod.internal.", RecordType::A, NoError, "prod.internal. 5"),
        ("prod.internal.", RecordType::A, NoError, "prod.internal. 5"),
        ("prod.internal.", RecordType::SOA, NoError, "answer prod.internal. 5"),
        ("w*d.prod.internal.", RecordType::A, NXDomain, "prod.internal. 5"),
        ("example.com.", RecordType::A, Refused, ""),
        (".", RecordType::NS, Refused, ""),
        ("7.0.18.198.in-addr.arpa.", RecordType::PTR, NoError, "db.corp.internal."),
        ("7.0.18.198.in-addr.arpa.", RecordType::TXT, NoError, "18.198.in-addr.arpa. 5"),
        ("8.0.18.198.in-addr.arpa.", RecordType::PTR, NXDomain, "18.198.in-addr.arpa. 5"),
        ("18.198.in-addr.arpa.", RecordType::NS, NoError, "18.198.in-addr.arpa. 5"),
        ("1.0.0.10.in-addr.arpa.", RecordType::PTR, Refused, ""),
    ] {
        let answer = answered(ask(&question(name, record_type)));
        assert_eq!((answer.response_code, shown(&answer).as_str()), (code, data), "{name} {record_type}");
    }
}

#[test]
fn an_answer_says_what_the_header_must_say() {
    let mut query = question("db.corp.internal.", RecordType::A);
    query.metadata.recursion_desired = true;
    query.metadata.checking_disabled = true;
    query.metadata.authentic_data = true;
    let answer = answered(ask(&query));
    assert_eq!(answer.id, query.id);
    assert_eq!(answer.message_type, MessageType::Response);
    let bits = |m: &Message| [m.authoritative, m.truncation, m.recursion_desired, m.recursion_available];
    assert_eq!(bits(&answer), [true, false, true, true]);
    assert!(!answer.authentic_data && answer.checking_disabled);
    assert_eq!(answer.answers[0].ttl, 30);
    assert_eq!(answer.queries, query.queries);
}

#[test]
fn the_case_of_the_question_comes_back() {
    let Action::Answer(bytes) = ask(&question("dB.CoRp.InTeRnAl.", RecordType::A)) else {
        panic!("no answer")
    };
    let answer = Message::from_vec(&bytes).unwrap();
    assert!(answer.queries[0].name().eq_case(&name("dB.CoRp.InTeRnAl.")));
    assert!(answer.answers[0].name.eq_case(&name("dB.CoRp.InTeRnAl.")));
}

#[test]
fn names_of_shared_zones_go_to_the_other_resolvers_as_they_came() {
    for asked in ["wiki.corp.internal.", "w\"d.corp.internal.", "_ldap._tcp.corp.internal."] {
        let bytes = question(asked, RecordType::SRV).to_vec().unwrap();
        assert_eq!(handle(Outside::Refuse, &bytes), Action::Forward(bytes), "{asked}");
    }
}

#[test]
fn where_all_queries_come_to_us_the_other_names_are_forwarded() {
    for asked in ["example.com.", ".", "1.0.0.10.in-addr.arpa."] {
        let bytes = question(asked, RecordType::A).to_vec().unwrap();
        assert_eq!(handle(Outside::Forward, &bytes), Action::Forward(bytes), "{asked}");
    }
    let ours = question("8.0.18.198.in-addr.arpa.", RecordType::PTR).to_vec().unwrap();
    assert!(
        matches!(handle(Outside::Forward, &ours), Action::Answer(_)),
        "our range is never asked for elsewhere"
    );
}

#[test]
fn an_asker_of_edns_is_answered_with_edns() {
    let mut query = question("db.corp.internal.", RecordType::A);
    assert!(answered(ask(&query)).edns.is_none());
    let mut edns = Edns::new();
    edns.set_max_payload(4096).set_version(0).set_dnssec_ok(true);
    query.set_edns(edns.clone());
    let answer = answered(ask(&query)).edns.expect("EDNS");
    assert_eq!((answer.max_payload(), answer.version(), answer.flags().dnssec_ok), (1232, 0, true));
    edns.set_version(1);
    query.set_edns(edns);
    let answer = answered(ask(&query));
    // 16 is BADVERS here, and BADSIG where there is a signature.
    assert_eq!((u16::from(answer.response_code), answer.answers.len()), (16, 0));
    assert_eq!(answer.edns.expect("EDNS").version(), 0);
}

#[test]
fn what_is_not_done_is_said_with_its_code() {
    use ResponseCode::{FormErr, NotImp, Refused};
    let asked = |record_type| question("db.corp.internal.", record_type);
    let with = |change: fn(&mut Message)| {
        let mut query = asked(RecordType::A);
        change(&mut query);
        query
    };
    for (query, code) in [
        (asked(RecordType::AXFR), Refused),
        (asked(RecordType::IXFR), Refused),
        (asked(RecordType::TSIG), NotImp),
        (with(|query| _ = query.queries[0].set_query_class(DNSClass::CH)), Refused),
        (with(|query| _ = query.queries[0].set_query_class(DNSClass::ANY)), Refused),
        (with(|query| query.metadata.op_code = OpCode::Update), NotImp),
        (with(|query| query.metadata.op_code = OpCode::Notify), NotImp),
        (with(|query| query.metadata.op_code = OpCode::Status), NotImp),
        (with(|query| query.queries.clear()), FormErr),
        (with(|query| _ = query.add_query(Question::query(name("a.b."), RecordType::A))), FormErr),
    ] {
        let answer = answered(ask(&query));
        assert_eq!((answer.id, answer.response_code), (query.id, code), "{query:?}");
        assert!(answer.answers.is_empty());
    }
}

#[test]
fn what_cannot_be_read_is_a_format_error() {
    let good = question("db.corp.internal.", RecordType::A).to_vec().unwrap();
    let mut pointer = good[..12].to_vec();
    pointer.extend([0xc0, 0x0c, 0, 1, 0, 1]);
    let mut trailing = good.clone();
    trailing.push(0);
    let mut long = good[..12].to_vec();
    long.extend((0..5).flat_map(|_| std::iter::once(63).chain([b'a'; 63])).chain([0, 0, 1, 0, 1]));
    let mut lying_count = good.clone();
    lying_count[11] = 1;
    let mut two_opts = good.clone();
    two_opts[11] = 2;
    two_opts.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0].repeat(2));
    for bytes in [pointer, trailing, long, lying_count, two_opts, good[..20].to_vec(), good[..12].to_vec()] {
        let answer = answered(handle(Outside::Refuse, &bytes));
        assert_eq!(answer.response_code, ResponseCode::FormErr, "{bytes:?}");
    }
}

#[test]
fn an_answer_is_never_answered() {
    let mut response = question("db.corp.internal.", RecordType::A);
    response.metadata.message_type = MessageType::Response;
    assert_eq!(ask(&response), Action::Drop);
    assert_eq!(handle(Outside::Refuse, &[0; 11]), Action::Drop);
}

#[test]
fn the_longest_names_still_fit_the_smallest_datagram() {
    let labels = [[b'a'; 63].as_slice(), &[b'b'; 63], &[b'c'; 63], &[b'd'; 47], b"prod", b"internal"];
    let longest = Name::from_labels(labels).unwrap();
    let mut query = Message::query();
    query.add_query(Question::query(longest, RecordType::A));
    assert_eq!(query.to_vec().unwrap().len(), 12 + 255 + 4);
    let Action::Answer(bytes) = ask(&query) else { panic!("no answer") };
    let answer = Message::from_vec(&bytes).unwrap();
    assert!(bytes.len() <= 512 && !answer.truncation);
    assert_eq!(answer.response_code, ResponseCode::NXDomain);
}

#[test]
fn every_query_is_counted_once() {
    let mut server = Server::new(Outside::Refuse);
    for (asked, record_type) in [
        ("db.corp.internal.", RecordType::A),
        ("wiki.corp.internal.", RecordType::A),
        ("example.com.", RecordType::A),
        ("db.corp.internal.", RecordType::AXFR),
    ] {
        let bytes = question(asked, record_type).to_vec().unwrap();
        server.handle_query(&bytes, Via::Udp, &mut FixedNames, NOON);
    }
    server.handle_query(b"garbage", Via::Udp, &mut FixedNames, NOON);
    assert_eq!(server.counters(), Counters { answered: 1, forwarded: 1, refused: 2, malformed: 1 });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_bytes_make_the_server_panic_or_answer_an_answer(
        head in any::<[u8; 4]>(),
        counts in proptest::array::uniform4(prop_oneof![4 => 0_u16..3, 1 => any::<u16>()]),
        body in proptest::collection::vec(prop_oneof![3 => 0_u8..8, 1 => any::<u8>()], 0..300),
    ) {
        let mut bytes = head.to_vec();
        bytes.extend(counts.iter().flat_map(|count| count.to_be_bytes()));
        bytes.extend(&body);
        crate::dns::fuzzing::fuzz_dns(&bytes);
        if bytes[2] & 0x80 != 0 {
            prop_assert_eq!(handle(Outside::Forward, &bytes), Action::Drop);
        }
    }

    #[test]
    fn whatever_is_answered_can_be_read_and_repeats_the_question(
        labels in proptest::collection::vec("[a-zA-Z0-9_.*-]{1,20}", 0..6),
        record_type in any::<u16>(),
        zone in prop_oneof![Just("corp.internal"), Just("prod.internal"), Just("18.198.in-addr.arpa")],
    ) {
        let labels = labels.iter().map(String::as_str).chain(zone.split('.')).map(str::as_bytes);
        let mut query = Message::query();
        query.add_query(Question::query(Name::from_labels(labels).unwrap(), RecordType::from(record_type)));
        if let Action::Answer(bytes) = ask(&query) {
            let answer = Message::from_vec(&bytes).expect("a readable answer");
            prop_assert!(answer.queries == query.queries || answer.response_code == ResponseCode::FormErr);
            prop_assert_eq!(answer.id, query.id);
        }
    }
}

fn name(text: &str) -> Name {
    // Byte by byte: hickory's parser of text refuses what no host has.
    let labels = text.split('.').filter(|label| !label.is_empty());
    Name::from_labels(labels.map(str::as_bytes)).unwrap()
}

fn question(asked: &str, record_type: RecordType) -> Message {
    let mut query = Message::query();
    query.add_query(Question::query(name(asked), record_type));
    query
}

fn ask(query: &Message) -> Action {
    handle(Outside::Refuse, &query.to_vec().unwrap())
}

fn handle(outside: Outside, bytes: &[u8]) -> Action {
    Server::new(outside).handle_query(bytes, Via::Udp, &mut FixedNames, NOON)
}

#[track_caller]
fn answered(action: Action) -> Message {
    let Action::Answer(bytes) = action else { panic!("{action:?} is no answer") };
    Message::from_vec(&bytes).unwrap()
}

/// The answer's one record, or the zone and negative TTL behind it.
fn shown(answer: &Message) -> String {
    let zone = |record: &Record| {
        let RData::SOA(soa) = &record.data else { panic!("{record} is no zone") };
        assert_eq!((soa.minimum, &soa.mname), (5, &record.name));
        format!("{} {}", record.name, record.ttl)
    };
    match (&answer.answers[..], &answer.authorities[..]) {
        ([], []) => String::new(),
        ([], [soa]) => zone(soa),
        ([record], []) if record.record_type() == RecordType::SOA => format!("answer {}", zone(record)),
        ([record], []) => {
            assert_eq!(record.ttl, 30);
            record.data.to_string()
        }
        other => panic!("{other:?} is too much"),
    }
}

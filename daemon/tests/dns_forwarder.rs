//! The forwarder against resolvers in this process, on loopback: what is relayed, what is believed, and what happens
//! where nobody answers.

#![expect(clippy::unwrap_used, reason = "what supports a test fails it by panicking")]

use std::net::SocketAddr;
use std::str::FromStr as _;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::rdata::svcb::{IpHint, SvcParamKey, SvcParamValue};
use hickory_proto::rr::rdata::{A, HTTPS, SVCB, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use portlatchd::addresses::Ranges;
use portlatchd::dns::Via;
use portlatchd::dns::forwarder::{Forwarder, MAX_IN_FLIGHT};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};

/// For resolvers that answer: never reached.
const LONG: Duration = Duration::from_secs(60);
/// For resolvers that do not.
const SHORT: Duration = Duration::from_millis(500);

#[tokio::test]
async fn query_and_answer_pass_as_they_are() {
    let (upstream, mut seen) = udp(|query| vec![answer(query, &["10.1.2.3"])]).await;
    let asked = query("wIkI.corp.internal.", RecordType::A);
    let answered = ask(&forwarder(LONG, &[upstream]), &asked, Via::Udp).await;
    assert_eq!(addresses(&answered), ["10.1.2.3"]);
    assert_eq!(answered.id, asked.id);
    assert!(answered.queries[0].name().eq_case(asked.queries[0].name()));
    let arrived = seen.recv().await.unwrap();
    assert_eq!(arrived[2..], asked.to_vec().unwrap()[2..]);
}

#[tokio::test]
async fn each_query_has_a_number_and_a_port_of_its_own() {
    let (upstream, mut seen) = udp_from(|query, from| vec![answer(query, &[&from.ip().to_string()])]).await;
    let forwarder = forwarder(LONG, &[upstream]);
    let (mut numbers, mut ports) = (std::collections::HashSet::new(), std::collections::HashSet::new());
    for _ in 0..16 {
        ask(&forwarder, &query("wiki.corp.internal.", RecordType::A), Via::Udp).await;
        let (arrived, from) = seen.recv().await.unwrap();
        numbers.insert([arrived[0], arrived[1]]);
        ports.insert(from.port());
    }
    assert!(numbers.len() > 12 && ports.len() > 8, "{} numbers, {} ports", numbers.len(), ports.len());
}

#[tokio::test]
async fn a_silent_resolver_is_passed_over_and_not_asked_first_again() {
    let (silent, mut asked_in_vain) = udp(|_| vec![]).await;
    let (willing, _seen) = udp(|query| vec![answer(query, &["10.1.2.3"])]).await;
    let forwarder = forwarder(SHORT, &[silent, willing]);
    for _ in 0..3 {
        let answered = ask(&forwarder, &query("wiki.corp.internal.", RecordType::A), Via::Udp).await;
        assert_eq!(addresses(&answered), ["10.1.2.3"]);
    }
    assert!(asked_in_vain.recv().await.is_some());
    assert!(asked_in_vain.try_recv().is_err(), "the silent one was asked again");
}

#[tokio::test]
async fn a_lost_datagram_is_sent_again_to_the_only_resolver() {
    let mut count = 0;
    let (upstream, _seen) = udp(move |query| {
        count += 1;
        if count == 1 { vec![] } else { vec![answer(query, &["10.1.2.3"])] }
    })
    .await;
    let answered =
        ask(&forwarder(SHORT, &[upstream]), &query("wiki.corp.internal.", RecordType::A), Via::Udp).await;
    assert_eq!(addresses(&answered), ["10.1.2.3"]);
}

#[tokio::test]
async fn where_nobody_answers_the_failure_is_said() {
    let (silent, _seen) = udp(|_| vec![]).await;
    for forwarder in [forwarder(SHORT, &[silent]), forwarder(SHORT, &[])] {
        let asked = query("wiki.corp.internal.", RecordType::A);
        let answered = ask(&forwarder, &asked, Via::Udp).await;
        assert_eq!((answered.id, answered.response_code), (asked.id, ResponseCode::ServFail));
        assert_eq!(forwarder.in_flight(), 0);
    }
}

#[tokio::test]
async fn an_unwilling_resolver_is_passed_over_but_its_word_is_better_than_none() {
    let refuse = |query: &Message| vec![coded(query, ResponseCode::Refused)];
    let (unwilling, _seen1) = udp(refuse).await;
    let (willing, _seen2) = udp(|query| vec![answer(query, &["10.1.2.3"])]).await;
    let asked = query("wiki.corp.internal.", RecordType::A);
    let answered = ask(&forwarder(LONG, &[unwilling, willing]), &asked, Via::Udp).await;
    assert_eq!(addresses(&answered), ["10.1.2.3"]);
    let answered = ask(&forwarder(LONG, &[unwilling]), &asked, Via::Udp).await;
    assert_eq!(answered.response_code, ResponseCode::Refused);
}

#[tokio::test]
async fn answers_to_other_questions_are_ignored() {
    let (upstream, _seen) = udp(|query| {
        let spoofed = |change: fn(&mut Message)| {
            let mut message = Message::from_vec(&answer(query, &["6.6.6.6"])).unwrap();
            change(&mut message);
            message.to_vec().unwrap()
        };
        vec![
            b"garbage".to_vec(),
            spoofed(|message| message.metadata.id = message.metadata.id.wrapping_add(1)),
            spoofed(|message| message.metadata.message_type = MessageType::Query),
            spoofed(|message| message.queries = vec![Query::query(name("evil.example."), RecordType::A)]),
            spoofed(|message| _ = message.queries[0].set_query_type(RecordType::AAAA)),
            spoofed(|message| message.queries.clear()),
            answer(query, &["6.6.6.6"])[..40].to_vec(),
            answer(query, &["10.1.2.3"]),
        ]
    })
    .await;
    let asked = query("wiki.corp.internal.", RecordType::A);
    let answered = ask(&forwarder(LONG, &[upstream]), &asked, Via::Udp).await;
    assert_eq!(addresses(&answered), ["10.1.2.3"]);
}

#[tokio::test]
async fn an_answer_from_another_address_is_ignored() {
    let (upstream, mut seen) = udp_from(|_, _| vec![]).await;
    let forwarder = forwarder(SHORT, &[upstream]);
    let asked = query("wiki.corp.internal.", RecordType::A);
    let spoof = async {
        let (arrived, from) = seen.recv().await.unwrap();
        let query = Message::from_vec(&arrived).unwrap();
        let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        stranger.send_to(&answer(&query, &["6.6.6.6"]), from).await.unwrap();
    };
    let (answered, ()) = tokio::join!(ask(&forwarder, &asked, Via::Udp), spoof);
    assert_eq!(answered.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn a_cut_answer_is_fetched_whole_over_tcp_for_who_asked_over_tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket = UdpSocket::bind(listener.local_addr().unwrap()).await.unwrap();
    let upstream = listener.local_addr().unwrap();
    let _seen = serve_udp(socket, |query, _| vec![cut(query)]);
    tokio::spawn(serve_tcp(listener));
    let forwarder = forwarder(LONG, &[upstream]);
    let asked = query("wiki.corp.internal.", RecordType::TXT);
    let whole = ask(&forwarder, &asked, Via::Tcp).await;
    assert_eq!((whole.truncation, whole.answers.len(), whole.id), (false, 200, asked.id));
    let by_datagram = ask(&forwarder, &asked, Via::Udp).await;
    assert_eq!((by_datagram.truncation, by_datagram.answers.len()), (true, 0));
}

#[tokio::test]
async fn an_answer_longer_than_the_asker_takes_is_cut() {
    let (upstream, _seen) = udp(|query| vec![texts(query, 4)]).await;
    let forwarder = forwarder(LONG, &[upstream]);
    let mut asked = query("wiki.corp.internal.", RecordType::TXT);
    asked.set_edns({
        let mut edns = Edns::new();
        edns.set_max_payload(1232);
        edns
    });
    assert_eq!(ask(&forwarder, &asked, Via::Udp).await.answers.len(), 4);
}

#[tokio::test]
async fn addresses_of_our_own_range_do_not_come_from_outside() {
    let (upstream, _seen) =
        udp(|query| vec![answer(query, &["198.18.0.7", "10.1.2.3", "198.18.255.1"])]).await;
    let asked = query("evil.corp.internal.", RecordType::A);
    let answered = ask(&forwarder(LONG, &[upstream]), &asked, Via::Udp).await;
    assert_eq!(addresses(&answered), ["10.1.2.3"]);

    let (upstream, _seen) = udp(|query| vec![answer(query, &["198.18.0.7"])]).await;
    let answered = ask(&forwarder(LONG, &[upstream]), &asked, Via::Udp).await;
    assert_eq!((answered.response_code, answered.answers.len()), (ResponseCode::NoError, 0));
}

#[tokio::test]
async fn addresses_of_our_own_range_do_not_come_as_hints_either() {
    let (upstream, _seen) = udp(|query| {
        let mut message = response(query);
        for hint in ["198.18.0.7", "10.1.2.3"] {
            let hints = SvcParamValue::Ipv4Hint(IpHint(vec![A(hint.parse().unwrap())]));
            let service = SVCB::new(1, name("svc.corp.internal."), vec![(SvcParamKey::Ipv4Hint, hints)]);
            let data = RData::HTTPS(HTTPS(service));
            message.add_answer(Record::from_rdata(query.queries[0].name().clone(), 60, data));
        }
        vec![message.to_vec().unwrap()]
    })
    .await;
    let asked = query("evil.corp.internal.", RecordType::HTTPS);
    let answered = ask(&forwarder(LONG, &[upstream]), &asked, Via::Udp).await;
    assert_eq!(answered.answers.len(), 1);
    assert!(answered.answers[0].data.to_string().contains("10.1.2.3"));
}

#[tokio::test]
async fn our_own_addresses_are_no_resolvers() {
    let forwarder = forwarder(LONG, &[]);
    let of = |text: &str| text.parse::<SocketAddr>().unwrap();
    forwarder.set_upstreams(&[
        of("198.18.0.2:53"),
        of("[::ffff:198.18.0.2]:53"),
        of("0.0.0.0:53"),
        of("10.0.0.53:53"),
        of("10.0.0.53:53"),
        of("10.0.0.54:0"),
    ]);
    assert_eq!(forwarder.upstreams()[..], [of("10.0.0.53:53")]);
}

#[tokio::test]
async fn only_so_many_queries_wait_at_once() {
    let (silent, _seen) = udp(|_| vec![]).await;
    let forwarder = forwarder(LONG, &[silent]);
    let queries: Vec<_> =
        (0..=MAX_IN_FLIGHT).map(|n| query(&format!("n{n}.corp.internal."), RecordType::A)).collect();
    let mut asking: Vec<_> = queries.iter().map(|query| Box::pin(ask(&forwarder, query, Via::Udp))).collect();
    let one_too_many = asking.pop().unwrap();
    for waiting in &mut asking {
        assert!(poll_once(waiting).await.is_none());
    }
    assert_eq!(forwarder.in_flight(), MAX_IN_FLIGHT);
    assert_eq!(one_too_many.await.response_code, ResponseCode::ServFail);
    drop(asking);
    assert_eq!(forwarder.in_flight(), 0);
}

#[tokio::test]
async fn a_loop_through_another_resolver_ends() {
    let (silent, _seen) = udp(|_| vec![]).await;
    let forwarder = forwarder(LONG, &[silent]);
    let asked = query("loop.corp.internal.", RecordType::A);
    let mut rounds: Vec<_> = Vec::new();
    let refused = loop {
        let mut asking = Box::pin(ask(&forwarder, &asked, Via::Udp));
        match poll_once(&mut asking).await {
            Some(answered) => break answered,
            None => rounds.push(asking),
        }
    };
    assert_eq!(refused.response_code, ResponseCode::ServFail);
    assert_eq!(rounds.len(), 64);
}

fn forwarder(patience: Duration, upstreams: &[SocketAddr]) -> Forwarder {
    let ranges = Ranges::new(("198.18.0.0".parse().unwrap(), 16), None).unwrap();
    let forwarder = Forwarder::with_patience(ranges, patience);
    forwarder.set_upstreams(upstreams);
    forwarder
}

async fn ask(forwarder: &Forwarder, query: &Message, via: Via) -> Message {
    Message::from_vec(&forwarder.resolve(&query.to_vec().unwrap(), via).await).unwrap()
}

async fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    tokio::select! {
        biased;
        output = future => Some(output),
        () = std::future::ready(()) => None,
    }
}

type Seen<T> = tokio::sync::mpsc::UnboundedReceiver<T>;

/// A resolver that answers each query with these datagrams.
async fn udp(
    mut answers: impl FnMut(&Message) -> Vec<Vec<u8>> + Send + 'static,
) -> (SocketAddr, Seen<Vec<u8>>) {
    let (upstream, mut seen_from) = udp_from(move |query, _| answers(query)).await;
    let (sender, seen) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some((query, _)) = seen_from.recv().await {
            let _ = sender.send(query);
        }
    });
    (upstream, seen)
}

async fn udp_from(
    answers: impl FnMut(&Message, SocketAddr) -> Vec<Vec<u8>> + Send + 'static,
) -> (SocketAddr, Seen<(Vec<u8>, SocketAddr)>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    (socket.local_addr().unwrap(), serve_udp(socket, answers))
}

fn serve_udp(
    socket: UdpSocket,
    mut answers: impl FnMut(&Message, SocketAddr) -> Vec<Vec<u8>> + Send + 'static,
) -> Seen<(Vec<u8>, SocketAddr)> {
    let (sender, seen) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let query = Message::from_vec(&buffer[..length]).unwrap();
            let _ = sender.send((buffer[..length].to_vec(), from));
            for answer in answers(&query, from) {
                let _ = socket.send_to(&answer, from).await;
            }
        }
    });
    seen
}

async fn serve_tcp(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let mut query = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut query).await.unwrap();
        let answer = texts(&Message::from_vec(&query).unwrap(), 200);
        stream.write_u16(u16::try_from(answer.len()).unwrap()).await.unwrap();
        stream.write_all(&answer).await.unwrap();
    }
}

fn name(text: &str) -> Name {
    Name::from_str(text).unwrap()
}

fn query(asked: &str, record_type: RecordType) -> Message {
    let mut query = Message::query();
    query.add_query(Query::query(name(asked), record_type));
    query
}

fn response(query: &Message) -> Message {
    let mut response = Message::response(query.id, query.op_code);
    response.add_queries(query.queries.iter().cloned());
    response
}

fn answer(query: &Message, addresses: &[&str]) -> Vec<u8> {
    let mut message = response(query);
    for address in addresses {
        let data = RData::A(A(address.parse().unwrap()));
        message.add_answer(Record::from_rdata(query.queries[0].name().clone(), 60, data));
    }
    message.to_vec().unwrap()
}

fn coded(query: &Message, code: ResponseCode) -> Vec<u8> {
    let mut message = response(query);
    message.metadata.response_code = code;
    message.to_vec().unwrap()
}

fn cut(query: &Message) -> Vec<u8> {
    let mut message = response(query);
    message.metadata.truncation = true;
    message.to_vec().unwrap()
}

fn texts(query: &Message, count: usize) -> Vec<u8> {
    let mut message = response(query);
    for n in 0..count {
        let data = RData::TXT(TXT::new(vec![format!("{n:0100}")]));
        message.add_answer(Record::from_rdata(query.queries[0].name().clone(), 60, data));
    }
    message.to_vec().unwrap()
}

fn addresses(answer: &Message) -> Vec<String> {
    answer.answers.iter().filter_map(|record| record.data.ip_addr()).map(|ip| ip.to_string()).collect()
}

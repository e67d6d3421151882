//! The network's edge (the attack list's E): long waits, floods of SYNs, a lost tunnel, and control messages that are none.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use portlatch_tests::lab::api::{ApiClient, ApiStream, head};
use portlatch_tests::lab::{Account::*, Host, Lab, LabOptions, PATIENCE, Part, Taps, start, wait_for};
use serde_json::{Value, json};

fn by_hand() -> LabOptions {
    LabOptions { taps: Taps::Enter, ..LabOptions::default() }
}

fn at(lab: &Lab, seconds: u64) {
    lab.move_clock(Duration::from_secs(seconds));
}

/// E: psql is held for 7, 9 and 30 s and gets its row; for 61 s, and it hears that nobody tapped.
#[test]
fn psql_waits_for_as_long_as_a_prompt_is_open() {
    let Some(lab) = start(by_hand()) else { return };
    let query = "host=billing-db.corp.internal dbname=billing user=jerry";
    let psql = || lab.spawn(Host::User, Jerry, &["psql", "-AtX", "-c", "select 42", query]);
    let (challenges, dials) = (lab.count("mfa.challenge"), lab.dials());
    for (round, held) in [7, 9, 30].into_iter().enumerate() {
        let round = u64::try_from(round).unwrap();
        let mut program = psql();
        lab.wait_for_prompt(Jerry, "billing-db", 5432);
        at(&lab, round * 400 + held);
        lab.wait_for_prompt(Jerry, "billing-db", 5432);
        assert!(program.is_running(), "after {held} s");
        assert_eq!(lab.dials(), dials + round, "nothing reached the database before the tap");
        lab.tap(Jerry);
        assert_eq!(program.finish(PATIENCE).expect_success().stdout, "42", "held for {held} s");
        // The grant is over before the next one.
        at(&lab, (round + 1) * 400);
    }
    assert_eq!(lab.count("mfa.challenge"), challenges + 3, "one for each, however often its SYN came");
    let program = psql();
    lab.wait_for_prompt(Jerry, "billing-db", 5432);
    at(&lab, 1261);
    let outcome = program.finish(PATIENCE).expect_failure();
    assert!(outcome.stderr.contains("connection to server at"), "{outcome}");
    // Where the handshake was done already, libpq tries again without TLS, and is refused while the port rests.
    wait_for("the refusal", PATIENCE, || {
        let status = lab.status(Jerry);
        let mut refusals = status["refusals"].as_array()?.iter();
        refusals.any(|one| one["port"] == 5432 && one["reason"] == "timed_out").then_some(())
    });
    assert_eq!(lab.dials(), dials + 3);
}

/// Flows that wait for a tap at one port (design section 4).
const MAX_WAITING: u64 = 256;
const SYNS: u64 = 5000;
/// What the daemon may take for them, far below a buffer each.
const MEMORY: u64 = 64 << 20;
const PATIENT: &str = "
kind: app
metadata: {name: patient, labels: {env: prod}}
spec: {uri: 'tcp://10.0.0.9', tcp_ports: [{port: 6432}], mfa: {hold: syn}}
";

/// E: 5,000 SYNs at a port that needs a tap: so many are held, the others refused at once; one prompt; others are served.
#[test]
fn of_five_thousand_syns_a_few_hundred_are_held_and_the_rest_refused() {
    let Some(lab) = start(LabOptions { logins: &[Jerry, Tom], ..by_hand() }) else { return };
    lab.apply(PATIENT).expect_success();
    wait_for("the name", PATIENCE, || {
        let resolved = lab.run(Host::User, Jerry, &["getent", "ahostsv4", "patient.corp.internal"]);
        resolved.status.success().then_some(())
    });
    let (challenges, dials, memory) = (lab.count("mfa.challenge"), lab.dials(), lab.memory(Part::Daemon));
    let mut crowd = lab.program(Jerry, &["hold", "patient.corp.internal", "6432", &SYNS.to_string()]);
    let told: Value = serde_json::from_str(&crowd.read_line(PATIENCE * 2)).unwrap();
    let [waiting, refused] = ["waiting", "refused"].map(|what| told[what].as_u64().unwrap_or(0));
    assert!(waiting <= MAX_WAITING && waiting + refused == SYNS, "{told}");
    assert!(waiting > 0, "none is held: {told}");
    let taken = lab.memory(Part::Daemon).saturating_sub(memory);
    assert!(taken < MEMORY, "{waiting} held SYNs take {taken} bytes");
    assert_eq!(lab.prompts(Jerry).len(), 1);
    assert_eq!(lab.count("mfa.challenge"), challenges + 1);
    lab.wait_for_refusal(Jerry, 6432, "limit");
    // Another user's connection is none of that.
    let other = lab.program(Tom, &["connect", "web-dev.corp.internal", "80"]).finish(PATIENCE);
    assert_eq!(other.expect_success().json()[0]["result"], "connected");
    assert_eq!(lab.dials(), dials + 1);
    lab.deny(Jerry);
    crowd.write_line("");
    let told: Value = serde_json::from_str(&crowd.read_line(PATIENCE * 2)).unwrap();
    assert_eq!(told, json!({"refused": SYNS}), "all that was held is refused");
    assert_eq!(lab.dials(), dials + 1);
}

/// At the proxy's host: no tunnel any more, from one packet to the next; control is still there.
const NO_TUNNEL: &str = "
    nft add table inet edge
    nft add chain inet edge in '{ type filter hook input priority 0; }'
    nft add rule inet edge in udp dport 443 drop";

/// E: the tunnel is lost while a prompt is open. The program is told that nobody can be reached; the tap is not lost, and
/// serves whoever comes when there is a way again.
#[test]
fn a_tunnel_that_is_lost_while_prompting_costs_no_second_tap() {
    let Some(lab) = start(by_hand()) else { return };
    let (challenges, dials) = (lab.count("mfa.challenge"), lab.dials());
    let mut program = lab.program(Jerry, &["talk", "billing-db.corp.internal", "6432"]);
    lab.wait_for_prompt(Jerry, "billing-db", 6432);
    lab.run(Host::Proxy, Root, &["sh", "-euc", NO_TUNNEL]).expect_success();
    lab.tap(Jerry);
    // Before the handshake, or after it, if finding out took longer than a SYN is held.
    match program.read_line(PATIENCE).as_str() {
        "connected" => {
            program.write_line("anybody there?");
            assert_eq!(program.read_line(PATIENCE), "reset");
        }
        told => assert_eq!(told, "host unreachable"),
    }
    lab.wait_for_refusal(Jerry, 6432, "no_proxy");
    assert_eq!(lab.dials(), dials);
    lab.run(Host::Proxy, Root, &["nft", "delete", "table", "inet", "edge"]).expect_success();
    let mut next = wait_for("the way to be open again", PATIENCE * 2, || {
        let mut next = lab.program(Jerry, &["talk", "billing-db.corp.internal", "6432"]);
        (next.read_line(PATIENCE) == "connected").then_some(next)
    });
    next.write_line("no second tap");
    assert_eq!(next.read_line(PATIENCE), "no second tap");
    assert_eq!(lab.count("mfa.challenge"), challenges + 1);
}

/// Requests that get no further than the first bytes of their head, or of their body, or of TLS.
fn slow_requests(api: &ApiClient<'_>) -> (Vec<std::net::TcpStream>, Vec<ApiStream>) {
    let silent = (0..40).map(|_| api.dial()).collect();
    let slow = (0..40).map(|number| {
        let mut stream = api.connect();
        let whole = head("POST", "/v1/access", 1000);
        let begun = if number % 2 == 0 { &whole[..20] } else { &whole };
        stream.write_all(begun.as_bytes()).expect("the first bytes are taken");
        stream
    });
    (silent, slow.collect())
}

/// Asks for so many challenges, a hundred to a connection; how many there were, and how many were refused as too many.
fn storm(api: &ApiClient<'_>, challenges: usize) -> (usize, usize) {
    let (status, tunnel) = api.post("/v1/tunnel", &json!({"csr": api.request_for_key()}));
    assert_eq!(status, 200, "{tunnel}");
    let purpose = json!({"type": "open", "resource": "db/billing-db", "port": 6432, "tunnel_key": tunnel["thumbprint"]});
    let body = json!({"purpose": purpose}).to_string();
    let last = head("POST", "/v1/ceremonies", body.len()) + &body;
    let one = last.replace("connection: close\r\n", "");
    let mut seen = (0, 0);
    for _ in 0..challenges / 100 {
        let mut requests = String::new();
        for _ in 1..100 {
            write!(requests, "{one}").unwrap();
        }
        requests += &last;
        let answers = api.raw(requests.as_bytes());
        seen.0 += answers.matches("HTTP/1.1 200").count();
        seen.1 += answers.matches("HTTP/1.1 429").count();
    }
    seen
}

/// E: control messages that are too long, truncated or of an unknown kind, slow ones, and a thousand challenges.
#[test]
fn what_is_no_request_is_refused_and_keeps_nobody_waiting() {
    let Some(lab) = start(LabOptions { logins: &[Jerry, Tom], ..by_hand() }) else { return };
    lab.apply("kind: user\nmetadata: {name: tom}\nspec: {roles: [access-dev, access-prod]}\n")
        .expect_success();
    let (api, grants, dials) = (lab.api(Tom), lab.count("grant"), lab.dials());
    let too_long = json!({"csr": "A".repeat(64 * 1024)}).to_string();
    assert_eq!(api.request("POST", "/v1/tunnel", &too_long).0, 413);
    let endless_head =
        format!("POST /v1/tunnel HTTP/1.1\r\nhost: proxy.example.com\r\nx: {}", "y".repeat(70_000));
    assert!([0, 400, 431].contains(&api.exchange(endless_head.as_bytes()).0), "a head without an end");
    for body in [
        "{",
        "[]",
        "null",
        r#"{"purpose": {"type": "root"}}"#,
        r#"{"purpose": {"type": "open", "mfa_done": true}}"#,
    ] {
        let (status, told) = api.request("POST", "/v1/ceremonies", body);
        assert!([400, 422].contains(&status) && told.contains("bad_request"), "{body}: {status} {told}");
    }
    assert_eq!(api.request("POST", "/v1/root", "{}").0, 404);
    assert_eq!(api.request("DELETE", "/v1/access", "{}").0, 405);
    // A body that ends before it should: the peer hangs up, and nobody answers, or waits.
    let mut truncated = api.connect();
    truncated.write_all((head("POST", "/v1/access", 1000) + "{\"resource\":").as_bytes()).unwrap();
    drop(truncated);
    let mut no_tls = api.dial();
    no_tls.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = std::io::Read::read_to_end(&mut no_tls, &mut answer);
    assert!(!answer.starts_with(b"HTTP"), "plain text is answered: {answer:?}");

    let slow = slow_requests(&api);
    let before = lab.count("mfa.challenge");
    let (made, refused) = storm(&api, 1000);
    assert_eq!(made + refused, 1000, "each has its answer");
    assert!(refused > 0, "nobody needs a thousand challenges");
    assert_eq!(lab.count("mfa.challenge"), before + made, "each that was made is on the record");
    assert_eq!((lab.count("grant"), lab.dials()), (grants, dials));
    // All the while, others are served.
    let program = lab.program(Jerry, &["connect", "billing-db.corp.internal", "6432"]);
    lab.wait_for_prompt(Jerry, "billing-db", 6432);
    lab.tap(Jerry);
    assert_eq!(program.finish(PATIENCE).expect_success().json()[0]["result"], "connected");
    assert_eq!(api.request("GET", "/v1/devices", "").0, 200);
    drop(slow);
    assert!(!lab.log("portlatch-proxy").contains("panicked"));
}

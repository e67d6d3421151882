//! Bad input, row by row of the design's table: each gets its answer, and nothing else is disturbed.

use portlatch_tests::lab::{Account::*, Host, Lab, LabOptions, PATIENCE, start, wait_for};

fn assert_undisturbed(lab: &Lab) {
    let outcome =
        lab.run(Host::User, Jerry, &["curl", "-sS", "http://web-dev.corp.internal/"]).expect_success();
    assert_eq!(outcome.stdout, "The wiki of the company");
}

#[test]
fn a_document_with_faults_names_each_with_its_place_and_nothing_is_applied() {
    let Some(lab) = start(LabOptions { logins: &[], ..LabOptions::default() }) else { return };
    let documents = "\
kind: app
metadata: {name: fine, labels: {env: dev}}
spec: {uri: 'tcp://10.0.0.8:80'}
---
kind: role
version: v7
metadata: {name: faulty}
spec:
  alow: {app_labels: {env: dev}}
  options: {mfa_verification_interval: 6m}
---
kind: app
metadata: {name: ports}
spec: {uri: 'tcp://10.0.0.8', tcp_ports: [{port: 9, end_port: 8}]}
";
    let outcome = lab.apply(documents).expect_failure();
    assert_eq!(outcome.status.code(), Some(1));
    for (line, word) in [(9, "alow"), (10, "mfa_verification_interval"), (14, "end_port")] {
        let told = outcome
            .stderr
            .lines()
            .any(|told| told.contains(&format!("documents.yaml:{line}:")) && told.contains(word));
        assert!(told, "line {line} ({word}) is not named: {outcome}");
    }
    lab.try_administer(&["get", "app/fine"]).expect_failure();
}

#[test]
fn a_config_with_faults_names_each_with_its_place() {
    let Some(lab) = start(LabOptions { logins: &[], ..LabOptions::default() }) else { return };
    let file = "printf 'dns = \"sometimes\"\\nrnage = \"198.18.0.0/16\"\\n' >/run/root/daemon.toml";
    lab.run(Host::User, Root, &["sh", "-c", file]).expect_success();
    let outcome = lab
        .run(Host::User, Root, &["portlatchd", "run", "--config", "/run/root/daemon.toml"])
        .expect_failure();
    assert_eq!(outcome.status.code(), Some(1));
    assert!(outcome.stderr.contains("daemon.toml"), "{outcome}");
    for word in ["sometimes", "rnage"] {
        assert!(outcome.stderr.contains(word), "{word} is not named: {outcome}");
    }
}

#[test]
fn foreign_bytes_on_the_daemons_socket_close_that_connection_alone() {
    let Some(lab) = start(LabOptions::default()) else { return };
    let script = "
import os, socket
for bytes in [b'\\xff\\xff\\xff\\xff', b'\\0\\0\\0\\1\\xff', b'GET / HTTP/1.1\\r\\n\\r\\n', b'\\0\\0\\0\\5\\x82\\0\\x81\\x82\\x19', os.urandom(4096)]:
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(20)
    peer.connect('/run/portlatch/daemon.sock')
    try:
        peer.sendall(bytes)
        while peer.recv(4096):
            pass
        print('closed')
    except (BrokenPipeError, ConnectionResetError):
        print('closed')
";
    let outcome = lab.run(Host::User, Tom, &["python3", "-Ic", script]).expect_success();
    assert_eq!(outcome.stdout.lines().collect::<Vec<_>>(), ["closed"; 5]);
    assert_undisturbed(&lab);
}

#[test]
fn malformed_packets_and_foreign_sources_are_dropped() {
    let Some(lab) = start(LabOptions::default()) else { return };
    let script = "
import os, random, socket, struct
range_address = socket.gethostbyname('web-dev.corp.internal')
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
numbers = random.Random(7)
def header(length, protocol, source, offset=0x45, fragment=0):
    return struct.pack('>BBHHHBBH4s4s', offset, 0, length, 1, fragment, 64, protocol, 0,
                       socket.inet_aton(source), socket.inet_aton(range_address))
for number in range(2000):
    body = numbers.randbytes(numbers.randrange(0, 60))
    source = numbers.choice(['192.0.2.10', '203.0.113.9', '127.0.0.1', '198.18.0.77'])
    packet = header(20 + len(body), numbers.choice([6, 17, 1, 47]), source, fragment=numbers.choice([0, 0x2000, 7])) + body
    try:
        raw.sendto(packet, (range_address, 0))
    except OSError:
        pass
print('sent')
";
    let outcome = lab.run(Host::User, Root, &["python3", "-Ic", script]).expect_success();
    assert_eq!(outcome.stdout, "sent");
    assert_undisturbed(&lab);
}

#[test]
fn a_target_that_leads_back_to_the_proxy_itself_is_refused() {
    let Some(lab) = start(LabOptions::default()) else { return };
    // By a name, as an address, in IPv4-mapped form, and the metadata service's.
    let targets = [
        "loops.corp.internal:443",
        "127.0.0.1:443",
        "[::ffff:127.0.0.1]:443",
        "169.254.169.254:80",
        "0.0.0.0:443",
    ];
    let mut refused = 0;
    for (number, target) in targets.into_iter().enumerate() {
        let document = format!(
            "kind: app\nmetadata: {{name: inward-{number}, labels: {{env: dev}}}}\nspec: {{uri: 'tcp://{target}'}}\n"
        );
        // An address that can never be right may be refused with its document already.
        if !lab.apply(&document).status.success() {
            refused += 1;
            continue;
        }
        let host = format!("inward-{number}.corp.internal");
        wait_for("the name", PATIENCE, || {
            lab.run(Host::User, Jerry, &["getent", "ahostsv4", &host]).status.success().then_some(())
        });
        let port = target.rsplit_once(':').unwrap().1;
        let seen = lab.program(Jerry, &["connect", &host, port]).finish(PATIENCE).json();
        assert!(
            seen[0]["result"] == "refused" || seen[0]["result"] == "host unreachable",
            "{target}: {seen}"
        );
        lab.wait_for_record("the refusal", |record| {
            record["resource"] == format!("app/inward-{number}") && record["reason"] == "forbidden_target"
        });
        refused += 1;
    }
    assert_eq!(refused, targets.len());
    assert_undisturbed(&lab);
}

#[test]
fn a_second_daemon_and_a_second_agent_say_that_one_is_running() {
    let Some(lab) = start(LabOptions::default()) else { return };
    let daemon = lab.run(Host::User, Root, &["portlatchd", "run"]).expect_failure();
    assert!(daemon.status.code() == Some(1) && daemon.stderr.contains("already running"), "{daemon}");
    let agent = lab.portlatch(Jerry, &["agent", "--software-key", "auto"]).expect_failure();
    assert!(agent.status.code() == Some(1) && agent.stderr.contains("already running"), "{agent}");
    assert_undisturbed(&lab);
}

#[test]
fn a_used_token_and_a_wrong_password_let_nobody_in() {
    let Some(lab) = start(LabOptions { logins: &[Tom], ..LabOptions::default() }) else { return };
    let log_in = |more: &[&str]| {
        let pin = std::fs::read_to_string(lab.directory().join("ca-pin")).unwrap();
        let mut line = vec!["portlatch", "login", "--proxy", "https://proxy.example.com", "--user", "tom"];
        line.extend(["--ca-pin", pin.trim(), "--software-key", "auto", "--password-stdin"]);
        line.extend(more);
        let mut program = lab.spawn(Host::User, Jerry, &line);
        program.write_line("not the password");
        program.finish(PATIENCE)
    };
    let token = std::fs::read_to_string(lab.directory().join("tom.token")).unwrap();
    for outcome in [log_in(&["--enrol", token.trim()]), log_in(&[])] {
        assert!(matches!(outcome.status.code(), Some(1 | 3)), "{outcome}");
        assert_eq!(
            outcome.stdout.lines().filter(|line| line.starts_with("Logged in")).count(),
            0,
            "{outcome}"
        );
    }
    assert!(lab.status(Jerry)["user"].is_null());
    lab.assert_audit_verifies();
}

//! `portlatch doctor`: what is well, what is not, and what to do. Names, routes and proxies are this machine's own: the
//! daemon that the test plays calls the loopback's addresses its own.

use crate::support::bus::Desktop;
use crate::support::{Machine, Person, text};
use portlatch_protocol::attach::{Finding, VERSION};
use serde_json::{Value, json};
use tokio::net::{TcpListener, UdpSocket};

/// What `doctor` saw, and its end.
struct Examined {
    code: Option<i32>,
    report: Value,
}

impl Examined {
    /// The first line of this check.
    fn line(&self, check: &str) -> &Value {
        let checks = self.report["checks"].as_array().unwrap();
        checks.iter().find(|line| line["check"] == check).unwrap_or_else(|| panic!("{check} in {checks:?}"))
    }

    fn state(&self, check: &str) -> &str {
        self.line(check)["state"].as_str().unwrap()
    }

    fn text(&self, check: &str) -> String {
        let line = self.line(check);
        let advice = line["advice"].as_str().map(|advice| format!(" -> {advice}"));
        format!("{}{}", line["text"].as_str().unwrap(), advice.unwrap_or_default())
    }
}

/// Runs it beside an agent, and plays the daemon that it asks.
async fn examine(machine: &Machine, person: Option<&Person>, findings: &[Finding]) -> Examined {
    let (output, ()) = tokio::join!(machine.run(&["doctor", "--json"]), async {
        let mut asking = machine.daemon.accept().await;
        asking.attached = person.map(Person::pid);
        asking.findings = findings.to_vec();
        assert!(asking.leaves().await);
    });
    let report = serde_json::from_slice(&output.stdout);
    let report = report.unwrap_or_else(|error| panic!("{error}: {}", text(&output.stderr)));
    Examined { code: output.status.code(), report }
}

/// A proxy, as far as UDP shows one: it answers what it is asked with the versions that it speaks.
async fn proxy() -> (u16, impl Future<Output = ()>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    (port, async move {
        let mut packet = [0; 2000];
        loop {
            let (_, from) = socket.recv_from(&mut packet).await.unwrap();
            let (theirs, ours) = (&packet[5..14], &packet[14..23]);
            let answer = [&[0x80, 0, 0, 0, 0], ours, theirs, &[0, 0, 0, 1]].concat();
            socket.send_to(&answer, from).await.unwrap();
        }
    })
}

/// One that is there and says nothing over UDP: both sockets of one number, which another program may have of one kind.
async fn silent_proxy() -> (UdpSocket, TcpListener) {
    for _ in 0..100 {
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        if let Ok(listener) = TcpListener::bind(silent.local_addr().unwrap()).await {
            return (silent, listener);
        }
    }
    panic!("no port is free for both");
}

#[tokio::test]
async fn where_all_is_well_nothing_fails() {
    let machine = Machine::logged_in().await.with_bus().await;
    let _desktop = Desktop::start(machine.bus(), &["actions", "body"]).await;
    let (port, serving) = proxy().await;
    machine.control.is_local(port);
    let (person, mut agent) = machine.attach("never").await;
    let findings =
        [Finding { subject: "ipv6".into(), what: "off\u{1b}[2J".into(), advice: "nothing".into() }];
    let examined = tokio::select! {
        examined = async {
            let examined = examine(&machine, Some(&person), &findings).await;
            // The doctor's own times are short, and a busy machine may have stood still meanwhile.
            match examined.code {
                Some(0) => examined,
                _ => examine(&machine, Some(&person), &findings).await,
            }
        } => examined,
        () = agent.idle() => unreachable!(),
        () = serving => unreachable!(),
    };
    for check in
        ["login", "agent", "service", "attach", "names", "route", "control", "clock", "proxy", "prompts"]
    {
        assert_eq!(examined.state(check), "ok", "{check}: {}", examined.text(check));
    }
    assert_eq!(examined.text("names"), "localhost is 127.0.0.1");
    assert_eq!(
        examined.text("attach"),
        format!("the login serves (agent {}); no tunnel is needed yet", person.pid())
    );
    assert_eq!(examined.text("machine"), "ipv6: off -> nothing");
    assert_eq!((examined.state("machine"), &examined.report["ok"]), ("warn", &json!(true)));
    assert_eq!(examined.code, Some(0), "warnings are no failures");
}

#[tokio::test]
async fn a_proxy_that_is_silent_over_udp_is_told_apart_from_one_that_is_not_there() {
    let machine = Machine::logged_in().await;
    let (_person, mut agent) = machine.attach("never").await;
    // One whose datagrams nobody answers, though TCP connects.
    let (silent, listener) = silent_proxy().await;
    let port = silent.local_addr().unwrap().port();
    machine.control.is_local(port);
    let examined = tokio::select! {
        examined = examine(&machine, None, &[]) => examined,
        () = async { agent.catalogue().await; agent.idle().await } => unreachable!(),
    };
    assert_eq!((examined.state("proxy"), examined.code), ("fail", Some(1)));
    let told = examined.text("proxy");
    assert!(told.contains("this network lets no UDP through -> have UDP to port"), "{told}");
    assert_eq!(examined.state("attach"), "fail", "{}", examined.text("attach"));
    drop((silent, listener));
    let examined = tokio::select! {
        examined = examine(&machine, None, &[]) => examined,
        () = agent.idle() => unreachable!(),
    };
    assert!(
        examined.text("proxy").contains("cannot be reached (Connection refused)"),
        "{}",
        examined.text("proxy")
    );
}

#[tokio::test]
async fn without_login_agent_and_daemon_each_is_told_with_what_to_do() {
    let machine = Machine::new().await;
    std::fs::remove_file(machine.directory.path().join("daemon.sock")).unwrap();
    let doctor = machine.run(&["doctor"]).await;
    assert_eq!((doctor.status.code(), text(&doctor.stderr).contains("portlatch:")), (Some(1), false));
    let told = text(&doctor.stdout);
    for line in [
        "nobody is logged in\n",
        "-> run `portlatch login`\n",
        "no agent is running, so that programs of yours are refused\n",
        "-> start `portlatch agent`\n",
        "the Portlatch service is not running on this machine: start portlatchd\n",
        "-> have `portlatch watch` open in a terminal, or nobody sees prompts\n",
    ] {
        assert!(told.contains(line), "{line:?} in {told}");
    }
    assert!(told.lines().filter(|line| line.starts_with("fail")).count() >= 3, "{told}");
}

#[tokio::test]
async fn a_daemon_of_another_version_and_a_control_that_is_away_are_told() {
    let mut machine = Machine::logged_in().await;
    machine.control.stop().await;
    let (output, ()) = tokio::join!(machine.run(&["doctor", "--json"]), async {
        // It is asked twice: for status, since there is no agent, and for the machine.
        for _ in 0..2 {
            assert!(machine.daemon.accept_speaking(VERSION + 1).await.leaves().await);
        }
    });
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let examined = Examined { code: output.status.code(), report };
    assert!(
        examined.text("service").contains("speaks version 2, this program 1"),
        "{}",
        examined.text("service")
    );
    assert!(examined.text("control").contains("cannot be reached"), "{}", examined.text("control"));
    assert_eq!((examined.code, &examined.report["ok"]), (Some(1), &json!(false)));
}

#[tokio::test]
async fn who_is_logged_in_is_not_told_to_log_in_where_no_name_is_known() {
    let mut machine = Machine::logged_in().await;
    machine.control.stop().await;
    let (output, ()) = tokio::join!(machine.run(&["doctor", "--json"]), async {
        for _ in 0..2 {
            assert!(machine.daemon.accept().await.leaves().await);
        }
    });
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let examined = Examined { code: output.status.code(), report };
    assert_eq!(examined.state("login"), "ok", "{}", examined.text("login"));
    assert_eq!(
        examined.text("names"),
        "no name was tried: it is not known which there are -> see control's line, which should list them"
    );
}

#[tokio::test]
async fn a_daemon_that_says_nothing_is_not_waited_for_for_long() {
    let machine = Machine::logged_in().await;
    // Nobody accepts: the connection waits in the socket's queue. Whoever ran it does not: a command has its time here.
    let doctor = machine.run(&["doctor", "--json"]).await;
    let examined =
        Examined { code: doctor.status.code(), report: serde_json::from_slice(&doctor.stdout).unwrap() };
    assert_eq!(examined.text("service"), "the Portlatch service does not answer");
    assert_eq!(examined.code, Some(1));
}

#[cfg(feature = "test-clock")]
#[tokio::test]
async fn a_clock_that_is_wrong_and_a_login_that_ends_are_told() {
    let machine = Machine::logged_in().await;
    machine.set_clock(100);
    let two = |examined: &Examined| (examined.state("clock").to_owned(), examined.state("login").to_owned());
    let examine_alone = async || {
        let (output, ()) = tokio::join!(machine.run(&["doctor", "--json"]), async {
            for _ in 0..2 {
                assert!(machine.daemon.accept().await.leaves().await);
            }
        });
        Examined { code: output.status.code(), report: serde_json::from_slice(&output.stdout).unwrap() }
    };
    let ahead = examine_alone().await;
    assert_eq!(two(&ahead), ("warn".into(), "ok".into()), "{}", ahead.text("clock"));
    assert!(ahead.text("clock").contains("ahead of control's -> have it set"), "{}", ahead.text("clock"));
    machine.set_clock(12 * 3600 - 600);
    let soon = examine_alone().await;
    assert_eq!(two(&soon), ("fail".into(), "warn".into()), "{}", soon.text("login"));
    machine.set_clock(12 * 3600 + 60);
    let ended = examine_alone().await;
    assert_eq!(two(&ended), ("fail".into(), "fail".into()), "{}", ended.text("login"));
    assert!(ended.text("login").ends_with("-> run `portlatch login`"));
}

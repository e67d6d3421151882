//! Who makes a prompt, who answers it, and what ends it (the attack list's C): nobody but the user's own programs, his own
//! agent, and he himself.

use std::time::Duration;

use portlatch_protocol::attach::{Attach, AttachRefusal, CertificateBytes, Grant, ToAgent, ToDaemon};
use portlatch_tests::lab::record::names;
use portlatch_tests::lab::{
    Account, Account::*, Host, Lab, LabOptions, PATIENCE, Part, Taps, start, wait_for,
};

fn by_hand() -> LabOptions {
    LabOptions { taps: Taps::Enter, ..LabOptions::default() }
}

fn connects(lab: &Lab, account: Account, host: &str, port: &str) -> String {
    let outcome = lab.program(account, &["connect", host, port]).finish(PATIENCE).expect_success();
    outcome.json()[0]["result"].as_str().unwrap().to_owned()
}

/// The address behind a name, as the user's machine resolves it.
fn address(lab: &Lab, host: &str) -> String {
    let outcome = lab.run(Host::User, Jerry, &["getent", "ahostsv4", host]).expect_success();
    outcome.stdout.split_whitespace().next().unwrap().to_owned()
}

fn assert_no_login_no_way(lab: &Lab, address: &str) {
    let (dials, challenges) = (lab.dials(), lab.count("mfa.challenge"));
    for account in [Tom, Root] {
        assert_eq!(connects(lab, account, address, "6432"), "refused", "{account:?}");
        lab.wait_for_refusal(account, 6432, "no_login");
    }
    assert_eq!((lab.dials(), lab.count("mfa.challenge")), (dials, challenges));
}

/// A network of its own, as a container has one, whose packets are routed through the user's machine.
const CONTAINER: &str = "
    ip netns add box
    ip link add to-box type veth peer name eth0 netns box
    ip address add 10.99.0.1/24 dev to-box
    ip link set to-box up
    ip -n box address add 10.99.0.2/24 dev eth0
    ip -n box link set eth0 up
    ip -n box route add default via 10.99.0.1
    sysctl -qw net.ipv4.ip_forward=1
    exec ip netns exec box setpriv --reuid 2001 --regid 2001 --clear-groups \
        python3 -I /opt/portlatch/lab/program.py talk-within \"$0\" 6432 4";

/// Says as root what only jerry's agent may say.
fn assert_impostors_are_let_go(lab: &Lab) {
    let mut impostor = lab.visit_daemon();
    for request in 0..64 {
        let grant = Grant {
            token: "e30.e30.e30".into(),
            expires_in: Duration::from_secs(300),
            amr: vec!["hwk".into()],
            program: None,
        };
        impostor.say(&ToDaemon::Granted(request, grant));
    }
    assert_eq!(impostor.hear(), None, "nobody is attached here");
    let mut impostor = lab.visit_daemon();
    let file = |name: &str| {
        let path = format!("/home/jerry/.local/state/portlatch/{name}");
        lab.run(Host::User, Root, &["cat", &path]).expect_success().stdout
    };
    let login: serde_json::Value = serde_json::from_str(&file("login.json")).unwrap();
    let ca = rustls::pki_types::pem::PemObject::from_pem_slice(file("ca.crt").as_bytes());
    let ca: rustls::pki_types::CertificateDer<'static> = ca.unwrap();
    impostor.say(&ToDaemon::Attach(Attach {
        cluster: "proxy.example.com".parse().unwrap(),
        user: "jerry".parse().unwrap(),
        login: login["login"].as_str().unwrap().parse().unwrap(),
        ca: CertificateBytes(ca.to_vec()),
        expires_in: Duration::from_secs(3600),
    }));
    let asked = impostor.hear();
    assert!(matches!(asked, Some(ToAgent::CertifyTunnel(_))), "{asked:?}");
    // All that he can show: a certificate that is not for this key.
    impostor.say(&ToDaemon::TunnelCertificate(vec![CertificateBytes(ca.to_vec())]));
    let refused = impostor.hear();
    assert!(matches!(refused, Some(ToAgent::AttachRefused(AttachRefusal::BadCertificate, _))), "{refused:?}");
}

#[test]
fn prompts_are_made_by_the_users_own_programs_and_answered_by_his_own_agent() {
    let Some(lab) = start(by_hand()) else { return };
    let address = address(&lab, "billing-db.corp.internal");
    // C: another uid, a root service: refused without a prompt. A container's packets come from nobody here.
    let mut container = lab.spawn(Host::User, Root, &["sh", "-euc", CONTAINER, &address]);
    assert_no_login_no_way(&lab, &address);

    // C: an agent of the wrong uid, while a prompt is open.
    let mut waiting = lab.program(Jerry, &["talk", "billing-db.corp.internal", "6432"]);
    lab.wait_for_prompt(Jerry, "billing-db", 6432);
    let dials = lab.dials();
    assert_impostors_are_let_go(&lab);
    assert_eq!(lab.prompts(Jerry).len(), 1, "the prompt is as it was");
    assert_eq!(lab.dials(), dials, "and so is the program");
    lab.tap(Jerry);
    assert_eq!(waiting.read_line(PATIENCE), "connected");

    // A 8: the grant of one uid is not another's on the same machine.
    assert_no_login_no_way(&lab, &address);
    let told = container.read_line(PATIENCE);
    let honest = ["no answer", "timed out", "refused", "network unreachable", "host unreachable"];
    assert!(honest.contains(&told.as_str()), "the container: {told}");
    assert_eq!(lab.dials(), dials + 1);
    waiting.write_line("still jerry's");
    assert_eq!(waiting.read_line(PATIENCE), "still jerry's");
}

#[test]
fn a_prompt_ends_with_its_program_and_its_agent() {
    let Some(lab) = start(by_hand()) else { return };
    let dials = lab.dials();
    let address = address(&lab, "web.corp.internal");
    // C: the program exits while prompting. A while later the prompt is dismissed; Enter is a tap for nothing by then.
    let gone = lab.program(Jerry, &["listen", "billing-db.corp.internal", "6433"]);
    lab.wait_for_prompt(Jerry, "billing-db", 6433);
    drop(gone);
    wait_for("the agent to see it", PATIENCE, || lab.log("agent-jerry").contains("gave up").then_some(()));
    lab.move_clock(Duration::from_secs(16));
    wait_for("the prompt's end", PATIENCE, || lab.prompts(Jerry).is_empty().then_some(()));
    lab.tap(Jerry);

    // C: the agent is killed while prompting. The daemon lives, and nothing is held that nobody can answer.
    let waiting = lab.program(Jerry, &["connect", "web.corp.internal", "8080"]);
    lab.wait_for_prompt(Jerry, "web", 8080);
    lab.kill(Part::Agent(Jerry));
    let killed = std::time::Instant::now();
    assert_eq!(waiting.finish(PATIENCE).expect_success().json()[0]["result"], "refused");
    // A second, on a machine with nothing else to do; a minute is what the prompt would have had.
    assert!(killed.elapsed() < Duration::from_secs(10), "after {:?}", killed.elapsed());
    // C: no agent.
    assert_eq!(connects(&lab, Jerry, &address, "8080"), "refused");
    lab.wait_for_refusal(Jerry, 8080, "no_login");
    assert_eq!(lab.dials(), dials);
    assert_eq!(lab.count("grant"), 0);
    lab.restart(Part::Agent(Jerry), Taps::Enter);
    wait_for("the way to be open again", PATIENCE, || {
        let seen = lab.program(Jerry, &["connect", "web-dev.corp.internal", "80"]).finish(PATIENCE).json();
        (seen[0]["result"] == "connected").then_some(())
    });
    assert!(lab.prompts(Jerry).is_empty(), "what was asked of the old agent is nobody's any more");
}

const TOM_TOO: &str = "
kind: user
metadata: {name: tom}
spec: {roles: [access-dev, access-prod]}
";

#[test]
fn six_programs_at_once_are_one_prompt_four_that_wait_and_a_refusal() {
    let Some(lab) = start(LabOptions { logins: &[Jerry, Tom], ..by_hand() }) else { return };
    lab.apply(TOM_TOO).expect_success();
    // C: one prompt, four behind it, and no more.
    let ports = ["6432", "6433", "6434", "6435", "6436", "6439"];
    let taps = lab.count("mfa.ok");
    let talk = |port: &&str| lab.program(Jerry, &["connect", "billing-db.corp.internal", port]);
    let mut programs: Vec<_> = ports.iter().map(talk).collect();
    wait_for("one too many", PATIENCE, || {
        let status = lab.status(Jerry);
        let refusals = status["refusals"].as_array()?;
        refusals.iter().any(|refusal| refusal["reason"] == "queue_full").then_some(())
    });
    let refused = wait_for("its end", PATIENCE, || programs.iter_mut().position(|one| !one.is_running()));
    let outcome = programs.remove(refused).finish(PATIENCE).expect_success();
    assert_eq!(outcome.json()[0]["result"], "refused");
    assert_eq!(lab.prompts(Jerry).len(), 1);
    let mut tapped = Vec::new();
    for tap in 1..=5 {
        // Not the one that was tapped just now and is still shown.
        let prompt = wait_for("the next prompt", PATIENCE, || {
            lab.prompts(Jerry).into_iter().find(|prompt| !tapped.contains(&prompt["port"]))
        });
        tapped.push(prompt["port"].clone());
        lab.tap(Jerry);
        wait_for("the tap", PATIENCE, || (lab.count("mfa.ok") == taps + tap).then_some(()));
    }
    for program in programs {
        assert_eq!(program.finish(PATIENCE).expect_success().json()[0]["result"], "connected");
    }

    // A 8: another user with the same roles is prompted himself, whatever lies in the daemon for jerry.
    let granted = lab.status(Jerry)["grants"].as_array().unwrap().clone();
    let served = ports.iter().find(|port| {
        let port: u16 = port.parse().unwrap();
        granted.iter().any(|grant| names(grant, "billing-db", port))
    });
    let served = served.expect("jerry has grants");
    wait_for("tom's catalogue", PATIENCE, || {
        lab.portlatch(Tom, &["ls"]).stdout.contains("billing-db").then_some(())
    });
    let dials = lab.dials();
    let toms = lab.program(Tom, &["connect", "billing-db.corp.internal", served]);
    lab.wait_for_prompt(Tom, "billing-db", served.parse().unwrap());
    assert!(lab.prompts(Jerry).is_empty());
    lab.deny(Tom);
    assert_eq!(toms.finish(PATIENCE).expect_success().json()[0]["result"], "refused");
    assert_eq!(lab.dials(), dials);
    lab.wait_for_record("tom's refusal", |record| record["event"] == "mfa.fail" && record["user"] == "tom");
}

//! The commands, each as a person or a script runs it.

use std::os::unix::fs::PermissionsExt as _;

use crate::support::{Machine, complaint, inode, text};
use portlatch_protocol::attach::{AttachRefusal, HeldGrant, Refusal, ToAgent, ToDaemon, VERSION};
use portlatch_protocol::refusal::RefusalReason;
use serde_json::json;

#[tokio::test]
async fn a_login_is_kept_for_its_owner_alone() {
    let machine = Machine::logged_in().await;
    let mode =
        |name: &str| std::fs::metadata(machine.home().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(""), 0o700);
    for name in ["login.json", "login.key", "login.crt", "ca.crt", "software-key.json"] {
        assert_eq!(mode(name), 0o600, "{name}");
    }
    let status = machine.status().await;
    assert_eq!(
        (&status["user"], &status["cluster"], &status["agent"]),
        (&json!("jerry"), &json!("localhost"), &json!(false))
    );
}

#[tokio::test]
async fn after_enrolment_password_and_tap_log_in() {
    let machine = Machine::logged_in().await;
    let again = machine.login(&["--without-pin", "--software-key", "auto"]).await;
    assert!(again.status.success(), "the CA is known: {}", text(&again.stderr));
    assert!(text(&again.stderr).contains("SOFTWARE security key"));
    assert!(text(&again.stdout).contains("Logged in to localhost as jerry"));
}

/// Nobody is asked for a password: there is no terminal, and nothing on standard input.
#[tokio::test]
async fn a_key_that_verifies_its_user_logs_in_without_a_password() {
    let machine = Machine::logged_in().await;
    let again = machine.run(&["login", "--passkey", "--software-key", "auto"]).await;
    assert!(again.status.success(), "{}", text(&again.stderr));
    assert!(text(&again.stdout).contains("Logged in to localhost as jerry"));
    let both = machine.run(&["login", "--passkey", "--password-stdin"]).await;
    assert_eq!(both.status.code(), Some(2), "{}", text(&both.stderr));
}

#[tokio::test]
async fn a_wrong_token_is_told_in_one_sentence() {
    let machine = Machine::new().await;
    let login = machine.login(&["--enrol", "guess", "--software-key", "auto"]).await;
    assert_eq!(login.status.code(), Some(1));
    assert_eq!(complaint(&login), "portlatch: the problem is bad_login");
    assert!(!machine.home().join("login.json").exists());
}

#[tokio::test]
async fn another_cluster_s_certificate_is_not_accepted() {
    let machine = Machine::new().await;
    let pin = format!("sha256:{}", "00".repeat(32));
    let login = machine.login(&["--ca-pin", &pin, "--software-key", "auto"]).await;
    assert_eq!(login.status.code(), Some(1));
    let wrong_ca = "is not the cluster that was meant (its certificate is of another CA): check the address";
    assert!(text(&login.stderr).contains(wrong_ca), "{}", text(&login.stderr));
}

#[tokio::test]
async fn a_cluster_that_is_not_known_needs_its_pin() {
    let machine = Machine::new().await;
    let login = machine.login(&["--without-pin"]).await;
    assert_eq!(login.status.code(), Some(2));
    assert!(text(&login.stderr).contains("--ca-pin"));
}

#[tokio::test]
async fn a_change_of_the_catalogue_during_the_attach_is_not_lost() {
    let machine = Machine::logged_in().await;
    let _person = machine.start(&["agent", "--software-key", "never"]);
    let mut agent = machine.daemon.accept().await;
    agent.attach_until_told(&machine.control).await;
    machine.control.add_resources(1);
    assert_eq!(agent.catalogue().await.resources.len(), 2);
}

#[tokio::test]
async fn the_agent_attaches_and_hands_over_the_catalogue_and_its_changes() {
    let machine = Machine::logged_in().await;
    machine.control.add_resources(40);
    let mut person = machine.start(&["agent", "--software-key", "never"]);
    let mut agent = machine.daemon.accept().await;
    assert_eq!(agent.hello.pid, person.pid());
    let (attach, catalogue) = agent.attach(&machine.control).await;
    assert_eq!((attach.user.as_str(), catalogue.resources.len()), ("jerry", 41));
    assert_eq!(catalogue.zones[0].suffix.as_str(), "corp.internal");
    person.sees("Attached").await;
    machine.control.add_resources(1);
    assert_eq!(agent.catalogue().await.resources.len(), 42);
}

#[tokio::test]
async fn a_restarted_daemon_is_attached_again() {
    let (machine, mut person, agent) = Machine::attached("never").await;
    person.sees("Attached").await;
    drop(agent);
    let mut agent = machine.daemon.accept().await;
    agent.attach(&machine.control).await;
    person.sees("Attached").await;
}

#[tokio::test]
async fn a_refused_attach_is_told_with_the_daemon_s_advice() {
    let machine = Machine::logged_in().await;
    let mut person = machine.start(&["agent", "--software-key", "never"]);
    let mut agent = machine.daemon.accept().await;
    agent.refuses_attach(AttachRefusal::UntrustedCluster, "run `portlatchd trust`").await;
    person.sees("refused the login: run `portlatchd trust`").await;
    drop(agent);
    let mut agent = machine.daemon.accept().await;
    agent.attach(&machine.control).await;
    person.sees("Attached").await;
}

#[tokio::test]
async fn an_agent_in_another_ones_way_tries_less_and_less_often_and_complains_once() {
    let machine = Machine::logged_in().await;
    let mut person = machine.start(&["agent", "--software-key", "never"]);
    let begin = std::time::Instant::now();
    for _ in 0..3 {
        let mut agent = machine.daemon.accept().await;
        agent.refuses_attach(AttachRefusal::AlreadyAttached, "an agent is already running").await;
    }
    let mut agent = machine.daemon.accept().await;
    agent.attach(&machine.control).await;
    let (first, second) = (person.line().await, person.line().await);
    assert!(begin.elapsed() >= std::time::Duration::from_millis(500 + 1000 + 2000));
    assert!(first.contains("agent runs") && second.contains("Logged in"), "{first} {second}");
    assert_eq!(person.line().await, "The Portlatch service refused the login: an agent is already running");
    assert!(person.line().await.starts_with("Attached"));
}

#[tokio::test]
async fn a_daemon_of_another_version_is_left_alone_and_told_of() {
    let machine = Machine::logged_in().await;
    let mut person = machine.start(&["agent", "--software-key", "never"]);
    let mut newer = machine.daemon.accept_speaking(VERSION + 1).await;
    person.sees("speaks version 2, this program 1: restart whichever is older").await;
    assert!(newer.leaves().await);
    let mut agent = machine.daemon.accept().await;
    agent.attach(&machine.control).await;
    person.sees("Attached").await;
}

#[tokio::test]
async fn status_says_why_the_login_does_not_serve() {
    let machine = Machine::logged_in().await;
    let mut person = machine.start(&["agent", "--software-key", "never"]);
    let mut agent = machine.daemon.accept().await;
    agent.refuses_attach(AttachRefusal::UntrustedCluster, "run `portlatchd trust`").await;
    person.sees("refused the login").await;
    let status = tokio::select! {
        status = machine.run(&["status"]) => status,
        () = agent.idle() => unreachable!(),
    };
    let why = "The Portlatch service refused the login: run `portlatchd trust`";
    assert!(text(&status.stdout).lines().any(|line| line == why), "{}", text(&status.stdout));
    let tap = machine.run(&["tap", "billing-db.corp.internal:5432"]).await;
    assert_eq!((tap.status.code(), complaint(&tap)), (Some(1), format!("portlatch: {why}")));
}

#[tokio::test]
async fn a_tap_that_is_given_up_closes_its_prompt_by_its_name() {
    let (machine, mut person, mut agent) = Machine::attached("enter").await;
    person.sees("Attached").await;
    let mut tap = machine.start(&["tap", "billing-db.corp.internal:5432"]);
    let ToDaemon::TunnelWanted(request, _) = agent.next().await else { panic!("no tunnel wanted") };
    agent.send(ToAgent::Proceed(request)).await;
    tap.sees("for portlatch tap, pid").await;
    drop(tap);
    let closed = person.sees("Closed").await;
    assert_eq!(closed, "Closed: billing-db (billing-db.corp.internal:5432): nobody waits for it any more");
}

#[tokio::test]
async fn whoever_has_read_enough_is_told_nothing() {
    let machine = Machine::logged_in().await;
    let reader = machine.start(&["ls"]).unread().await;
    assert_eq!((reader.status.code(), complaint(&reader).contains("written")), (Some(1), false));
}

#[tokio::test]
async fn a_second_agent_is_told_that_one_runs() {
    let (machine, person, _agent) = Machine::attached("never").await;
    let second = machine.run(&["agent"]).await;
    assert_eq!(second.status.code(), Some(1));
    assert_eq!(complaint(&second), format!("portlatch: the agent is already running (pid {})", person.pid()));
}

#[tokio::test]
async fn status_shows_grants_prompts_and_refusals() {
    let (machine, _person, mut agent) = Machine::attached("never").await;
    agent.grants = vec![HeldGrant {
        resource: "db/billing-db".parse().unwrap(),
        port: 80,
        expires_in: std::time::Duration::from_secs(200),
        amr: vec!["hwk".into()],
    }];
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    agent.wants(1, 5432, inode(&socket)).await;
    agent.proceeds(1).await;
    agent.opens(1).await;
    let refusal = Refusal {
        time: 1_700_000_000,
        resource: None,
        host: "198.18.0.9".into(),
        port: 22,
        inode: inode(&socket),
        reason: RefusalReason::UnknownPort,
    };
    agent.send(ToAgent::Refusal(refusal)).await;
    let status = tokio::select! {
        status = machine.status() => status,
        () = agent.idle() => unreachable!(),
    };
    let pid = std::process::id();
    assert_eq!((&status["agent"], &status["daemon"]), (&json!(true), &json!(true)));
    let prompt = &status["prompts"][0];
    assert_eq!(
        (&prompt["resource"], &prompt["port"], &prompt["pid"]),
        (&json!("billing-db"), &json!(5432), &json!(pid))
    );
    let grant = &status["grants"][0];
    assert_eq!(
        (&grant["port"], &grant["seconds_left"], &grant["amr"]),
        (&json!(80), &json!(200), &json!(["hwk"]))
    );
    let refusal = &status["refusals"][0];
    assert_eq!((&refusal["reason"], &refusal["resource"]), (&json!("unknown_port"), &json!(null)));
    assert_eq!((&refusal["time"], &refusal["pid"]), (&json!("2023-11-14T22:13:20Z"), &json!(pid)));
}

#[tokio::test]
async fn without_an_agent_the_daemon_is_asked() {
    let machine = Machine::new().await;
    let (status, ()) = tokio::join!(machine.status(), async {
        let mut agent = machine.daemon.accept().await;
        agent.refusals = vec![Refusal {
            time: 1,
            resource: None,
            host: "198.18.0.9".into(),
            port: 22,
            inode: 7,
            reason: RefusalReason::NoLogin,
        }];
        assert!(agent.leaves().await);
    });
    assert_eq!(
        (&status["agent"], &status["daemon"], &status["user"]),
        (&json!(false), &json!(true), &json!(null))
    );
    assert_eq!(status["refusals"][0]["reason"], json!("no_login"));
}

#[tokio::test]
async fn ls_lists_what_the_login_may_reach() {
    let machine = Machine::logged_in().await;
    let list = machine.run(&["ls", "--json"]).await;
    let list: serde_json::Value = serde_json::from_slice(&list.stdout).unwrap();
    assert_eq!(
        list,
        json!([{"kind": "db", "name": "billing-db", "host": "billing-db.corp.internal",
            "ports": [{"port": 1, "end_port": 65535}], "labels": {"env": "prod"}, "mfa": "tap", "description": "Billing"}])
    );
}

#[tokio::test]
async fn a_tap_beforehand_offers_the_grant() {
    let (machine, mut person, mut agent) = Machine::attached("auto").await;
    person.sees("Attached").await;
    let tap = machine.start(&["tap", "billing-db.corp.internal:5432"]);
    let ToDaemon::TunnelWanted(request, resource) = agent.next().await else { panic!("no tunnel wanted") };
    assert_eq!(resource.to_string(), "db/billing-db");
    agent.send(ToAgent::Proceed(request)).await;
    let ToDaemon::Offer(resource, port, grant) = agent.next().await else { panic!("no offer") };
    assert_eq!((resource.to_string().as_str(), port, grant.amr.len()), ("db/billing-db", 5432, 2));
    let output = tap.ends().await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(
        text(&output.stdout).contains("is open for new connections, for 5 min."),
        "{}",
        text(&output.stdout)
    );
}

#[tokio::test]
async fn a_denied_tap_exits_with_three() {
    let (machine, mut person, mut agent) = Machine::attached("enter").await;
    person.sees("Attached").await;
    let mut tap = machine.start(&["tap", "billing-db.corp.internal:5432"]);
    let ToDaemon::TunnelWanted(request, _) = agent.next().await else { panic!("no tunnel wanted") };
    agent.send(ToAgent::Proceed(request)).await;
    tap.sees("for portlatch tap, pid").await;
    tap.types("d").await;
    assert_eq!(tap.ends().await.status.code(), Some(3));
    let forbidden = machine.run(&["tap", "billing-db.corp.internal:403"]).await;
    assert_eq!(
        (forbidden.status.code(), complaint(&forbidden)),
        (Some(3), "portlatch: not for you".to_owned())
    );
}

#[tokio::test]
async fn a_tap_needs_a_port_where_there_are_several() {
    let (machine, mut person, _agent) = Machine::attached("auto").await;
    person.sees("Attached").await;
    let tap = machine.run(&["tap", "billing-db"]).await;
    assert_eq!(tap.status.code(), Some(1));
    assert!(text(&tap.stderr).contains("name one, as in billing-db:PORT"));
}

#[tokio::test]
async fn logout_ends_the_login_everywhere() {
    let (machine, mut person, mut agent) = Machine::attached("never").await;
    let logout = machine.run(&["logout"]).await;
    assert_eq!((logout.status.code(), text(&logout.stdout)), (Some(0), "Logged out.\n".to_owned()));
    assert_eq!(agent.next().await, ToDaemon::Detach);
    assert!(agent.leaves().await);
    assert_eq!(machine.control.logouts(), 1);
    assert!(!machine.home().join("login.key").exists());
    person.sees("Logged out").await;
    let status = tokio::select! {
        status = machine.status() => status,
        () = async { machine.daemon.accept().await.idle().await } => unreachable!(),
    };
    assert_eq!((&status["user"], &status["daemon"]), (&json!(null), &json!(true)));
}

#[tokio::test]
async fn logout_without_control_forgets_the_login_and_says_so() {
    let mut machine = Machine::logged_in().await;
    machine.control.stop().await;
    let logout = machine.run(&["logout"]).await;
    assert!(logout.status.success());
    assert!(text(&logout.stdout).contains("the cluster could not be told"), "{}", text(&logout.stdout));
    assert!(!machine.home().join("login.key").exists());
}

#[tokio::test]
async fn a_login_while_the_agent_runs_is_attached() {
    let machine = Machine::new().await;
    let mut person = machine.start(&["agent", "--software-key", "auto"]);
    person.sees("Nobody is logged in").await;
    let mut agent = machine.daemon.accept().await;
    let login = machine.login(&["--enrol", "token", "--software-key", "auto"]).await;
    assert!(login.status.success(), "{}", text(&login.stderr));
    agent.attach(&machine.control).await;
    person.sees("Attached").await;
}

#[cfg(feature = "test-clock")]
#[tokio::test]
async fn a_login_that_ends_is_detached() {
    let (machine, mut person, mut agent) = Machine::attached("never").await;
    machine.move_clock(&person, 12 * 3600 + 1);
    assert_eq!(agent.next().await, ToDaemon::Detach);
    person.sees("Your login has ended: run `portlatch login`.").await;
}

#[tokio::test]
async fn the_version_names_the_features() {
    let machine = Machine::new().await;
    let version = machine.run(&["--version"]).await;
    assert!(text(&version.stdout).contains("software-key"));
    assert_eq!(machine.run(&["frobnicate"]).await.status.code(), Some(2));
}

//! `portlatch why`: which rule decides, and what this machine knows besides.

use std::time::Duration;

use crate::support::{Machine, complaint, inode, text};
use portlatch_protocol::attach::{HeldGrant, Refusal, ToAgent};
use portlatch_protocol::refusal::RefusalReason;
use serde_json::{Value, json};

const HOST: &str = "billing-db.corp.internal";
const PORT: &str = "billing-db.corp.internal:5432";

#[tokio::test]
async fn an_open_port_is_told_with_its_rule_and_how_to_connect() {
    let (machine, mut person, mut agent) = Machine::attached("never").await;
    person.sees("Attached").await;
    let why = tokio::select! {
        why = machine.run(&["why", PORT]) => why,
        () = agent.idle() => unreachable!(),
    };
    assert!(why.status.success(), "{}", text(&why.stderr));
    let told = text(&why.stdout);
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(
        lines,
        [
            "billing-db.corp.internal:5432: yours, after a tap",
            "  - jerry has the role access-prod",
            "  - a tap is asked for by access-prod (require_session_mfa)",
            "  - allowed after a tap",
            "What to do: connect, and tap your security key at the prompt; or tap beforehand with `portlatch tap billing-db.corp.internal:5432`."
        ]
    );
}

/// The catalogue says of a resource what the strictest of its ports asks for.
#[tokio::test]
async fn a_port_is_told_with_what_it_asks_for_itself() {
    let machine = Machine::logged_in_without_daemon().await;
    let told = text(&machine.run(&["why", "billing-db:80"]).await.stdout);
    assert!(told.starts_with("billing-db:80: yours, without a tap\n"), "{told}");
    assert!(told.contains("What to do: connect: nothing else is needed."), "{told}");
    let json = machine.run(&["why", "billing-db:80", "--json"]).await;
    assert_eq!(serde_json::from_slice::<Value>(&json.stdout).unwrap()["mfa"], "none");
}

#[tokio::test]
async fn a_port_that_an_earlier_tap_opens_is_told_so_everywhere() {
    let machine = Machine::logged_in_without_daemon().await;
    let told = text(&machine.run(&["why", "billing-db:5433"]).await.stdout);
    assert!(told.starts_with("billing-db:5433: yours, without another tap\n"), "{told}");
    assert!(told.contains("connect: it is open for 120 s more, without another tap"), "{told}");
}

#[tokio::test]
async fn a_refused_port_is_told_with_its_rule_and_ends_with_three() {
    let machine = Machine::logged_in_without_daemon().await;
    let why = machine.run(&["why", "billing-db:403"]).await;
    assert_eq!((why.status.code(), text(&why.stderr).contains("portlatch:")), (Some(3), false));
    let told = text(&why.stdout);
    assert!(
        told.contains("  - refused: role access-prod denies db/billing-db (db_labels env=prod)\n"),
        "{told:?}"
    );
    assert!(told.contains("`portlatch-proxy why jerry db/billing-db 403` tells more"), "{told}");
    assert!(told.contains("But on this machine: No agent is running"), "{told}");
}

#[tokio::test]
async fn programs_read_of_the_grant_and_the_last_refusal() {
    let (machine, mut person, mut agent) = Machine::attached("never").await;
    person.sees("Attached").await;
    agent.grants = vec![HeldGrant {
        resource: "db/billing-db".parse().unwrap(),
        port: 5432,
        expires_in: Duration::from_secs(200),
        amr: vec!["hwk".into()],
    }];
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    for (port, reason) in [(22, RefusalReason::UnknownPort), (5432, RefusalReason::CoolDown)] {
        let refusal = Refusal {
            time: 1_700_000_000,
            resource: Some("db/billing-db".parse().unwrap()),
            host: HOST.into(),
            port,
            inode: inode(&socket),
            reason,
        };
        agent.send(ToAgent::Refusal(refusal)).await;
    }
    person.sees("was denied a moment ago").await;
    let why = tokio::select! {
        why = machine.run(&["why", PORT, "--json"]) => why,
        () = agent.idle() => unreachable!(),
    };
    let why: Value = serde_json::from_slice(&why.stdout).unwrap();
    assert_eq!(
        (&why["host"], &why["port"], &why["resource"], &why["is_allowed"], &why["mfa"]),
        (&json!(HOST), &json!(5432), &json!("db/billing-db"), &json!(true), &json!("tap"))
    );
    assert_eq!((&why["open_for_seconds"], &why["troubles"]), (&json!(200), &json!([])));
    assert_eq!(why["last_refusal"]["reason"], json!("cool_down"));
    assert_eq!(why["steps"][2], json!("allowed after a tap"));
    assert_eq!(why["advice"], json!("connect: it is open for 200 s more, without another tap"));
}

#[tokio::test]
async fn a_host_that_is_nobody_s_is_refused_and_said_to_be() {
    let machine = Machine::logged_in_without_daemon().await;
    let why = machine.run(&["why", "payroll.corp.internal:22", "--json"]).await;
    assert_eq!(why.status.code(), Some(3));
    let why: Value = serde_json::from_slice(&why.stdout).unwrap();
    assert_eq!(
        (&why["resource"], &why["is_allowed"], &why["mfa"]),
        (&json!(null), &json!(false), &json!(null))
    );
    assert!(why["steps"][0].as_str().unwrap().contains("in the cluster's zone corp.internal"), "{why}");
}

#[tokio::test]
async fn a_port_must_be_named_where_there_are_several_and_be_one() {
    let machine = Machine::logged_in_without_daemon().await;
    let several = machine.run(&["why", HOST]).await;
    assert_eq!(several.status.code(), Some(1));
    assert!(complaint(&several).contains("(1-65535): name one, as in billing-db.corp.internal:PORT"));
    machine.control.has_desktop("win-1");
    let only = machine.run(&["why", "win-1"]).await;
    assert!(
        only.status.success() && text(&only.stdout).starts_with("win-1:3389: yours"),
        "{}",
        text(&only.stdout)
    );
    let other = machine.run(&["why", "win-1:403"]).await;
    assert_eq!(other.status.code(), Some(3));
    assert!(text(&other.stdout).contains("What to do: use one of the ports that you may: 3389."));
    assert_eq!(machine.run(&["why", "billing-db:http"]).await.status.code(), Some(2));
}

#[tokio::test]
async fn without_a_login_it_asks_for_one() {
    let machine = Machine::new().await;
    let why = machine.run(&["why", PORT]).await;
    assert_eq!(
        (why.status.code(), complaint(&why)),
        (Some(1), "portlatch: nobody is logged in: run `portlatch login`".to_owned())
    );
}

#[cfg(feature = "test-clock")]
#[tokio::test]
async fn after_the_login_has_ended_it_asks_for_another() {
    let machine = Machine::logged_in().await;
    machine.set_clock(12 * 3600 + 1);
    for arguments in [&["why", "billing-db:5432"][..], &["ls"], &["mfa", "ls"]] {
        let ended = machine.run(arguments).await;
        assert_eq!(ended.status.code(), Some(1));
        let complaint = complaint(&ended);
        assert!(
            complaint.starts_with("portlatch: your login ended at ")
                && complaint.ends_with("run `portlatch login`"),
            "{complaint}"
        );
    }
}

#[tokio::test]
async fn a_control_that_is_away_is_said_to_be() {
    let (mut machine, mut person, mut agent) = Machine::attached("never").await;
    person.sees("Attached").await;
    machine.control.stop().await;
    let why = tokio::select! {
        why = machine.run(&["why", PORT]) => why,
        () = agent.idle() => unreachable!(),
    };
    assert_eq!(why.status.code(), Some(1));
    assert!(complaint(&why).contains("cannot be reached"), "{}", complaint(&why));
}

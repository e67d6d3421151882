//! A locked screen (design section 6; the attack list's C), with the real programs: nobody is prompted behind it, and a
//! minute later whoever sits there must tap again. The bus is real; logind on it is played, and says what a test says.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt as _;
use portlatch_tests::lab::program::Program;
use portlatch_tests::lab::{Account::*, Host, Lab, LabOptions, PATIENCE, Part, Taps, start, wait_for};
use serde_json::Value;
use tokio::runtime::Runtime;
use zbus::message::Type;
use zbus::{Connection, Message, MessageStream, ObjectPath, Variant};

const LOGIND: &str = "org.freedesktop.login1";
const SESSION: &str = "org.freedesktop.login1.Session";
const SESSION_PATH: &str = "/org/freedesktop/login1/session/c2";
/// Properties that an agent asks a session for.
const PROPERTIES: usize = 3;
const BUS: &str = "mkdir -p /run/dbus
    exec dbus-daemon --config-file=/opt/portlatch/lab/bus.conf --nofork --nopidfile --print-address";

/// The bus of the user's machine, and logind with one session of jerry's, who sits at the screen.
struct Seat {
    connection: Connection,
    runtime: Runtime,
    asked: Arc<AtomicUsize>,
    is_locked: Arc<Mutex<bool>>,
    _bus: Program,
}

impl Seat {
    fn start(lab: &Lab) -> Self {
        let mut bus = lab.spawn(Host::User, Root, &["sh", "-euc", BUS]);
        bus.read_line(PATIENCE);
        let holder = fs::read_to_string(lab.directory().join("pid/host-user")).unwrap();
        let address = format!("unix:path=/proc/{}/root/run/dbus/system_bus_socket", holder.trim());
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (asked, is_locked) = (Arc::<AtomicUsize>::default(), Arc::<Mutex<bool>>::default());
        let connection = runtime.block_on(async {
            let connection = zbus::connection::Builder::address(address.as_str()).build().await.unwrap();
            let calls = MessageStream::from(&connection);
            connection.request_name(LOGIND).await.unwrap();
            tokio::spawn(serve(connection.clone(), calls, Arc::clone(&asked), Arc::clone(&is_locked)));
            connection
        });
        Self { connection, runtime, asked, is_locked, _bus: bus }
    }

    /// Whether an agent has been told of the session since it was last asked.
    fn has_told(&self) -> bool {
        self.asked.load(Ordering::SeqCst) >= PROPERTIES
    }

    fn lock(&self) {
        *self.is_locked.lock().unwrap() = true;
        self.signal("Lock");
    }

    fn unlock(&self) {
        *self.is_locked.lock().unwrap() = false;
        self.signal("Unlock");
    }

    fn signal(&self, member: &str) {
        let sent = self.connection.emit_signal(None::<&str>, SESSION_PATH, SESSION, member, &());
        self.runtime.block_on(sent).unwrap();
    }
}

/// Answers what agents ask of logind, for as long as the bus is there.
async fn serve(
    connection: Connection,
    mut calls: MessageStream,
    asked: Arc<AtomicUsize>,
    is_locked: Arc<Mutex<bool>>,
) {
    while let Some(Ok(call)) = calls.next().await {
        if call.message_type() != Type::MethodCall {
            continue;
        }
        let header = call.header();
        // An agent that was killed meanwhile needs no answer.
        let _ = match header.member().unwrap().as_str() {
            "ListSessions" => {
                let path = ObjectPath::try_from(SESSION_PATH).unwrap();
                connection.reply(&header, &vec![("c2", 2001_u32, "jerry", "seat0", path)]).await
            }
            "Get" => {
                let hint = Variant::from(*is_locked.lock().unwrap());
                let value = property(&call, hint);
                let replied = connection.reply(&header, &value).await;
                asked.fetch_add(1, Ordering::SeqCst);
                replied
            }
            other => panic!("logind has no method {other}"),
        };
    }
}

fn property(call: &Message, locked_hint: Variant<'static>) -> Variant<'static> {
    let body = call.body();
    let (_, property): (String, String) = body.deserialize().unwrap();
    match property.as_str() {
        "Class" => Variant::from("user"),
        "State" => Variant::from("active"),
        "LockedHint" => locked_hint,
        other => panic!("no session has a property {other}"),
    }
}

fn connects(lab: &Lab, port: &str) -> String {
    let outcome = lab.program(Jerry, &["connect", "billing-db.corp.internal", port]).finish(PATIENCE);
    outcome.expect_success().json()[0]["result"].as_str().unwrap().to_owned()
}

/// A program that is prompted for, tried until one is: the agent hears of the unlocked screen when it does.
fn prompted(lab: &Lab) -> Program {
    wait_for("prompts to be back", PATIENCE, || {
        let mut program = lab.program(Jerry, &["talk", "billing-db.corp.internal", "6432"]);
        let is_prompted = wait_for("a prompt or a refusal", PATIENCE, || {
            let is_prompted = !lab.prompts(Jerry).is_empty();
            (is_prompted || !program.is_running()).then_some(is_prompted)
        });
        is_prompted.then_some(program)
    })
}

fn assert_echoes(program: &mut Program, line: &str) {
    program.write_line(line);
    assert_eq!(program.read_line(PATIENCE), line);
}

#[test]
fn behind_a_locked_screen_nobody_is_prompted_and_a_minute_later_what_was_tapped_for_is_over() {
    let options = LabOptions { taps: Taps::Enter, ..LabOptions::default() };
    let Some(lab) = start(options) else { return };
    // An agent looks for logind when it starts, and then seldom.
    lab.kill(Part::Agent(Jerry));
    let seat = Seat::start(&lab);
    lab.restart(Part::Agent(Jerry), Taps::Enter);
    wait_for("the agent", PATIENCE, || {
        let status = lab.status(Jerry);
        (status["agent"] == true && status["user"] == "jerry" && seat.has_told()).then_some(())
    });
    let mut running = prompted(&lab);
    lab.tap(Jerry);
    assert_eq!(running.read_line(PATIENCE), "connected");
    let (challenges, taps, dials) = (lab.count("mfa.challenge"), lab.count("mfa.ok"), lab.dials());
    let asking = lab.program(Jerry, &["connect", "billing-db.corp.internal", "6433"]);
    lab.wait_for_prompt(Jerry, "billing-db", 6433);

    // While its SYN is held still.
    seat.lock();
    assert_eq!(asking.finish(PATIENCE).expect_success().json()[0]["result"], "refused");
    lab.wait_for_refusal(Jerry, 6433, "timed_out");
    assert_eq!(lab.prompts(Jerry), Vec::<Value>::new());
    // Whoever passes by taps for nothing, and opens no prompt.
    lab.tap(Jerry);
    assert_eq!(connects(&lab, "6434"), "refused");
    lab.wait_for_refusal(Jerry, 6434, "timed_out");
    assert_eq!(lab.dials(), dials);
    // Less than a minute after: whoever comes back at once need not tap again.
    lab.move_clock(Duration::from_secs(20));
    assert_eq!(connects(&lab, "6432"), "connected");

    lab.move_clock(Duration::from_secs(61));
    wait_for("the end of what was tapped for", PATIENCE, || {
        lab.status(Jerry)["grants"].as_array()?.is_empty().then_some(())
    });
    assert_eq!(connects(&lab, "6432"), "refused");
    lab.wait_for_refusal(Jerry, 6432, "timed_out");
    assert_eq!((lab.count("mfa.challenge"), lab.count("mfa.ok")), (challenges + 1, taps));
    assert_eq!(lab.dials(), dials + 1);
    assert_echoes(&mut running, "what runs goes on");
    // Nor does a grant serve that somebody has kept beside: control has revoked it.
    let granted = |record: &Value| record["event"] == "grant" && record["port"] == 6432;
    let grant = lab.wait_for_record("the grant", granted)["grant"].clone();
    lab.wait_for_record("its end", |record| record["event"] == "grant.revoke" && record["grant"] == grant);

    seat.unlock();
    let mut again = prompted(&lab);
    lab.tap(Jerry);
    assert_eq!(again.read_line(PATIENCE), "connected");
    assert_echoes(&mut again, "tapped for again");
    assert_echoes(&mut running, "and so does this");
    assert_eq!((lab.count("mfa.challenge"), lab.count("mfa.ok")), (challenges + 2, taps + 1));
    lab.assert_audit_verifies();
}

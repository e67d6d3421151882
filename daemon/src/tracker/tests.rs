//! The tracker, driven by hand-moved time; and any order of events.

use super::limits::{MAX_METHOD, MAX_METHODS, MAX_PROGRAM};
use super::*;
use portlatch_protocol::grant::MAX_GRANT_BYTES;

mod any_order;

const MINUTE: Duration = Duration::from_secs(60);

fn start() -> (Tracker, BootTime) {
    (Tracker::default(), BootTime::since_boot(Duration::from_secs(1000)))
}

fn key(port: u16) -> PortKey {
    PortKey { resource: "db/billing-db".parse().unwrap(), port }
}

fn grant(amr: &[&str]) -> Grant {
    let amr = amr.iter().map(|method| (*method).to_owned()).collect();
    Grant { token: "t".into(), expires_in: 5 * MINUTE, amr, program: None }
}

fn flow(tracker: &mut Tracker, port: u16, id: u64, now: BootTime) {
    flow_prompting_on(PromptOn::Syn, tracker, port, id, now);
}

fn flow_prompting_on(prompt_on: PromptOn, tracker: &mut Tracker, port: u16, id: u64, now: BootTime) {
    let (key, host) = (key(port), "billing-db.corp.internal".parse().unwrap());
    let wanted = Wanted { key: &key, host: &host, inode: id, prompt_on };
    tracker.handle_flow(&wanted, WaiterId(id), now);
}

fn events(tracker: &mut Tracker) -> Vec<Event> {
    std::iter::from_fn(|| tracker.poll_event()).collect()
}

fn asked(events: &[Event]) -> Vec<u64> {
    let request = |event: &Event| if let Event::Ask(wanted) = event { Some(wanted.request) } else { None };
    events.iter().filter_map(request).collect()
}

fn verdicts(events: &[Event]) -> Vec<(u64, Verdict)> {
    let verdict = |event: &Event| match event {
        Event::Verdict(flow, verdict) => Some((flow.0, verdict.clone())),
        Event::Ask(_)
        | Event::TunnelNeeded { .. }
        | Event::Proceed(_)
        | Event::Cancel(..)
        | Event::Waiting(..) => None,
    };
    events.iter().filter_map(verdict).collect()
}

#[test]
fn asks_once_however_many_flows_wait_and_all_pass() {
    let (mut tracker, now) = start();
    (0..200).for_each(|id| flow(&mut tracker, 5432, id, now));
    let request = asked(&events(&mut tracker));
    assert_eq!(request.len(), 1);
    tracker.handle_granted(request[0], grant(&["hwk"]), now);
    let told = verdicts(&events(&mut tracker));
    assert_eq!(told.len(), 200);
    assert!(told.iter().all(|(_, verdict)| matches!(verdict, Verdict::Granted(_))));
}

#[test]
fn where_the_prompt_waits_for_a_request_a_scan_opens_none() {
    let (mut tracker, now) = start();
    flow_prompting_on(PromptOn::FirstRequest, &mut tracker, 3389, 1, now);
    let request = asked(&events(&mut tracker))[0];
    tracker.handle_tap_needed(request, now);
    let told = events(&mut tracker);
    assert_eq!(verdicts(&told), [(1, Verdict::TapNeeded)]);
    assert!(!told.iter().any(|event| matches!(event, Event::TunnelNeeded { .. })));
    // The scanner hangs up: nobody was bothered, and the next one begins anew.
    tracker.handle_flow_gone(&key(3389), WaiterId(1));
    assert_eq!(events(&mut tracker), [Event::Cancel(request, RefusalReason::TimedOut)]);
    flow_prompting_on(PromptOn::FirstRequest, &mut tracker, 3389, 2, now);
    assert_eq!(asked(&events(&mut tracker)).len(), 1);
}

#[test]
fn the_first_request_of_any_waiting_flow_brings_the_one_prompt() {
    let (mut tracker, now) = start();
    flow_prompting_on(PromptOn::FirstRequest, &mut tracker, 3389, 1, now);
    let request = asked(&events(&mut tracker))[0];
    tracker.handle_tap_needed(request, now);
    flow_prompting_on(PromptOn::FirstRequest, &mut tracker, 3389, 2, now);
    let _ = events(&mut tracker);
    tracker.handle_first_request(&key(3389));
    tracker.handle_first_request(&key(3389));
    let needed = Event::TunnelNeeded { request, resource: key(3389).resource };
    assert_eq!(events(&mut tracker), [needed]);
    tracker.handle_granted(request, grant(&["hwk"]), now);
    assert_eq!(verdicts(&events(&mut tracker)).len(), 2);
}

#[test]
fn taps_can_be_forgotten_and_what_needed_none_stays() {
    let (mut tracker, now) = start();
    tracker.handle_offer(key(5432), grant(&["hwk"]), now);
    tracker.handle_offer(key(6432), grant(&[]), now);
    tracker.forget_taps();
    flow(&mut tracker, 5432, 1, now);
    flow(&mut tracker, 6432, 2, now);
    let events = events(&mut tracker);
    assert_eq!(asked(&events).len(), 1);
    assert!(matches!(verdicts(&events).as_slice(), [(2, Verdict::Granted(_))]));
}

#[test]
fn a_second_flow_within_five_minutes_is_not_asked_for_and_one_after_them_is() {
    let (mut tracker, now) = start();
    flow(&mut tracker, 5432, 1, now);
    let request = asked(&events(&mut tracker))[0];
    tracker.handle_granted(request, grant(&["hwk"]), now);
    events(&mut tracker);
    let just_before = now + Duration::from_millis(299_900);
    flow(&mut tracker, 5432, 2, just_before);
    assert!(asked(&events(&mut tracker)).is_empty());
    flow(&mut tracker, 5432, 3, now + 5 * MINUTE);
    assert_eq!(asked(&events(&mut tracker)).len(), 1);
}

#[test]
fn another_port_is_asked_for_on_its_own() {
    let (mut tracker, now) = start();
    flow(&mut tracker, 5432, 1, now);
    flow(&mut tracker, 6432, 2, now);
    assert_eq!(asked(&events(&mut tracker)).len(), 2);
}

#[test]
fn a_scan_of_ports_is_refused_before_the_agent_has_too_much_to_read() {
    let (mut tracker, now) = start();
    let most = u16::try_from(MAX_ASKED).unwrap();
    (1..=most).for_each(|port| flow(&mut tracker, port, port.into(), now));
    let requests = asked(&events(&mut tracker));
    assert_eq!(requests.len(), MAX_ASKED);
    flow(&mut tracker, most + 1, 9001, now);
    assert_eq!(
        events(&mut tracker),
        [Event::Verdict(WaiterId(9001), Verdict::Refused(RefusalReason::Limit))]
    );
    // A port that is asked about already costs nothing more; and an answer makes room.
    flow(&mut tracker, 1, 9002, now);
    assert_eq!(events(&mut tracker), []);
    tracker.handle_granted(requests[0], grant(&[]), now);
    assert_eq!(verdicts(&events(&mut tracker)).len(), 2);
    flow(&mut tracker, most + 1, 9003, now);
    assert_eq!(asked(&events(&mut tracker)).len(), 1);
}

#[test]
fn no_prompt_opens_before_a_tunnel_is_up() {
    let (mut tracker, now) = start();
    flow(&mut tracker, 5432, 1, now);
    let request = asked(&events(&mut tracker))[0];
    tracker.handle_tap_needed(request, now);
    let told = events(&mut tracker);
    assert_eq!(verdicts(&told), [(1, Verdict::TapNeeded)]);
    assert!(!told.contains(&Event::Proceed(request)));
    tracker.handle_tunnel_up(request);
    assert!(events(&mut tracker).contains(&Event::Proceed(request)));
}

#[test]
fn without_a_proxy_nobody_is_bothered() {
    let (mut tracker, now) = start();
    flow(&mut tracker, 5432, 1, now);
    let request = asked(&events(&mut tracker))[0];
    tracker.handle_tap_needed(request, now);
    events(&mut tracker);
    tracker.handle_no_tunnel(request);
    let told = events(&mut tracker);
    assert_eq!(verdicts(&told), [(1, Verdict::Refused(RefusalReason::NoProxy))]);
    assert!(told.contains(&Event::Cancel(request, RefusalReason::NoProxy)));
}

#[test]
fn a_denial_refuses_all_and_rests_for_a_moment() {
    let (mut tracker, now) = start();
    flow(&mut tracker, 5432, 1, now);
    let request = asked(&events(&mut tracker))[0];
    tracker.handle_tap_needed(request, now);
    tracker.handle_refused(request, RefusalReason::Denied, now);
    assert!(verdicts(&events(&mut tracker)).contains(&(1, Verdict::Refused(RefusalReason::Denied))));
    flow(&mut tracker, 5432, 2, now + REST / 2);
    assert_eq!(verdicts(&events(&mut tracker)), [(2, Verdict::Refused(RefusalReason::CoolDown))]);
    flow(&mut tracker, 5432, 3, now + REST);
    assert_eq!(asked(&events(&mut tracker)).len(), 1);
}

#[test]
fn a_grant_that_comes_after_the_program_gave_up_serves_the_retry() {
    let (mut tracker, now) = start();
    flow(&mut tracker, 5432, 1, now);
    let request = asked(&events(&mut tracker))[0];
    tracker.handle_tap_needed(request, now);
    tracker.handle_flow_gone(&key(5432), WaiterId(1));
    assert!(events(&mut tracker).contains(&Event::Waiting(request, 0)));
    tracker.handle_granted(request, grant(&["hwk"]), now);
    flow(&mut tracker, 5432, 2, now);
    assert!(matches!(verdicts(&events(&mut tracker))[..], [(2, Verdict::Granted(_))]));
}

#[test]
fn a_grant_without_a_tap_is_renewed_while_it_serves() {
    let (mut tracker, now) = start();
    flow(&mut tracker, 5432, 1, now);
    let request = asked(&events(&mut tracker))[0];
    tracker.handle_granted(request, grant(&[]), now);
    events(&mut tracker);
    flow(&mut tracker, 5432, 2, now + 2 * MINUTE);
    assert!(asked(&events(&mut tracker)).is_empty(), "more than two minutes are left");
    flow(&mut tracker, 5432, 3, now + 4 * MINUTE);
    let told = events(&mut tracker);
    assert_eq!((asked(&told).len(), verdicts(&told).len()), (1, 1));
    tracker.handle_granted(asked(&told)[0], grant(&[]), now + 4 * MINUTE);
    flow(&mut tracker, 5432, 4, now + 6 * MINUTE);
    assert!(matches!(verdicts(&events(&mut tracker))[..], [(4, Verdict::Granted(_))]));
}

#[test]
fn a_request_that_is_never_answered_times_out() {
    let (mut tracker, now) = start();
    flow(&mut tracker, 5432, 1, now);
    let request = asked(&events(&mut tracker))[0];
    let deadline = tracker.poll_timeout().unwrap();
    tracker.handle_timeout(deadline);
    let told = events(&mut tracker);
    assert_eq!(verdicts(&told), [(1, Verdict::Refused(RefusalReason::TimedOut))]);
    assert!(told.contains(&Event::Cancel(request, RefusalReason::TimedOut)));
}

#[test]
fn more_flows_than_may_wait_for_a_tap_are_refused() {
    let (mut tracker, now) = start();
    let limit = MAX_WAITING_AT_PORT as u64;
    (0..=limit).for_each(|id| flow(&mut tracker, 5432, id, now));
    let told = events(&mut tracker);
    assert!(verdicts(&told).is_empty(), "whether a tap is needed is not known yet");
    tracker.handle_tap_needed(asked(&told)[0], now);
    let refused = |id| (id, Verdict::Refused(RefusalReason::Limit));
    assert_eq!(verdicts(&events(&mut tracker))[0], refused(limit));
    flow(&mut tracker, 5432, limit + 1, now);
    assert_eq!(verdicts(&events(&mut tracker)), [refused(limit + 1)]);
}

#[test]
fn an_answer_to_a_request_that_is_over_changes_nothing() {
    let (mut tracker, now) = start();
    flow(&mut tracker, 5432, 1, now);
    let request = asked(&events(&mut tracker))[0];
    tracker.handle_refused(request, RefusalReason::Policy, now);
    events(&mut tracker);
    tracker.handle_granted(request, grant(&[]), now);
    assert_eq!(tracker.grants(now), []);
    assert_eq!(events(&mut tracker), []);
}

#[test]
fn a_grant_that_could_not_travel_on_is_taken_for_a_refusal() {
    for unsound in [
        Grant { token: "t".repeat(MAX_GRANT_BYTES + 1), ..grant(&[]) },
        Grant { program: Some("p".repeat(MAX_PROGRAM + 1)), ..grant(&[]) },
        grant(&["a method with a very long name"]),
    ] {
        let (mut tracker, now) = start();
        flow(&mut tracker, 5432, 1, now);
        let request = asked(&events(&mut tracker))[0];
        tracker.handle_offer(key(6432), unsound.clone(), now);
        tracker.handle_granted(request, unsound, now);
        assert_eq!(verdicts(&events(&mut tracker)), [(1, Verdict::Refused(RefusalReason::Policy))]);
        assert_eq!(tracker.grants(now), []);
    }
}

#[test]
fn a_grant_that_ended_takes_no_newer_one_with_it() {
    let (mut tracker, now) = start();
    tracker.handle_offer(key(5432), Grant { token: "newer".into(), ..grant(&[]) }, now);
    tracker.handle_grant_ended(&key(5432), "older");
    assert_eq!(tracker.grants(now).len(), 1);
    tracker.handle_grant_ended(&key(5432), "newer");
    assert_eq!(tracker.grants(now).len(), 0);
}

#[test]
fn a_status_with_every_grant_and_refusal_fits_a_frame() {
    use portlatch_protocol::attach::{MAX_REFUSALS, Refusal, Status, ToAgent};
    use portlatch_protocol::frame::{MAX_LOCAL_FRAME, encode};
    let (mut tracker, now) = start();
    let resource: ResourceId = format!("kube_cluster/{}", "n".repeat(64)).parse().unwrap();
    let amr = vec!["m".repeat(MAX_METHOD); MAX_METHODS];
    for port in 1..=1500 {
        let key = PortKey { resource: resource.clone(), port };
        tracker.handle_offer(key, Grant { amr: amr.clone(), ..grant(&[]) }, now);
    }
    let refusal = Refusal {
        time: i64::MAX,
        resource: Some(resource),
        host: "h".repeat(253),
        port: u16::MAX,
        inode: u64::MAX,
        reason: RefusalReason::TargetUnreachable,
    };
    let status = Status {
        agent: Some(u32::MAX),
        grants: tracker.grants(now),
        refusals: vec![refusal; MAX_REFUSALS],
        tunnels: vec!["p".repeat(64).parse().unwrap(); 8],
        flows: u32::MAX,
    };
    assert!(encode(&ToAgent::Status(status), MAX_LOCAL_FRAME).is_ok());
}

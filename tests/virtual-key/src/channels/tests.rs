use super::*;

const HASH: [u8; 32] = [9; 32];

fn key(settings: Settings) -> (Key, Instant) {
    let now = Instant::now();
    let mut key = Key::new(settings, now);
    key.handle_plugged(now);
    (key, now)
}

fn say(key: &mut Key, channel: u32, number: u8, message: &[u8], now: Instant) {
    for report in framing::reports(channel, number, message, None) {
        key.handle_report(&report, now);
    }
}

/// The messages that wait: channel, command, bytes.
fn heard(key: &mut Key) -> Vec<(u32, u8, Vec<u8>)> {
    let mut messages = Vec::new();
    let mut open: Option<(u32, Assembly)> = None;
    while let Some(report) = key.poll_report() {
        let channel = u32::from_be_bytes(report[..4].try_into().unwrap());
        let (number, fed) = match open.take() {
            Some((_, assembly)) => (assembly.number, assembly.feed(&report)),
            None => (report[4] & 0x7f, Assembly::begin(channel, report[4] & 0x7f, &report, 8000)),
        };
        match fed {
            Fed::Whole(message) => messages.push((channel, number, message)),
            Fed::Unfinished(assembly) => open = Some((channel, assembly)),
            Fed::TooLong | Fed::OutOfOrder => panic!("a report out of order"),
        }
    }
    messages
}

fn channel_of(key: &mut Key, now: Instant) -> u32 {
    say(key, BROADCAST, command::INIT, &[5; 8], now);
    let (channel, number, message) = heard(key).remove(0);
    assert_eq!((channel, number, &message[..8]), (BROADCAST, command::INIT, [5; 8].as_slice()));
    u32::from_be_bytes(message[8..12].try_into().unwrap())
}

fn make() -> Vec<u8> {
    use crate::cbor::Value;
    let algorithm = Value::map([("alg", Value::Int(-7)), ("type", Value::text("public-key"))]);
    let parameters = Value::map([
        (1, Value::Bytes(HASH.to_vec())),
        (2, Value::map([("id", Value::text("h.example"))])),
        (3, Value::map([("id", Value::Bytes(vec![1])), ("name", Value::text("jerry"))])),
        (4, Value::Array(vec![algorithm])),
    ]);
    [&[0x01], parameters.encode().as_slice()].concat()
}

#[test]
fn a_request_blinks_keeps_alive_and_is_answered_at_the_touch() {
    let (mut key, now) = key(Settings::default());
    let channel = channel_of(&mut key, now);
    say(&mut key, channel, command::CBOR, &make(), now);
    key.handle_timeout(now + KEEP_ALIVE);
    assert!(heard(&mut key).iter().all(|(_, number, _)| *number == command::KEEP_ALIVE));
    key.handle_touch(Finger::Known, now);
    let (_, number, message) = heard(&mut key).remove(0);
    assert_eq!((number, message[0]), (command::CBOR, 0));
}

#[test]
fn cancel_ends_the_blinking_on_its_own_channel_alone() {
    let (mut key, now) = key(Settings::default());
    let (ours, theirs) = (channel_of(&mut key, now), channel_of(&mut key, now));
    say(&mut key, ours, command::CBOR, &make(), now);
    say(&mut key, theirs, command::CANCEL, &[], now);
    assert!(key.is_blinking());
    say(&mut key, theirs, command::CBOR, &[0x04], now);
    say(&mut key, ours, command::CANCEL, &[], now);
    assert!(!key.is_blinking());
    let heard = heard(&mut key);
    assert!(heard.contains(&(theirs, command::ERROR, vec![error::BUSY])));
    assert!(heard.contains(&(ours, command::CBOR, vec![0x2D])));
}

#[test]
fn nobody_s_touch_ends_with_a_timeout() {
    let (mut key, now) = key(Settings::default());
    let channel = channel_of(&mut key, now);
    say(&mut key, channel, command::CBOR, &make(), now);
    key.handle_timeout(now + Duration::from_secs(31));
    assert!(heard(&mut key).contains(&(channel, command::CBOR, vec![0x2F])));
}

#[test]
fn a_channel_that_was_not_given_out_is_refused() {
    let (mut key, now) = key(Settings::default());
    say(&mut key, 77, command::CBOR, &[0x04], now);
    assert_eq!(heard(&mut key), [(77, command::ERROR, vec![error::INVALID_CHANNEL])]);
}

#[test]
fn noise_does_no_harm() {
    let (mut key, now) = key(Settings::default());
    let channel = channel_of(&mut key, now);
    for _ in 0..2_000 {
        let mut report: Report = crate::pin_protocol::random();
        key.handle_report(&report, now);
        report[..4].copy_from_slice(&channel.to_be_bytes());
        key.handle_report(&report, now);
    }
    say(&mut key, channel, command::INIT, &[5; 8], now);
    assert!(heard_loosely(&mut key));
}

/// Whether the last message is the answer to INIT.
fn heard_loosely(key: &mut Key) -> bool {
    std::iter::from_fn(|| key.poll_report()).last().is_some_and(|report| report[4] == 0x80 | command::INIT)
}

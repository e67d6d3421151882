//! CTAPHID, the key's side (CTAP 2.1 section 11.2): channels, framing, one request at a time, keep-alives, CANCEL. Pure:
//! reports, touches and the time in; reports out.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::authenticator::{Answer, Authenticator, Deed, Finger, Reply, Status};
use crate::record::{Event, Recorded};
use crate::settings::{Fault, Settings, TouchMode};

mod framing;

use framing::{Assembly, Fed};

/// Bytes of a report.
pub const REPORT: usize = 64;

pub(crate) type Report = [u8; REPORT];

const BROADCAST: u32 = 0xFFFF_FFFF;
/// Keep-alives while it blinks (CTAP 2.1 section 11.2.9.1.5 wants at least one in 100 ms).
const KEEP_ALIVE: Duration = Duration::from_millis(80);
/// Pause between keep-alives of the flood.
const FLOOD: Duration = Duration::from_micros(500);
/// Channels that it hands out; then the oldest are forgotten.
const MAX_CHANNELS: usize = 64;
/// Reports that nobody has fetched; a driver drops the oldest too.
const MAX_WAITING: usize = 4096;

pub(crate) mod command {
    pub(crate) const PING: u8 = 0x01;
    pub(crate) const INIT: u8 = 0x06;
    pub(crate) const WINK: u8 = 0x08;
    pub(crate) const CBOR: u8 = 0x10;
    pub(crate) const CANCEL: u8 = 0x11;
    pub(crate) const KEEP_ALIVE: u8 = 0x3B;
    pub(crate) const ERROR: u8 = 0x3F;
}

/// CTAP 2.1 section 11.2.9.1.6.
pub(crate) mod error {
    pub(crate) const INVALID_COMMAND: u8 = 0x01;
    pub(crate) const INVALID_LENGTH: u8 = 0x03;
    pub(crate) const INVALID_SEQUENCE: u8 = 0x04;
    pub(crate) const BUSY: u8 = 0x06;
    pub(crate) const INVALID_CHANNEL: u8 = 0x0B;
}

/// WINK, CBOR, and no U2F messages.
const CAPABILITIES: u8 = 0x01 | 0x04 | 0x08;
const TOUCH_NEEDED: u8 = 0x02;

/// A whole key.
pub(crate) struct Key {
    authenticator: Authenticator,
    channels: VecDeque<u32>,
    next_channel: u32,
    assembly: Option<Assembly>,
    pending: Option<Pending>,
    flooding: Option<(u32, Instant)>,
    reports: VecDeque<Report>,
    record: Vec<Recorded>,
}

/// A request that waits for a touch.
struct Pending {
    channel: u32,
    deed: Deed,
    until: Instant,
    keep_alive_at: Instant,
}

impl Key {
    pub(crate) fn new(settings: Settings, now: Instant) -> Self {
        Self {
            authenticator: Authenticator::new(settings, now),
            channels: VecDeque::new(),
            next_channel: 0x0100_0000,
            assembly: None,
            pending: None,
            flooding: None,
            reports: VecDeque::new(),
            record: Vec::new(),
        }
    }

    pub(crate) const fn settings_mut(&mut self) -> &mut Settings {
        self.authenticator.settings_mut()
    }

    pub(crate) fn block_pin(&mut self) {
        self.authenticator.block_pin();
    }

    pub(crate) fn record(&self) -> &[Recorded] {
        &self.record
    }

    pub(crate) const fn is_blinking(&self) -> bool {
        self.pending.is_some()
    }

    pub(crate) fn is_fresh(&self, now: Instant) -> bool {
        self.authenticator.is_fresh(now)
    }

    pub(crate) fn handle_plugged(&mut self, now: Instant) {
        self.authenticator.power_up(now);
        self.note(Event::Plugged, now);
    }

    pub(crate) fn handle_unplugged(&mut self, now: Instant) {
        self.channels.clear();
        (self.assembly, self.pending, self.flooding) = (None, None, None);
        self.reports.clear();
        self.note(Event::Unplugged, now);
    }

    pub(crate) fn handle_report(&mut self, report: &Report, now: Instant) {
        if self.fault() == Some(Fault::Silent) {
            return;
        }
        let channel = u32::from_be_bytes([report[0], report[1], report[2], report[3]]);
        if report[4] & framing::FIRST == 0 {
            return self.handle_continuation(channel, report, now);
        }
        let number = report[4] & !framing::FIRST;
        if self.assembly.as_ref().is_some_and(|a| a.channel == channel)
            && number != command::INIT
            && number != command::CANCEL
        {
            self.assembly = None;
            return self.send_error(channel, error::INVALID_SEQUENCE);
        }
        match Assembly::begin(channel, number, report, self.authenticator.settings().longest_message) {
            Fed::Whole(message) => self.handle_message(channel, number, &message, now),
            Fed::Unfinished(_) if self.is_busy_for(channel) => self.turn_away(channel, now),
            Fed::Unfinished(assembly) => self.assembly = Some(assembly),
            Fed::TooLong => self.send_error(channel, error::INVALID_LENGTH),
            Fed::OutOfOrder => self.send_error(channel, error::INVALID_SEQUENCE),
        }
    }

    fn handle_continuation(&mut self, channel: u32, report: &Report, now: Instant) {
        let Some(assembly) = self.assembly.take_if(|assembly| assembly.channel == channel) else { return };
        let number = assembly.number;
        match assembly.feed(report) {
            Fed::Whole(message) => self.handle_message(channel, number, &message, now),
            Fed::Unfinished(assembly) => self.assembly = Some(assembly),
            Fed::TooLong => self.send_error(channel, error::INVALID_LENGTH),
            Fed::OutOfOrder => self.send_error(channel, error::INVALID_SEQUENCE),
        }
    }

    fn handle_message(&mut self, channel: u32, number: u8, message: &[u8], now: Instant) {
        if number == command::INIT {
            return self.handle_init(channel, message, now);
        }
        if !self.channels.contains(&channel) {
            return self.send_error(channel, error::INVALID_CHANNEL);
        }
        if self.fault() == Some(Fault::SilentOnChannel) {
            return;
        }
        match number {
            command::CANCEL => self.handle_cancel(channel, now),
            _ if self.is_busy_for(channel) => self.turn_away(channel, now),
            command::PING => self.send(channel, command::PING, message),
            command::WINK => self.send(channel, command::WINK, &[]),
            command::CBOR => self.handle_cbor(channel, message, now),
            _ => self.send_error(channel, error::INVALID_COMMAND),
        }
    }

    fn handle_init(&mut self, channel: u32, nonce: &[u8], now: Instant) {
        self.note(Event::Init, now);
        if nonce.len() != 8 {
            return self.send_error(channel, error::INVALID_LENGTH);
        }
        let given = if channel == BROADCAST {
            self.next_channel += 1;
            self.channels.push_back(self.next_channel);
            while self.channels.len() > MAX_CHANNELS {
                self.channels.pop_front();
            }
            self.next_channel
        } else {
            // It begins anew on its channel.
            self.pending.take_if(|pending| pending.channel == channel);
            self.assembly.take_if(|assembly| assembly.channel == channel);
            channel
        };
        let mut nonce = nonce.to_vec();
        if self.fault() == Some(Fault::WrongNonce) {
            nonce[0] ^= 0xff;
        }
        let answer = [&nonce, given.to_be_bytes().as_slice(), &[2, 0, 0, 1, CAPABILITIES]].concat();
        self.send(channel, command::INIT, &answer);
    }

    fn handle_cbor(&mut self, channel: u32, message: &[u8], now: Instant) {
        if self.fault() == Some(Fault::KeepAliveFlood) {
            self.flooding = Some((channel, now));
        }
        let reply = self.authenticator.handle(message, now);
        for event in self.authenticator.take_record() {
            self.note(event, now);
        }
        if self.flooding.is_some() {
            return;
        }
        let deed = match reply {
            Reply::Now(answer) => return self.answer(channel, answer),
            Reply::OnTouch(deed) => deed,
        };
        self.note(Event::Blinks, now);
        let settings = self.authenticator.settings();
        let is_touched = settings.touch == TouchMode::ByItself || self.authenticator.is_fresh(now);
        let until = now + settings.touch_time;
        self.pending = Some(Pending { channel, deed, until, keep_alive_at: now + KEEP_ALIVE });
        self.send(channel, command::KEEP_ALIVE, &[TOUCH_NEEDED]);
        if is_touched {
            self.handle_touch(Finger::Known, now);
        }
    }

    /// A finger, while it blinks or not.
    pub(crate) fn handle_touch(&mut self, finger: Finger, now: Instant) {
        let Some(Pending { channel, deed, .. }) = self.pending.take() else { return };
        self.note(Event::Touched, now);
        let answer = self.authenticator.touched(deed, finger);
        self.answer(channel, answer);
    }

    /// The person refuses on the key.
    pub(crate) fn handle_deny(&mut self, now: Instant) {
        self.give_up(Status::OperationDenied, Event::Denied, now);
    }

    fn handle_cancel(&mut self, channel: u32, now: Instant) {
        self.flooding.take_if(|(flooded, _)| *flooded == channel);
        if self.pending.as_ref().is_some_and(|pending| pending.channel == channel) {
            self.give_up(Status::KeepAliveCancel, Event::Cancelled, now);
        }
    }

    fn give_up(&mut self, status: Status, event: Event, now: Instant) {
        let Some(Pending { channel, .. }) = self.pending.take() else { return };
        self.note(event, now);
        self.answer(channel, Err(status));
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let pending = self.pending.as_ref().map(|pending| pending.keep_alive_at.min(pending.until));
        pending.into_iter().chain(self.flooding.map(|(_, at)| at)).min()
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if let Some((channel, _)) = self.flooding.filter(|(_, at)| *at <= now) {
            self.flooding = Some((channel, now + FLOOD));
            self.send(channel, command::KEEP_ALIVE, &[TOUCH_NEEDED]);
        }
        let Some(pending) = &mut self.pending else { return };
        if pending.until <= now {
            return self.give_up(Status::UserActionTimeout, Event::TimedOut, now);
        }
        if pending.keep_alive_at <= now {
            pending.keep_alive_at = now + KEEP_ALIVE;
            let channel = pending.channel;
            self.send(channel, command::KEEP_ALIVE, &[TOUCH_NEEDED]);
        }
    }

    pub(crate) fn poll_report(&mut self) -> Option<Report> {
        self.reports.pop_front()
    }

    fn answer(&mut self, channel: u32, answer: Answer) {
        let message = match answer {
            Ok(value) if self.fault() == Some(Fault::GarbageCbor) && value.is_some() => {
                vec![Status::Ok as u8, 0xbf, 0xff, 0x00, 0x9f, 0xa1]
            }
            Ok(Some(value)) => [&[Status::Ok as u8], value.encode().as_slice()].concat(),
            Ok(None) => vec![Status::Ok as u8],
            Err(status) => vec![status as u8],
        };
        self.send(channel, command::CBOR, &message);
    }

    fn send_error(&mut self, channel: u32, code: u8) {
        self.send(channel, command::ERROR, &[code]);
    }

    fn turn_away(&mut self, channel: u32, now: Instant) {
        self.note(Event::TurnedAway, now);
        self.send_error(channel, error::BUSY);
    }

    fn is_busy_for(&self, channel: u32) -> bool {
        let by = |other: u32| other != channel;
        self.fault() == Some(Fault::Busy)
            || self.pending.as_ref().is_some_and(|pending| by(pending.channel))
            || self.assembly.as_ref().is_some_and(|assembly| by(assembly.channel))
    }

    fn send(&mut self, channel: u32, number: u8, message: &[u8]) {
        let fault = self.fault();
        for report in framing::reports(channel, number, message, fault) {
            if fault == Some(Fault::ForeignReports) {
                self.push(framing::foreign(&report));
            }
            self.push(report);
        }
    }

    fn push(&mut self, report: Report) {
        if self.reports.len() >= MAX_WAITING {
            self.reports.pop_front();
        }
        self.reports.push_back(report);
    }

    const fn fault(&self) -> Option<Fault> {
        self.authenticator.settings().fault
    }

    fn note(&mut self, event: Event, now: Instant) {
        self.record.push(Recorded { at: now, event });
    }
}

#[cfg(test)]
mod tests;

//! CTAPHID, our side (CTAP 2.1 section 11.2): a channel of our own on a key, messages in reports, keep-alives, CANCEL.
//!
//! Linux hands every report of a key to every program that has it open, so that what is not for our channel is passed over
//! without a word. Whatever the key sends or does not send, every exchange ends: by its answer, by the key's silence, by
//! its own deadline, or within a moment of being called off.

use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::bus::{Lost, Report, Reports};
use super::framing::{self, Assembly, Fed};
use super::patience::Patience;

const BROADCAST: u32 = 0xFFFF_FFFF;
const NONCE: usize = 8;
/// Channel behind the nonce, then versions and capabilities (CTAP 2.1 section 11.2.9.1.3).
const INIT_ANSWER: usize = 17;
const CAPABILITY_CBOR: u8 = 0x04;
/// Reports that Linux keeps for a reader who comes late (HIDRAW_BUFFER_SIZE).
const KEPT: u32 = 64;

mod command {
    pub(super) const INIT: u8 = 0x06;
    pub(super) const CBOR: u8 = 0x10;
    pub(super) const CANCEL: u8 = 0x11;
    pub(super) const KEEP_ALIVE: u8 = 0x3B;
    pub(super) const ERROR: u8 = 0x3F;
}

/// Another request is under way on the key (CTAP 2.1 section 11.2.9.1.6).
const BUSY: u8 = 0x06;

/// Why an exchange ended without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    /// The key was taken out.
    Lost,
    /// It said nothing for too long, or kept alive for ever.
    Silent,
    /// Another program uses it just now.
    Busy,
    /// We have called it off.
    Cancelled,
    /// It says what makes no sense.
    Garbled(&'static str),
    /// It does not speak CTAP2.
    NotCtap2,
    /// It refused the message itself.
    Refused(u8),
}

impl From<Lost> for Broken {
    fn from(_: Lost) -> Self {
        Self::Lost
    }
}

/// Whom a request waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WaitsFor {
    /// The key alone.
    Machine,
    /// A touch or a finger.
    Person,
}

/// Our channel on an open key.
pub(super) struct Channel {
    reports: Box<dyn Reports>,
    id: u32,
    cancel: CancellationToken,
    patience: Patience,
}

impl Channel {
    /// Has the key give out a channel.
    ///
    /// # Errors
    /// [`Broken`].
    pub(super) fn open(
        reports: Box<dyn Reports>,
        cancel: CancellationToken,
        patience: Patience,
    ) -> Result<Self, Broken> {
        let mut channel = Self { reports, id: BROADCAST, cancel, patience };
        let mut nonce = [0; NONCE];
        getrandom::fill(&mut nonce).map_err(|_| Broken::Garbled("there are no random numbers"))?;
        channel.send(command::INIT, &nonce)?;
        let deadline = Instant::now() + patience.init;
        loop {
            let (number, message) = channel.receive(deadline, deadline)?;
            if number == command::ERROR {
                return Err(refusal(&message));
            }
            // Everybody hears every answer to INIT: ours has our nonce.
            let is_ours = number == command::INIT && message.get(..NONCE) == Some(nonce.as_slice());
            if !is_ours {
                continue;
            }
            let Some(answer) = message.get(..INIT_ANSWER) else {
                return Err(Broken::Garbled("a short answer to INIT"));
            };
            if answer[INIT_ANSWER - 1] & CAPABILITY_CBOR == 0 {
                return Err(Broken::NotCtap2);
            }
            channel.id = u32::from_be_bytes([answer[8], answer[9], answer[10], answer[11]]);
            return match channel.id {
                0 | BROADCAST => Err(Broken::Garbled("no channel")),
                _ => Ok(channel),
            };
        }
    }

    /// One CTAP2 request and its answer: the status, and the CBOR behind it.
    ///
    /// # Errors
    /// [`Broken`]. After any but [`Broken::Lost`] the key has been told to stop.
    pub(super) fn request(&mut self, message: &[u8], waits_for: WaitsFor) -> Result<(u8, Vec<u8>), Broken> {
        let answered = self.exchange(message, waits_for);
        if matches!(answered, Err(Broken::Cancelled | Broken::Silent | Broken::Garbled(_))) {
            self.stop();
        }
        answered
    }

    fn exchange(&mut self, message: &[u8], waits_for: WaitsFor) -> Result<(u8, Vec<u8>), Broken> {
        self.send(command::CBOR, message)?;
        let deadline = Instant::now()
            + match waits_for {
                WaitsFor::Machine => self.patience.machine,
                WaitsFor::Person => self.patience.person,
            };
        loop {
            let silent_at = Instant::now() + self.patience.silence;
            let (number, answer) = self.receive(silent_at, deadline)?;
            match (number, answer.split_first()) {
                (command::KEEP_ALIVE, _) => {}
                (command::ERROR, _) => return Err(refusal(&answer)),
                (command::CBOR, Some((status, cbor))) => return Ok((*status, cbor.to_vec())),
                (command::CBOR, None) => return Err(Broken::Garbled("an empty answer")),
                (_, _) => return Err(Broken::Garbled("an answer to something else")),
            }
        }
    }

    fn send(&mut self, number: u8, message: &[u8]) -> Result<(), Broken> {
        let reports = framing::reports(self.id, number, message);
        let reports = reports.ok_or(Broken::Garbled("a request that is too long for any key"))?;
        reports.iter().try_for_each(|report| self.reports.send(report)).map_err(Broken::from)
    }

    /// The next message on our channel: its command and its bytes.
    fn receive(&mut self, silent_at: Instant, deadline: Instant) -> Result<(u8, Vec<u8>), Broken> {
        let mut assembly: Option<Assembly> = None;
        let mut kept = KEPT;
        loop {
            let report = self.receive_report(silent_at.min(deadline), &mut kept)?;
            if framing::channel_of(&report) != self.id {
                continue;
            }
            let fed = match assembly.take() {
                Some(assembly) => assembly.feed(&report),
                None if framing::is_first(&report) => Assembly::begin(&report),
                // The rest of a message that we had given up.
                None => continue,
            };
            match fed {
                Fed::Whole(number, message) => return Ok((number, message)),
                Fed::Unfinished(unfinished) => assembly = Some(unfinished),
                Fed::Wrong(why) => return Err(Broken::Garbled(why)),
            }
        }
    }

    /// The next report, whosever it is. Once the time is over only what the key has said by then is looked at: it may be
    /// this machine that was late, after a sleep or under load, and not the key.
    fn receive_report(&mut self, until: Instant, kept: &mut u32) -> Result<Report, Broken> {
        loop {
            if self.cancel.is_cancelled() {
                return Err(Broken::Cancelled);
            }
            let left = until.saturating_duration_since(Instant::now());
            if let Some(report) = self.reports.receive(left.min(self.patience.glance))? {
                if left.is_zero() {
                    *kept = kept.checked_sub(1).ok_or(Broken::Silent)?;
                }
                return Ok(report);
            }
            if left.is_zero() {
                return Err(Broken::Silent);
            }
        }
    }

    /// CANCEL, and a moment for the key to take it in: it stops blinking, and whoever is next finds it free.
    fn stop(&mut self) {
        if self.send(command::CANCEL, &[]).is_err() {
            return;
        }
        let until = Instant::now() + self.patience.stop;
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            match self.reports.receive(left) {
                Ok(Some(report)) if framing::is_answer(&report, self.id, command::CBOR) => return,
                Ok(_) => {}
                Err(Lost) => return,
            }
        }
    }
}

fn refusal(message: &[u8]) -> Broken {
    match message.first() {
        Some(&BUSY) => Broken::Busy,
        Some(&code) => Broken::Refused(code),
        None => Broken::Garbled("an error without a number"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::time::Duration;

    use super::*;
    use crate::keys::usb::patience::PATIENCE;

    /// Each report waits so long in this machine before it is handed over.
    struct Late(VecDeque<(Duration, Report)>);

    impl Reports for Late {
        fn send(&mut self, _: &Report) -> Result<(), Lost> {
            Ok(())
        }

        fn receive(&mut self, _: Duration) -> Result<Option<Report>, Lost> {
            let Some((late, report)) = self.0.pop_front() else { return Ok(None) };
            std::thread::sleep(late);
            Ok(Some(report))
        }
    }

    fn channel(reports: impl IntoIterator<Item = (Duration, Report)>) -> Channel {
        let silence = Duration::from_millis(5);
        Channel {
            reports: Box::new(Late(reports.into_iter().collect())),
            id: 7,
            cancel: CancellationToken::new(),
            patience: Patience {
                silence,
                glance: Duration::from_millis(1),
                stop: Duration::ZERO,
                ..PATIENCE
            },
        }
    }

    fn report(number: u8, message: &[u8]) -> Report {
        framing::reports(7, number, message).unwrap()[0]
    }

    #[test]
    fn a_machine_that_stood_still_does_not_take_the_key_for_silent() {
        let late = Duration::from_millis(30);
        let mut channel = channel([
            // Somebody else's, read when the silence is over already; then our answer, which lay behind it.
            (late, framing::reports(9, command::KEEP_ALIVE, &[1]).unwrap()[0]),
            (Duration::ZERO, report(command::CBOR, &[0, 1])),
        ]);
        assert_eq!(channel.request(&[4], WaitsFor::Machine), Ok((0, vec![1])));
    }

    #[test]
    fn what_others_go_on_hearing_from_a_key_is_no_sign_of_life_for_us() {
        let foreign = framing::reports(9, command::KEEP_ALIVE, &[1]).unwrap()[0];
        let late = Duration::from_millis(10);
        let mut channel = channel((0..200).map(|n| (if n == 0 { late } else { Duration::ZERO }, foreign)));
        assert_eq!(channel.request(&[4], WaitsFor::Machine), Err(Broken::Silent));
    }
}

//! Messages in reports (CTAP 2.1 section 11.2.4): the first says command and length, the rest are counted.

use super::bus::{REPORT, Report};

const FIRST: u8 = 0x80;
const FIRST_HEADER: usize = 7;
const NEXT_HEADER: usize = 5;
/// Reports behind the first: their numbers have seven bits.
const MAX_NEXT: usize = 128;
/// What fits into them all: 7,609 bytes.
pub(super) const MAX_MESSAGE: usize = REPORT - FIRST_HEADER + MAX_NEXT * (REPORT - NEXT_HEADER);

/// A message that is arriving.
#[derive(Debug)]
pub(super) struct Assembly {
    number: u8,
    message: Vec<u8>,
    length: usize,
    sequence: u8,
}

/// What a report made of it.
#[derive(Debug)]
pub(super) enum Fed {
    /// Command and bytes.
    Whole(u8, Vec<u8>),
    Unfinished(Assembly),
    Wrong(&'static str),
}

/// The reports of a message; nothing if it is too long for any.
pub(super) fn reports(channel: u32, number: u8, message: &[u8]) -> Option<Vec<Report>> {
    let length = u16::try_from(message.len()).ok().filter(|_| message.len() <= MAX_MESSAGE)?;
    let (first, rest) = message.split_at(message.len().min(REPORT - FIRST_HEADER));
    let [high, low] = length.to_be_bytes();
    let mut reports = vec![filled(channel, &[FIRST | number, high, low], first)];
    let parts = (0..).zip(rest.chunks(REPORT - NEXT_HEADER));
    reports.extend(parts.map(|(sequence, part)| filled(channel, &[sequence], part)));
    Some(reports)
}

fn filled(channel: u32, header: &[u8], part: &[u8]) -> Report {
    let mut report = [0; REPORT];
    let bytes = channel.to_be_bytes().into_iter().chain(header.iter().copied()).chain(part.iter().copied());
    report.iter_mut().zip(bytes).for_each(|(place, byte)| *place = byte);
    report
}

pub(super) fn channel_of(report: &Report) -> u32 {
    u32::from_be_bytes([report[0], report[1], report[2], report[3]])
}

pub(super) const fn is_first(report: &Report) -> bool {
    report[4] & FIRST != 0
}

/// Whether a message of this command begins here.
pub(super) fn is_answer(report: &Report, channel: u32, number: u8) -> bool {
    channel_of(report) == channel && report[4] == FIRST | number
}

impl Assembly {
    /// With a message's first report.
    pub(super) fn begin(report: &Report) -> Fed {
        let length = usize::from(u16::from_be_bytes([report[5], report[6]]));
        if length > MAX_MESSAGE {
            return Fed::Wrong("a message longer than there can be");
        }
        let message = report[FIRST_HEADER..].iter().take(length).copied().collect();
        Self { number: report[4] & !FIRST, message, length, sequence: 0 }.state()
    }

    /// With the next one.
    pub(super) fn feed(mut self, report: &Report) -> Fed {
        if is_first(report) {
            // A key that begins anew (an error in the middle of an answer) means the new message.
            return Self::begin(report);
        }
        if report[4] != self.sequence {
            return Fed::Wrong("reports out of order");
        }
        self.sequence += 1;
        let missing = self.length - self.message.len();
        self.message.extend(report[NEXT_HEADER..].iter().take(missing));
        self.state()
    }

    fn state(self) -> Fed {
        match self.message.len() == self.length {
            true => Fed::Whole(self.number, self.message),
            false => Fed::Unfinished(self),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn assembled(reports: &[Report]) -> Option<(u8, Vec<u8>)> {
        let (first, rest) = reports.split_first()?;
        let mut fed = Assembly::begin(first);
        for report in rest {
            fed = match fed {
                Fed::Unfinished(assembly) => assembly.feed(report),
                Fed::Whole(..) | Fed::Wrong(_) => return None,
            };
        }
        match fed {
            Fed::Whole(number, message) => Some((number, message)),
            Fed::Unfinished(_) | Fed::Wrong(_) => None,
        }
    }

    #[test]
    fn the_reports_of_a_message_are_these() {
        let reports = reports(0x0102_0304, 0x10, &[9; 60]).unwrap();
        assert_eq!(reports.len(), 2);
        assert_eq!(reports[0][..8], [1, 2, 3, 4, 0x90, 0, 60, 9]);
        assert_eq!(reports[1][..9], [1, 2, 3, 4, 0, 9, 9, 9, 0]);
    }

    #[test]
    fn a_message_that_no_report_can_count_is_none() {
        assert_eq!(reports(1, 0x10, &[0; MAX_MESSAGE]).unwrap().len(), 129);
        assert!(reports(1, 0x10, &[0; MAX_MESSAGE + 1]).is_none());
    }

    proptest! {
        #[test]
        fn what_is_sent_is_what_arrives(message in prop::collection::vec(any::<u8>(), 0..MAX_MESSAGE)) {
            let reports = reports(7, 0x10, &message).unwrap();
            prop_assert_eq!(assembled(&reports), Some((0x10, message)));
        }

        #[test]
        fn noise_is_no_message_or_one_that_has_its_length(
            noise in prop::collection::vec(prop::array::uniform32(any::<u8>()), 2..20),
        ) {
            let reports: Vec<Report> = noise.iter().map(|half| {
                let mut report = [0; REPORT];
                report[..32].copy_from_slice(half);
                report
            }).collect();
            if let Some((_, message)) = assembled(&reports) {
                prop_assert!(message.len() <= MAX_MESSAGE);
            }
        }
    }
}

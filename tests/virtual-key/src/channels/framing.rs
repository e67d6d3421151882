//! Messages in reports (CTAP 2.1 section 11.2.4), and the ways in which a broken key gets them wrong.

use super::{REPORT, Report};
use crate::settings::Fault;

/// Set in the fifth byte of a message's first report.
pub(super) const FIRST: u8 = 0x80;
const FIRST_HEADER: usize = 7;
const NEXT_HEADER: usize = 5;

/// A message that is arriving.
pub(super) struct Assembly {
    pub(super) channel: u32,
    pub(super) number: u8,
    message: Vec<u8>,
    length: usize,
    sequence: u8,
}

pub(super) enum Fed {
    Whole(Vec<u8>),
    Unfinished(Assembly),
    TooLong,
    OutOfOrder,
}

impl Assembly {
    pub(super) fn begin(channel: u32, number: u8, report: &Report, longest: usize) -> Fed {
        let length = usize::from(u16::from_be_bytes([report[5], report[6]]));
        if length > longest {
            return Fed::TooLong;
        }
        let message = report[FIRST_HEADER..].iter().take(length).copied().collect();
        Self { channel, number, message, length, sequence: 0 }.state()
    }

    pub(super) fn feed(mut self, report: &Report) -> Fed {
        if report[4] != self.sequence {
            return Fed::OutOfOrder;
        }
        self.sequence += 1;
        let missing = self.length - self.message.len();
        self.message.extend(report[NEXT_HEADER..].iter().take(missing));
        self.state()
    }

    fn state(self) -> Fed {
        match self.message.len() == self.length {
            true => Fed::Whole(self.message),
            false => Fed::Unfinished(self),
        }
    }
}

/// The reports of a message.
pub(super) fn reports(channel: u32, number: u8, message: &[u8], fault: Option<Fault>) -> Vec<Report> {
    let length = match fault {
        Some(Fault::EndlessAnswer) if number == super::command::CBOR => u16::MAX,
        _ => u16::try_from(message.len()).expect("our messages are short"),
    };
    let (first, rest) = message.split_at(message.len().min(REPORT - FIRST_HEADER));
    let mut header = channel.to_be_bytes().to_vec();
    header.push(FIRST | number);
    header.extend(length.to_be_bytes());
    let mut reports = vec![filled(&[&header, first].concat())];
    for (sequence, part) in (0..).zip(rest.chunks(REPORT - NEXT_HEADER)) {
        let sequence: u8 = match fault {
            Some(Fault::WrongSequence) => sequence + 1,
            _ => sequence,
        };
        reports.push(filled(&[channel.to_be_bytes().as_slice(), &[sequence], part].concat()));
    }
    if fault == Some(Fault::Garbage) {
        reports = reports.iter().map(|_| crate::pin_protocol::random()).collect();
    }
    reports
}

/// The same report for the channel of another program, with other bytes in it.
pub(super) fn foreign(report: &Report) -> Report {
    let mut foreign = *report;
    foreign[..4].copy_from_slice(&0x0BAD_CAFE_u32.to_be_bytes());
    foreign[FIRST_HEADER..].fill(0x2E);
    foreign
}

fn filled(bytes: &[u8]) -> Report {
    let mut report = [0; REPORT];
    report[..bytes.len()].copy_from_slice(bytes);
    report
}

//! HID report descriptors (USB HID 1.11 section 6.2.2), as far as they say that a device is a security key: what a device
//! claims of itself, read before anything is sent to it.

use super::bus::REPORT;

/// CTAP 2.1 section 11.2.8.2.
const FIDO_PAGE: u32 = 0xF1D0;
const FIDO_DEVICE: u32 = 0x01;

/// Item prefixes without their two bits of size (USB HID 1.11 sections 6.2.2.4, .7 and .8).
mod item {
    pub(super) const USAGE_PAGE: u8 = 0x04;
    pub(super) const USAGE: u8 = 0x08;
    pub(super) const COLLECTION: u8 = 0xA0;
    pub(super) const REPORT_SIZE: u8 = 0x74;
    pub(super) const REPORT_ID: u8 = 0x84;
    pub(super) const REPORT_COUNT: u8 = 0x94;
    pub(super) const INPUT: u8 = 0x80;
    pub(super) const OUTPUT: u8 = 0x90;
}

const LONG_ITEM: u8 = 0xFE;
const APPLICATION: u32 = 0x01;

/// Whether this is the descriptor of a security key that we can speak to: one FIDO application, unnumbered reports of 64
/// bytes in and out.
pub(super) fn is_security_key(descriptor: &[u8]) -> bool {
    let (mut page, mut usage, mut size, mut count) = (0, 0, 0, 0);
    let (mut is_fido, mut has_input, mut has_output) = (false, false, false);
    for (prefix, value) in Items(descriptor) {
        let is_whole = size * count == u32::try_from(REPORT * 8).expect("512 is small");
        match prefix {
            item::USAGE_PAGE => page = value,
            item::USAGE => usage = value,
            item::REPORT_SIZE => size = value.min(u32::from(u16::MAX)),
            item::REPORT_COUNT => count = value.min(u32::from(u16::MAX)),
            item::REPORT_ID => return false,
            item::COLLECTION if value == APPLICATION => {
                is_fido |= (page, usage) == (FIDO_PAGE, FIDO_DEVICE);
            }
            item::INPUT => has_input |= is_fido && is_whole,
            item::OUTPUT => has_output |= is_fido && is_whole,
            _ => {}
        }
    }
    is_fido && has_input && has_output
}

/// The items: prefix without size, value.
struct Items<'d>(&'d [u8]);

impl Iterator for Items<'_> {
    type Item = (u8, u32);

    fn next(&mut self) -> Option<(u8, u32)> {
        let (&prefix, rest) = self.0.split_first()?;
        if prefix == LONG_ITEM {
            // Nobody uses them (section 6.2.2.3): length, tag, data.
            let length = usize::from(*rest.first()?);
            self.0 = rest.get(2 + length..)?;
            return Some((LONG_ITEM, 0));
        }
        let size = [0, 1, 2, 4][usize::from(prefix & 0x03)];
        let (data, rest) = rest.split_at_checked(size)?;
        self.0 = rest;
        let value = data.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte));
        Some((prefix & !0x03, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: [u8; 34] = [
        0x06, 0xD0, 0xF1, 0x09, 0x01, 0xA1, 0x01, 0x09, 0x20, 0x15, 0x00, 0x26, 0xFF, 0x00, 0x75, 0x08, 0x95,
        0x40, 0x81, 0x02, 0x09, 0x21, 0x15, 0x00, 0x26, 0xFF, 0x00, 0x75, 0x08, 0x95, 0x40, 0x91, 0x02, 0xC0,
    ];
    /// The beginning of a keyboard's.
    const KEYBOARD: [u8; 12] = [0x05, 0x01, 0x09, 0x06, 0xA1, 0x01, 0x75, 0x08, 0x95, 0x40, 0x81, 0x02];

    #[test]
    fn a_security_key_is_known_by_what_it_says_of_itself() {
        assert!(is_security_key(&KEY));
    }

    #[test]
    fn a_key_that_is_a_keyboard_too_is_one() {
        assert!(is_security_key(&[KEYBOARD.as_slice(), &[0xC0], &KEY].concat()));
    }

    #[test]
    fn keyboards_and_small_reports_and_halves_are_none() {
        assert!(!is_security_key(&KEYBOARD));
        let mut small = KEY;
        (small[17], small[30]) = (8, 8);
        assert!(!is_security_key(&small));
        assert!(!is_security_key(&KEY[..20]));
        assert!(!is_security_key(&[]));
    }

    #[test]
    fn numbered_reports_are_none_of_ours() {
        assert!(!is_security_key(&[&[0x85, 0x01], KEY.as_slice()].concat()));
    }

    proptest! {
        #[test]
        fn whatever_a_device_claims_is_read_to_an_end(descriptor in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = is_security_key(&descriptor);
        }
    }
}

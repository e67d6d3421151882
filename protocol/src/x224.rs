//! The first request of an RDP connection: an X.224 Connection Request in a TPKT frame ([MS-RDPBCGR] 2.2.1.1, RFC 1006,
//! X.224 13.3). Read here so that both ends know one before they bother anybody: the daemon before it has a prompt opened,
//! a proxy before it forwards. What it asks for is a client's claim; nothing of it is an identity.
//!
//! ```text
//! TPKT   03 00 LENGTH(2)                            LENGTH counts these four bytes too
//! X.224  LI E0 DST(2) SRC(2) CLASS                  LI = LENGTH - 5, class 0
//! line   "Cookie: mstshash=USER\r\n", a routing token, or nothing
//! option 01 FLAGS 08 00 PROTOCOLS(4)                RDP_NEG_REQ; absent: standard RDP security
//! option 06 00 24 00 ID(16) 00(16)                  RDP_NEG_CORRELATION_INFO, where FLAGS has 0x08
//! ```

/// Longest frame: the length indicator is one byte, and 255 is reserved (X.224 13.2.1).
pub const MAX_REQUEST: usize = 254 + 5;

/// TPKT header and the fixed part of the request.
const FIXED: usize = 11;
const NEGOTIATION: usize = 8;
const CORRELATION: usize = 36;
const HAS_CORRELATION: u8 = 0x08;

/// A whole and well-formed Connection Request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionRequest<'a> {
    /// The cookie or routing token, without its line end; whatever the client chose.
    pub line: Option<&'a [u8]>,
    /// `requestedProtocols` of the negotiation; `None` asks for standard RDP security.
    pub protocols: Option<u32>,
    /// How long the frame is; the client may have sent more behind it.
    pub length: usize,
}

/// What the bytes so far are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstBytes<'a> {
    /// The beginning of one, perhaps.
    Incomplete,
    /// One.
    Request(ConnectionRequest<'a>),
    /// Something else.
    Foreign,
}

/// Looks at the first bytes that a client sent. The answer depends on the bytes alone and not on how they arrived: what
/// is foreign once stays so with more bytes.
pub fn first_bytes(bytes: &[u8]) -> FirstBytes<'_> {
    let header = |at: usize, expected: u8| bytes.get(at).is_none_or(|byte| *byte == expected);
    if !header(0, 0x03) || !header(1, 0x00) {
        return FirstBytes::Foreign;
    }
    let Some(&[high, low]) = bytes.get(2..4) else { return could_be_length(bytes) };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if !(FIXED..=MAX_REQUEST).contains(&length) {
        return FirstBytes::Foreign;
    }
    let indicates = |indicator: &u8| usize::from(*indicator) + 5 == length;
    if !bytes.get(4).is_none_or(indicates) || !header(5, 0xE0) || !header(10, 0x00) {
        return FirstBytes::Foreign;
    }
    let Some(frame) = bytes.get(..length) else { return FirstBytes::Incomplete };
    match variable_part(&frame[FIXED..]) {
        Some((line, protocols)) => FirstBytes::Request(ConnectionRequest { line, protocols, length }),
        None => FirstBytes::Foreign,
    }
}

/// The length's first byte is here and the second is not.
fn could_be_length(bytes: &[u8]) -> FirstBytes<'static> {
    let highest = u8::try_from(MAX_REQUEST >> 8).unwrap_or(u8::MAX);
    match bytes.get(2) {
        Some(high) if *high > highest => FirstBytes::Foreign,
        Some(_) | None => FirstBytes::Incomplete,
    }
}

/// The line and the options. A correlation id may hold a line end, so the options alone are tried first.
fn variable_part(part: &[u8]) -> Option<(Option<&[u8]>, Option<u32>)> {
    if let Some(protocols) = options(part) {
        return Some((None, protocols));
    }
    let end = part.windows(2).position(|pair| pair == b"\r\n")?;
    let protocols = options(&part[end + 2..])?;
    Some((Some(&part[..end]), protocols))
}

/// The negotiation, if the part is that or nothing.
fn options(part: &[u8]) -> Option<Option<u32>> {
    if part.is_empty() {
        return Some(None);
    }
    let (negotiation, rest) = part.split_at_checked(NEGOTIATION)?;
    let &[0x01, flags, 0x08, 0x00, a, b, c, d] = negotiation else { return None };
    let is_whole = match flags & HAS_CORRELATION {
        0 => rest.is_empty(),
        _ => rest.len() == CORRELATION && rest.starts_with(&[0x06, 0x00, 0x24, 0x00]),
    };
    is_whole.then_some(Some(u32::from_le_bytes([a, b, c, d])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(variable: &[u8]) -> Vec<u8> {
        let length = FIXED + variable.len();
        let mut frame = vec![0x03, 0x00];
        frame.extend(u16::try_from(length).unwrap().to_be_bytes());
        frame.push(u8::try_from(length - 5).unwrap());
        frame.extend([0xE0, 0, 0, 0, 0, 0]);
        frame.extend(variable);
        frame
    }

    fn negotiation(flags: u8, protocols: u32) -> Vec<u8> {
        [&[0x01, flags, 0x08, 0x00][..], &protocols.to_le_bytes()].concat()
    }

    fn request(bytes: &[u8]) -> Option<(Option<&[u8]>, Option<u32>)> {
        match first_bytes(bytes) {
            FirstBytes::Request(request) => Some((request.line, request.protocols)),
            FirstBytes::Incomplete | FirstBytes::Foreign => None,
        }
    }

    #[test]
    fn what_freerdp_sends_is_a_request() {
        let line = b"Cookie: mstshash=rdptest";
        let sent = frame(&[&line[..], b"\r\n", &negotiation(0, 3)].concat());
        assert_eq!(sent[..5], [0x03, 0x00, 0x00, 0x2d, 0x28]);
        assert_eq!(request(&sent), Some((Some(&line[..]), Some(3))));
        let last_fall_back = frame(&[&line[..], b"\r\n"].concat());
        assert_eq!(request(&last_fall_back), Some((Some(&line[..]), None)));
    }

    #[test]
    fn options_are_found_with_and_without_a_line_and_a_correlation_id_may_hold_a_line_end() {
        let correlation = [&[0x06, 0x00, 0x24, 0x00][..], b"\r\n", &[7; 30]].concat();
        let options = [negotiation(HAS_CORRELATION, 11), correlation].concat();
        assert_eq!(request(&frame(&options)), Some((None, Some(11))));
        let token = b"tsv://MS Terminal Services Plugin.1.\x01\x00\x08\x00";
        let with_token = frame(&[&token[..], b"\r\n", &options].concat());
        assert_eq!(request(&with_token), Some((Some(&token[..]), Some(11))));
        assert_eq!(request(&frame(b"")), Some((None, None)));
    }

    #[test]
    fn what_is_no_request_is_foreign_at_its_first_wrong_byte() {
        let good = frame(&negotiation(0, 1));
        for (at, byte) in
            [(0, 0x16), (0, b'G'), (0, b'S'), (1, 1), (2, 2), (3, 10), (4, 15), (5, 0xD0), (10, 4)]
        {
            let mut bad = good.clone();
            bad[at] = byte;
            assert_eq!(first_bytes(&bad[..=at]), FirstBytes::Foreign, "byte {at} is {byte:#x}");
        }
    }

    #[test]
    fn options_that_do_not_fit_are_foreign() {
        let cases = [
            negotiation(HAS_CORRELATION, 1),
            [negotiation(0, 1), vec![0]].concat(),
            negotiation(0, 1)[..7].to_vec(),
            [&[0x02][..], &negotiation(0, 1)[1..]].concat(),
            [&[0x01, 0, 9, 0][..], &[1, 0, 0, 0]].concat(),
            b"Cookie: mstshash=no line end".to_vec(),
            [b"Cookie: mstshash=x\r\n", &[6, 0, 0x24, 0][..]].concat(),
        ];
        for case in cases {
            assert_eq!(first_bytes(&frame(&case)), FirstBytes::Foreign, "{case:x?}");
        }
    }

    proptest! {
        #[test]
        fn a_request_is_known_at_its_last_byte_whatever_follows(line in "[ -~]{0,80}", protocols: u32, more: Vec<u8>) {
            let variable = [line.as_bytes(), b"\r\n", &negotiation(0, protocols)].concat();
            let whole = frame(&variable);
            for end in 0..whole.len() {
                prop_assert_eq!(first_bytes(&whole[..end]), FirstBytes::Incomplete);
            }
            let sent = [whole.clone(), more].concat();
            prop_assert_eq!(request(&sent), Some((Some(line.as_bytes()), Some(protocols))));
        }

        #[test]
        fn more_bytes_never_change_a_decision(bytes in proptest::collection::vec(any::<u8>(), 0..300), begins: bool) {
            let bytes = if begins { [&[3, 0, 0][..], &bytes].concat() } else { bytes };
            let mut decided = None;
            for end in 0..=bytes.len() {
                let now = first_bytes(&bytes[..end]);
                match &decided {
                    Some(before) => prop_assert_eq!(&now, before),
                    None if now != FirstBytes::Incomplete => decided = Some(now),
                    None => prop_assert!(end < MAX_REQUEST),
                }
            }
        }
    }
}

//! What a program sends before it has a session, where a prompt waits for it: kept, looked at, and handed on in order.
//!
//! Only RDP clients are looked at: they speak first, and a desktop's port is what a scan finds first (design section 4).

use bytes::{Bytes, BytesMut};
use portlatch_protocol::x224::{FirstBytes, MAX_REQUEST, first_bytes};

/// The first bytes of one program.
#[derive(Debug, Default)]
pub(super) struct FirstRequest {
    bytes: BytesMut,
    looks: Looks,
}

/// What the first bytes are, as far as they have come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Looks {
    /// More must come.
    #[default]
    Incomplete,
    /// A person may be bothered.
    Valid,
    /// It is no RDP client.
    Foreign,
}

impl FirstRequest {
    /// Keeps what the program sent.
    pub(super) fn handle_bytes(&mut self, bytes: &[u8]) -> Looks {
        self.bytes.extend_from_slice(bytes);
        self.looks = match first_bytes(&self.bytes) {
            FirstBytes::Request(_) => Looks::Valid,
            FirstBytes::Foreign => Looks::Foreign,
            FirstBytes::Incomplete => Looks::Incomplete,
        };
        self.looks
    }

    /// What the bytes so far are.
    pub(super) const fn looks(&self) -> Looks {
        self.looks
    }

    /// How much more it takes: nothing beyond the longest request is taken out of the program's connection.
    pub(super) fn room(&self) -> usize {
        MAX_REQUEST.saturating_sub(self.bytes.len())
    }

    /// What was taken so far, which is what the target must get first.
    pub(super) fn into_bytes(self) -> Bytes {
        self.bytes.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: &[u8] = &[3, 0, 0, 19, 14, 0xE0, 0, 0, 0, 0, 0, 1, 0, 8, 0, 3, 0, 0, 0];

    #[test]
    fn a_request_in_pieces_is_known_at_its_end_and_kept_whole() {
        let mut first = FirstRequest::default();
        assert_eq!(first.handle_bytes(&REQUEST[..7]), Looks::Incomplete);
        assert_eq!(first.room(), MAX_REQUEST - 7);
        assert_eq!(first.handle_bytes(&REQUEST[7..]), Looks::Valid);
        assert_eq!(first.into_bytes(), REQUEST);
    }

    #[test]
    fn a_browser_and_a_scanner_are_no_rdp_clients() {
        assert_eq!(FirstRequest::default().handle_bytes(b"GET / HTTP/1.1\r\n"), Looks::Foreign);
        assert_eq!(FirstRequest::default().handle_bytes(&[0x16, 3, 1]), Looks::Foreign);
    }
}

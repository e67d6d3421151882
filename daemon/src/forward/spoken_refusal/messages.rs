//! The words, byte by byte, and just so much of each protocol as must be understood to say them.

use bytes::{BufMut as _, Bytes, BytesMut};
use portlatch_protocol::refusal::RefusalReason;

/// Length of PostgreSQL's `SSLRequest` and `GSSENCRequest` (protocol section 55.7).
pub(super) const POSTGRES_ENCRYPTION_REQUEST: usize = 8;
const POSTGRES_SSL: u32 = 80_877_103;
const POSTGRES_GSS: u32 = 80_877_104;
/// Protocol version 3 in the upper half; minor versions differ.
const POSTGRES_VERSION: u32 = 3;
/// "Invalid authorization specification" (PostgreSQL appendix A).
const POSTGRES_CODE: &str = "28000";
/// `ER_ACCESS_DENIED_ERROR`.
const MYSQL_CODE: u16 = 1045;
/// `SSH_MSG_DISCONNECT` and `SSH_DISCONNECT_HOST_NOT_ALLOWED_TO_CONNECT` (RFC 4253 section 11.1).
const SSH_DISCONNECT: u8 = 1;
const SSH_NOT_ALLOWED: u32 = 1;
/// What a packet without cipher is padded to, and its least padding (RFC 4253 section 6).
const SSH_BLOCK: usize = 8;
const SSH_MIN_PADDING: usize = 4;

/// What a PostgreSQL client asks first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PostgresRequest {
    /// More must come.
    Incomplete,
    /// TLS, or GSSAPI's encryption.
    Encryption,
    /// A session.
    StartUp,
    /// Something else.
    Foreign,
}

/// Looks at what a PostgreSQL client has sent.
pub(super) fn postgres_request(bytes: &[u8]) -> PostgresRequest {
    let Some((head, _)) = bytes.split_first_chunk::<8>() else { return PostgresRequest::Incomplete };
    let [a, b, c, d, e, f, g, h] = *head;
    let (length, code) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    match code {
        POSTGRES_SSL | POSTGRES_GSS if length == POSTGRES_ENCRYPTION_REQUEST => PostgresRequest::Encryption,
        code if code >> 16 == POSTGRES_VERSION && length <= super::MAX_HEARD => match bytes.len() < length {
            true => PostgresRequest::Incomplete,
            false => PostgresRequest::StartUp,
        },
        _ => PostgresRequest::Foreign,
    }
}

/// `ErrorResponse`: psql shows message and hint.
pub(super) fn postgres(reason: RefusalReason) -> Bytes {
    let mut fields = BytesMut::new();
    for (field, value) in [
        (b'S', "FATAL"),
        (b'V', "FATAL"),
        (b'C', POSTGRES_CODE),
        (b'M', &sentence(reason)),
        (b'H', "`portlatch status` shows what was refused, and why."),
    ] {
        fields.put_u8(field);
        fields.put_slice(value.as_bytes());
        fields.put_u8(0);
    }
    fields.put_u8(0);
    let mut message = BytesMut::new();
    message.put_u8(b'E');
    message.put_u32(u32::try_from(fields.len() + 4).expect("a sentence is short"));
    message.put(fields);
    message.freeze()
}

/// `ERR_Packet` in place of the greeting. A server that has not said what it can do yet sends no SQL state.
pub(super) fn mysql(reason: RefusalReason) -> Bytes {
    let text = sentence(reason);
    let mut message = BytesMut::new();
    message.put_uint_le(u64::try_from(3 + text.len()).expect("a sentence is short"), 3);
    message.put_u8(0);
    message.put_u8(0xFF);
    message.put_u16_le(MYSQL_CODE);
    message.put_slice(text.as_bytes());
    message.freeze()
}

/// Our identification and `SSH_MSG_DISCONNECT`, which may come before any key exchange.
pub(super) fn ssh(reason: RefusalReason) -> Bytes {
    let text = sentence(reason);
    let mut payload = BytesMut::new();
    payload.put_u8(SSH_DISCONNECT);
    payload.put_u32(SSH_NOT_ALLOWED);
    payload.put_u32(u32::try_from(text.len()).expect("a sentence is short"));
    payload.put_slice(text.as_bytes());
    // No language tag.
    payload.put_u32(0);
    // packet_length, padding_length, payload and padding together are whole blocks.
    let unpadded = 5 + payload.len() + SSH_MIN_PADDING;
    let padding = SSH_MIN_PADDING + (SSH_BLOCK - unpadded % SSH_BLOCK) % SSH_BLOCK;
    let mut message = BytesMut::from(&b"SSH-2.0-Portlatch\r\n"[..]);
    message.put_u32(u32::try_from(1 + payload.len() + padding).expect("a sentence is short"));
    message.put_u8(u8::try_from(padding).expect("less than two blocks"));
    message.put(payload);
    message.put_bytes(0, padding);
    message.freeze()
}

/// Whether a request's head is here in full; `None` if it is none (TLS, say).
pub(super) fn is_http_head(bytes: &[u8]) -> Option<bool> {
    let is_method = |byte: &u8| byte.is_ascii_uppercase();
    bytes.first().is_none_or(is_method).then(|| bytes.windows(4).any(|end| end == b"\r\n\r\n"))
}

/// 403, in plain text.
pub(super) fn http(reason: RefusalReason) -> Bytes {
    let body = format!("{}.\n`portlatch status` shows what was refused, and why.\n", sentence(reason));
    let head = format!(
        "HTTP/1.1 403 Forbidden\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\n\
         cache-control: no-store\r\nconnection: close\r\n\r\n",
        body.len()
    );
    Bytes::from(head + &body)
}

fn sentence(reason: RefusalReason) -> String {
    format!("Portlatch refused this connection: {}", reason.advice())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn postgres_s_questions_are_told_apart_at_every_length() {
        let ssl = [&8_u32.to_be_bytes()[..], &POSTGRES_SSL.to_be_bytes()].concat();
        assert_eq!(postgres_request(&ssl), PostgresRequest::Encryption);
        assert_eq!(postgres_request(&ssl[..7]), PostgresRequest::Incomplete);
        let start = [&13_u32.to_be_bytes()[..], &0x0003_0000_u32.to_be_bytes(), b"user\0"].concat();
        assert_eq!(postgres_request(&start), PostgresRequest::StartUp);
        assert_eq!(postgres_request(&start[..12]), PostgresRequest::Incomplete);
        let cancel = [&16_u32.to_be_bytes()[..], &80_877_102_u32.to_be_bytes(), &[0; 8]].concat();
        assert_eq!(postgres_request(&cancel), PostgresRequest::Foreign);
        let endless = [&u32::MAX.to_be_bytes()[..], &0x0003_0000_u32.to_be_bytes()].concat();
        assert_eq!(postgres_request(&endless), PostgresRequest::Foreign);
    }

    #[test]
    fn an_ssh_packet_is_whole_blocks_with_enough_padding() {
        for reason in [RefusalReason::Denied, RefusalReason::TimedOut, RefusalReason::CoolDown] {
            let message = ssh(reason);
            let packet = message.strip_prefix(b"SSH-2.0-Portlatch\r\n").unwrap();
            let length = u32::from_be_bytes(packet[..4].try_into().unwrap()) as usize;
            assert_eq!(packet.len(), 4 + length);
            assert_eq!(packet.len() % SSH_BLOCK, 0);
            assert!(usize::from(packet[4]) >= SSH_MIN_PADDING);
            let text = u32::from_be_bytes(packet[10..14].try_into().unwrap()) as usize;
            assert!(packet[14..14 + text].ends_with(reason.advice().as_bytes()));
        }
    }

    #[test]
    fn lengths_say_what_follows() {
        let error = postgres(RefusalReason::Denied);
        assert_eq!(u32::from_be_bytes(error[1..5].try_into().unwrap()) as usize, error.len() - 1);
        let error = mysql(RefusalReason::Denied);
        assert_eq!(usize::from(error[0]) + 256 * usize::from(error[1]), error.len() - 4);
        let page = String::from_utf8(http(RefusalReason::Denied).to_vec()).unwrap();
        let (head, body) = page.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())));
    }

    #[test]
    fn tls_is_no_http() {
        assert_eq!(is_http_head(&[0x16, 3, 1]), None);
        assert_eq!(is_http_head(b"GET / HTTP/1.1\r\n\r\n"), Some(true));
        assert_eq!(is_http_head(b"GET / HTTP/1.1\r\n"), Some(false));
        assert_eq!(is_http_head(b""), Some(false));
    }
}

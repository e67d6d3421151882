//! The 10-byte virtio header that the kernel puts before every packet of a TUN with `IFF_VNET_HDR`
//! (linux/virtio_net.h, `struct virtio_net_hdr`; in the host's byte order).
//!
//! Only its checksum part is used: without segmentation offload there are no other fields to fill.

/// The header's length.
pub(super) const LENGTH: usize = 10;

/// `csum_start` and `csum_offset` are valid, and the checksum is not complete.
const NEEDS_CSUM: u8 = 1;

/// Whether a packet's transport checksum is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// It is; the receiver verifies it.
    Complete,
    /// It is not. A local receiver does not look; whoever forwards the packet completes it. The field must then hold
    /// the sum of the pseudo header.
    Partial {
        /// Where the transport header begins in the packet.
        start: u16,
        /// Where the checksum is in the transport header: 16 for TCP, 6 for UDP.
        offset: u16,
    },
}

pub(super) fn encode(checksum: Checksum) -> [u8; LENGTH] {
    let mut header = [0; LENGTH];
    if let Checksum::Partial { start, offset } = checksum {
        header[0] = NEEDS_CSUM;
        header[6..8].copy_from_slice(&start.to_ne_bytes());
        header[8..10].copy_from_slice(&offset.to_ne_bytes());
    }
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complete_checksum_is_an_empty_header() {
        assert_eq!(encode(Checksum::Complete), [0; LENGTH]);
    }

    #[test]
    fn a_partial_checksum_says_where_it_starts_and_goes() {
        let header = encode(Checksum::Partial { start: 20, offset: 16 });
        assert_eq!(header[0], 1);
        assert_eq!((&header[6..8], &header[8..10]), (&20u16.to_ne_bytes()[..], &16u16.to_ne_bytes()[..]));
        assert_eq!(header[1..6], [0; 5]);
    }
}

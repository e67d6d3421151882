//! Datagrams that leave together. Pure: what is coupled, and when it is full.

use std::net::{IpAddr, SocketAddr};

use quinn::udp::{EcnCodepoint, Transmit};

/// The kernel takes one IP packet's worth at once: 65,535 bytes, less the headers of IPv6 and UDP.
const LONGEST: usize = 65_535 - 40 - 8;

/// Datagrams of one size on one way, the last of which may be shorter.
#[derive(Debug, Default)]
pub(super) struct Train {
    way: Option<Way>,
    bytes: Vec<u8>,
    /// One was shorter: nothing can be coupled behind it.
    is_closed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    destination: SocketAddr,
    src_ip: Option<IpAddr>,
    ecn: Option<EcnCodepoint>,
    size: usize,
}

impl Way {
    fn of(transmit: &Transmit<'_>) -> Self {
        let Transmit { destination, ecn, contents, segment_size, src_ip } = *transmit;
        Self { destination, src_ip, ecn, size: segment_size.unwrap_or(contents.len()) }
    }
}

/// Whether more of the same is likely to follow at once: several datagrams, all of full size, are as many as QUIC gives
/// in one piece, and not the end of what it had to say.
pub(super) fn goes_on(transmit: &Transmit<'_>) -> bool {
    let size = transmit.segment_size.unwrap_or(transmit.contents.len());
    transmit.contents.len() > size && transmit.contents.len().is_multiple_of(size)
}

impl Train {
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Couples these datagrams to those that are there; false if they do not fit and were not taken.
    pub(super) fn couple(&mut self, transmit: &Transmit<'_>, most_segments: usize) -> bool {
        let way = match self.way {
            None => *self.way.insert(Way::of(transmit)),
            // A last datagram may be shorter than the others.
            Some(way) => {
                let theirs = Way::of(transmit);
                let fits = Way { size: way.size, ..theirs } == way && theirs.size <= way.size;
                let is_single = transmit.contents.len() <= way.size;
                if self.is_closed || !fits || !(theirs.size == way.size || is_single) {
                    return false;
                }
                way
            }
        };
        let length = self.bytes.len() + transmit.contents.len();
        if length > LONGEST || length.div_ceil(way.size) > most_segments {
            return false;
        }
        self.bytes.extend_from_slice(transmit.contents);
        self.is_closed = !self.bytes.len().is_multiple_of(way.size);
        true
    }

    /// Whether as much as this fits once more.
    pub(super) fn has_room_for(&self, transmit: &Transmit<'_>, most_segments: usize) -> bool {
        let Some(way) = self.way else { return true };
        let length = self.bytes.len() + transmit.contents.len();
        !self.is_closed && length <= LONGEST && length.div_ceil(way.size) <= most_segments
    }

    /// All of it, as one piece for the kernel to cut.
    pub(super) fn transmit(&self) -> Option<Transmit<'_>> {
        let Way { destination, src_ip, ecn, size } = self.way?;
        Some(Transmit { destination, ecn, contents: &self.bytes, segment_size: Some(size), src_ip })
    }

    pub(super) fn clear(&mut self) {
        self.way = None;
        self.bytes.clear();
        self.is_closed = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANY: usize = 64;

    fn to(port: u16, contents: &[u8], segment_size: Option<usize>) -> Transmit<'_> {
        let destination = SocketAddr::from(([192, 0, 2, 1], port));
        Transmit { destination, ecn: Some(EcnCodepoint::Ect0), contents, segment_size, src_ip: None }
    }

    #[test]
    fn full_datagrams_of_one_way_and_size_are_coupled_in_order() {
        let mut train = Train::default();
        assert!(train.couple(&to(1, &[1; 20], Some(10)), MANY));
        assert!(train.couple(&to(1, &[2; 30], Some(10)), MANY));
        let transmit = train.transmit().unwrap();
        assert_eq!(
            (transmit.contents, transmit.segment_size),
            (&[&[1; 20][..], &[2; 30]].concat()[..], Some(10))
        );
    }

    #[test]
    fn another_destination_or_size_is_not_coupled() {
        let mut train = Train::default();
        assert!(train.couple(&to(1, &[1; 20], Some(10)), MANY));
        assert!(!train.couple(&to(2, &[2; 20], Some(10)), MANY));
        assert!(!train.couple(&to(1, &[2; 22], Some(11)), MANY));
        assert!(!train.couple(&to(1, &[2; 16], Some(8)), MANY));
        assert!(!train.couple(&Transmit { ecn: None, ..to(1, &[2; 20], Some(10)) }, MANY));
        assert_eq!(train.len(), 20);
    }

    #[test]
    fn behind_a_shorter_datagram_nothing_is_coupled() {
        let mut train = Train::default();
        assert!(train.couple(&to(1, &[1; 20], Some(10)), MANY));
        assert!(train.couple(&to(1, &[2; 7], None), MANY));
        assert!(!train.couple(&to(1, &[3; 7], None), MANY));
        assert!(!train.has_room_for(&to(1, &[3; 7], None), MANY));
        assert_eq!(train.len(), 27);
    }

    #[test]
    fn a_train_is_no_longer_than_the_kernel_takes() {
        let mut train = Train::default();
        let piece = vec![0; 14_520];
        while train.couple(&to(1, &piece, Some(1452)), MANY) {}
        assert_eq!(train.len(), 4 * 14_520);
        assert!(!train.has_room_for(&to(1, &piece, Some(1452)), MANY));

        train.clear();
        let small = vec![0; 1000];
        while train.couple(&to(1, &small, Some(100)), MANY) {}
        assert_eq!(train.len(), 6000, "64 segments at most");
    }

    #[test]
    fn more_follows_behind_several_full_datagrams_alone() {
        assert!(goes_on(&to(1, &[0; 20], Some(10))));
        assert!(!goes_on(&to(1, &[0; 25], Some(10))));
        assert!(!goes_on(&to(1, &[0; 10], Some(10))));
        assert!(!goes_on(&to(1, &[0; 10], None)));
    }
}

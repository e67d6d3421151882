//! Sets of ports.

use portlatch_protocol::ports::PortRange;

/// Ports, as ranges in order that neither touch nor overlap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PortSet(Vec<PortRange>);

impl PortSet {
    /// The ports that are in any of the ranges.
    pub(super) fn union(ranges: impl IntoIterator<Item = PortRange>) -> Self {
        let mut sorted: Vec<PortRange> = ranges.into_iter().collect();
        sorted.sort();
        let mut set: Vec<PortRange> = Vec::new();
        for range in sorted {
            match set.last_mut() {
                Some(last) if u32::from(range.first()) <= u32::from(last.last()) + 1 => {
                    *last = between(last.first(), last.last().max(range.last()));
                }
                Some(_) | None => set.push(range),
            }
        }
        Self(set)
    }

    /// The ports less those of `other`.
    pub(super) fn without(self, other: &Self) -> Self {
        let mut left = self.0;
        for taken in &other.0 {
            left = left.into_iter().flat_map(|range| cut(range, *taken)).collect();
        }
        Self(left)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[cfg(test)]
    pub(super) fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|range| range.contains(port))
    }

    pub(super) fn into_ranges(self) -> Vec<PortRange> {
        self.0
    }
}

/// What is left of `range` below and above `taken`.
fn cut(range: PortRange, taken: PortRange) -> impl Iterator<Item = PortRange> {
    if range.intersection(taken).is_none() {
        return [Some(range), None].into_iter().flatten();
    }
    let below = (range.first() < taken.first()).then(|| between(range.first(), taken.first() - 1));
    let above = (taken.last() < range.last()).then(|| between(taken.last() + 1, range.last()));
    [below, above].into_iter().flatten()
}

fn between(first: u16, last: u16) -> PortRange {
    PortRange::new(first, last).expect("the ends come from ranges, in order")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ranges() -> impl Strategy<Value = Vec<PortRange>> {
        // A small world of ports, so that ranges meet; with both ends of the real one.
        let port = prop_oneof![1_u16..40, Just(u16::MAX - 1), Just(u16::MAX)];
        let range = (port.clone(), port).prop_map(|(a, b)| between(a.min(b), a.max(b)));
        proptest::collection::vec(range, 0..6)
    }

    proptest! {
        #[test]
        fn a_port_is_left_if_it_was_there_and_was_not_taken(all in ranges(), taken in ranges()) {
            let left = PortSet::union(all.clone()).without(&PortSet::union(taken.clone()));
            let has = |ranges: &[PortRange], port| ranges.iter().any(|range| range.contains(port));
            for port in (1..50).chain([1000, u16::MAX - 2, u16::MAX - 1, u16::MAX]) {
                prop_assert_eq!(left.contains(port), has(&all, port) && !has(&taken, port), "port {}", port);
            }
        }

        #[test]
        fn ranges_come_out_in_order_and_apart(all in ranges()) {
            let set = PortSet::union(all).into_ranges();
            for pair in set.windows(2) {
                prop_assert!(u32::from(pair[0].last()) + 1 < u32::from(pair[1].first()));
            }
        }
    }
}

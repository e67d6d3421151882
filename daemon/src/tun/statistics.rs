//! The interface's counters, out of `/proc/thread-self/net/dev`: that file shows the network namespace of the thread
//! that reads it, `/sys/class/net` the one in which `/sys` was mounted.

use std::io;

const FILE: &str = "/proc/thread-self/net/dev";
/// Columns after the name: 8 for reception, then bytes, packets, errs, drop (Documentation/filesystems/proc.rst).
const TX_DROP: usize = 11;

pub(super) fn tx_dropped(name: &str) -> io::Result<u64> {
    let table = std::fs::read_to_string(FILE)?;
    parse(&table, name).ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn parse(table: &str, name: &str) -> Option<u64> {
    let (_, counters) = table
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(interface, _)| interface.trim() == name)?;
    counters.split_ascii_whitespace().nth(TX_DROP)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0
portlatch0: 5 6 0 7 0 0 0 0 8 9 0 42 0 0 0 0
";

    #[test]
    fn the_dropped_packets_of_one_interface_are_found() {
        assert_eq!(parse(TABLE, "portlatch0"), Some(42));
        assert_eq!(parse(TABLE, "lo"), Some(0));
        assert_eq!(parse(TABLE, "eth0"), None);
    }
}

//! The text of `/etc/resolv.conf` (resolv.conf(5)): which servers it names, and how it reads with ours in front. Pure.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

use portlatch_protocol::names::Hostname;

/// First and last line of what we write. Either of them tells a later start that the file is ours: a kill while it is
/// being written in place may leave only one.
const FIRST: &str = "# portlatchd wrote this file and puts back the original when it stops. After a crash: portlatchd cleanup";
const LAST: &str = "# end of what portlatchd wrote";
const DNS_PORT: u16 = 53;

/// Whether we wrote this, wholly or in part.
pub(super) fn is_ours(text: &[u8]) -> bool {
    lines(text).any(|line| line == FIRST || line == LAST)
}

/// The servers that the text names, without those that `is_our_address` knows. `scope` finds the number of the
/// interface that a link-local address names.
pub(super) fn servers(
    text: &[u8],
    is_our_address: impl Fn(IpAddr) -> bool,
    scope: impl Fn(&str) -> Option<u32>,
) -> Vec<SocketAddr> {
    let address = |line: &str| -> Option<SocketAddr> {
        let server = server_of(line)?;
        if let Ok(address) = server.parse::<IpAddr>() {
            return Some(SocketAddr::new(address, DNS_PORT));
        }
        let (address, interface) = server.split_once('%')?;
        let index = interface.parse().ok().or_else(|| scope(interface))?;
        Some(SocketAddrV6::new(address.parse::<Ipv6Addr>().ok()?, DNS_PORT, 0, index).into())
    };
    lines(text).filter_map(|line| address(&line)).filter(|server| !is_our_address(server.ip())).collect()
}

/// The text with our servers in front of the original's. `rotate` is left out: it would ask ours only now and then.
pub(super) fn render(
    original: &[u8],
    ours: &[IpAddr],
    search: &[Hostname],
    is_our_address: impl Fn(IpAddr) -> bool,
) -> Vec<u8> {
    let mut text = format!("{FIRST}\n");
    for address in ours {
        text.push_str(&format!("nameserver {address}\n"));
    }
    let mut searched = None;
    for line in lines(original) {
        let ours_of_before =
            server_of(&line).and_then(|server| server.parse().ok()).is_some_and(&is_our_address);
        if line == FIRST || line == LAST || ours_of_before {
            continue;
        }
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            // The last of these lines wins; it is written anew below if there is something to add.
            Some("search" | "domain") if !search.is_empty() => {
                searched = Some(words.map(str::to_owned).collect())
            }
            Some("options") => {
                let kept: Vec<&str> = words.filter(|option| *option != "rotate").collect();
                if !kept.is_empty() {
                    text.push_str(&format!("options {}\n", kept.join(" ")));
                }
            }
            Some(_) | None => text.push_str(&format!("{line}\n")),
        }
    }
    if !search.is_empty() {
        let mut domains: Vec<String> = searched.unwrap_or_default();
        domains.extend(search.iter().map(ToString::to_string));
        domains.dedup();
        text.push_str(&format!("search {}\n", domains.join(" ")));
    }
    text.push_str(&format!("{LAST}\n"));
    text.into_bytes()
}

/// What is left of a file of ours without our lines: the best guess at an original that is lost.
pub(super) fn without_ours(text: &[u8], is_our_address: impl Fn(IpAddr) -> bool) -> Vec<u8> {
    let kept = lines(text).filter(|line| {
        let is_server_of_ours =
            server_of(line).and_then(|server| server.parse().ok()).is_some_and(&is_our_address);
        line != FIRST && line != LAST && !is_server_of_ours
    });
    kept.flat_map(|line| format!("{line}\n").into_bytes()).collect()
}

fn server_of(line: &str) -> Option<&str> {
    let mut words = line.split_ascii_whitespace();
    (words.next()? == "nameserver").then(|| words.next())?
}

/// The lines; bytes that are no UTF-8 can only stand in comments.
fn lines(text: &[u8]) -> impl Iterator<Item = String> {
    text.split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| String::from_utf8_lossy(line).trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGINAL: &[u8] =
        b"# by NetworkManager\nsearch example.com\nnameserver 192.0.2.53\nnameserver 198.18.0.2\n\
                              nameserver fe80::1%eth0\noptions rotate edns0\n";

    fn is_ours_address(address: IpAddr) -> bool {
        address.to_string().starts_with("198.18.")
    }

    #[test]
    fn our_server_comes_first_and_the_rest_stays_in_order() {
        let text = render(ORIGINAL, &[IpAddr::from([198, 18, 0, 2])], &[], is_ours_address);
        let expected = format!(
            "{FIRST}\nnameserver 198.18.0.2\n# by NetworkManager\nsearch example.com\nnameserver 192.0.2.53\n\
             nameserver fe80::1%eth0\noptions edns0\n{LAST}\n"
        );
        assert_eq!(String::from_utf8(text).unwrap(), expected);
    }

    #[test]
    fn search_domains_are_added_to_those_that_are_there() {
        let text = render(ORIGINAL, &[], &["corp.internal".parse().unwrap()], is_ours_address);
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("\nsearch example.com corp.internal\n"), "{text}");
        assert_eq!(text.matches("search").count(), 1);
    }

    #[test]
    fn our_own_address_is_never_an_upstream_server() {
        let servers = servers(ORIGINAL, is_ours_address, |name| (name == "eth0").then_some(7));
        assert_eq!(servers, ["192.0.2.53:53".parse().unwrap(), "[fe80::1%7]:53".parse().unwrap()]);
    }

    #[test]
    fn what_we_wrote_is_known_by_either_end() {
        let text = render(ORIGINAL, &[], &[], is_ours_address);
        assert!(is_ours(&text) && !is_ours(ORIGINAL));
        let middle = text.len() / 2;
        assert!(is_ours(&text[..middle]) && is_ours(&text[middle..]));
    }

    #[test]
    fn garbage_names_no_server() {
        assert!(
            servers(b"\xff\xfe\nnameserver\nnameserver x\nnameserver 1.2.3\n", |_| false, |_| None)
                .is_empty()
        );
    }
}

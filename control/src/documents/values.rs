//! Values that several documents write the same way: texts, durations, ports, targets.

use std::fmt::Write;
use std::net::IpAddr;
use std::time::Duration;

use portlatch_protocol::names::Hostname;
use portlatch_protocol::ports::{PortRange, PortRangeError};

use super::fault::{Report, quoted};
use super::fields::{Fields, Shape};
use super::node::{Node, Value};

/// Longest duration: what is longer was not meant.
const MAX_DURATION: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Most entries of a list of ports.
const MAX_PORT_RANGES: usize = 256;
/// Seconds of each unit, the largest first.
const UNITS: [(char, u64); 4] = [('d', 24 * 3600), ('h', 3600), ('m', 60), ('s', 1)];

/// The text of a scalar; a list or mapping has none.
pub(super) fn text(node: &Node) -> Option<&str> {
    match &node.value {
        Value::Scalar { text, .. } => Some(text),
        Value::Sequence(_) | Value::Mapping(_) => None,
    }
}

/// A duration as `12h`, `30m`, `1h30m`, or why it is none.
pub(super) fn duration(node: &Node) -> Result<Duration, String> {
    let wrong = || format!("{} is no duration: write it as 12h, 30m or 90s", node.described());
    parse_duration(text(node).ok_or_else(wrong)?).ok_or_else(wrong)
}

/// Reads `12h`, `30m`, `1h30m`; a bare `0` needs no unit.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut seconds, mut smallest) = (text, 0_u64, u64::MAX);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        let letter = rest[digits..].chars().next()?;
        let (_, unit) = UNITS.into_iter().find(|(name, _)| *name == letter)?;
        // Units come in order and once each: `5m1h` is more likely a slip than an hour and five minutes.
        if unit >= smallest {
            return None;
        }
        smallest = unit;
        seconds = seconds.checked_add(number.checked_mul(unit)?)?;
        rest = &rest[digits + 1..];
    }
    let duration = Duration::from_secs(seconds);
    (!text.is_empty() && duration <= MAX_DURATION).then_some(duration)
}

/// Writes what [`parse_duration`] reads: `12h`, `1h30m`.
pub(crate) fn format_duration(duration: Duration) -> String {
    let (mut seconds, mut text) = (duration.as_secs(), String::new());
    for (name, unit) in UNITS.into_iter().skip(1) {
        let number = seconds / unit;
        seconds %= unit;
        if number > 0 {
            write!(text, "{number}{name}").expect("a string takes everything");
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

const PORT_SHAPE: Shape = Shape { path: "an entry of ports", known: &["port", "end_port"], foreign: &[] };

/// A list of `{port, end_port}`. An empty list is a fault: it could mean none or all.
pub(super) fn ports(fields: &mut Fields<'_, '_>, name: &str) -> Vec<PortRange> {
    let Some(items) = fields.list(name) else { return Vec::new() };
    let spot = fields.spot(name);
    if items.is_empty() {
        fields.report.fault(spot, format!("an empty {name} opens nothing: leave it out, or name ports"));
    }
    if items.len() > MAX_PORT_RANGES {
        fields.report.fault(spot, format!("{name} has at most {MAX_PORT_RANGES} entries: use ranges"));
        return Vec::new();
    }
    items.iter().filter_map(|item| port_range(item, fields.report)).collect()
}

fn port_range(item: &Node, report: &mut Report) -> Option<PortRange> {
    let mut fields = Fields::open(item, &PORT_SHAPE, &mut Vec::new(), report)?;
    fields.required("port")?;
    let first = port(&mut fields, "port")?;
    let last = match fields.get("end_port") {
        None => first,
        // Teleport writes 0 for "no end".
        Some(node) if text(node) == Some("0") => first,
        Some(_) => port(&mut fields, "end_port")?,
    };
    match PortRange::new(first, last) {
        Ok(range) => Some(range),
        Err(error @ (PortRangeError::Zero | PortRangeError::Backwards { .. })) => {
            report.fault(item.spot, error.to_string());
            None
        }
    }
}

fn port(fields: &mut Fields<'_, '_>, name: &str) -> Option<u16> {
    let node = fields.get(name)?;
    let number = text(node).and_then(parse_port);
    if number.is_none() {
        fields.wrong(node, name, "a port from 1 to 65535");
    }
    number
}

/// A port as digits alone (`u16`'s own parser takes `+22`, too).
pub(crate) fn parse_port(text: &str) -> Option<u16> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| is_number && *port > 0)
}

/// Where a proxy dials, as `uri` says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Uri {
    /// A host name or an IP address without brackets.
    pub(super) host: String,
    pub(super) port: Option<u16>,
}

/// Reads `tcp://HOST[:PORT]`; the scheme may be left out.
pub(super) fn parse_uri(text: &str) -> Result<Uri, String> {
    let rest = match text.split_once("://") {
        None => text,
        Some(("tcp", rest)) => rest,
        Some((scheme, _)) => {
            return Err(format!(
                "{} is not understood: everything is reached as tcp://HOST:PORT",
                quoted(scheme)
            ));
        }
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) =
        split_port(rest).ok_or_else(|| format!("{} is not of the form tcp://HOST:PORT", quoted(text)))?;
    let port = match port {
        None => None,
        Some(digits) => Some(parse_port(digits).ok_or_else(|| format!("{} is no port", quoted(digits)))?),
    };
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(Uri { host: address.to_string(), port });
    }
    match host.parse::<Hostname>() {
        Ok(name) => Ok(Uri { host: name.to_string(), port }),
        Err(error) => Err(format!("{} is no host: {error}", quoted(host))),
    }
}

/// Splits `HOST`, `HOST:PORT`, `[V6]`, `[V6]:PORT`.
fn split_port(text: &str) -> Option<(&str, Option<&str>)> {
    if let Some(inside) = text.strip_prefix('[') {
        let (host, rest) = inside.split_once(']')?;
        host.parse::<std::net::Ipv6Addr>().ok()?;
        return match rest {
            "" => Some((host, None)),
            rest => Some((host, Some(rest.strip_prefix(':')?))),
        };
    }
    match text.split_once(':') {
        None => Some((text, None)),
        Some((_, port)) if port.contains(':') => None,
        Some((host, port)) => Some((host, Some(port))),
    }
}

/// Writes what [`parse_uri`] reads.
pub(super) fn format_uri(host: &str, port: Option<u16>) -> String {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    port.map_or_else(|| format!("tcp://{host}"), |port| format!("tcp://{host}:{port}"))
}

/// Whether a target is this machine or its link, as far as its text shows: a proxy refuses to dial these.
pub(super) fn is_local(host: &str) -> bool {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => {
            address.is_loopback()
                || address.is_unspecified()
                || address.is_link_local()
                || address.is_multicast()
        }
        Ok(IpAddr::V6(address)) => {
            address.is_loopback()
                || address.is_unspecified()
                || address.is_unicast_link_local()
                || address.is_multicast()
        }
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_back_as_they_are_written() {
        for (text, seconds) in
            [("12h", 43200), ("30m", 1800), ("5m", 300), ("90s", 90), ("1h30m", 5400), ("1d", 86400)]
        {
            let duration = parse_duration(text).unwrap();
            assert_eq!(duration.as_secs(), seconds, "{text}");
            assert_eq!(parse_duration(&format_duration(duration)), Some(duration), "{text}");
        }
        assert_eq!(format_duration(Duration::from_secs(43200)), "12h");
        assert_eq!(format_duration(Duration::ZERO), "0s");
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in
            ["", "12", "h", "-5m", "5m1h", "5m5m", "1.5h", "5 m", "5µs", "99999999999999999999h", "9999999d"]
        {
            assert_eq!(parse_duration(text), None, "{text:?}");
        }
    }

    #[test]
    fn targets_may_be_names_or_addresses_of_both_families() {
        let uri = |host: &str, port| Ok(Uri { host: host.to_owned(), port });
        assert_eq!(parse_uri("tcp://10.0.0.5:5432"), uri("10.0.0.5", Some(5432)));
        assert_eq!(parse_uri("postgres:5432"), uri("postgres", Some(5432)));
        assert_eq!(parse_uri("tcp://DB.corp.internal"), uri("db.corp.internal", None));
        assert_eq!(parse_uri("tcp://[fd00::5]:22/"), uri("fd00::5", Some(22)));
        assert_eq!(format_uri("fd00::5", Some(22)), "tcp://[fd00::5]:22");
    }

    #[test]
    fn what_is_no_target_is_refused() {
        for text in [
            "",
            "tcp://",
            "http://web:80",
            "tcp://a:0",
            "tcp://a:+5",
            "tcp://a:65536",
            "tcp://::1:5",
            "tcp://[::1",
            "tcp://[a]:5",
            "tcp://a:5/path",
            "tcp://user@a:5",
            "tcp://a b:5",
        ] {
            assert!(parse_uri(text).is_err(), "{text:?} was accepted");
        }
    }
}

//! Ports and ranges of them, as documents write them and grants compare them.

use std::fmt;

/// One port or a range, both ends included.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
    minicbor::Encode,
    minicbor::Decode,
)]
#[serde(try_from = "PortRangeForm", into = "PortRangeForm")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PortRange {
    #[n(0)]
    port: u16,
    #[n(1)]
    end_port: u16,
}

/// The range's written form: `{port: 5432}` or `{port: 8000, end_port: 8099}`.
#[derive(Debug, Clone, Copy, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct PortRangeForm {
    port: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    end_port: Option<u16>,
}

/// Why a range was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PortRangeError {
    /// Port 0 names no port.
    #[error("a port is between 1 and 65535")]
    Zero,
    /// The end lies before the beginning.
    #[error("end_port {end_port} is below port {port}")]
    Backwards {
        /// The first port.
        port: u16,
        /// The last port.
        end_port: u16,
    },
}

impl PortRange {
    /// The ports from `port` to `end_port`, both included.
    pub const fn new(port: u16, end_port: u16) -> Result<Self, PortRangeError> {
        if port == 0 {
            return Err(PortRangeError::Zero);
        }
        if end_port < port {
            return Err(PortRangeError::Backwards { port, end_port });
        }
        Ok(Self { port, end_port })
    }

    /// The range of this one port.
    pub const fn single(port: u16) -> Result<Self, PortRangeError> {
        Self::new(port, port)
    }

    /// The first port.
    pub const fn first(self) -> u16 {
        self.port
    }

    /// The last port.
    pub const fn last(self) -> u16 {
        self.end_port
    }

    /// Whether `port` is one of these. A range that arrived backwards from a peer contains nothing.
    pub const fn contains(self, port: u16) -> bool {
        self.port <= port && port <= self.end_port
    }

    /// The ports that are in both ranges, if any.
    pub fn intersection(self, other: Self) -> Option<Self> {
        Self::new(self.port.max(other.port), self.end_port.min(other.end_port)).ok()
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port == self.end_port {
            true => write!(f, "{}", self.port),
            false => write!(f, "{}-{}", self.port, self.end_port),
        }
    }
}

impl TryFrom<PortRangeForm> for PortRange {
    type Error = PortRangeError;
    fn try_from(form: PortRangeForm) -> Result<Self, PortRangeError> {
        Self::new(form.port, form.end_port.unwrap_or(form.port))
    }
}

impl From<PortRange> for PortRangeForm {
    fn from(range: PortRange) -> Self {
        let end_port = (range.end_port != range.port).then_some(range.end_port);
        Self { port: range.port, end_port }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_contains_both_its_ends() {
        let range = PortRange::new(8000, 8099).unwrap();
        assert!(range.contains(8000) && range.contains(8099));
        assert!(!range.contains(7999) && !range.contains(8100));
    }

    #[test]
    fn a_single_port_is_written_without_an_end() {
        let json = serde_json::to_string(&PortRange::single(22).unwrap()).unwrap();
        assert_eq!(json, r#"{"port":22}"#);
    }

    #[test]
    fn ranges_that_name_nothing_are_refused() {
        assert_eq!(PortRange::new(0, 5), Err(PortRangeError::Zero));
        assert!(serde_json::from_str::<PortRange>(r#"{"port":9,"end_port":8}"#).is_err());
    }

    #[test]
    fn the_intersection_of_disjoint_ranges_is_nothing() {
        let (low, high) = (PortRange::new(1, 10).unwrap(), PortRange::new(11, 20).unwrap());
        assert_eq!(low.intersection(high), None);
        assert_eq!(low.intersection(PortRange::new(5, 30).unwrap()), PortRange::new(5, 10).ok());
    }
}

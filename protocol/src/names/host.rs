//! The names of hosts, and of all hosts below one.

use std::str::FromStr;

use super::{NameError, name_type};

/// Longest DNS name in text form (RFC 1035 section 2.3.4: 255 octets on the wire, 253 in text).
const MAX_HOSTNAME: usize = 253;
/// Longest DNS label (RFC 1035 section 2.3.4).
const MAX_LABEL: usize = 63;

/// A DNS host name: lower-case, without a trailing dot, letters, digits, hyphens and underscores in its labels.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hostname(String);
name_type!(Hostname);

impl FromStr for Hostname {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > MAX_HOSTNAME {
            return Err(NameError::TooLong { limit: MAX_HOSTNAME });
        }
        for label in text.split('.') {
            check_label(label)?;
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

fn check_label(label: &str) -> Result<(), NameError> {
    if let Some(character) = label.chars().find(|c| !(c.is_ascii_alphanumeric() || *c == '-' || *c == '_')) {
        return Err(NameError::BadCharacter { character, kind: "a host name" });
    }
    let is_well_formed =
        !label.is_empty() && label.len() <= MAX_LABEL && !label.starts_with('-') && !label.ends_with('-');
    is_well_formed.then_some(()).ok_or_else(|| NameError::BadLabel { label: label.to_owned() })
}

impl Hostname {
    /// Whether this name is `zone` itself or lies below it.
    pub fn is_within(&self, zone: &Hostname) -> bool {
        self.0.strip_suffix(&zone.0).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }

    /// How many labels the name has; 1 is a top-level zone.
    pub fn labels(&self) -> usize {
        self.0.split('.').count()
    }
}

/// The host names of one resource: one name, or every name below one (`*.db.corp.internal`).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostPattern(String);
name_type!(HostPattern);

impl FromStr for HostPattern {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.strip_prefix("*.") {
            Some(parent) => Ok(Self(format!("*.{}", parent.parse::<Hostname>()?))),
            None => Ok(Self(text.parse::<Hostname>()?.0)),
        }
    }
}

impl HostPattern {
    /// Whether `host` is one of these names. A wildcard takes every name below its parent, at any depth, and not the
    /// parent itself.
    pub fn matches(&self, host: &Hostname) -> bool {
        match self.parent() {
            Some(parent) => host.0.len() > parent.0.len() && host.is_within(&parent),
            None => self.0 == host.0,
        }
    }

    /// Whether `host` is how a flow to one of these names is announced: the name itself or, since all names below a
    /// wildcard have one address, the wildcard's parent.
    pub fn is_announced_as(&self, host: &Hostname) -> bool {
        self.anchor() == *host || self.matches(host)
    }

    /// The name below which everything matches, if this is a wildcard.
    pub fn parent(&self) -> Option<Hostname> {
        self.0.strip_prefix("*.").map(|parent| Hostname(parent.to_owned()))
    }

    /// The name that every match lies within: the host itself, or the wildcard's parent.
    pub fn anchor(&self) -> Hostname {
        self.parent().unwrap_or_else(|| Hostname(self.0.clone()))
    }
}

impl From<Hostname> for HostPattern {
    fn from(host: Hostname) -> Self {
        Self(host.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Hostname {
        text.parse().unwrap()
    }

    #[test]
    fn host_names_are_compared_without_case_and_trailing_dot() {
        assert_eq!(host("Billing-DB.Corp.Internal."), host("billing-db.corp.internal"));
    }

    #[test]
    fn a_name_is_within_its_zone_only_at_a_label_border() {
        assert!(host("a.corp.internal").is_within(&host("corp.internal")));
        assert!(host("corp.internal").is_within(&host("corp.internal")));
        assert!(!host("evilcorp.internal").is_within(&host("corp.internal")));
    }

    #[test]
    fn a_wildcard_takes_every_name_below_and_not_its_parent() {
        let pattern: HostPattern = "*.Dev.corp.internal".parse().unwrap();
        assert!(pattern.matches(&host("a.dev.corp.internal")));
        assert!(pattern.matches(&host("b.a.dev.corp.internal")));
        assert!(!pattern.matches(&host("dev.corp.internal")));
        assert!(!pattern.matches(&host("xdev.corp.internal")));
    }

    #[test]
    fn a_flow_to_a_wildcards_address_is_announced_by_the_parent() {
        let pattern: HostPattern = "*.dev.corp.internal".parse().unwrap();
        assert!(pattern.is_announced_as(&host("dev.corp.internal")));
        assert!(pattern.is_announced_as(&host("a.dev.corp.internal")));
        assert!(!pattern.is_announced_as(&host("corp.internal")));
    }

    #[test]
    fn host_names_that_dns_forbids_are_refused() {
        let too_long_label = "a".repeat(64);
        let too_long_name = ["a"; 128].join(".");
        for bad in
            ["", ".", "a..b", "-a.b", "a-.b", "a b", "a/b", "ä.b", "*.*.b", &too_long_label, &too_long_name]
        {
            assert!(bad.parse::<Hostname>().is_err(), "{bad:?} was accepted");
        }
    }
}

//! What stands on the command line, parsed by clap, so that a slip is a usage error before anything is asked.

use std::str::FromStr;
use std::time::Duration;

use crate::documents::DocumentKind;
use crate::documents::values::parse_duration;

/// `KIND` or `KIND/NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    pub(super) kind: DocumentKind,
    pub(super) name: Option<String>,
}

/// `KIND/NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selected {
    pub(super) kind: DocumentKind,
    pub(super) name: String,
}

/// A duration of at least a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ttl(pub(super) Duration);

impl FromStr for Selection {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, name) = match text.split_once('/') {
            Some((_, "")) => return Err("the name behind the slash is missing".to_owned()),
            Some((kind, name)) => (kind, Some(name.to_owned())),
            None => (text, None),
        };
        Ok(Self { kind: parse_kind(kind)?, name })
    }
}

/// The kind's word, its plural, or the short form that Teleport's administrators know.
fn parse_kind(text: &str) -> Result<DocumentKind, String> {
    let singular = text.strip_suffix('s').unwrap_or(text);
    match (text, singular.parse()) {
        ("cap", _) => Ok(DocumentKind::ClusterAuthPreference),
        (_, Ok(kind)) => Ok(kind),
        (_, Err(_)) => text.parse().map_err(|error: crate::documents::UnknownKind| error.to_string()),
    }
}

impl FromStr for Selected {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse()? {
            Selection { kind, name: Some(name) } => Ok(Self { kind, name }),
            Selection { kind, name: None } => Err(format!("which {kind}? write {kind}/NAME")),
        }
    }
}

impl FromStr for Ttl {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, &'static str> {
        let duration = parse_duration(text).filter(|duration| !duration.is_zero());
        duration.map(Self).ok_or("write a duration as 30m or 12h")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_may_be_written_in_the_plural() {
        for (text, kind) in [
            ("role", "role"),
            ("roles", "role"),
            ("kube_clusters", "kube_cluster"),
            ("cap", "cluster_auth_preference"),
        ] {
            assert_eq!(text.parse::<Selection>().unwrap().kind.as_str(), kind);
        }
        let error = "rules".parse::<Selection>().unwrap_err();
        assert_eq!(error, "unknown kind `rules`: did you mean `role`?");
    }

    #[test]
    fn what_is_deleted_must_be_named() {
        assert_eq!("role".parse::<Selected>().unwrap_err(), "which role? write role/NAME");
        assert!("role/".parse::<Selected>().is_err());
        assert_eq!("user/jerry@corp".parse::<Selected>().unwrap().name, "jerry@corp");
    }
}

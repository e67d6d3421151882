//! Names, parsed once: what is inside one of these types is well formed, lower-case where case has no meaning, and
//! short enough to be stored, logged and shown.

use std::str::FromStr;

pub use self::host::{HostPattern, Hostname};
pub use self::resource::{ResourceId, ResourceKind};

mod host;
mod resource;

/// Longest name of a user, resource, proxy, role or device: fits a line of a table and a column of an index.
const MAX_NAME: usize = 64;

/// Why a name was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was there.
    #[error("a name must not be empty")]
    Empty,
    /// Longer than the limit.
    #[error("a name has at most {limit} characters")]
    TooLong {
        /// The limit, in characters.
        limit: usize,
    },
    /// A character that this kind of name may not have.
    #[error("{character:?} is not allowed in {kind}")]
    BadCharacter {
        /// The first such character.
        character: char,
        /// What kind of name it was.
        kind: &'static str,
    },
    /// A DNS label that is empty, too long, or begins or ends with a hyphen.
    #[error("{label:?} is not a valid part of a host name")]
    BadLabel {
        /// The label as given.
        label: String,
    },
    /// Not a kind of resource.
    #[error("unknown kind {given:?}: one of app, db, node, kube_cluster, desktop")]
    UnknownKind {
        /// The word as given.
        given: String,
    },
    /// Not of the form `KIND/NAME`.
    #[error("a resource is written KIND/NAME")]
    NotAResource,
}

/// Gives a newtype over a checked `String` everything that a name needs: parsing as the only way in, text, JSON and
/// CBOR forms. Both decoders go through `FromStr`, so a bad name cannot arrive by the wire.
macro_rules! name_type {
    ($name:ident) => {
        impl $name {
            /// The name as text, in its one canonical form.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Debug::fmt(&self.0, f)
            }
        }
        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
        #[cfg(feature = "openapi")]
        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                String::schema()
            }
        }
        #[cfg(feature = "openapi")]
        impl utoipa::ToSchema for $name {}
        impl<C> minicbor::Encode<C> for $name {
            fn encode<W: minicbor::encode::Write>(
                &self,
                e: &mut minicbor::Encoder<W>,
                _: &mut C,
            ) -> Result<(), minicbor::encode::Error<W::Error>> {
                e.str(&self.0)?.ok()
            }
        }
        impl<'b, C> minicbor::Decode<'b, C> for $name {
            fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
                let at = d.position();
                d.str()?.parse().map_err(|e| minicbor::decode::Error::custom(e).at(at))
            }
        }
    };
}
pub(crate) use name_type;

/// Defines a plain name: ASCII letters, digits and `._-` (and `@` and `+` for users), at most 64 characters.
macro_rules! plain_name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $extra:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        #[serde(try_from = "String", into = "String")]
                pub struct $name(String);
        name_type!($name);
        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                check_plain(text, $kind, $extra)?;
                Ok(Self(text.to_owned()))
            }
        }
    };
}

plain_name!(
    /// The name of a resource, unique among its kind.
    ResourceName,
    "a resource's name",
    ""
);
plain_name!(
    /// The name of a user.
    UserName,
    "a user's name",
    "@+"
);
plain_name!(
    /// The name of a role.
    RoleName,
    "a role's name",
    ""
);
plain_name!(
    /// The name of a group of resources that one proof of presence opens.
    GroupName,
    "a group's name",
    ""
);
plain_name!(
    /// The name of a proxy.
    ProxyName,
    "a proxy's name",
    ""
);
plain_name!(
    /// The name of a device: what the machine calls itself, for people to tell their logins apart.
    DeviceName,
    "a device's name",
    ""
);
plain_name!(
    /// An identifier that control made: of a login, grant, session, challenge, lock.
    Id,
    "an identifier",
    ""
);

impl Id {
    /// The identifier of these random bytes: 32 hexadecimal digits.
    pub fn from_random(bytes: [u8; 16]) -> Self {
        Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

fn check_plain(text: &str, kind: &'static str, extra: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > MAX_NAME {
        return Err(NameError::TooLong { limit: MAX_NAME });
    }
    let is_allowed = |c: &char| c.is_ascii_alphanumeric() || "._-".contains(*c) || extra.contains(*c);
    match text.chars().find(|c| !is_allowed(c)) {
        Some(character) => Err(NameError::BadCharacter { character, kind }),
        // A name becomes part of a URI and of messages to people: a leading dot or hyphen reads as something else.
        None if text.starts_with(['.', '-']) => {
            Err(NameError::BadCharacter { character: text.chars().next().unwrap_or('.'), kind })
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_name_cannot_arrive_by_cbor_or_json() {
        let cbor = minicbor::to_vec("a b").unwrap();
        assert!(minicbor::decode::<Hostname>(&cbor).is_err());
        assert!(serde_json::from_str::<UserName>("\"jerry\\u001b[2J\"").is_err());
    }
}

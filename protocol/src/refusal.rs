//! Why a connection was refused: one word that programs read, one sentence that people read.

use std::fmt;

/// The reason as `status --json` and the audit show it.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    serde::Serialize,
    serde::Deserialize,
    minicbor::Encode,
    minicbor::Decode,
)]
#[serde(rename_all = "snake_case")]
#[cbor(index_only)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum RefusalReason {
    /// No attached login for the program's user.
    #[n(0)]
    NoLogin,
    /// The address or port names nothing.
    #[n(1)]
    UnknownPort,
    /// The roles do not allow it.
    #[n(2)]
    Policy,
    /// The user said no.
    #[n(3)]
    Denied,
    /// Nobody answered the prompt in time.
    #[n(4)]
    TimedOut,
    /// Too many prompts wait already.
    #[n(5)]
    QueueFull,
    /// It was denied a moment ago.
    #[n(6)]
    CoolDown,
    /// An administrator's lock.
    #[n(7)]
    Locked,
    /// The target refused the connection.
    #[n(8)]
    TargetRefused,
    /// The target could not be reached, or did not answer.
    #[n(9)]
    TargetUnreachable,
    /// No proxy of the resource could be reached.
    #[n(10)]
    NoProxy,
    /// A limit of the user, the login or the machine is used up.
    #[n(11)]
    Limit,
}

impl RefusalReason {
    /// The word that programs read.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoLogin => "no_login",
            Self::UnknownPort => "unknown_port",
            Self::Policy => "policy",
            Self::Denied => "denied",
            Self::TimedOut => "timed_out",
            Self::QueueFull => "queue_full",
            Self::CoolDown => "cool_down",
            Self::Locked => "locked",
            Self::TargetRefused => "target_refused",
            Self::TargetUnreachable => "target_unreachable",
            Self::NoProxy => "no_proxy",
            Self::Limit => "limit",
        }
    }

    /// What happened and what to do, for a person.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::NoLogin => {
                "nobody is logged in as this system user: run `portlatch login`, then `portlatch agent`"
            }
            Self::UnknownPort => "no resource has this address and port: `portlatch ls` shows what there is",
            Self::Policy => "your roles do not allow it: ask an administrator",
            Self::Denied => "you denied it",
            Self::TimedOut => "nobody tapped in time: connect again, or run `portlatch tap` first",
            Self::QueueFull => "too many prompts are waiting: answer them, then connect again",
            Self::CoolDown => "it was denied a moment ago: wait, then connect again",
            Self::Locked => "an administrator has locked this access",
            Self::TargetRefused => "the server refused the connection: is it running?",
            Self::TargetUnreachable => "the server does not answer: ask whoever runs it",
            Self::NoProxy => "no proxy of this resource can be reached: check your network",
            Self::Limit => {
                "too many connections at once: close some, or ask an administrator for a higher limit"
            }
        }
    }

    /// Whether the waiting program is told "host unreachable" instead of "connection refused" (design section 4).
    pub const fn is_unreachable(self) -> bool {
        matches!(self, Self::TargetUnreachable | Self::NoProxy)
    }
}

impl fmt::Display for RefusalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_is_the_same_in_text_and_json() {
        for reason in [RefusalReason::NoLogin, RefusalReason::TargetUnreachable, RefusalReason::CoolDown] {
            assert_eq!(serde_json::to_string(&reason).unwrap(), format!("\"{reason}\""));
        }
    }
}

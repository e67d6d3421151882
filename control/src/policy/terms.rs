//! The terms that several roles settle on: the most restrictive that anybody set.

use std::time::Duration;

use portlatch_protocol::grant::{ConnectionLimits, MAX_LIFETIME};
use portlatch_protocol::names::ResourceKind;
use portlatch_protocol::resource::{Hold, MfaNeed};

use super::{SessionLimits, Terms, takes_weaker_proofs};
use crate::documents::cluster::AuthPreference;
use crate::documents::resource::ResourceDocument;
use crate::documents::role::{RoleDocument, RoleOptions};

/// The terms for a user with these roles, of which `granting` open the port in question.
pub(super) fn settle(
    preference: &AuthPreference,
    roles: &[&RoleDocument],
    granting: &[&RoleDocument],
    document: &ResourceDocument,
) -> Terms {
    let mfa = mfa_need(preference, granting, document);
    let shortest = |option: fn(&RoleOptions) -> Option<Duration>| {
        granting.iter().filter_map(|role| option(&role.options)).min()
    };
    let interval = shortest(|options| options.mfa_verification_interval);
    Terms {
        mfa,
        user_verification: mfa != MfaNeed::None && document.mfa.user_verification,
        scope: document.mfa.scope.clone(),
        mfa_interval: interval.unwrap_or(MAX_LIFETIME).min(MAX_LIFETIME),
        pin_source_ip: granting.iter().any(|role| role.options.pin_source_ip),
        cross_device: takes_weaker_proofs(document.id.kind) && allows_cross_device(granting),
        hold: hold(document),
        limits: limits(roles),
        session: SessionLimits {
            max_session: shortest(|options| options.max_session),
            idle: shortest(|options| options.client_idle_timeout),
        },
        rule: rule(preference, granting),
    }
}

impl Terms {
    /// What of the terms stands in a grant or decides how long and how far it serves, as one text. A grant that was given
    /// on other terms must be given anew. Which proof was needed is compared apart, since a grant may show more than that.
    pub fn binding(&self) -> String {
        let Self { scope, mfa_interval, limits, session, .. } = self;
        let seconds = |length: Option<Duration>| length.map_or(-1, |it| i128::from(it.as_secs()));
        let interval = mfa_interval.as_secs();
        let (length, idle) = (seconds(session.max_session), seconds(session.idle));
        let ConnectionLimits { connections, rate, burst } = limits;
        format!(
            "scope={scope} interval={interval} session={length} idle={idle} limits={connections}/{rate}/{burst}"
        )
    }
}

/// Which proof of presence the resource asks for, if these roles grant it.
pub(super) fn mfa_need(
    preference: &AuthPreference,
    granting: &[&RoleDocument],
    document: &ResourceDocument,
) -> MfaNeed {
    let is_needed =
        preference.require_session_mfa || granting.iter().any(|role| role.options.require_session_mfa);
    if !is_needed {
        return MfaNeed::None;
    }
    // A code says nothing about who typed it: where the key must know its user, codes do not count.
    let codes_count =
        preference.allows_otp && takes_weaker_proofs(document.id.kind) && !document.mfa.user_verification;
    if codes_count { MfaNeed::TapOrCode } else { MfaNeed::Tap }
}

/// The most restrictive word: one yes is needed, and a no stands against every yes.
pub(super) fn allows_cross_device(granting: &[&RoleDocument]) -> bool {
    let mut said = granting.iter().filter_map(|role| role.options.cross_device).peekable();
    said.peek().is_some() && said.all(|is_allowed| is_allowed)
}

/// How a program waits. An RDP client times out on a SYN that is held, but waits after its first request.
pub(super) fn hold(document: &ResourceDocument) -> Hold {
    let by_kind = match document.id.kind {
        ResourceKind::Desktop => Hold::Data,
        ResourceKind::App | ResourceKind::Db | ResourceKind::Node | ResourceKind::KubeCluster => Hold::Hybrid,
    };
    document.mfa.hold.unwrap_or(by_kind)
}

fn limits(roles: &[&RoleDocument]) -> ConnectionLimits {
    let default = ConnectionLimits::default();
    let lowest =
        |option: fn(&RoleOptions) -> Option<u32>| roles.iter().filter_map(|role| option(&role.options)).min();
    let rate = lowest(|options| options.max_connection_rate);
    let burst_of_rate = rate.map(|rate| rate.saturating_mul(default.burst / default.rate));
    ConnectionLimits {
        connections: lowest(|options| options.max_connections).unwrap_or(default.connections),
        rate: rate.unwrap_or(default.rate),
        burst: lowest(|options| options.max_connection_burst).or(burst_of_rate).unwrap_or(default.burst),
    }
}

fn rule(preference: &AuthPreference, granting: &[&RoleDocument]) -> String {
    let asking: Vec<&RoleDocument> =
        granting.iter().copied().filter(|role| role.options.require_session_mfa).collect();
    let tap = match (preference.require_session_mfa, asking.as_slice()) {
        (true, _) => "; the cluster asks for a tap".to_owned(),
        (false, []) => String::new(),
        (false, asking) => format!("; a tap for {}", names(asking)),
    };
    format!("allowed by {}{tap}", names(granting))
}

/// The roles' names, for people.
pub(super) fn names(roles: &[&RoleDocument]) -> String {
    let names: Vec<&str> = roles.iter().map(|role| role.name.as_str()).collect();
    names.join(", ")
}

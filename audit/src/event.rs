//! What happened, as the audit keeps it: a kind, and whichever of the fixed fields say something about it. No secret,
//! code, assertion or private key has a field here.

use portlatch_protocol::names::{DeviceName, Id, ProxyName, ResourceId, UserName};

/// Longest free text of a record, in bytes: enough for a sentence and a path, too little to fill a disk with.
const MAX_TEXT: usize = 1024;

/// Defines the kinds with the words that records use.
macro_rules! event_kinds {
    ($($(#[$doc:meta])* $name:ident = $word:literal,)*) => {
        /// What happened.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        pub enum EventKind {
            $($(#[$doc])* #[serde(rename = $word)] $name,)*
        }

        impl EventKind {
            /// The word that records use.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }
        }
    };
}

event_kinds! {
    /// A user signed in on a device, or tried to: `reason` tells why not.
    Login = "login",
    /// A login ended.
    Logout = "logout",
    /// A challenge was made.
    MfaChallenge = "mfa.challenge",
    /// A challenge was answered well.
    MfaOk = "mfa.ok",
    /// An agent came for what its user had proved at a page; that proof has a record of its own.
    MfaRedeem = "mfa.redeem",
    /// A challenge was answered badly.
    MfaFail = "mfa.fail",
    /// After too many bad answers, proofs of presence pause.
    MfaLock = "mfa.lock",
    /// Proofs of presence were forgotten, as a screen was locked.
    MfaForget = "mfa.forget",
    /// A grant was signed.
    Grant = "grant",
    /// Grants were revoked.
    GrantRevoke = "grant.revoke",
    /// A session begins: written before the first byte reaches the target.
    SessionStart = "session.start",
    /// A session ended.
    SessionEnd = "session.end",
    /// A session's end was never written: its proxy was killed.
    SessionLost = "session.lost",
    /// An administrator ended a session.
    SessionKill = "session.kill",
    /// A stream, request or connection was refused.
    AccessDenied = "access.denied",
    /// A lock was set.
    Lock = "lock",
    /// A lock was lifted or ended.
    Unlock = "unlock",
    /// A resource is new.
    ResourceCreate = "resource.create",
    /// A resource was changed.
    ResourceUpdate = "resource.update",
    /// A resource was removed.
    ResourceDelete = "resource.delete",
    /// A role is new.
    RoleCreate = "role.create",
    /// A role was changed.
    RoleUpdate = "role.update",
    /// A role was removed.
    RoleDelete = "role.delete",
    /// A user is new.
    UserCreate = "user.create",
    /// A user was changed.
    UserUpdate = "user.update",
    /// A user's password and keys were forgotten.
    UserReset = "user.reset",
    /// A user was removed.
    UserDelete = "user.delete",
    /// The cluster's preferences were changed or reset.
    PreferenceUpdate = "preference.update",
    /// The cluster's zones were changed or reset.
    ZoneUpdate = "zone.update",
    /// A security key or other device of a user is new.
    DeviceAdd = "device.add",
    /// A security key or other device of a user was removed.
    DeviceRemove = "device.remove",
    /// A security key or other device of a user has another name.
    DeviceRename = "device.rename",
    /// A user has new recovery codes.
    DeviceCodes = "device.codes",
    /// An enrolment or join token was made.
    TokenCreate = "token.create",
    /// A proxy joined.
    ProxyJoin = "proxy.join",
    /// A proxy started.
    ProxyStart = "proxy.start",
    /// A proxy stopped.
    ProxyStop = "proxy.stop",
    /// Control started.
    ControlStart = "control.start",
    /// Control stopped.
    ControlStop = "control.stop",
    /// The chain's head, signed by the source's key.
    ChainHead = "chain.head",
    /// The spool was opened; sessions without an end before it are lost.
    AuditOpen = "audit.open",
    /// A record torn by a crash was cut off.
    AuditCut = "audit.cut",
    /// Records that had been on the disk are damaged or missing; the chain goes on from the head.
    AuditDamaged = "audit.damaged",
}

impl EventKind {
    /// Whether the record ends something that was recorded before: such records may use a full spool's reserve.
    pub(crate) const fn is_closing(self) -> bool {
        matches!(self, Self::SessionEnd | Self::SessionLost | Self::ProxyStop | Self::ControlStop)
    }
}

impl std::fmt::Display for EventKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One record's content. Fields that say nothing are left out of the record.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[expect(missing_docs, reason = "the names are those of the design's section 12, and say it")]
pub struct Event {
    #[serde(rename = "event")]
    pub kind: EventKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<Id>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<ResourceId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The address that was dialled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ProxyName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_addr: Option<String>,
    /// The program as the user's machine named it: a claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// The grant's identifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<Id>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Id>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub amr: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<Id>,
    /// User present.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up: Option<bool>,
    /// User verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uv: Option<bool>,
    /// Bytes from the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_in: Option<u64>,
    /// Bytes to the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_out: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The system user who gave an administrator's command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Of `chain.head` alone: hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
}

impl Event {
    /// An event of this kind that says nothing else yet; fields are set by `Event { user: .., ..Event::new(kind) }`.
    pub const fn new(kind: EventKind) -> Self {
        Self {
            kind,
            user: None,
            login: None,
            device: None,
            resource: None,
            port: None,
            target: None,
            proxy: None,
            client_addr: None,
            program: None,
            grant: None,
            session: None,
            amr: Vec::new(),
            key_id: None,
            up: None,
            uv: None,
            bytes_in: None,
            bytes_out: None,
            reason: None,
            actor: None,
            detail: None,
            signature: None,
        }
    }

    /// The same with its free text cut to what a record may have.
    pub(crate) fn clipped(&self) -> Self {
        let mut event = self.clone();
        let texts = [
            &mut event.target,
            &mut event.client_addr,
            &mut event.program,
            &mut event.reason,
            &mut event.actor,
            &mut event.detail,
            &mut event.signature,
        ];
        for text in texts.into_iter().flatten() {
            text.truncate(text.floor_char_boundary(MAX_TEXT));
        }
        event
    }

    /// The record of this session's loss.
    pub(crate) fn lost(&self) -> Self {
        Self {
            kind: EventKind::SessionLost,
            reason: Some("the process ended before the session did".into()),
            detail: None,
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_is_the_same_in_text_and_json() {
        for kind in
            [EventKind::MfaOk, EventKind::SessionStart, EventKind::AccessDenied, EventKind::ResourceUpdate]
        {
            assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{kind}\""));
        }
    }

    #[test]
    fn long_text_is_cut_at_a_character_border() {
        let event = Event { program: Some("ä".repeat(5000)), ..Event::new(EventKind::SessionStart) };
        let program = event.clipped().program.unwrap();
        assert_eq!((program.len(), program.chars().count()), (MAX_TEXT, MAX_TEXT / 2));
    }
}

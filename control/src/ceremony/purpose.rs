//! What a challenge is for, with all that it is bound to. None of it comes from the answer.

use portlatch_audit::{Event, EventKind};
use portlatch_protocol::api::ceremony::CeremonyPurpose;
use portlatch_protocol::identity::Login;
use portlatch_protocol::names::{DeviceName, UserName};
use webauthn_rs::prelude::{SecurityKeyAuthentication, SecurityKeyRegistration};
use zeroize::Zeroizing;

use super::Approval;
use crate::presence::Presence;

/// What a challenge is for.
#[derive(Clone)]
pub enum Purpose {
    /// A login.
    Login(Box<LoginPurpose>),
    /// A login that begins with an enrolment.
    Enrolment(Box<EnrolmentPurpose>),
    /// A proof of presence for something that a login wants.
    Proof(Box<ProofPurpose>),
    /// The enrolment of one more key or app of a login's user; the tap that it needs was given.
    NewDevice(Box<NewDevicePurpose>),
}

/// A login's challenge.
#[derive(Clone)]
pub struct LoginPurpose {
    /// Who.
    pub user: UserName,
    /// Where.
    pub device: DeviceName,
    /// What was shown before.
    pub first: FirstShown,
    /// What verifies the answer; none for a user who has no key, or is none: no answer verifies then.
    pub state: Option<SecurityKeyAuthentication>,
}

/// What was shown before the second factor of a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstShown {
    /// The password. A tap or a recovery code follows.
    Password,
    /// Nothing: the key must verify its user, and nothing else will do.
    Nothing,
}

/// A login that begins with an enrolment.
#[derive(Clone)]
pub struct EnrolmentPurpose {
    /// Who.
    pub user: UserName,
    /// Where.
    pub device: DeviceName,
    /// SHA-256 of the token; consumed with the answer.
    pub token_hash: [u8; 32],
    /// The hash of the password to be.
    pub password_hash: String,
    /// What verifies the answer.
    pub state: SecurityKeyRegistration,
}

/// What a login proves presence for.
#[derive(Clone)]
pub struct ProofPurpose {
    /// The login.
    pub login: Login,
    /// What for, in the form in which it is compared: targets in order, programs fit to be shown.
    pub wanted: CeremonyPurpose,
    /// Whether a code answers it as well.
    pub codes: Codes,
    /// What verifies the answer of a key.
    pub state: SecurityKeyAuthentication,
    /// What its page may decide, where the agent can have one answered.
    pub browser: Option<Approval<Presence>>,
}

/// Whether a code of an authenticator app answers a challenge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codes {
    /// It does.
    Taken,
    /// A key alone does.
    Refused,
}

/// The enrolment of a key or app.
#[derive(Clone)]
pub struct NewDevicePurpose {
    /// The login.
    pub login: Login,
    /// What the user calls it.
    pub name: String,
    /// What it is.
    pub device: NewDevice,
}

/// A key or app that is not enrolled yet.
#[derive(Clone)]
pub enum NewDevice {
    /// A key.
    Key(Box<SecurityKeyRegistration>),
    /// An app.
    App {
        /// What it was told.
        secret: Zeroizing<Vec<u8>>,
        /// First codes that may still be wrong.
        tries: u32,
    },
}

impl Purpose {
    /// Whose it is.
    pub const fn user(&self) -> &UserName {
        match self {
            Self::Login(login) => &login.user,
            Self::Enrolment(enrolment) => &enrolment.user,
            Self::Proof(proof) => &proof.login.user,
            Self::NewDevice(device) => &device.login.user,
        }
    }

    /// Where it is.
    pub const fn device(&self) -> &DeviceName {
        match self {
            Self::Login(login) => &login.device,
            Self::Enrolment(enrolment) => &enrolment.device,
            Self::Proof(proof) => &proof.login.device,
            Self::NewDevice(device) => &device.login.device,
        }
    }

    /// The record of this kind about it.
    pub fn event(&self, kind: EventKind) -> Event {
        let (user, device) = (Some(self.user().clone()), Some(self.device().clone()));
        let event = Event { user, device, ..Event::new(kind) };
        match self {
            Self::Login(_) | Self::Enrolment(_) => event,
            Self::Proof(proof) => {
                let event = Event { login: Some(proof.login.login.clone()), ..event };
                about(&proof.wanted, event)
            }
            Self::NewDevice(device) => {
                Event { login: Some(device.login.login.clone()), detail: Some(device.name.clone()), ..event }
            }
        }
    }
}

/// The record `event`, with what is wanted.
pub(crate) fn about(wanted: &CeremonyPurpose, event: Event) -> Event {
    match wanted {
        CeremonyPurpose::Open(open) => Event {
            resource: Some(open.resource.clone()),
            port: Some(open.port),
            program: open.program.clone(),
            ..event
        },
        CeremonyPurpose::Exec(exec) => {
            let targets: Vec<String> = exec.targets.iter().map(ToString::to_string).collect();
            let detail = Some(format!("exec of {}: {}", targets.len(), targets.join(" ")));
            Event { detail, program: exec.program.clone(), ..event }
        }
        CeremonyPurpose::ManageDevices(change) => {
            Event { detail: Some(format!("devices: {change}")), ..event }
        }
    }
}

/// Says what it is and for whom: neither challenge nor secret nor hash of a password belongs into a log.
impl std::fmt::Debug for Purpose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self {
            Self::Login(_) => "Login",
            Self::Enrolment(_) => "Enrolment",
            Self::Proof(proof) => {
                let mut shown = f.debug_struct("Proof");
                shown.field("login", &proof.login).field("wanted", &proof.wanted);
                return shown.finish_non_exhaustive();
            }
            Self::NewDevice(_) => "NewDevice",
        };
        f.debug_struct(name).field("user", self.user()).finish_non_exhaustive()
    }
}

macro_rules! unprinted {
    ($($name:ident),*) => {$(
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    )*};
}
unprinted!(LoginPurpose, EnrolmentPurpose, ProofPurpose, NewDevicePurpose, NewDevice);

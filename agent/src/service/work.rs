//! What the service has others do meanwhile, and what it does when they are done.

use portlatch_protocol::api::ceremony::CeremonyOutcome;
use portlatch_protocol::api::{AccessAnswer, Catalogue, TunnelCertificate};
use portlatch_protocol::attach::Refusal;
use portlatch_protocol::names::Id;
use tokio::sync::oneshot;

use super::Service;
use super::access::Asked;
use super::tapping::TapEnd;
use crate::broker::RequestId;
use crate::control::ApiError;
use crate::identify::Program;
use crate::local::Tell;

/// Something is done.
#[derive(Debug)]
pub(super) enum Done {
    /// Control answered a request for access.
    Asked { asked: Asked, program: Option<Program>, answer: Result<AccessAnswer, ApiError> },
    /// Whose connection it is that waits for a prompt since the one before has gone.
    NewcomerFound { newcomer: Asked, program: Option<Program> },
    /// A prompt's key and control have spoken.
    Tapped { id: RequestId, number: u64, end: Result<CeremonyOutcome, TapEnd> },
    /// The daemon's tunnel key is certified, or is not.
    Certified { login: u64, result: Result<TunnelCertificate, ApiError> },
    /// The catalogue, or nothing new.
    Catalogue { login: u64, result: Result<Option<Catalogue>, ApiError> },
    /// Whose connection it was that was refused.
    Identified { refusal: Refusal, program: Option<Program> },
    /// Control was asked to forget the taps.
    TapsForgotten { login: u64, result: Result<(), ApiError> },
    /// Control was told goodbye, or could not be.
    LoggedOut { login: Option<Id>, reply: oneshot::Sender<Tell>, result: Result<(), ApiError> },
}

impl Service {
    pub(super) fn handle_done(&mut self, done: Done) {
        match done {
            Done::Asked { asked, program, answer } => self.handle_asked(asked, program, answer),
            Done::NewcomerFound { newcomer, program } => self.handle_newcomer(&newcomer, program),
            Done::Tapped { id, number, end } => self.handle_tapped(id, number, end),
            Done::Certified { login, result } => self.handle_certified(login, result),
            Done::Catalogue { login, result } => self.handle_catalogue(login, result),
            Done::Identified { refusal, program } => self.handle_identified(refusal, program),
            Done::TapsForgotten { login, result } => self.handle_taps_forgotten(login, result),
            Done::LoggedOut { login, reply, result } => {
                self.handle_logged_out(login.as_ref(), reply, &result)
            }
        }
    }
}

//! `portlatch tap HOST[:PORT]`: the ceremony before the connection.

use portlatch_protocol::names::Hostname;

use super::asking::ask_person;
use crate::failure::Failure;
use crate::files::Files;
use crate::local::{Beforehand, LocalError, Tell, Want};
use crate::mfa_mode::MfaMode;
use crate::terminal::{self, Stream};

/// Taps for a port and says how long the grant serves.
pub(crate) async fn tap(
    files: &Files,
    host: &Hostname,
    port: Option<u16>,
    mode: Option<MfaMode>,
) -> Result<(), Failure> {
    let (host, command) = (host.to_string(), Beforehand::Tap);
    let want = Want::Tap { host, port, command, pid: std::process::id(), mode };
    let Tell::Tapped { text, seconds } = ask_person(files, &want, Stream::Out).await? else {
        return Err(LocalError::NotUnderstood.into());
    };
    let minutes = seconds.div_ceil(60);
    Ok(terminal::say(&format!("{text} for new connections, for {minutes} min."))?)
}

//! What commands wish for: a tap beforehand for a port, one tap for several resources, a change of keys.

use portlatch_protocol::api::Catalogue;
use portlatch_protocol::api::ceremony::{DeviceChange, ExecTarget};
use tokio::sync::mpsc;

use super::access::{Origin, Request, Stage};
use super::{Service, Trouble};
use crate::broker::Subject;
use crate::catalogue::find;
use crate::identify::Program;
use crate::local::{Beforehand, Tell};
use crate::mfa_mode::MfaMode;
use crate::prompt::Waiting;
use crate::safe_text::safe;

/// What a command is told while the attach goes on.
const NOT_YET: &str = "the login is not attached yet: try again in a moment";

/// A command's wish.
#[derive(Debug)]
pub(crate) struct CommandWish {
    /// What for.
    pub(crate) purpose: Purpose,
    /// The asking command's process.
    pub(crate) pid: u32,
    /// How to prove presence, if not as the login says.
    pub(crate) mode: Option<MfaMode>,
    /// What comes of it.
    pub(crate) tells: mpsc::Sender<Tell>,
}

/// What a command wants to prove presence for.
#[derive(Debug)]
pub(crate) enum Purpose {
    /// One port.
    Tap {
        /// Host name or resource.
        host: String,
        /// The port, if one was named.
        port: Option<u16>,
        /// Which command asks.
        command: Beforehand,
    },
    /// One command on several resources.
    Exec {
        /// The ports.
        targets: Vec<ExecTarget>,
        /// The program that is run.
        command: String,
    },
    /// A change of keys and apps.
    Devices {
        /// The change.
        change: DeviceChange,
        /// What a person calls it.
        title: String,
    },
}

impl Service {
    pub(super) fn handle_command_wish(&mut self, wish: CommandWish) {
        let CommandWish { purpose, pid, mode, tells } = wish;
        let (subject, title, name) = match self.subject(purpose) {
            Ok(found) => found,
            Err(text) => {
                let _ = tells.try_send(Tell::Failed { denied: false, text });
                return;
            }
        };
        let number = self.next_number();
        self.handle_wish(Request {
            number,
            origin: Origin::Command(tells),
            subject,
            title,
            program: Some(Program { name, pid }),
            inode: 0,
            mode,
            waiting: Waiting::Yes,
            stage: Stage::Asked,
        });
    }

    /// The subject, what a person calls it, and what the asking command is called.
    fn subject(&self, purpose: Purpose) -> Result<(Subject, String, String), String> {
        if self.login.active.is_none() {
            return Err("nobody is logged in: run `portlatch login`".to_owned());
        }
        match purpose {
            Purpose::Tap { host, port, command } => {
                let (subject, title) = self.tap_subject(&host, port)?;
                Ok((subject, title, command.name().to_owned()))
            }
            Purpose::Exec { targets, command } => {
                self.attached_catalogue()?;
                let name = safe(&format!("portlatch exec {command}"));
                Ok((Subject::Exec(targets), name.clone(), name))
            }
            Purpose::Devices { change, title } => {
                Ok((Subject::Devices(change), safe(&title), "portlatch mfa".to_owned()))
            }
        }
    }

    fn attached_catalogue(&self) -> Result<&Catalogue, String> {
        self.catalogue.as_deref().filter(|_| self.is_attached()).ok_or_else(|| {
            let why = [Trouble::Daemon, Trouble::Attach, Trouble::Control];
            let why = why.iter().find_map(|trouble| self.complaints.get(trouble));
            why.map_or(NOT_YET, String::as_str).to_owned()
        })
    }

    fn tap_subject(&self, host: &str, port: Option<u16>) -> Result<(Subject, String), String> {
        let resource = find(self.attached_catalogue()?, host)
            .ok_or_else(|| format!("{} is not among your resources: run `portlatch ls`", safe(host)))?;
        let port = port.or_else(|| resource.only_port()).ok_or_else(|| {
            format!("{} has several ports: name one, as in {}:PORT", resource.id.name, safe(host))
        })?;
        if !resource.has_port(port) {
            return Err(format!("{} has no port {port}: run `portlatch ls`", resource.id.name));
        }
        Ok((Subject::Port { resource: resource.id.clone(), port }, safe(host)))
    }
}

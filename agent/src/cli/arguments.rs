//! What can be written behind the name of a command. Which command does it is not told here.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use portlatch_protocol::names::{ResourceKind, UserName};
use portlatch_protocol::tls::CaPin;

use crate::address::ClusterAddress;
use crate::commands::Labels;
use crate::mfa_mode::MfaMode;

/// `portlatch login`.
#[derive(Debug, Args)]
pub(crate) struct Login {
    /// The cluster: `HOST[:PORT]` or `https://HOST[:PORT]`; without it the one of the last login
    #[arg(long, value_name = "URL")]
    pub(crate) proxy: Option<ClusterAddress>,
    /// The user; without it the one of the last login, or this system's
    #[arg(long, value_name = "NAME")]
    pub(crate) user: Option<UserName>,
    /// The one-time enrolment token of a new user: sets the password and enrols the first security key
    #[arg(long, value_name = "TOKEN")]
    pub(crate) enrol: Option<String>,
    /// The cluster's CA, as `portlatch-proxy init` printed it
    #[arg(long, value_name = "sha256:...")]
    pub(crate) ca_pin: Option<CaPin>,
    /// Log in here, with password and security key at this machine, and not in the browser
    #[arg(long)]
    native: bool,
    /// Log in here with your security key alone, which asks for its PIN or your finger in place of the password
    #[arg(long, conflicts_with_all = ["enrol", "password_stdin", "recovery_code"])]
    pub(crate) passkey: bool,
    /// Read the password from the first line of standard input, and a recovery code from the second
    #[arg(long)]
    pub(crate) password_stdin: bool,
    /// Use one of your recovery codes in place of your security key
    #[arg(long, conflicts_with = "enrol")]
    pub(crate) recovery_code: bool,
    /// How you want to prove presence, where the policy leaves a choice; kept with the login
    #[arg(long, value_name = "MODE")]
    pub(crate) mfa_mode: Option<MfaMode>,
    /// Use a software key instead of a USB key: for tests and demos only
    #[cfg(feature = "software-key")]
    #[arg(long, value_name = "MODE")]
    pub(crate) software_key: Option<crate::keys::software::Mode>,
}

/// Where somebody logs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LoginPlace {
    /// In this terminal.
    Terminal,
    /// At a page of the cluster.
    Browser,
}

impl Login {
    /// In the browser, unless the options make sense in the terminal alone.
    pub(crate) fn place(&self) -> LoginPlace {
        let is_native =
            self.native || self.passkey || self.password_stdin || self.recovery_code || self.enrol.is_some();
        #[cfg(feature = "software-key")]
        let is_native = is_native || self.software_key.is_some();
        if is_native { LoginPlace::Terminal } else { LoginPlace::Browser }
    }
}

/// `portlatch agent`.
#[derive(Debug, Args)]
pub(crate) struct Agent {
    /// How to prove presence, instead of as the login says
    #[arg(long, value_name = "MODE")]
    pub(crate) mfa_mode: Option<MfaMode>,
    /// Use a software key instead of a USB key: for tests and demos only
    #[cfg(feature = "software-key")]
    #[arg(long, value_name = "MODE")]
    pub(crate) software_key: Option<crate::keys::software::Mode>,
}

/// For commands whose output programs read too.
#[derive(Debug, Args)]
pub(crate) struct Output {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `portlatch tap`.
#[derive(Debug, Args)]
pub(crate) struct Tap {
    /// `HOST[:PORT]`; the port may be left out where the resource has only one
    #[arg(value_name = "HOST[:PORT]")]
    pub(crate) target: String,
    /// How to prove presence, instead of as the login says
    #[arg(long, value_name = "MODE")]
    pub(crate) mfa_mode: Option<MfaMode>,
}

/// `portlatch why`.
#[derive(Debug, Args)]
pub(crate) struct Why {
    /// `HOST[:PORT]`; the port may be left out where the resource has only one
    #[arg(value_name = "HOST[:PORT]")]
    pub(crate) target: String,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `portlatch exec`.
#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// The kind of the resources: app, db, node, kube_cluster or desktop
    #[arg(long, value_name = "KIND")]
    pub(crate) kind: ResourceKind,
    /// Labels that they all have; * is any value
    #[arg(long, value_name = "KEY=VALUE,...")]
    pub(crate) labels: Labels,
    /// The port, where a resource has several
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: Option<u16>,
    /// Keep the output of each as NAME.log in this directory, and summary.json beside it
    #[arg(long, value_name = "DIR")]
    pub(crate) output_dir: Option<PathBuf>,
    /// Do not ask before the tap
    #[arg(long)]
    pub(crate) yes: bool,
    /// Print the summary as JSON; all else goes to standard error
    #[arg(long)]
    pub(crate) json: bool,
    /// How to prove presence, instead of as the login says; codes are not taken
    #[arg(long, value_name = "MODE")]
    pub(crate) mfa_mode: Option<MfaMode>,
    /// The command and its arguments, in which {host}, {port} and {name} are replaced
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

/// `portlatch rdp`.
#[derive(Debug, Args)]
pub(crate) struct Rdp {
    /// The desktop, by its name or its host
    pub(crate) name: String,
    /// The user there
    #[arg(long, value_name = "NAME")]
    pub(crate) user: Option<String>,
    /// The port, where the desktop has several
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: Option<u16>,
    /// How to prove presence, instead of as the login says; codes are not taken
    #[arg(long, value_name = "MODE")]
    pub(crate) mfa_mode: Option<MfaMode>,
    /// More arguments for the client, for example /f
    #[arg(last = true, value_name = "ARGS")]
    pub(crate) arguments: Vec<OsString>,
}

/// `portlatch mfa`.
#[derive(Debug, Subcommand)]
pub(crate) enum Mfa {
    /// List your keys and apps
    Ls(MfaList),
    /// Add a security key or an authenticator app
    Add(MfaAdd),
    /// Remove a key or an app
    Rm(MfaChange),
    /// Give a key or an app another name
    Rename {
        /// Its name or its ID
        #[arg(value_name = "NAME|ID")]
        device: String,
        /// Its new name
        #[arg(value_name = "NEW-NAME")]
        name: String,
        /// How to prove presence, instead of as the login says
        #[arg(long, value_name = "MODE")]
        mfa_mode: Option<MfaMode>,
    },
    /// Make ten recovery codes, each for one login without your key
    RecoveryCodes {
        /// How to prove presence, instead of as the login says
        #[arg(long, value_name = "MODE")]
        mfa_mode: Option<MfaMode>,
    },
}

/// `portlatch mfa ls`.
pub(crate) type MfaList = Output;

/// `portlatch mfa add`.
#[derive(Debug, Args)]
pub(crate) struct MfaAdd {
    /// What to add
    pub(crate) kind: DeviceKind,
    /// What you call it
    pub(crate) name: String,
    /// How to prove presence first, instead of as the login says
    #[arg(long, value_name = "MODE")]
    pub(crate) mfa_mode: Option<MfaMode>,
    /// Add a software key instead of a USB key: for tests and demos only
    #[cfg(feature = "software-key")]
    #[arg(long, value_name = "MODE")]
    pub(crate) software_key: Option<crate::keys::software::Mode>,
}

/// What `portlatch mfa` can add.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum DeviceKind {
    /// A security key
    Key,
    /// An authenticator app, which shows codes
    App,
}

/// `portlatch mfa rm`.
#[derive(Debug, Args)]
pub(crate) struct MfaChange {
    /// Its name or its ID
    #[arg(value_name = "NAME|ID")]
    pub(crate) device: String,
    /// How to prove presence, instead of as the login says
    #[arg(long, value_name = "MODE")]
    pub(crate) mfa_mode: Option<MfaMode>,
}

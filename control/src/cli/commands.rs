//! The commands as clap reads them.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use portlatch_protocol::names::{DeviceName, Id, ProxyName, ResourceId, RoleName, UserName};

use super::values::{Selected, Selection, Ttl};
use crate::admin::{AdminRequest, LockedBy};

/// What an administrator can say to a running `portlatch-proxy`.
#[derive(Debug, Subcommand)]
pub enum AdminCommand {
    /// Put documents in force: all of them or, if one has a fault, none
    Apply {
        /// Files of YAML documents; - reads standard input
        #[arg(short = 'f', long = "file", value_name = "FILE", required = true, num_args = 1..)]
        files: Vec<PathBuf>,
    },
    /// Show documents
    Get {
        /// All documents of a kind, or one: role, or role/access-prod
        #[arg(value_name = "KIND[/NAME]")]
        what: Selection,
        /// The form of what is shown
        #[arg(short, long, value_enum, value_name = "FORM", default_value_t = Format::Text)]
        output: Format,
    },
    /// Remove a document
    Delete {
        /// The document, as role/access-prod
        #[arg(value_name = "KIND/NAME")]
        what: Selected,
    },
    /// Make users and enrolment tokens
    #[command(
        subcommand,
        after_help = "`get user` lists users, `delete user/NAME` removes one; roles are changed by applying the user's document."
    )]
    Users(UsersCommand),
    /// Make tokens for proxies that join
    #[command(subcommand)]
    Tokens(TokensCommand),
    /// List the sessions that run, or end one
    Sessions {
        /// What to do instead of listing
        #[command(subcommand)]
        command: Option<SessionsCommand>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show which rule decides on a port for a user; exits with 3 if it is refused
    Why {
        /// The user's name
        user: UserName,
        /// The resource, as db/billing-db
        #[arg(value_name = "KIND/NAME")]
        resource: ResourceId,
        /// The port
        #[arg(value_parser = clap::value_parser!(u16).range(1..))]
        port: u16,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Say no at once to a user, device, login, resource or proxy
    #[command(after_help = "`get lock` lists locks, `delete lock/NAME` lifts one.")]
    Lock(LockArguments),
    /// Read the audit, or look for changes in it
    #[command(subcommand)]
    Audit(AuditCommand),
}

/// How documents are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A table
    Text,
    /// As one writes them
    Yaml,
    /// For programs
    Json,
}

/// `users`.
#[derive(Debug, Subcommand)]
pub enum UsersCommand {
    /// Make a user, and a token with which the user enrols
    Add {
        /// The user's name
        name: UserName,
        /// The user's roles
        #[arg(long, value_delimiter = ',', required = true, value_name = "ROLE,...")]
        roles: Vec<RoleName>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Forget a user's password and keys, end the logins, make a new token
    Reset {
        /// The user's name
        name: UserName,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// `tokens`.
#[derive(Debug, Subcommand)]
pub enum TokensCommand {
    /// Make a token with which a proxy joins, once; for later versions, this one has no proxies that join
    Add {
        /// The proxy's name
        #[arg(long, value_name = "NAME")]
        proxy: ProxyName,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// `sessions`.
#[derive(Debug, Subcommand)]
pub enum SessionsCommand {
    /// End a session
    Kill {
        /// Its identifier, as `sessions` lists it
        id: Id,
    },
}

/// `lock`.
#[derive(Debug, Args)]
pub struct LockArguments {
    #[command(flatten)]
    target: LockTargetArguments,
    /// For how long, as 30m or 12h; until it is deleted if not given
    #[arg(long, value_name = "TIME")]
    ttl: Option<Ttl>,
    /// For those who meet it
    #[arg(long, value_name = "TEXT")]
    message: Option<String>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct LockTargetArguments {
    /// A user
    #[arg(long, value_name = "NAME")]
    user: Option<UserName>,
    /// A machine that users log in from, whoever does
    #[arg(long, value_name = "NAME")]
    device: Option<DeviceName>,
    /// A login, as `sessions --json` and the audit name it
    #[arg(long, value_name = "ID")]
    login: Option<Id>,
    /// A resource
    #[arg(long, value_name = "KIND/NAME")]
    resource: Option<ResourceId>,
    /// A proxy
    #[arg(long, value_name = "NAME")]
    proxy: Option<ProxyName>,
}

/// `audit`.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Print the newest records, one JSON object a line
    Tail {
        /// How many
        #[arg(short = 'n', long, default_value_t = 10, value_name = "N")]
        lines: u32,
        /// Go on with those to come
        #[arg(short, long)]
        follow: bool,
    },
    /// Look for records that were changed, removed or added afterwards
    Verify,
}

impl LockArguments {
    /// What is to be said to control.
    pub(super) fn into_request(self) -> AdminRequest {
        let ttl = self.ttl.map(|Ttl(ttl)| ttl.as_secs());
        AdminRequest::Lock { target: self.target.chosen(), ttl, message: self.message }
    }
}

impl LockTargetArguments {
    fn chosen(self) -> LockedBy {
        let user = self.user.map(LockedBy::User);
        let device = self.device.map(LockedBy::Device);
        let login = self.login.map(LockedBy::Login);
        let resource = self.resource.map(LockedBy::Resource);
        let proxy = self.proxy.map(LockedBy::Proxy);
        let given = user.or(device).or(login).or(resource).or(proxy);
        given.expect("clap asks for exactly one of the group")
    }
}

//! What the administrator's commands say to control over `admin.sock` in its directory (mode 0600; peer uid root or the
//! service's own): one JSON request on a line, one JSON answer on a line, then the connection closes.

use portlatch_protocol::api::ceremony::Explanation;
use portlatch_protocol::names::{DeviceName, Id, ProxyName, ResourceId, RoleName, UserName};

/// Largest request and answer line: resource documents of a large site fit.
pub const MAX_LINE: usize = 32 * 1024 * 1024;

/// A command.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case", tag = "command")]
pub enum AdminRequest {
    /// Puts documents in force: all of them or, if one has a fault, none.
    Apply {
        /// The files as they were read.
        files: Vec<SourceFile>,
    },
    /// Reads documents.
    Get {
        /// The kind, as written in documents.
        kind: String,
        /// One of them, or all.
        name: Option<String>,
    },
    /// Removes a document.
    Delete {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
    },
    /// Makes a user and an enrolment token.
    AddUser {
        /// The name.
        name: UserName,
        /// The roles.
        roles: Vec<RoleName>,
    },
    /// Forgets a user's password and keys, ends the logins, makes a new enrolment token.
    ResetUser {
        /// The name.
        name: UserName,
    },
    /// Makes a join token for a proxy.
    AddToken {
        /// The proxy's name.
        proxy: ProxyName,
    },
    /// Lists live sessions.
    Sessions,
    /// Ends a session.
    KillSession {
        /// Its identifier.
        id: Id,
    },
    /// Tells which rule decides on a port for a user.
    Why {
        /// The user.
        user: UserName,
        /// The resource.
        resource: ResourceId,
        /// Its port.
        port: u16,
    },
    /// Locks a user, device, login, resource or proxy.
    Lock {
        /// Whom or what.
        target: LockedBy,
        /// Seconds; for ever if absent.
        ttl: Option<u64>,
        /// For those who meet it.
        message: Option<String>,
    },
}

/// A file of documents.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct SourceFile {
    /// Its name, for the places of faults.
    pub name: String,
    /// What stands in it.
    pub text: String,
}

/// Whom or what a lock stands against, as the command line names it.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockedBy {
    /// A user.
    User(UserName),
    /// A device.
    Device(DeviceName),
    /// A login.
    Login(Id),
    /// A resource.
    Resource(ResourceId),
    /// A proxy.
    Proxy(ProxyName),
}

/// An answer.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case", tag = "answer")]
pub enum AdminAnswer {
    /// Done, and what there is to say about it.
    Done {
        /// A line for each thing done.
        lines: Vec<String>,
        /// What was kept without a meaning here, with its place.
        warnings: Vec<String>,
    },
    /// Documents, as JSON values in their canonical form.
    Documents {
        /// In order of name.
        documents: Vec<serde_json::Value>,
    },
    /// An enrolment or join token.
    Token(IssuedToken),
    /// Live sessions.
    Sessions {
        /// Oldest first.
        sessions: Vec<SessionLine>,
    },
    /// Which rule decides.
    Explained(Explanation),
    /// Not done; nothing was changed.
    Failed {
        /// One sentence each; faults of documents with file, line and column.
        faults: Vec<String>,
    },
}

/// A one-time token.
#[derive(serde::Serialize, serde::Deserialize)]
pub struct IssuedToken {
    /// For whom: a user or a proxy.
    pub name: String,
    /// The secret, shown this once.
    pub token: String,
    /// The enrolment page, for users.
    pub link: Option<String>,
    /// RFC 3339.
    pub expires: String,
}

impl std::fmt::Debug for IssuedToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuedToken").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A live session, as the administrator sees it.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct SessionLine {
    /// Its identifier.
    pub id: Id,
    /// RFC 3339.
    pub started: String,
    /// Whose.
    pub user: UserName,
    /// Which login.
    pub login: Id,
    /// From which device.
    pub device: DeviceName,
    /// To what.
    pub resource: ResourceId,
    /// Which port.
    pub port: u16,
    /// Where it was dialled.
    pub target: String,
    /// From where.
    pub client_addr: String,
    /// The program, as the agent saw it.
    pub program: Option<String>,
    /// Bytes from the program.
    pub bytes_in: u64,
    /// Bytes to the program.
    pub bytes_out: u64,
}

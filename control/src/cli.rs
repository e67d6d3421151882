//! The administrator's commands of `portlatch-proxy`. Each says one thing to control over `admin.sock` and shows the
//! answer; `audit` reads the audit folder itself, so that it also works when nothing runs.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use portlatch_protocol::names::{ResourceId, UserName};

use self::client::Client;
pub use self::commands::{
    AdminCommand, AuditCommand, Format, LockArguments, SessionsCommand, TokensCommand, UsersCommand,
};
use self::values::{Selected, Selection};
use crate::admin::{AdminAnswer, AdminRequest, IssuedToken, MAX_LINE, SourceFile};
use crate::documents::DocumentKind;
use crate::keys::Keys;

mod audit;
mod client;
mod commands;
mod show;
mod values;

/// Where a command writes: results here, remarks there.
pub struct Streams<'a> {
    /// Standard output.
    pub out: &'a mut dyn Write,
    /// Standard error.
    pub err: &'a mut dyn Write,
}

/// Why a command did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// Control said no; a line each.
    #[error("{}", .0.join("\n"))]
    Failed(Vec<String>),
    /// What was asked about is not allowed; the answer itself is printed.
    #[error("{user} may not open port {port} of {resource}")]
    Refused {
        /// Who.
        user: UserName,
        /// What.
        resource: ResourceId,
        /// Where.
        port: u16,
    },
    /// Nobody listens.
    #[error(
        "nobody listens at {}: start portlatch-proxy, or say with --dir where its directory is",
        path.display()
    )]
    NotRunning {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// Somebody else's directory.
    #[error("{} is not open to you: run this as root or as the service's own user", path.display())]
    NotAllowed {
        /// What could not be opened.
        path: PathBuf,
    },
    /// Control does not answer.
    #[error(
        "portlatch-proxy did not answer in time: look at its log, and at what is in force before repeating this"
    )]
    NoAnswer,
    /// Control answered something else.
    #[error("portlatch-proxy answered something unknown: are both of the same version?")]
    BadAnswer,
    /// The connection broke.
    #[error("the connection to portlatch-proxy broke: {}", plain(.0))]
    Connection(#[source] io::Error),
    /// More than one command may say.
    #[error("these documents take more than {} MiB: apply them in parts", MAX_LINE / 1024 / 1024)]
    TooMuch,
    /// It has never run there.
    #[error("there is no audit at {}: say with --dir where the proxy's directory is", path.display())]
    NoAudit {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A file could not be read.
    #[error("{} cannot be read: {}", path.display(), plain(source))]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The result could not be written.
    #[error("the result could not be written: {}", plain(.0))]
    Write(#[from] io::Error),
}

impl CliError {
    /// The exit code: 1 failed, 3 denied (2, usage, is clap's).
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::NotAllowed { .. } | Self::Refused { .. } => 3,
            Self::Failed(_)
            | Self::NotRunning { .. }
            | Self::NoAnswer
            | Self::BadAnswer
            | Self::Connection(_)
            | Self::TooMuch
            | Self::NoAudit { .. }
            | Self::Read { .. }
            | Self::Write(_) => 1,
        }
    }
}

/// What the system said, without its number, which tells people nothing.
fn plain(error: &io::Error) -> String {
    error.to_string().split(" (os error ").next().unwrap_or_default().to_owned()
}

/// Does what the administrator said, for the proxy in `dir`. Blocks.
///
/// # Errors
/// [`CliError`], whose text is for the administrator and whose exit code for programs.
pub fn run(command: AdminCommand, dir: &Path, streams: &mut Streams<'_>) -> Result<(), CliError> {
    match execute(command, dir, streams) {
        // Whoever read the output has seen enough, as `head` does.
        Err(CliError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

fn execute(command: AdminCommand, dir: &Path, streams: &mut Streams<'_>) -> Result<(), CliError> {
    let client = Client::new(dir);
    match command {
        AdminCommand::Apply { files } => {
            let files = files.iter().map(|path| read_source(path)).collect::<Result<_, _>>()?;
            show_done(client.ask(&AdminRequest::Apply { files })?, streams)
        }
        AdminCommand::Get { what, output } => get(&client, what, output, streams),
        AdminCommand::Delete { what: Selected { kind, name } } => {
            let request = AdminRequest::Delete { kind: kind.as_str().to_owned(), name };
            show_done(client.ask(&request)?, streams)
        }
        AdminCommand::Users(command) => users(&client, command, dir, streams),
        AdminCommand::Tokens(TokensCommand::Add { proxy, json }) => {
            let token = ask_token(&client, &AdminRequest::AddToken { proxy })?;
            Ok(if json {
                show::json(streams.out, &show::proxy_json(&token))
            } else {
                show::join(streams.out, &token)
            }?)
        }
        AdminCommand::Sessions { command: Some(SessionsCommand::Kill { id }), .. } => {
            show_done(client.ask(&AdminRequest::KillSession { id })?, streams)
        }
        AdminCommand::Sessions { command: None, json } => sessions(&client, json.into(), streams),
        AdminCommand::Why { user, resource, port, json } => {
            let request = AdminRequest::Why { user: user.clone(), resource: resource.clone(), port };
            let answer = client.ask(&request)?;
            let AdminAnswer::Explained(explanation) = answer else { return Err(unexpected(answer)) };
            if json {
                show::json(streams.out, &serde_json::json!(explanation))
            } else {
                show::explanation(streams.out, &explanation)
            }?;
            match explanation.is_allowed {
                true => Ok(()),
                false => Err(CliError::Refused { user, resource, port }),
            }
        }
        AdminCommand::Lock(arguments) => show_done(client.ask(&arguments.into_request())?, streams),
        AdminCommand::Audit(AuditCommand::Tail { lines, follow: false }) => audit::tail(dir, lines, streams),
        AdminCommand::Audit(AuditCommand::Tail { lines, follow: true }) => audit::follow(dir, lines, streams),
        AdminCommand::Audit(AuditCommand::Verify) => audit::verify(dir, streams),
    }
}

fn users(
    client: &Client,
    command: UsersCommand,
    dir: &Path,
    streams: &mut Streams<'_>,
) -> Result<(), CliError> {
    let (request, json) = match command {
        UsersCommand::Add { name, roles, json } => (AdminRequest::AddUser { name, roles }, json),
        UsersCommand::Reset { name, json } => (AdminRequest::ResetUser { name }, json),
    };
    let token = ask_token(client, &request)?;
    Ok(if json {
        show::json(streams.out, &show::user_json(&token))
    } else {
        show::enrolment(streams.out, &token, Keys::public_pin(dir))
    }?)
}

fn sessions(client: &Client, audience: Audience, streams: &mut Streams<'_>) -> Result<(), CliError> {
    let answer = client.ask(&AdminRequest::Sessions)?;
    let AdminAnswer::Sessions { sessions } = answer else { return Err(unexpected(answer)) };
    Ok(match audience {
        Audience::People => show::sessions(streams.out, &sessions),
        Audience::Programs => show::json(streams.out, &serde_json::json!(sessions)),
    }?)
}

/// For whom a result is written.
#[derive(Debug, Clone, Copy)]
enum Audience {
    People,
    Programs,
}

impl From<bool> for Audience {
    fn from(json: bool) -> Self {
        if json { Self::Programs } else { Self::People }
    }
}

fn ask_token(client: &Client, request: &AdminRequest) -> Result<IssuedToken, CliError> {
    let answer = client.ask(request)?;
    let AdminAnswer::Token(token) = answer else { return Err(unexpected(answer)) };
    Ok(token)
}

fn get(client: &Client, what: Selection, output: Format, streams: &mut Streams<'_>) -> Result<(), CliError> {
    let Selection { kind, name } = what;
    let wants_one = name.is_some();
    let answer = client.ask(&AdminRequest::Get { kind: kind.as_str().to_owned(), name })?;
    let AdminAnswer::Documents { documents } = answer else { return Err(unexpected(answer)) };
    match output {
        Format::Text if documents.is_empty() => writeln!(streams.err, "there is no {kind}")?,
        Format::Text => show::table(streams.out, kind, &documents)?,
        Format::Yaml => show::yaml(streams.out, &documents)?,
        // One that was named is that one; several are a list, even of none.
        Format::Json => match documents.as_slice() {
            [one] if wants_one => show::json(streams.out, one)?,
            several => show::json(streams.out, &serde_json::json!(several))?,
        },
    }
    Ok(())
}

fn show_done(answer: AdminAnswer, streams: &mut Streams<'_>) -> Result<(), CliError> {
    let AdminAnswer::Done { lines, warnings } = answer else { return Err(unexpected(answer)) };
    for warning in warnings {
        writeln!(streams.err, "warning: {}", show::printable(&warning))?;
    }
    for line in lines {
        writeln!(streams.out, "{}", show::printable(&line))?;
    }
    Ok(())
}

/// What an answer means that is not the one hoped for.
fn unexpected(answer: AdminAnswer) -> CliError {
    match answer {
        AdminAnswer::Failed { faults } => {
            CliError::Failed(faults.iter().map(|fault| show::printable(fault)).collect())
        }
        AdminAnswer::Done { .. }
        | AdminAnswer::Documents { .. }
        | AdminAnswer::Token(_)
        | AdminAnswer::Sessions { .. }
        | AdminAnswer::Explained(_) => CliError::BadAnswer,
    }
}

/// Reads a file as it stands; what is in it is for control to judge.
fn read_source(path: &Path) -> Result<SourceFile, CliError> {
    use std::io::Read;
    let failed = |source| CliError::Read { path: path.to_owned(), source };
    let limit = u64::try_from(MAX_LINE).unwrap_or(u64::MAX);
    let mut text = String::new();
    if path == Path::new("-") {
        io::stdin().lock().take(limit).read_to_string(&mut text).map_err(failed)?;
        return Ok(SourceFile { name: "(standard input)".to_owned(), text });
    }
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(limit).read_to_string(&mut text).map_err(failed)?;
    Ok(SourceFile { name: path.display().to_string(), text })
}

#[cfg(test)]
mod tests;

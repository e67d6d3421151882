//! `portlatch rdp NAME`: the tap beforehand, then the RDP client that is installed. A client takes several connections for
//! one log-in, and gives up sooner than a person finds the key.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;

use portlatch_clock::Clock;
use portlatch_protocol::api::Catalogue;
use portlatch_protocol::names::{Hostname, ResourceKind};
use portlatch_protocol::resource::Resource;

use super::asking::ask_person;
use super::unless_stopped;
use crate::cli::Rdp;
use crate::failure::Failure;
use crate::files::Files;
use crate::local::{Beforehand, LocalError, Tell, Want};
use crate::mfa_mode::MfaMode;
use crate::program;
use crate::safe_text::{plain, safe};
use crate::terminal::{Stream, say};

/// RDP's own port, where a desktop has several.
const RDP: u16 = 3389;

/// The clients that are known, the best first.
const CLIENTS: [(&str, Client); 5] = [
    ("xfreerdp3", Client::FreeRdp),
    ("xfreerdp", Client::FreeRdp),
    ("sdl-freerdp3", Client::FreeRdp),
    ("sdl-freerdp", Client::FreeRdp),
    ("remmina", Client::Remmina),
];

/// How a client is told what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Client {
    FreeRdp,
    Remmina,
}

/// The desktop.
#[derive(Debug, PartialEq, Eq)]
struct Desktop {
    host: Hostname,
    port: u16,
}

/// Taps, and becomes the client.
pub(crate) async fn rdp(options: &Rdp, files: &Files, clock: &Clock) -> Result<(), Failure> {
    if options.mfa_mode == Some(MfaMode::Otp) {
        return Err(Failure::Usage("desktops take no codes: tap your security key".to_owned()));
    }
    let user = options.user.as_deref().map(checked_user).transpose()?;
    let (path, client) = installed(program::find).ok_or_else(|| {
        Failure::because("no RDP client is installed: install FreeRDP (xfreerdp) or Remmina")
    })?;
    let catalogue = super::ls::catalogue(files, clock).await?;
    let desktop = Desktop::find(&catalogue, options)?;
    unless_stopped(tap(&desktop, options, files)).await?;
    let arguments = client.arguments(&desktop, user, &options.arguments);
    say(&format!("Opening {}:{} with {} ...", desktop.host, desktop.port, safe(&path.to_string_lossy())))?;
    // From here on this process is the client: what it says and how it ends are the client's.
    let error = std::process::Command::new(&path).args(arguments).exec();
    Err(Failure::Failed(format!("{} cannot be started: {}", path.display(), plain(&error))))
}

async fn tap(desktop: &Desktop, options: &Rdp, files: &Files) -> Result<(), Failure> {
    let want = Want::Tap {
        host: desktop.host.to_string(),
        port: Some(desktop.port),
        command: Beforehand::Rdp,
        pid: std::process::id(),
        mode: options.mfa_mode,
    };
    let Tell::Tapped { .. } = ask_person(files, &want, Stream::Out).await? else {
        return Err(LocalError::NotUnderstood.into());
    };
    Ok(())
}

/// The first client that is there.
fn installed(find: impl Fn(&OsStr) -> Option<PathBuf>) -> Option<(PathBuf, Client)> {
    CLIENTS.iter().find_map(|(name, client)| find(OsStr::new(name)).map(|path| (path, *client)))
}

/// A user's name as a client's argument: it must not be able to be anything else.
fn checked_user(user: &str) -> Result<&str, Failure> {
    match user.is_empty() || user.chars().any(char::is_control) {
        true => Err(Failure::Usage("write a user's name behind --user".to_owned())),
        false => Ok(user),
    }
}

impl Desktop {
    fn find(catalogue: &Catalogue, options: &Rdp) -> Result<Self, Failure> {
        let Rdp { name, port, .. } = options;
        let is_meant = |resource: &&Resource| {
            resource.id.kind == ResourceKind::Desktop
                && (resource.id.name.as_str() == name || resource.host.as_str().eq_ignore_ascii_case(name))
        };
        let resource = catalogue.resources.iter().find(is_meant).ok_or_else(|| {
            Failure::Failed(format!("{} is not among your desktops: run `portlatch ls`", safe(name)))
        })?;
        let host = resource.host.as_str().parse().map_err(|_| {
            Failure::Failed(format!("{} stands for many desktops: name one by its host", resource.host))
        })?;
        let usual = || resource.only_port().or_else(|| resource.has_port(RDP).then_some(RDP));
        let port = port.or_else(usual).ok_or_else(|| {
            Failure::Failed(format!("{} has several ports: say which one with --port", safe(name)))
        })?;
        match resource.has_port(port) {
            true => Ok(Self { host, port }),
            false => Err(Failure::Failed(format!("{} has no port {port}: run `portlatch ls`", safe(name)))),
        }
    }
}

impl Client {
    /// What the client is started with. Nothing passes through a shell, and nothing of a server's is an argument of its
    /// own: host and port stand behind an option.
    fn arguments(self, desktop: &Desktop, user: Option<&str>, more: &[OsString]) -> Vec<OsString> {
        let Desktop { host, port } = desktop;
        let own: Vec<String> = match self {
            Self::FreeRdp => {
                let user = user.map(|user| format!("/u:{user}"));
                let fixed = [
                    format!("/v:{host}:{port}"),
                    // The first certificate is remembered; another one is asked about.
                    "/cert:tofu".to_owned(),
                    "+clipboard".to_owned(),
                    "/dynamic-resolution".to_owned(),
                    "+auto-reconnect".to_owned(),
                    "/timeout:30000".to_owned(),
                    // UDP beside the connection would not go through the tunnel.
                    "-multitransport".to_owned(),
                ];
                fixed.into_iter().chain(user).collect()
            }
            Self::Remmina => {
                let user = user.map(|user| format!("{}@", percent_encoded(user))).unwrap_or_default();
                vec!["-c".to_owned(), format!("rdp://{user}{host}:{port}")]
            }
        };
        own.into_iter().map(OsString::from).chain(more.iter().cloned()).collect()
    }
}

/// Inside a URL's user part (RFC 3986 section 3.2.1).
fn percent_encoded(text: &str) -> String {
    let encoded = text.bytes().map(|byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    });
    encoded.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;
    use portlatch_protocol::ports::PortRange;
    use portlatch_protocol::resource::{Hold, MfaNeed};

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        rdp: Rdp,
    }

    fn options(arguments: &[&str]) -> Rdp {
        Line::parse_from(["rdp"].iter().chain(arguments)).rdp
    }

    fn catalogue(host: &str, ports: &[(u16, u16)]) -> Catalogue {
        let desktop = Resource {
            id: "desktop/win-1".parse().unwrap(),
            host: host.parse().unwrap(),
            ports: ports.iter().map(|(first, last)| PortRange::new(*first, *last).unwrap()).collect(),
            hold: Hold::Data,
            mfa: MfaNeed::Tap,
            labels: Default::default(),
            description: String::new(),
            proxies: vec![],
            protocol: None,
            refusal: Default::default(),
        };
        let node = Resource { id: "node/win-1".parse().unwrap(), ..desktop.clone() };
        Catalogue {
            revision: 1,
            resources: vec![node, desktop],
            zones: vec![],
            proxies: vec![],
            outside: vec![],
        }
    }

    fn desktop() -> Desktop {
        Desktop { host: "win-1.corp.internal".parse().unwrap(), port: 3389 }
    }

    #[test]
    fn a_desktop_is_found_by_name_or_host_and_has_rdp_s_port() {
        let found = |ports, arguments: &[&str]| {
            Desktop::find(&catalogue("win-1.corp.internal", ports), &options(arguments))
        };
        assert_eq!(found(&[(3389, 3389)], &["win-1"]).unwrap(), desktop());
        assert_eq!(found(&[(22, 22), (3389, 3390)], &["Win-1.corp.internal"]).unwrap(), desktop());
        assert_eq!(found(&[(13389, 13389)], &["win-1"]).unwrap().port, 13389);
        assert_eq!(found(&[(3389, 3390)], &["win-1", "--port", "3390"]).unwrap().port, 3390);
        assert!(found(&[(1000, 1001)], &["win-1"]).unwrap_err().to_string().contains("--port"));
        assert!(found(&[(3389, 3389)], &["win-1", "--port", "22"]).is_err());
        assert!(found(&[(3389, 3389)], &["win-2"]).is_err());
        assert!(
            Desktop::find(&catalogue("*.vdi.corp.internal", &[(3389, 3389)]), &options(&["win-1"])).is_err()
        );
    }

    #[test]
    fn the_first_client_that_is_there_is_taken() {
        let has = |names: &'static [&'static str]| {
            move |name: &OsStr| names.iter().any(|n| name == *n).then(|| PathBuf::from(name))
        };
        assert_eq!(installed(has(&["remmina", "xfreerdp"])), Some(("xfreerdp".into(), Client::FreeRdp)));
        assert_eq!(installed(has(&["remmina"])), Some(("remmina".into(), Client::Remmina)));
        assert_eq!(installed(has(&["mstsc"])), None);
    }

    #[test]
    fn a_client_is_told_host_user_and_what_the_person_adds() {
        let more = ["/f".into()];
        let freerdp = Client::FreeRdp.arguments(&desktop(), Some(r"CORP\alice"), &more);
        assert_eq!(freerdp[0], "/v:win-1.corp.internal:3389");
        assert_eq!(freerdp[7..], [OsString::from(r"/u:CORP\alice"), "/f".into()]);
        let remmina = Client::Remmina.arguments(&desktop(), Some(r"CORP\a@b/?"), &[]);
        assert_eq!(remmina, ["-c", "rdp://CORP%5Ca%40b%2F%3F@win-1.corp.internal:3389"]);
    }

    #[test]
    fn a_user_s_name_has_no_control_characters() {
        assert!(checked_user("alice").is_ok());
        for user in ["", "alice\r\nalternate shell:s:cmd", "a\0b"] {
            assert!(checked_user(user).is_err(), "{user:?}");
        }
    }
}

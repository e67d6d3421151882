//! What is the user's own: login, agent, security key, and how the user is asked and told.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use portlatch_clock::Clock;
use portlatch_protocol::api::Catalogue;
use portlatch_protocol::names::Hostname;
use portlatch_protocol::resource::Zone;

use super::finding::Finding;
use super::in_time;
use super::machine::Daemon;
use crate::absence::logind;
use crate::failure::Failure;
use crate::files::{Files, FilesError};
use crate::keys::pin_entry::pinentry_program;
use crate::keys::usb::UsbKeys;
use crate::login::Login;
use crate::notification;
use crate::program;
use crate::safe_text::{plain, safe};
use crate::status::{StatusReport, rfc3339};

/// A login that ends sooner is told of.
const ENDS_SOON: Duration = Duration::from_secs(30 * 60);
/// The files that nobody else may read.
const PRIVATE: [&str; 2] = ["login.key", "login.json"];
/// How programs are told to use an HTTP proxy, which would never ask us; and for which hosts not.
const HTTP_PROXIES: [&str; 6] =
    ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"];
const NOT_FOR: [&str; 2] = ["no_proxy", "NO_PROXY"];

/// What the agent, or what stands in for it, has said.
pub(super) struct Agent {
    pub(super) report: Result<StatusReport, Failure>,
}

impl Agent {
    /// Whether it runs.
    pub(super) fn runs(&self) -> bool {
        self.report.as_ref().is_ok_and(|report| report.status.agent)
    }

    /// What it says is amiss; what the daemon's own line says is left out.
    pub(super) fn findings(&self, daemon: Option<&Daemon>) -> Vec<Finding> {
        let report = match &self.report {
            Ok(report) => report,
            Err(failure) => return vec![Finding::error("agent", failure)],
        };
        if !report.status.agent {
            let without = "no agent is running, so that programs of yours are refused";
            return vec![Finding::fail("agent", without, "start `portlatch agent`")];
        }
        let said = daemon.and_then(Daemon::error);
        let told = |trouble: &&String| said.as_ref() != Some(trouble);
        let troubles: Vec<Finding> = report
            .troubles
            .iter()
            .filter(told)
            .map(|trouble| {
                Finding::warn("agent", trouble, "see what it says; `portlatch status` says it too")
            })
            .collect();
        match troubles.is_empty() {
            true => vec![Finding::ok("agent", "it runs")],
            false => troubles,
        }
    }
}

/// The login of the files.
pub(super) fn login(read: &Result<Option<Login>, FilesError>, files: &Files, clock: &Clock) -> Vec<Finding> {
    let login = match read {
        Ok(Some(login)) => &login.file,
        Ok(None) => return vec![Finding::fail("login", "nobody is logged in", "run `portlatch login`")],
        Err(error) => return vec![Finding::error("login", error)],
    };
    let (who, until) = (format!("{} at {}", login.user, login.cluster), rfc3339(login.expires));
    let again = "run `portlatch login`";
    let line = match login.time_left(clock.time_of_day()) {
        None => Finding::fail("login", format!("{who}: it ended at {until}"), again),
        Some(left) if left < ENDS_SOON => {
            Finding::warn("login", format!("{who}: it ends soon, at {until}"), again)
        }
        Some(_) => Finding::ok("login", format!("{who}, until {until}")),
    };
    std::iter::once(line).chain(PRIVATE.iter().filter_map(|name| open_file(files, name))).collect()
}

/// A file that others may read.
fn open_file(files: &Files, name: &str) -> Option<Finding> {
    let path = files.state(name);
    let mode = path.metadata().ok()?.permissions().mode();
    (mode & 0o077 != 0).then(|| {
        Finding::fail(
            "files",
            format!("{} is open to others (mode {:03o})", path.display(), mode & 0o777),
            "run `portlatch logout`, then `portlatch login`: somebody may have read the key",
        )
    })
}

/// Keys, and how the user is asked and told.
pub(super) async fn surroundings() -> Vec<Finding> {
    let (keys, desktop, lock) = tokio::join!(
        in_time("key", async { Ok(security_keys().await) }),
        in_time("prompts", async { Ok(desktop().await) }),
        in_time("lock", async { Ok(screen_lock().await) }),
    );
    let mut findings = keys.unwrap_or_else(|late| vec![late]);
    findings.push(pin());
    findings.extend([desktop, lock].map(|looked| looked.unwrap_or_else(|late| late)));
    findings.extend(root());
    findings
}

/// On a thread of its own: opening a device may take the kernel seconds.
async fn security_keys() -> Vec<Finding> {
    let listed = tokio::task::spawn_blocking(|| UsbKeys::new().plugged_in()).await;
    let keys = match listed {
        Ok(Ok(keys)) => keys,
        Ok(Err(error)) => {
            let text = format!("security keys cannot be listed: {}", plain(&error));
            return vec![Finding::fail("key", text, "ask the administrator of this machine")];
        }
        Err(_) => return vec![Finding::error("key", &"looking for security keys failed")],
    };
    if keys.is_empty() {
        let none = "no security key is plugged in";
        return vec![Finding::warn(
            "key",
            none,
            "plug yours in and run this again, to see that it can be used",
        )];
    }
    let line = |key: crate::keys::usb::PluggedIn| match key.trouble {
        None => Finding::ok("key", format!("{} can be used", key.device)),
        Some(why) => Finding::error("key", &why),
    };
    keys.into_iter().map(line).collect()
}

fn pin() -> Finding {
    match pinentry_program() {
        None => {
            Finding::ok("pin", "there is no screen: the PIN of a key is asked at the prompt, in a terminal")
        }
        Some(named) if program::find(named.as_ref()).is_some() => {
            Finding::ok("pin", format!("the PIN of a key is asked by {}", safe(&named)))
        }
        Some(named) => Finding::warn(
            "pin",
            format!("{} is not there: the PIN of a key is asked at the prompt, in a terminal", safe(&named)),
            "install pinentry (pinentry-gnome3, pinentry-qt), or have `portlatch watch` open",
        ),
    }
}

async fn desktop() -> Finding {
    match notification::look_for_server().await {
        Ok(()) => Finding::ok("prompts", "they are shown as notifications of the desktop"),
        Err(error) => Finding::warn(
            "prompts",
            format!("there are no notifications of a desktop ({error})"),
            "have `portlatch watch` open in a terminal, or nobody sees prompts",
        ),
    }
}

async fn screen_lock() -> Finding {
    match logind::look_for_it().await {
        Ok(()) => Finding::ok("lock", "a locked screen ends what was tapped for"),
        Err(error) => Finding::warn(
            "lock",
            format!("systemd-logind is not heard ({error}): a locked screen ends nothing"),
            "nothing needs to be done where the screen is never locked; `portlatch logout` ends everything",
        ),
    }
}

/// Through sudo one looks at root's login, and root's programs have none.
fn root() -> Option<Finding> {
    let is_sudo = rustix::process::geteuid().is_root() && std::env::var_os("SUDO_UID").is_some();
    is_sudo.then(|| {
        Finding::warn(
            "user",
            "this is root's side of it: programs that are run by sudo have no login of yours and are refused",
            "run it, and your programs, as yourself",
        )
    })
}

/// Programs that are told to use an HTTP proxy ask it for our names, and nothing ever comes to us.
pub(super) fn environment(
    catalogue: Option<&Catalogue>,
    variable: impl Fn(&str) -> Option<String>,
) -> Option<Finding> {
    let set = |name: &&&str| variable(name).is_some_and(|value| !value.is_empty());
    let proxy = HTTP_PROXIES.iter().find(set)?;
    let exceptions = NOT_FOR.iter().find_map(|name| variable(name)).unwrap_or_default();
    let exceptions: Vec<&str> = exceptions.split(',').map(|host| bare(host.trim())).collect();
    let covers = |zone: &Zone, host: &str| {
        host == "*" || host.parse::<Hostname>().is_ok_and(|host| zone.suffix.is_within(&host))
    };
    let is_missing = |zone: &&Zone| !exceptions.iter().any(|host| covers(zone, host));
    let missing = catalogue?.zones.iter().find(is_missing)?;
    Some(Finding::warn(
        "environment",
        format!(
            "{proxy} is set: programs that heed it (curl, git) never ask for names in {}",
            missing.suffix
        ),
        format!("add .{} to no_proxy", missing.suffix),
    ))
}

/// `.corp.internal` and `*.corp.internal` mean what `corp.internal` means.
fn bare(host: &str) -> &str {
    host.strip_prefix("*.").or_else(|| host.strip_prefix('.')).unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::tests::of;

    fn environment_of(pairs: &[(&str, &str)]) -> Option<Finding> {
        let catalogue = of(&[("db/billing", "billing.corp.internal")]);
        let variable =
            |name: &str| pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        environment(Some(&catalogue), variable)
    }

    #[test]
    fn an_http_proxy_that_takes_our_names_is_told_of() {
        assert_eq!(environment_of(&[]), None);
        assert_eq!(environment_of(&[("https_proxy", "")]), None);
        let found = environment_of(&[("https_proxy", "http://proxy:3128")]).unwrap();
        assert_eq!(found.advice.as_deref(), Some("add .corp.internal to no_proxy"));
        for covered in ["*", ".corp.internal", "localhost, corp.internal", "*.corp.internal", "internal"] {
            assert_eq!(environment_of(&[("ALL_PROXY", "x"), ("no_proxy", covered)]), None, "{covered}");
        }
        assert!(environment_of(&[("ALL_PROXY", "x"), ("NO_PROXY", "billing.corp.internal")]).is_some());
    }

    #[test]
    fn a_file_that_others_may_read_is_told_of() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::inside(directory.path());
        files.replace("login.key", b"key").unwrap();
        assert_eq!(open_file(&files, "login.key"), None);
        let mode = std::fs::Permissions::from_mode(0o640);
        std::fs::set_permissions(files.state("login.key"), mode).unwrap();
        assert!(open_file(&files, "login.key").unwrap().text.ends_with("is open to others (mode 640)"));
        assert_eq!(open_file(&files, "login.json"), None);
    }
}

//! Why this user may not open a key that is plugged in, and what to do about it.
//!
//! systemd gives a security key to whoever sits at the machine (udev's `uaccess`): to the user of the seat's active session,
//! and to nobody while another session is in front. logind is asked by its own command, which says it in stable words.

use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long logind has to answer: a moment, but on a machine that is busy just then.
const TIME: Duration = Duration::from_secs(5);
/// How often it is looked at meanwhile.
const GLANCE: Duration = Duration::from_millis(10);
/// Sessions of one user that are looked at.
const MAX_SESSIONS: usize = 16;

const NO_ACCESS: &str = "no access to the security key at";
/// Where the machine's own rules are.
const RULES: &str = "/etc/udev/rules.d/70-portlatch-fido.rules";
/// What opens keys to a group: the rule of `packaging/udev/`, which an installed machine does not have.
const RULE: &str = r#"SUBSYSTEM=="hidraw", ENV{ID_SECURITY_TOKEN}=="1", GROUP="portlatch-fido", MODE="0660""#;

/// How this user is logged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seat {
    /// At the machine, and in front.
    Active,
    /// At the machine, behind another session.
    Behind,
    /// Over the network, or not at a screen.
    Elsewhere,
    /// There is no logind to say.
    Unknown,
}

/// The sentence for the person.
pub(super) fn why_no_access(device: &str) -> String {
    explained(device, seat())
}

fn explained(device: &str, seat: Seat) -> String {
    let (why, what) = match seat {
        Seat::Behind => {
            let why = "your seat is not active: another session is in front of the screen";
            return format!("{NO_ACCESS} {device}: {why}; switch back to yours and try again");
        }
        Seat::Elsewhere => (
            "your seat is not active: you are logged in from elsewhere, and keys belong to who sits at the machine",
            "log in at the machine itself, or",
        ),
        Seat::Active => (
            "your seat is active, but udev has not given the key to it",
            "take it out and put it in again; if that does not help,",
        ),
        Seat::Unknown => {
            ("nobody here says who sits at the machine (there is no systemd-logind)", "to use it,")
        }
    };
    format!(
        "{NO_ACCESS} {device}: {why}; {what} have the administrator put this into {RULES}: {RULE}, and you into the group portlatch-fido"
    )
}

fn seat() -> Seat {
    let user = rustix::process::getuid().as_raw().to_string();
    let Some(listed) = asked(&["show-user", &user, "--property=Sessions", "--value"]) else {
        // No session at all is no error of logind's; only where it is absent nobody knows.
        return match asked(&["list-sessions", "--no-legend"]) {
            Some(_) => Seat::Elsewhere,
            None => Seat::Unknown,
        };
    };
    let sessions = listed.split_whitespace().take(MAX_SESSIONS);
    let told = sessions.filter_map(|session| {
        asked(&["show-session", session, "--property=Seat", "--property=Active", "--property=Remote"])
    });
    best_of(told)
}

/// The session that is nearest to the screen.
fn best_of(sessions: impl Iterator<Item = String>) -> Seat {
    let mut best = Seat::Elsewhere;
    for session in sessions {
        let says = |line: &str| session.lines().any(|said| said == line);
        let is_at_a_seat = session.lines().any(|line| line.starts_with("Seat=") && line != "Seat=");
        if is_at_a_seat && !says("Remote=yes") {
            if says("Active=yes") {
                return Seat::Active;
            }
            best = Seat::Behind;
        }
    }
    best
}

/// What loginctl prints; nothing if it fails or takes too long.
fn asked(arguments: &[&str]) -> Option<String> {
    let mut command = Command::new("loginctl");
    command.args(arguments).env("LC_ALL", "C");
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::null()).stdout(Stdio::piped()).spawn().ok()?;
    let deadline = Instant::now() + TIME;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => {
                // A few words: they fit into the pipe while it ran.
                let output = child.wait_with_output().ok()?;
                return status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned());
            }
            Ok(None) if Instant::now() < deadline => thread::sleep(GLANCE),
            Ok(None) | Err(_) => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn best(sessions: &[&str]) -> Seat {
        best_of(sessions.iter().map(|session| (*session).to_owned()))
    }

    #[test]
    fn the_session_nearest_to_the_screen_counts() {
        let front = "Remote=no\nSeat=seat0\nActive=yes\n";
        let behind = "Remote=no\nSeat=seat0\nActive=no\n";
        let remote = "Remote=yes\nSeat=\nActive=yes\n";
        assert_eq!(best(&[remote, behind, front]), Seat::Active);
        assert_eq!(best(&[remote, behind]), Seat::Behind);
        assert_eq!(best(&[remote]), Seat::Elsewhere);
        assert_eq!(best(&[]), Seat::Elsewhere);
    }

    #[test]
    fn each_reason_says_what_to_do() {
        for seat in [Seat::Active, Seat::Behind, Seat::Elsewhere, Seat::Unknown] {
            let text = explained("/dev/hidraw3", seat);
            assert!(text.starts_with("no access to the security key at /dev/hidraw3: "), "{text}");
            assert!(text.contains("; "), "{text}");
            assert_eq!(crate::safe_text::safe_sentence(&text), text, "it is shown whole");
        }
    }

    #[test]
    fn the_rule_that_is_advised_is_the_one_of_the_packaging() {
        let rules = include_str!("../../../../packaging/udev/70-portlatch-fido.rules");
        let lines: Vec<&str> = rules.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(lines, [RULE]);
    }
}

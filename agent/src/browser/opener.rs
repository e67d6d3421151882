//! Which program opens a page: those that `BROWSER` names, then `xdg-open`, where there is a screen.

use std::ffi::OsString;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

/// How long a program has to fail: one that still runs then is a browser.
const FAILS_WITHIN: Duration = Duration::from_secs(3);

/// What became of opening a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opened {
    /// A program took it.
    Yes,
    /// There is no screen.
    NoDisplay,
    /// No program took it.
    NoBrowser,
}

/// Opens a page, and says with it that the browser is on this machine: the address that it comes from may be another of the
/// machine's than ours. `url` is one that [`super::own_page`] let pass.
pub(crate) async fn open(url: &str) -> Opened {
    let commands = commands(&format!("{url}?runs=here"), |name| {
        std::env::var_os(name).filter(|value| !value.is_empty())
    });
    if commands.is_empty() {
        return Opened::NoDisplay;
    }
    for command in &commands {
        if start(command).await {
            return Opened::Yes;
        }
    }
    Opened::NoBrowser
}

/// The commands to try, in their order; none where there is no screen. `BROWSER` is a list with colons; `%s` in a command
/// stands for the page, which comes last otherwise.
fn commands(url: &str, variable: impl Fn(&str) -> Option<OsString>) -> Vec<Vec<String>> {
    let chosen = variable("BROWSER").and_then(|list| list.into_string().ok()).unwrap_or_default();
    let mut commands: Vec<Vec<String>> = chosen.split(':').filter_map(|words| command(words, url)).collect();
    let has_screen = variable("DISPLAY").is_some() || variable("WAYLAND_DISPLAY").is_some();
    if has_screen {
        commands.push(vec!["xdg-open".to_owned(), url.to_owned()]);
    }
    commands
}

fn command(words: &str, url: &str) -> Option<Vec<String>> {
    let mut command: Vec<String> = words.split_whitespace().map(|word| word.replace("%s", url)).collect();
    if command.is_empty() {
        return None;
    }
    if !words.contains("%s") {
        command.push(url.to_owned());
    }
    Some(command)
}

/// Whether the program took the page: it ended well, or still runs.
async fn start(command: &[String]) -> bool {
    let Some((program, arguments)) = command.split_first() else { return false };
    // Of its own process group: Ctrl-C in our terminal is not meant for it.
    let started = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn();
    let mut child = match started {
        Ok(child) => child,
        Err(error) => {
            tracing::debug!(%error, program, "a browser could not be started");
            return false;
        }
    };
    match timeout(FAILS_WITHIN, child.wait()).await {
        Ok(ended) => ended.is_ok_and(|status| status.success()),
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "https://proxy.example.com/mfa/0a";

    fn commands_with(variables: &[(&str, &str)]) -> Vec<String> {
        let variable = |name: &str| {
            variables.iter().find(|(named, _)| *named == name).map(|(_, value)| OsString::from(*value))
        };
        commands(URL, variable).iter().map(|command| command.join(" ")).collect()
    }

    #[test]
    fn the_person_s_own_choice_comes_first() {
        assert_eq!(
            commands_with(&[("BROWSER", "firefox --new-window:w3m %s -v"), ("DISPLAY", ":0")]),
            [format!("firefox --new-window {URL}"), format!("w3m {URL} -v"), format!("xdg-open {URL}")]
        );
    }

    #[test]
    fn without_a_screen_there_is_nothing_to_try() {
        assert!(commands_with(&[]).is_empty());
        assert!(commands_with(&[("BROWSER", " : ")]).is_empty());
        assert_eq!(commands_with(&[("WAYLAND_DISPLAY", "wayland-0")]).len(), 1);
    }

    #[tokio::test]
    async fn a_program_that_fails_has_not_opened_anything() {
        assert!(start(&["true".to_owned()]).await);
        assert!(!start(&["false".to_owned()]).await);
        assert!(!start(&["/nonexistent/browser".to_owned()]).await);
    }
}

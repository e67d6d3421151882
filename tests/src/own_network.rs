//! A network namespace for one test: the test's own process again, by `unshare`. What a test listens on or alters there,
//! the machine never sees.

use std::io::Write as _;
use std::process::Command;

/// Set in the process that is inside.
const INSIDE: &str = "PORTLATCH_TEST_OWN_NETWORK";

/// Runs `body` in a network namespace of its own; `test` is the name of the test that calls. Without root it says that
/// it is skipped.
///
/// # Panics
/// If the test fails in there.
pub fn in_own_network(test: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        shell("ip link set lo up");
        return body();
    }
    if !rustix::process::geteuid().is_root() {
        return say(&format!("skipped: {test} needs root, since it makes a network namespace"));
    }
    let status = Command::new("unshare")
        .args(["--net", "--mount", "--propagation", "private", "--"])
        .arg(std::env::current_exe().expect("a test knows its own file"))
        .args(["--exact", test, "--nocapture", "--test-threads", "1"])
        .env(INSIDE, "1")
        .status()
        .expect("util-linux is installed");
    assert!(status.success(), "{test} failed in its network");
}

/// Runs a shell command that must succeed.
///
/// # Panics
/// If it does not.
pub fn shell(command: &str) {
    let output = Command::new("sh").args(["-ec", command]).output().expect("a shell");
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Prints a line for whoever looks at the test's output.
///
/// # Panics
/// If nobody takes it.
pub fn say(line: &str) {
    writeln!(std::io::stdout(), "{line}").expect("the runner takes what a test prints");
}

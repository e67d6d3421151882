//! Programs that end with the test that started them, however it ends: a browser is a dozen processes, some of which leave
//! their process group, and a test may be killed before it can drop anything.

use std::process::{Command, Stdio};
use std::sync::LazyLock;

/// A program that is killed when the thread that started it is gone.
pub fn ends_with_test(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", program]);
    command
}

/// The same for a program and whatever it starts: they have a process namespace to themselves, and none outlives the first.
/// Where the machine gives us none, the program alone is killed, and should be asked to end what it started.
pub fn ends_with_all_it_started(program: &str) -> Command {
    if has_namespaces() { in_namespace(program) } else { ends_with_test(program) }
}

fn in_namespace(program: &str) -> Command {
    let mut command = ends_with_test("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-current-user"]);
    }
    command.args(["--pid", "--mount-proc", "--fork", "--kill-child=KILL", "--", program]);
    command
}

/// Whether this machine lets us have process namespaces.
pub fn has_namespaces() -> bool {
    static FOUND: LazyLock<bool> = LazyLock::new(|| {
        let mut command = in_namespace("true");
        command.stdin(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    });
    *FOUND
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn nothing_outlives_the_thread_that_started_it() {
        if !has_namespaces() {
            return crate::own_network::say("skipped: this machine gives us no process namespaces");
        }
        let start = || {
            let mut command = ends_with_all_it_started("sh");
            let script = "setsid sh -c 'echo inner; exec sleep 600' & while :; do sleep 600; done";
            let mut child = command.args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
            let mut output = child.stdout.take().unwrap();
            let mut said = [0; 6];
            output.read_exact(&mut said).unwrap();
            (child, output)
        };
        let (mut child, mut output) = std::thread::spawn(start).join().unwrap();
        assert!(!child.wait().unwrap().success());
        // Its end is the end of the last process that could write to it.
        assert_eq!(output.read_to_end(&mut Vec::new()).unwrap(), 0);
    }
}

//! A security key with a PIN on the user's machine, by the agent's own way to a key: from what the kernel says is plugged in,
//! by reports, to the question of a pinentry. Where the kernel would have a hidraw node stands a pty, and behind it the key
//! in software.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use portlatch_tests::lab::program::Program;
use portlatch_tests::lab::{Account::*, Host, Lab, PATIENCE, wait_for};
use portlatch_virtual_key::{Event, Opened, Plugged, REPORT, Settings, TouchMode};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

use super::{PASSWORD, files_below, inside};

pub(super) const PIN: &str = "Hy5-canary-of-a-PIN";
pub(super) const WRONG_PIN: &str = "Bv2-wrong-canary-of-a-PIN";
const TOM: u32 = 2002;
/// What a person types, in turn: a pinentry of one answer each, which reads them from files.
const PINENTRY: &str = "#!/bin/sh
echo OK at your service
while read -r command rest; do
    if [ \"$command\" = GETPIN ]; then
        for pin in \"$0\".1 \"$0\".2; do
            [ -e \"$pin\" ] && read -r typed <\"$pin\" && rm \"$pin\" && echo \"D $typed\" && break
        done
    fi
    echo OK
done
";
/// The machine with the key in it, for whoever is inside: the lab's hosts have the devices of the machine that runs them.
const PLUGGED_IN: &str = "
    mount -t tmpfs tmpfs /sys/class
    mkdir -p /sys/class/hidraw/hidraw0/device
    cp \"$1\" /sys/class/hidraw/hidraw0/device/report_descriptor
    mkdir -p /run/dev
    mount -t tmpfs -o mode=755 tmpfs /run/dev
    for node in null zero full random urandom tty hidraw0; do touch /run/dev/$node; done
    for node in null zero full random urandom tty; do mount --bind /dev/$node /run/dev/$node; done
    mount --bind \"$0\" /run/dev/hidraw0
    mount --rbind /run/dev /dev
    echo ready
    exec sleep infinity";
/// Of a FIDO device with reports of 64 bytes (CTAP 2.1, 11.2.8.1).
const DESCRIPTOR: [u8; 34] = [
    0x06, 0xD0, 0xF1, 0x09, 0x01, 0xA1, 0x01, 0x09, 0x20, 0x15, 0x00, 0x26, 0xFF, 0x00, 0x75, 0x08, 0x95,
    0x40, 0x81, 0x02, 0x09, 0x21, 0x15, 0x00, 0x26, 0xFF, 0x00, 0x75, 0x08, 0x95, 0x40, 0x91, 0x02, 0xC0,
];
const VERIFIED: &str = "
kind: user
metadata: {name: tom}
spec: {roles: [access-dev, access-prod]}
---
kind: app
metadata: {name: verified, labels: {env: prod}}
spec: {uri: 'tcp://10.0.0.9', tcp_ports: [{port: 6432}], mfa: {user_verification: true}}
";

/// Tom's machine, with a key that touches itself and wants its PIN where the user is to be verified.
struct Desk<'l> {
    lab: &'l Lab,
    key: Plugged,
    /// Whose mounts have the key.
    machine: Program,
    _wire: Wire,
}

impl<'l> Desk<'l> {
    fn set_up(lab: &'l Lab) -> Self {
        let (touch, pin) = (TouchMode::ByItself, Some(PIN.to_owned()));
        let key = Plugged::new(Settings { pin, touch, ..Settings::default() });
        let (wire, node) = Wire::lay(key.open().unwrap());
        let descriptor = lab.directory().join("user/descriptor");
        fs::write(&descriptor, DESCRIPTOR).unwrap();
        let script = [node.to_str().unwrap(), descriptor.to_str().unwrap()];
        let unshare = ["unshare", "--mount", "--propagation", "private", "sh", "-euc", PLUGGED_IN];
        let mut machine = lab.spawn(Host::User, Root, &[&unshare[..], &script].concat());
        assert_eq!(machine.read_line(PATIENCE), "ready");
        Self { lab, key, machine, _wire: wire }
    }

    /// The pinentry, with what is typed into it: first what is wrong, then the PIN.
    fn pinentry(&self) -> PathBuf {
        let home = inside(self.lab, "/home/tom");
        for (name, content) in
            [("portlatch-pin", PINENTRY), ("portlatch-pin.1", WRONG_PIN), ("portlatch-pin.2", PIN)]
        {
            fs::write(home.join(name), format!("{content}\n")).unwrap();
            fs::set_permissions(home.join(name), fs::Permissions::from_mode(0o700)).unwrap();
            chown(home.join(name), Some(TOM), Some(TOM)).unwrap();
        }
        home.join("portlatch-pin")
    }

    /// Runs `portlatch` as tom there; its log is the lab's.
    fn portlatch(&self, log: &str, arguments: &str) -> Program {
        let line = format!(
            "exec setpriv --reuid {TOM} --regid {TOM} --clear-groups env --chdir=/home/tom HOME=/home/tom USER=tom \
             XDG_RUNTIME_DIR=/run/user/{TOM} PORTLATCH_PINENTRY=/home/tom/portlatch-pin \
             portlatch {arguments} 2>>{}",
            self.lab.directory().join("log").join(log).display()
        );
        let machine = self.machine.pid().to_string();
        let enter = ["nsenter", "--target", &machine, "--mount", "--", "sh", "-euc", &line];
        self.lab.spawn(Host::User, Root, &enter)
    }

    fn tries(&self) -> Vec<bool> {
        let tried = |event: Event| if let Event::Pin { is_right } = event { Some(is_right) } else { None };
        self.key.record().into_iter().filter_map(|recorded| tried(recorded.event)).collect()
    }
}

/// Tom enrols the key, and reaches what wants its PIN, after a wrong one.
pub(super) fn is_used(lab: &Lab) {
    lab.apply(VERIFIED).expect_success();
    let desk = Desk::set_up(lab);
    let pinentry = desk.pinentry();
    let read = |name: &str| fs::read_to_string(lab.directory().join(name)).unwrap();
    let (token, pin) = (read("tom.token"), read("ca-pin"));
    let mut login = desk.portlatch(
        "login-tom",
        &format!(
            "login --proxy https://proxy.example.com --user tom --enrol {} --ca-pin {} --password-stdin",
            token.trim(),
            pin.trim()
        ),
    );
    login.write_line(PASSWORD);
    login.finish(PATIENCE).expect_success();
    let agent = desk.portlatch("agent-tom", "agent");
    wait_for("tom's login to serve", PATIENCE, || {
        let status = lab.status(Tom);
        (status["agent"] == true && status["daemon"] == true && status["user"] == "tom").then_some(())
    });
    assert_eq!(desk.tries(), Vec::<bool>::new(), "a bare tap enrols it");
    // Somebody must be able to see that the key is to be touched.
    let mut watch = lab.spawn(Host::User, Tom, &["portlatch", "watch"]);
    watch.read_line(PATIENCE);
    let mut program = lab.program(Tom, &["talk", "verified.corp.internal", "6432"]);
    assert_eq!(program.read_line(PATIENCE), "connected");
    assert_eq!(desk.tries(), [false, true]);
    let verified = lab.wait_for_record("the proof", |record| {
        record["event"] == "mfa.ok" && record["user"] == "tom" && record["resource"] == "app/verified"
    });
    assert_eq!(verified["uv"], true, "{verified}");
    // What it keeps is looked at in peace.
    drop(agent);
    fs::remove_file(pinentry).unwrap();
    for directory in ["/home/tom", "/run/user/2002", "/tmp"] {
        for (path, text) in files_below(&inside(lab, directory)) {
            let found = [PIN, WRONG_PIN].into_iter().find(|pin| text.contains(pin));
            assert_eq!(found, None, "in {}", path.display());
        }
    }
}

/// What carries reports between a pty and the key, as long as it lives.
struct Wire {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    /// Held open: a pty whose last program has gone ends.
    _node: OwnedFd,
}

impl Wire {
    /// Lays one; the node at its other end, which is tom's to open.
    fn lay(key: Opened) -> (Self, PathBuf) {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let node = ioctl_tiocgptpeer(&master, flags).unwrap();
        let mut mode = tcgetattr(&node).unwrap();
        mode.make_raw();
        tcsetattr(&node, OptionalActions::Now, &mode).unwrap();
        let path = PathBuf::from(ptsname(&master, Vec::new()).unwrap().into_string().unwrap());
        chown(&path, Some(TOM), Some(TOM)).unwrap();
        let is_over = Arc::<AtomicBool>::default();
        let thread = std::thread::spawn({
            let is_over = Arc::clone(&is_over);
            move || carry(&master, &key, &is_over)
        });
        (Self { is_over, thread: Some(thread), _node: node }, path)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn carry(master: &OwnedFd, key: &Opened, is_over: &AtomicBool) {
    // A hidraw node takes a report's number before its bytes, and gives none.
    let (mut numbered, mut filled) = ([0; REPORT + 1], 0);
    let glance = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };
    while !is_over.load(Ordering::Relaxed) {
        let mut wanted = [PollFd::new(master, PollFlags::IN)];
        if poll(&mut wanted, Some(&glance)).unwrap() > 0 {
            filled += rustix::io::read(master, &mut numbered[filled..]).unwrap();
            if filled == numbered.len() {
                filled = 0;
                key.send(numbered.last_chunk().unwrap()).unwrap();
            }
        }
        while let Some(report) = key.receive(Duration::from_millis(2)).unwrap() {
            assert_eq!(rustix::io::write(master, &report).unwrap(), REPORT);
        }
    }
}

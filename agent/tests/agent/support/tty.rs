//! A terminal: a pty with a program on it, and the screen that a person would see (the few sequences that the program
//! uses, as ECMA-48 has them).

use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::{Machine, PATIENCE};

/// A program at a terminal.
pub(crate) struct Tty {
    terminal: OwnedFd,
    /// Kept, so that the terminal's mode can be looked at when the program has gone.
    program_side: OwnedFd,
    output: Arc<Mutex<Vec<u8>>>,
    child: Child,
    columns: usize,
}

impl Tty {
    /// Starts `portlatch` with these arguments on a terminal that is so many columns wide.
    pub(crate) fn start(machine: &Machine, arguments: &[&str], columns: u16) -> Self {
        Self::start_by(&[], machine, arguments, columns)
    }

    /// The same with nothing to read: its output alone is the terminal's.
    pub(crate) fn start_without_keyboard(machine: &Machine, arguments: &[&str], columns: u16) -> Self {
        Self::start_by(&["sh", "-c", "exec \"$0\" \"$@\" </dev/null"], machine, arguments, columns)
    }

    /// Has this program start it.
    fn start_by(starter: &[&str], machine: &Machine, arguments: &[&str], columns: u16) -> Self {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        let program_side =
            ioctl_tiocgptpeer(&terminal, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
                .unwrap();
        tcsetwinsize(&terminal, Winsize { ws_row: 50, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let portlatch = machine.command(arguments);
        // A session of its own, whose terminal this is.
        let mut command = Command::new("setsid");
        command
            .args(["--ctty", "--wait"])
            .args(starter)
            .arg(portlatch.as_std().get_program())
            .args(arguments);
        for (name, value) in portlatch.as_std().get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let side = || Stdio::from(program_side.try_clone().unwrap());
        let child = command.stdin(side()).stdout(side()).stderr(side()).kill_on_drop(true).spawn().unwrap();
        let output = Arc::new(Mutex::new(Vec::new()));
        let (mut reader, sink) = (std::fs::File::from(terminal.try_clone().unwrap()), output.clone());
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = reader.read(&mut bytes) {
                sink.lock().unwrap().extend_from_slice(&bytes[..length]);
            }
        });
        Self { terminal, program_side, output, child, columns: usize::from(columns) }
    }

    /// Types these bytes.
    pub(crate) async fn types(&mut self, keys: &str) {
        let mut left = keys.as_bytes();
        while !left.is_empty() {
            let written = rustix::io::write(&self.terminal, left).unwrap();
            left = &left[written..];
            tokio::task::yield_now().await;
        }
    }

    /// Waits until the screen has this on a row.
    pub(crate) async fn shows(&mut self, text: &str) {
        let shown = async {
            while !self.screen().iter().any(|row| row.contains(text)) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if timeout(PATIENCE, shown).await.is_err() {
            panic!("{text:?} was not shown, but {:?}", self.screen());
        }
    }

    /// Waits until the open prompt has so many seconds left, or fewer: a slow machine skips some.
    pub(crate) async fn counts_down_to(&mut self, seconds: u64) {
        let is_there = |row: &String| {
            let left = row.rsplit("- ").next().and_then(|end| end.trim().strip_suffix(" s left"));
            left.and_then(|left| left.parse().ok()).is_some_and(|left: u64| left <= seconds)
        };
        let counted = async {
            while !self.screen().iter().any(is_there) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, counted).await.unwrap_or_else(|_| panic!("no countdown, but {:?}", self.screen()));
    }

    /// Waits until the program has taken the terminal.
    pub(crate) async fn shows_nothing_yet(&mut self) {
        let taken = async {
            while self.echoes() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, taken).await.expect("the program takes the terminal");
    }

    /// All that was ever written.
    pub(crate) fn everything(&self) -> String {
        String::from_utf8_lossy(&self.output.lock().unwrap()).into_owned()
    }

    /// What a person sees.
    pub(crate) fn screen(&self) -> Vec<String> {
        let mut screen = Screen { rows: vec![Vec::new()], row: 0, column: 0, columns: self.columns };
        screen.write(&self.everything());
        let mut rows: Vec<String> = screen.rows.iter().map(|row| row.iter().collect()).collect();
        while rows.last().is_some_and(|row: &String| row.trim().is_empty()) {
            rows.pop();
        }
        rows
    }

    /// Whether the terminal shows what is typed and hands over whole lines, as a shell leaves it.
    pub(crate) fn echoes(&self) -> bool {
        tcgetattr(&self.program_side).unwrap().local_modes.contains(LocalModes::ECHO | LocalModes::ICANON)
    }

    /// Sends the program a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let wrapper = self.child.id().unwrap();
        let children = std::fs::read_to_string(format!("/proc/{wrapper}/task/{wrapper}/children")).unwrap();
        // Without a fork of its own, setsid has become the program.
        let pid = children.split_whitespace().next().map_or(wrapper, |pid| pid.parse().unwrap());
        kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
    }

    /// Waits for the program's end.
    pub(crate) async fn ends(&mut self) {
        timeout(PATIENCE, self.child.wait()).await.expect("the program ends").unwrap();
    }
}

struct Screen {
    rows: Vec<Vec<char>>,
    row: usize,
    column: usize,
    columns: usize,
}

impl Screen {
    fn write(&mut self, text: &str) {
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match c {
                '\r' => self.column = 0,
                '\n' => self.down(),
                '\u{1b}' => {
                    assert_eq!(chars.next(), Some('['), "an unknown sequence");
                    let mut number = String::new();
                    let end = chars.by_ref().find(|c| {
                        number.extend(c.is_ascii_digit().then_some(*c));
                        c.is_ascii_alphabetic()
                    });
                    self.sequence(end.unwrap_or('m'), number.parse().unwrap_or(1));
                }
                c => self.put(c),
            }
        }
    }

    fn sequence(&mut self, end: char, number: usize) {
        match end {
            'A' => self.row = self.row.checked_sub(number).expect("above the first row"),
            'J' => {
                self.rows.truncate(self.row + 1);
                self.rows[self.row].truncate(self.column);
            }
            'm' => {}
            other => panic!("an unknown sequence {other}"),
        }
    }

    fn put(&mut self, c: char) {
        if self.column == self.columns {
            self.down();
            self.column = 0;
        }
        let row = &mut self.rows[self.row];
        row.resize(row.len().max(self.column + 1), ' ');
        row[self.column] = c;
        self.column += 1;
    }

    fn down(&mut self) {
        self.row += 1;
        if self.row == self.rows.len() {
            self.rows.push(Vec::new());
        }
    }
}

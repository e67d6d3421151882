//! What a person types while prompts come and go. On a terminal the line is edited here, since an echo of the terminal's
//! own would show codes and be drawn over; elsewhere whole lines are read.

use std::io::{self, IsTerminal as _};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal as Continue;
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use super::editor::{Edit, LineEditor};
use super::{is_input_ours, read_line};

/// What was typed ahead.
const TYPED_AHEAD: usize = 64;
/// Between two looks whether anybody still waits for keys.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// What a person typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Typed {
    /// A whole line.
    Line(Zeroizing<String>),
    /// The line so far, as it may be shown.
    Partial(String),
}

/// The keyboard of this process; whoever drops it has the terminal back as it was.
#[derive(Debug)]
pub(crate) struct Keyboard {
    typed: mpsc::Receiver<Typed>,
    /// Kept, so that the receiver waits where nothing is typed instead of seeing an end.
    _open: mpsc::Sender<Typed>,
    mode: Option<EditMode>,
    continued: Option<Signal>,
}

impl Keyboard {
    /// Reads what is typed, on a thread of its own; nothing where standard input is not for us: a program in the
    /// background that reads the terminal would be stopped by it.
    pub(crate) fn open() -> Self {
        let (sender, typed) = mpsc::channel(TYPED_AHEAD);
        let mut keyboard = Self { typed, _open: sender.clone(), mode: None, continued: None };
        if !is_input_ours() {
            return keyboard;
        }
        keyboard.mode = io::stdin().is_terminal().then(EditMode::enter).flatten();
        let continued = SignalKind::from_raw(Continue::CONT.as_raw());
        keyboard.continued = keyboard.mode.as_ref().and_then(|_| signal(continued).ok());
        let read = match keyboard.mode {
            Some(_) => read_keys,
            None => read_lines,
        };
        let begun = std::thread::Builder::new().name("keyboard".to_owned()).spawn(move || read(&sender));
        if let Err(error) = begun {
            tracing::warn!(%error, "the terminal is not read");
        }
        keyboard
    }

    /// What is typed next. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Typed {
        loop {
            let continued = async {
                match &mut self.continued {
                    Some(signal) => signal.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                typed = self.typed.recv() => match typed {
                    Some(typed) => return typed,
                    None => std::future::pending().await,
                },
                // The shell had the terminal meanwhile, and has put its own mode there.
                _ = continued => if let Some(mode) = &self.mode { mode.apply() },
            }
        }
    }
}

fn read_lines(typed: &mpsc::Sender<Typed>) {
    while let Ok(line) = read_line() {
        if typed.blocking_send(Typed::Line(line)).is_err() {
            return;
        }
    }
}

fn read_keys(typed: &mpsc::Sender<Typed>) {
    let (mut editor, mut byte) = (LineEditor::default(), Zeroizing::new([0; 1]));
    // A byte at a time and without a buffer, which would keep what was typed.
    let stdin = io::stdin();
    while waits_for_key(&stdin, typed) {
        match rustix::io::read(&stdin, &mut *byte) {
            Ok(0) => return,
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return,
        }
        let sent = match editor.handle_byte(byte[0]) {
            Some(Edit::Changed) => typed.blocking_send(Typed::Partial(editor.shown())),
            Some(Edit::Line(line)) => typed.blocking_send(Typed::Line(line)),
            None => Ok(()),
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Waits for a key and leaves it there. `false` once nobody waits for keys here: the next one is for whoever reads the
/// terminal then, as the question for a code that follows a tap.
fn waits_for_key(stdin: &io::Stdin, typed: &mpsc::Sender<Typed>) -> bool {
    loop {
        let ready = poll(&mut [PollFd::new(stdin, PollFlags::IN)], Some(&LOOK));
        if typed.is_closed() {
            return false;
        }
        match ready {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            // Reading tells what is wrong.
            Ok(_) | Err(_) => return true,
        }
    }
}

/// The terminal hands over each key as it is pressed and shows none of them; interrupting works as ever.
#[derive(Debug)]
struct EditMode {
    before: Termios,
    ours: Termios,
}

impl EditMode {
    fn enter() -> Option<Self> {
        let before = tcgetattr(io::stdin()).ok()?;
        let mut ours = before.clone();
        ours.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
        ours.special_codes[SpecialCodeIndex::VMIN] = 1;
        ours.special_codes[SpecialCodeIndex::VTIME] = 0;
        let mode = Self { before, ours };
        mode.apply();
        Some(mode)
    }

    fn apply(&self) {
        // From the background it would stop the process (tcsetattr(3)).
        if is_input_ours() {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.ours);
        }
    }
}

impl Drop for EditMode {
    fn drop(&mut self) {
        if is_input_ours() {
            // A terminal that has gone needs no mode.
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
        }
    }
}

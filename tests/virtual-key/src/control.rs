//! The socket over which a key on /dev/uhid is plugged, touched and broken: one line in, one line out.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::plugged::Plugged;
use crate::settings::TouchMode;
use crate::uhid::Device;

/// What can be told, for `--help`.
pub const WORDS: &str = "\
plug | unplug                   puts it in, takes it out
touch | wrong-finger | deny     what a person does while it blinks
touched-by itself | person      whether it waits for that
touch-time SECONDS              how long it does
is-settled                      fails while it takes any request as touched, for it was plugged in just now
fault NAME | none               silent, silent-on-channel, garbage, garbage-cbor, foreign-reports, endless-answer,
                                wrong-sequence, short-authenticator-data, keep-alive-flood, busy, wrong-nonce
always-verifies yes | no        whether it wants its PIN at every touch
block-pin                       uses up the tries of its PIN
mark                            await and count look at what comes from now on
await EVENT SECONDS             waits until it has seen it: init, preflight, assertion, blinks, touched, denied, timed-out,
                                cancelled, pin-right, pin-wrong, turned-away, plugged, unplugged
count EVENT                     how often it has seen it
record                          all that it has seen, in order";

/// Longest line that is taken.
const MAX_LINE: u64 = 1024;

/// A key and its device.
pub struct Held {
    key: Plugged,
    name: String,
    device: Mutex<Option<Device>>,
    mark: Mutex<usize>,
}

impl Held {
    /// A key that the kernel knows once it is plugged in.
    pub fn new(key: Plugged, name: String) -> Self {
        Self { key, name, device: Mutex::new(None), mark: Mutex::new(0) }
    }

    /// Plugs it in.
    ///
    /// # Errors
    /// If the kernel makes no device of it.
    pub fn plug(&self) -> io::Result<()> {
        self.key.plug();
        let mut device = self.device.lock().unwrap_or_else(PoisonError::into_inner);
        if device.is_none() {
            *device = Some(Device::of(&self.key, &self.name)?);
        }
        Ok(())
    }

    fn unplug(&self) {
        drop(self.device.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.key.unplug();
    }

    /// Does what the line says; the answer is for the one who said it.
    ///
    /// # Errors
    /// If the line says nothing that can be done.
    pub fn obey(&self, line: &str) -> anyhow::Result<String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["plug"] => self.plug()?,
            ["unplug"] => self.unplug(),
            ["touch"] => self.key.touch(),
            ["wrong-finger"] => self.key.touch_with_wrong_finger(),
            ["deny"] => self.key.deny(),
            ["touched-by", "itself"] => self.key.set(|settings| settings.touch = TouchMode::ByItself),
            ["touched-by", "person"] => self.key.set(|settings| settings.touch = TouchMode::Waits),
            ["touch-time", seconds] => {
                let time = Duration::try_from_secs_f64(seconds.parse()?)?;
                self.key.set(|settings| settings.touch_time = time);
            }
            ["is-settled"] => anyhow::ensure!(!self.key.is_fresh(), "it takes any request as touched"),
            ["fault", "none"] => self.key.set(|settings| settings.fault = None),
            ["fault", name] => {
                let fault = name.parse()?;
                self.key.set(|settings| settings.fault = Some(fault));
            }
            ["always-verifies", "yes"] => self.key.set(|settings| settings.always_verifies = true),
            ["always-verifies", "no"] => self.key.set(|settings| settings.always_verifies = false),
            ["block-pin"] => self.key.block_pin(),
            ["mark"] => *self.mark() = self.key.record().len(),
            ["await", word, seconds] => {
                let (time, mark) = (Duration::from_secs_f64(seconds.parse()?), *self.mark());
                let seen = self.key.wait_for(mark, time, |event| event.word() == word);
                seen.ok_or_else(|| anyhow::anyhow!("no {word} in {seconds} s"))?;
            }
            ["count", word] => {
                let (record, mark) = (self.key.record(), *self.mark());
                let count = record.iter().skip(mark).filter(|seen| seen.event.word() == word).count();
                return Ok(count.to_string());
            }
            ["record"] => {
                let record = self.key.record();
                let words: Vec<&str> = record.iter().map(|seen| seen.event.word()).collect();
                return Ok(words.join(" "));
            }
            _ => anyhow::bail!("nothing can be done about {line:?}"),
        }
        Ok("done".to_owned())
    }

    fn mark(&self) -> std::sync::MutexGuard<'_, usize> {
        self.mark.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves for ever, each speaker on a thread of its own.
///
/// # Errors
/// If the socket cannot be made.
pub fn serve(held: &Arc<Held>, socket: &Path) -> io::Result<()> {
    let _ = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket)?;
    for stream in listener.incoming() {
        let (stream, held) = (stream?, held.clone());
        std::thread::spawn(move || converse(&stream, &held));
    }
    Ok(())
}

fn converse(stream: &UnixStream, held: &Held) -> io::Result<()> {
    let mut lines = BufReader::new(io::Read::take(stream, MAX_LINE));
    let mut line = String::new();
    lines.read_line(&mut line)?;
    let answer = match held.obey(line.trim()) {
        Ok(answer) => format!("ok {answer}\n"),
        Err(error) => format!("failed {error}\n"),
    };
    (&mut &*stream).write_all(answer.as_bytes())
}

/// Tells the key at `socket` a line, and says what it answered.
///
/// # Errors
/// If it is not there, or cannot do it.
pub fn tell(socket: &Path, line: &str) -> anyhow::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    writeln!(stream, "{line}")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    match answer.trim_end().split_once(' ') {
        Some(("ok", answer)) => Ok(answer.to_owned()),
        Some((_, why)) => anyhow::bail!("{why}"),
        None => anyhow::bail!("the key has gone"),
    }
}

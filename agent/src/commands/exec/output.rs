//! Where the commands' output goes: a file each, which is there whole or not at all; or the person's terminal, each line
//! with the name of its resource.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use super::summary::Summary;
use crate::failure::Failure;
use crate::safe_text::plain;
use crate::terminal::Stream;

/// Longest piece of a line that is written at once.
const LONGEST_PIECE: u64 = 64 * 1024;
/// What databases say is not everybody's business.
const OWNER_ONLY_FILE: u32 = 0o600;
const OWNER_ONLY_DIRECTORY: u32 = 0o700;
/// How long, in all, more is waited for of a command that has ended: what it left behind has its output open, and may be
/// silent for ever (`ssh` with ControlPersist, `sh -c 'x &'`).
const LINGER: Duration = Duration::from_secs(1);
/// How much more of it is taken: what a pipe can hold (`pipe-max-size`) may be its own, what comes after that is not.
const LEFT_BEHIND: usize = 1024 * 1024;
/// The summary's file.
const SUMMARY: &str = "summary.json";

/// Where all output goes.
#[derive(Debug)]
pub(super) struct Outputs {
    directory: Option<PathBuf>,
    stream: Stream,
}

/// Where one command's output goes.
#[derive(Debug)]
pub(super) enum Sink {
    /// To a file, which gets its name when the command has ended.
    File { file: File, partial: PathBuf, whole: PathBuf },
    /// To the person.
    Person(Stream),
}

impl Outputs {
    /// Output goes into this directory, which is made if it is not there; without one, to the person.
    ///
    /// # Errors
    /// If the directory cannot be made.
    pub(super) fn new(directory: Option<&Path>, stream: Stream) -> Result<Self, Failure> {
        if let Some(directory) = directory {
            let made = DirBuilder::new().recursive(true).mode(OWNER_ONLY_DIRECTORY).create(directory);
            made.map_err(|error| cannot(directory, &error)).map_err(Failure::Failed)?;
        }
        Ok(Self { directory: directory.map(Path::to_owned), stream })
    }

    /// Where the output of this resource's command goes. A resource's name has no character that a path would mind.
    ///
    /// # Errors
    /// A sentence, if the file cannot be made.
    pub(super) fn open(&self, name: &str) -> Result<Sink, String> {
        let Some(directory) = &self.directory else { return Ok(Sink::Person(self.stream)) };
        let whole = directory.join(format!("{name}.log"));
        let partial = directory.join(format!(".{name}.log.part"));
        let file = create(&partial).map_err(|error| cannot(&partial, &error))?;
        Ok(Sink::File { file, partial, whole })
    }

    /// Keeps the summary beside the output.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn keep(&self, summary: &Summary) -> Result<(), Failure> {
        let Some(directory) = &self.directory else { return Ok(()) };
        let (whole, partial) = (directory.join(SUMMARY), directory.join(format!(".{SUMMARY}.part")));
        let text = serde_json::to_vec_pretty(summary).expect("a document of ours is JSON");
        let written = create(&partial).and_then(|mut file| {
            file.write_all(&text)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&partial, &whole)
        });
        written.map_err(|error| Failure::Failed(cannot(&whole, &error)))
    }
}

impl Sink {
    /// Has the command write there.
    pub(super) fn attach(&self, command: &mut Command) -> io::Result<()> {
        match self {
            Self::File { file, .. } => {
                command.stdout(file.try_clone()?).stderr(file.try_clone()?);
            }
            Self::Person(_) => {
                command.stdout(Stdio::piped()).stderr(Stdio::piped());
            }
        }
        Ok(())
    }

    /// Hands the person what the command writes, until it writes no more; once it has ended, what it had written.
    pub(super) fn copy<'n>(
        &self,
        child: &mut Child,
        name: &'n str,
        has_ended: CancellationToken,
    ) -> impl Future<Output = ()> + use<'n> {
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let stream = match self {
            Self::File { .. } => None,
            Self::Person(stream) => Some(*stream),
        };
        async move {
            if let Some(stream) = stream {
                tokio::join!(
                    copy_lines(stdout, name, stream, &has_ended),
                    copy_lines(stderr, name, Stream::Err, &has_ended)
                );
            }
        }
    }

    /// Gives the file its name; where it is then.
    ///
    /// # Errors
    /// A sentence.
    pub(super) fn finish(self) -> Result<Option<PathBuf>, String> {
        match self {
            Self::File { file, partial, whole } => {
                let kept = file.sync_all().and_then(|()| fs::rename(&partial, &whole));
                kept.map_err(|error| cannot(&whole, &error))?;
                Ok(Some(whole))
            }
            Self::Person(_) => Ok(None),
        }
    }
}

async fn copy_lines(
    from: Option<impl AsyncRead + Unpin>,
    name: &str,
    stream: Stream,
    has_ended: &CancellationToken,
) {
    let Some(from) = from else { return };
    let (mut from, mut line, mut is_over) = (BufReader::new(from), Vec::new(), false);
    let (mut patience, mut room) = (LINGER, LEFT_BEHIND);
    while !is_over && room > 0 {
        line.clear();
        let (began, had_ended) = (Instant::now(), has_ended.is_cancelled());
        let mut piece = (&mut from).take(LONGEST_PIECE);
        let quiet = async {
            has_ended.cancelled().await;
            tokio::time::sleep(patience).await;
        };
        is_over = tokio::select! {
            biased;
            read = piece.read_until(b'\n', &mut line) => !matches!(read, Ok(1..)),
            () = quiet => true,
        };
        if had_ended {
            patience = patience.saturating_sub(began.elapsed());
            room = room.saturating_sub(line.len());
        }
        // Half a line is there when no more of it comes.
        if line.is_empty() {
            return;
        }
        if line.last() != Some(&b'\n') {
            line.push(b'\n');
        }
        let prefixed = [name.as_bytes(), b": ", &line].concat();
        if stream.write(&prefixed).is_err() {
            return;
        }
    }
}

fn create(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(OWNER_ONLY_FILE).open(path)
}

fn cannot(path: &Path, error: &io::Error) -> String {
    format!("{} cannot be written: {}", path.display(), plain(error))
}

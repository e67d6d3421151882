//! `audit tail` and `audit verify`, from the files themselves.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Duration;

use portlatch_audit::{ReadError, Reader, Signature, SignedHead};

use super::{CliError, Streams, show};
use crate::control::AUDIT_SOURCE;
use crate::keys::Keys;

/// The audit's folder in control's directory.
const FOLDER: &str = "audit";
/// How often a follower looks for more: as fast as somebody reads.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Prints the newest records.
pub(super) fn tail(dir: &Path, lines: u32, streams: &mut Streams<'_>) -> Result<(), CliError> {
    print_newest(&mut open(dir)?, lines, streams)
}

/// Prints the newest records and those to come, until the output is closed or the process is ended.
pub(super) fn follow(dir: &Path, lines: u32, streams: &mut Streams<'_>) -> Result<(), CliError> {
    let mut reader = open(dir)?;
    print_newest(&mut reader, lines, streams)?;
    loop {
        while let Some(record) = reader.next_record().map_err(unreadable)? {
            writeln!(streams.out, "{}", show::printable(&record.line))?;
        }
        streams.out.flush()?;
        std::thread::sleep(LOOK_AGAIN);
    }
}

fn print_newest(reader: &mut Reader, lines: u32, streams: &mut Streams<'_>) -> Result<(), CliError> {
    let wanted = usize::try_from(lines).unwrap_or(usize::MAX);
    let mut newest = VecDeque::new();
    while let Some(record) = reader.next_record().map_err(unreadable)? {
        newest.push_back(record.line);
        if newest.len() > wanted {
            newest.pop_front();
        }
    }
    for line in newest {
        writeln!(streams.out, "{}", show::printable(&line))?;
    }
    Ok(streams.out.flush()?)
}

/// Looks for changes, and says what it looked at.
pub(super) fn verify(dir: &Path, streams: &mut Streams<'_>) -> Result<(), CliError> {
    let folder = existing(dir)?;
    let ca = Keys::public_ca(dir);
    let check = |source: &str, message: &[u8], signature: &[u8]| match &ca {
        Some(ca) if source == AUDIT_SOURCE => ca.check(message, signature),
        Some(_) | None => Signature::UnknownKey,
    };
    let report = portlatch_audit::verify_signed(&folder, &check);
    let report = report.map_err(|error| CliError::Failed(vec![error.to_string()]))?;
    for source in &report.sources {
        let name = show::printable(&source.source);
        writeln!(
            streams.out,
            "{name}: {} records, whole; the last has the hash {}",
            source.records, source.last_hash
        )?;
        match &source.signed {
            Some(SignedHead { covers, time }) => {
                let time = show::printable(time);
                writeln!(streams.out, "{name}: signed up to record {covers}, at {time}")?;
            }
            None => writeln!(streams.out, "{name}: no signature was checked")?,
        }
        if source.has_torn_tail {
            writeln!(
                streams.err,
                "{name}: half a record stands at the end: it is being written, or a crash tore it"
            )?;
        }
    }
    if report.sources.is_empty() {
        writeln!(streams.out, "no records yet")?;
    }
    Ok(())
}

fn open(dir: &Path) -> Result<Reader, CliError> {
    Reader::open(&existing(dir)?).map_err(unreadable)
}

fn existing(dir: &Path) -> Result<PathBuf, CliError> {
    let folder = dir.join(FOLDER);
    match std::fs::read_dir(&folder) {
        Ok(_) => Ok(folder),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(CliError::NoAudit { path: folder }),
        Err(source) => Err(cannot_read(folder, source)),
    }
}

fn unreadable(error: ReadError) -> CliError {
    cannot_read(error.path, error.source)
}

fn cannot_read(path: PathBuf, source: std::io::Error) -> CliError {
    if source.kind() == std::io::ErrorKind::PermissionDenied {
        return CliError::NotAllowed { path };
    }
    CliError::Read { path, source }
}

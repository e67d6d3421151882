//! Where a command speaks to a person: standard output, or standard error where standard output is for programs.

use std::io::{self, IsTerminal as _, Write};

use rustix::termios::tcgetwinsize;

use super::region::DEFAULT_COLUMNS;
use super::{BOLD, PLAIN, Region, is_coloured};

/// One of the two.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Standard output.
    #[default]
    Out,
    /// Standard error.
    Err,
}

impl Stream {
    /// Writes one line.
    ///
    /// # Errors
    /// If nobody reads it any more.
    pub(crate) fn say(self, line: &str) -> io::Result<()> {
        self.write(format!("{line}\n").as_bytes())
    }

    /// Draws these lines in place of those that the region has, so that they stand out where colours are wanted; only
    /// sensible on a terminal.
    ///
    /// # Errors
    /// If nobody reads it any more.
    pub(crate) fn draw(self, region: &mut Region, lines: &[&str]) -> io::Result<()> {
        let is_coloured = match self {
            Self::Out => is_coloured(&io::stdout()),
            Self::Err => is_coloured(&io::stderr()),
        };
        let emphasis = if is_coloured { (BOLD, PLAIN) } else { ("", "") };
        self.write(region.drawn(lines, self.columns(), emphasis).as_bytes())
    }

    /// How wide the terminal is, as far as it says.
    pub(crate) fn columns(self) -> usize {
        let size = match self {
            Self::Out => tcgetwinsize(io::stdout()),
            Self::Err => tcgetwinsize(io::stderr()),
        };
        let columns = size.map_or(0, |size| usize::from(size.ws_col));
        if columns == 0 { DEFAULT_COLUMNS } else { columns }
    }

    /// Takes away what the region has; the next line stands in its place.
    ///
    /// # Errors
    /// If nobody reads it any more.
    pub(crate) fn clear(self, region: &mut Region) -> io::Result<()> {
        self.write(region.cleared().as_bytes())
    }

    /// Whether a person sees it.
    pub(crate) fn is_seen(self) -> bool {
        match self {
            Self::Out => io::stdout().is_terminal(),
            Self::Err => io::stderr().is_terminal(),
        }
    }

    /// Writes these bytes, all at once.
    ///
    /// # Errors
    /// If nobody reads it any more.
    pub(crate) fn write(self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Out => write(&mut io::stdout().lock(), bytes),
            Self::Err => write(&mut io::stderr().lock(), bytes),
        }
    }
}

fn write(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    out.write_all(bytes)?;
    out.flush()
}

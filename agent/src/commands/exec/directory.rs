//! Whether output could be kept in a directory, so that nobody taps for what cannot be. Makes nothing: what is kept, and
//! how, is `output.rs`'s.

use std::io;
use std::path::Path;

use rustix::fs::Access;

use crate::failure::Failure;
use crate::safe_text::plain;

/// Looks at the directory or, where it is not there yet, at the nearest one that it would be made in.
///
/// # Errors
/// If nothing could be written there.
pub(super) fn check(directory: &Path) -> Result<(), Failure> {
    let named = directory.ancestors().map(|part| if part == "" { Path::new(".") } else { part });
    let there = named.filter_map(|part| Some((part, part.metadata().ok()?))).next();
    let usable = match there {
        Some((part, metadata)) if metadata.is_dir() => {
            rustix::fs::access(part, Access::WRITE_OK | Access::EXEC_OK).map_err(io::Error::from)
        }
        Some(_) => Err(io::ErrorKind::NotADirectory.into()),
        None => Ok(()),
    };
    usable.map_err(|error| {
        Failure::Failed(format!("{} cannot be written: {}", directory.display(), plain(&error)))
    })
}

//! The files of a source: segments, named by the number of their first record.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

const EXTENSION: &str = "jsonl";
pub(crate) const HEAD: &str = "head";

/// One segment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Segment {
    /// The number of its first record, as its name says.
    pub(crate) first: u64,
    pub(crate) path: PathBuf,
}

/// A source's segments in order.
pub(crate) fn segments(folder: &Path) -> io::Result<Vec<Segment>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let is_segment = path.extension().is_some_and(|extension| extension == EXTENSION);
        let name = path.file_stem().and_then(|stem| stem.to_str());
        match name.filter(|name| is_segment && name.len() == 20).and_then(|name| name.parse().ok()) {
            Some(first) => found.push(Segment { first, path }),
            None => continue,
        }
    }
    found.sort();
    Ok(found)
}

/// The sources of an audit folder, by name.
pub(crate) fn sources(directory: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// Makes a source's folder, for its owner alone.
pub(crate) fn make_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Makes the segment whose first record has this number. It must not be there yet.
pub(crate) fn create(folder: &Path, first: u64) -> io::Result<File> {
    let path = folder.join(format!("{first:020}.{EXTENSION}"));
    let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)?;
    sync_folder(folder)?;
    Ok(file)
}

/// Opens a segment to append to it.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).open(path)
}

/// Opens the head, made if it is not there.
pub(crate) fn open_head(folder: &Path) -> io::Result<File> {
    let path = folder.join(HEAD);
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    sync_folder(folder)?;
    Ok(file)
}

/// Puts a folder's entries on the disk.
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

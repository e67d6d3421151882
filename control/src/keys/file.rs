//! Files that hold secrets: made for their owner alone, on the disk before anyone relies on them, refused when others
//! can read them.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use zeroize::Zeroizing;

use super::KeysError;

/// Far more than a key or certificate needs; a file that is larger is none of ours.
const MAX_SECRET: u64 = 64 * 1024;

/// Makes a directory that only its owner may enter.
pub(crate) fn create_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

/// Writes a file that was not there, which only its owner may read, and waits until it is on the disk.
pub(crate) fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()?;
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// Reads a file of ours, if nobody else can.
pub(crate) fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeysError> {
    let failed = |source| KeysError::File { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(KeysError::Exposed { path: path.to_owned() });
    }
    if metadata.len() > MAX_SECRET {
        return Err(KeysError::Damaged { path: path.to_owned() });
    }
    let mut content = Zeroizing::new(Vec::new());
    file.take(MAX_SECRET).read_to_end(&mut content).map_err(failed)?;
    Ok(content)
}

//! The daemon's own directory (`/var/lib/portlatch`): files that are whole or not there, and the lock that keeps a
//! second daemon out.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

const LOCK: &str = "portlatchd.lock";
const RANGE6: &str = "range6";
/// Everybody may see what is there; only we write. Files with secrets do not exist here.
const DIRECTORY_MODE: u32 = 0o755;

/// Where the daemon keeps what outlives it.
#[derive(Debug, Clone)]
pub struct StateDir(PathBuf);

/// Why a file of the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{path} could not be {what}")]
pub struct StateError {
    /// The file or directory.
    pub path: PathBuf,
    /// What was tried: a past participle.
    pub what: &'static str,
    /// Why not.
    #[source]
    pub source: io::Error,
}

/// The lock was not to be had.
#[derive(Debug, thiserror::Error)]
pub enum AlreadyRunning {
    /// A daemon has it.
    #[error("portlatchd is already running with pid {pid}")]
    Running {
        /// That daemon's pid; 0 where it has not written it yet.
        pid: u32,
    },
    /// The lock file cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
}

/// Held by the one daemon that uses this state directory; let go when dropped, also by kill -9.
#[derive(Debug)]
pub struct InstanceLock {
    _file: File,
}

impl StateDir {
    /// The directory, made if it is not there.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, StateError> {
        let path = path.into();
        let made = fs::DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(&path);
        made.map_err(|source| StateError { path: path.clone(), what: "made", source })?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The path of one of its files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Becomes the one daemon of this directory.
    ///
    /// # Errors
    /// [`AlreadyRunning`], with the pid of the other.
    pub fn lock(&self) -> Result<InstanceLock, AlreadyRunning> {
        let path = self.file(LOCK);
        let failed = |source: io::Error| StateError { path: path.clone(), what: "locked", source };
        let mut options = OpenOptions::new();
        let mut file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(&path)
            .map_err(failed)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut text = String::new();
                file.read_to_string(&mut text).map_err(failed)?;
                return Err(AlreadyRunning::Running { pid: text.trim().parse().unwrap_or(0) });
            }
            Err(error) => return Err(failed(error.into()).into()),
        }
        let write_pid = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        write_pid(&mut file).map_err(failed)?;
        Ok(InstanceLock { _file: file })
    }

    /// A file's bytes; `None` if there is no such file.
    ///
    /// # Errors
    /// If it is there but cannot be read.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StateError> {
        match fs::read(self.file(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StateError { path: self.file(name), what: "read", source }),
        }
    }

    /// Puts these bytes, on the disk, in the place of the file. After a crash it holds the old ones or the new ones.
    ///
    /// # Errors
    /// If they cannot be written; the old ones are still there.
    pub fn write(&self, name: &str, bytes: &[u8], mode: u32) -> Result<(), StateError> {
        let path = self.file(name);
        replace(&path, bytes, mode).map_err(|source| StateError { path, what: "written", source })
    }

    /// Removes a file; it need not be there.
    ///
    /// # Errors
    /// If it is there and cannot be removed.
    pub fn remove(&self, name: &str) -> Result<(), StateError> {
        match fs::remove_file(self.file(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StateError { path: self.file(name), what: "removed", source: error })
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// This machine's own IPv6 range, made at the first call and the same ever after.
    ///
    /// # Errors
    /// If it can be neither read nor written.
    pub fn range6(&self) -> Result<super::ranges::Range6, StateError> {
        let kept = self.read(RANGE6)?;
        let kept = kept.and_then(|bytes| String::from_utf8(bytes).ok()?.trim().parse().ok());
        if let Some(range) = kept {
            return Ok(range);
        }
        let mut random = [0; 7];
        getrandom::fill(&mut random).map_err(|e| StateError {
            path: self.file(RANGE6),
            what: "made random",
            source: io::Error::other(e),
        })?;
        let range = super::ranges::Range6::from_random(random);
        self.write(RANGE6, format!("{range}\n").as_bytes(), 0o644)?;
        Ok(range)
    }
}

/// Writes a file beside `path`, to the disk, and renames it over `path`. The mode is exactly `mode`, whatever the umask.
pub(super) fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let mut beside = std::ffi::OsString::from(".");
    beside.push(name);
    beside.push(".portlatch-new");
    let beside = directory.join(beside);
    // What a crash left of an earlier try would keep its owner and mode.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        file.write_all(bytes)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&beside, path)
    })();
    if let Err(error) = written {
        // Best effort: the error that matters is the first.
        let _ = fs::remove_file(&beside);
        return Err(error);
    }
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> (tempfile::TempDir, StateDir) {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path().join("state")).unwrap();
        (directory, state)
    }

    #[test]
    fn a_second_daemon_is_told_the_pid_of_the_first() {
        let (_directory, state) = state();
        let first = state.lock().unwrap();
        let error = state.lock().unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("portlatchd is already running with pid {}", std::process::id())
        );
        drop(first);
        state.lock().unwrap();
    }

    #[test]
    fn a_file_is_replaced_whole_with_the_mode_that_was_asked_for() {
        let (_directory, state) = state();
        assert_eq!(state.read("x").unwrap(), None);
        state.write("x", b"one", 0o644).unwrap();
        state.write("x", b"two", 0o600).unwrap();
        assert_eq!(state.read("x").unwrap().unwrap(), b"two");
        assert_eq!(fs::metadata(state.file("x")).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(state.path()).unwrap().count(), 1, "nothing else is left");
        state.remove("x").unwrap();
        state.remove("x").unwrap();
        assert_eq!(state.read("x").unwrap(), None);
    }

    #[test]
    fn the_machine_keeps_its_ipv6_range() {
        let (_directory, state) = state();
        let range = state.range6().unwrap();
        assert_eq!(state.range6().unwrap(), range);
        assert_eq!(range.network().octets()[0], 0xfd);
        state.write(RANGE6, b"torn", 0o644).unwrap();
        assert_ne!(state.range6().unwrap(), range, "an unreadable one is made anew");
    }
}

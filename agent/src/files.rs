//! The agent's files: where they are, who may read them (their owner alone), and how they are replaced (whole or not
//! at all).

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::safe_text::plain;

/// Largest file of ours that is read: certificates, keys and small documents.
const MAX_FILE: u64 = 256 * 1024;
const OWNER_ONLY_DIRECTORY: u32 = 0o700;
const OWNER_ONLY_FILE: u32 = 0o600;

/// What went wrong with a file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FilesError {
    /// Neither variable says where files go.
    #[error("set HOME or PORTLATCH_HOME, so that portlatch knows where its files are")]
    NoHome,
    /// The directory belongs to somebody else.
    #[error("{} belongs to another user: remove it, or set PORTLATCH_HOME to a directory of your own", .0.display())]
    NotOurs(PathBuf),
    /// The operating system said no.
    #[error("{}: {}", .path.display(), plain(.source))]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// The content is not what we wrote.
    #[error("{} is damaged: run `portlatch logout`, then `portlatch login`", .0.display())]
    Damaged(PathBuf),
}

/// The two directories of one user.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    state: PathBuf,
    runtime: PathBuf,
}

impl Files {
    /// Where the environment says, made if they are not there.
    ///
    /// # Errors
    /// A [`FilesError`] if they cannot be made, or are not the caller's own.
    pub(crate) fn open() -> Result<Self, FilesError> {
        let files = Self::located(|name| std::env::var_os(name).filter(|value| !value.is_empty()))?;
        private_directory(&files.state)?;
        private_directory(&files.runtime)?;
        Ok(files)
    }

    /// The directories that these variables name (design section 7).
    fn located(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, FilesError> {
        if let Some(home) = variable("PORTLATCH_HOME") {
            let home = PathBuf::from(home);
            return Ok(Self { state: home.clone(), runtime: home });
        }
        let default_state = || variable("HOME").map(|home| PathBuf::from(home).join(".local/state"));
        let state = variable("XDG_STATE_HOME").map(PathBuf::from).or_else(default_state);
        let state = state.ok_or(FilesError::NoHome)?.join("portlatch");
        let runtime = variable("XDG_RUNTIME_DIR").map(|dir| PathBuf::from(dir).join("portlatch"));
        Ok(Self { runtime: runtime.unwrap_or_else(|| state.clone()), state })
    }

    /// Both in one directory, for tests.
    #[cfg(test)]
    pub(crate) fn inside(directory: &Path) -> Self {
        Self { state: directory.to_owned(), runtime: directory.to_owned() }
    }

    /// The agent's own socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.runtime.join("agent.sock")
    }

    /// The file that the one running agent holds locked; it has the pid.
    pub(crate) fn lock(&self) -> PathBuf {
        self.runtime.join("agent.lock")
    }

    /// A file of the state directory.
    pub(crate) fn state(&self, name: &str) -> PathBuf {
        self.state.join(name)
    }

    /// The content of a file, or `None` where there is none.
    ///
    /// # Errors
    /// [`FilesError::Io`], or [`FilesError::Damaged`] for one that is too large to be ours.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, FilesError> {
        let path = self.state(name);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(FilesError::Io { path, source }),
        };
        let mut content = Vec::new();
        let read = file.take(MAX_FILE + 1).read_to_end(&mut content);
        match read {
            Err(source) => Err(FilesError::Io { path, source }),
            Ok(length) if length as u64 > MAX_FILE => Err(FilesError::Damaged(path)),
            Ok(_) => Ok(Some(content)),
        }
    }

    /// Puts `content` in the file's place: after a crash the old one or the new one is there, never half of it.
    ///
    /// # Errors
    /// [`FilesError::Io`].
    pub(crate) fn replace(&self, name: &str, content: &[u8]) -> Result<(), FilesError> {
        let path = self.state(name);
        let beside = self.state(&format!(".{name}.{}", std::process::id()));
        write_whole(&beside, content)
            .and_then(|()| fs::rename(&beside, &path))
            .and_then(|()| File::open(&self.state)?.sync_all())
            .map_err(|source| {
                let _ = fs::remove_file(&beside);
                FilesError::Io { path, source }
            })
    }

    /// Removes a file; that it is not there is fine.
    ///
    /// # Errors
    /// [`FilesError::Io`].
    pub(crate) fn remove(&self, name: &str) -> Result<(), FilesError> {
        let path = self.state(name);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(FilesError::Io { path, source }),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let _ = fs::remove_file(path);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(OWNER_ONLY_FILE).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Makes the directory, for its owner alone; takes from others what they may do to one that is there.
fn private_directory(path: &Path) -> Result<(), FilesError> {
    let io = |source| FilesError::Io { path: path.to_owned(), source };
    DirBuilder::new().recursive(true).mode(OWNER_ONLY_DIRECTORY).create(path).map_err(io)?;
    let metadata = fs::metadata(path).map_err(io)?;
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(FilesError::NotOurs(path.to_owned()));
    }
    if metadata.mode() & 0o077 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(OWNER_ONLY_DIRECTORY)).map_err(io)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn located(pairs: &[(&str, &str)]) -> Result<Files, FilesError> {
        Files::located(|name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| v.into()))
    }

    #[test]
    fn the_environment_says_where_files_go() {
        let both = located(&[("HOME", "/h"), ("XDG_STATE_HOME", "/s"), ("XDG_RUNTIME_DIR", "/r")]).unwrap();
        assert_eq!(both.state("x"), Path::new("/s/portlatch/x"));
        assert_eq!(both.socket(), Path::new("/r/portlatch/agent.sock"));
        let home = located(&[("HOME", "/h")]).unwrap();
        assert_eq!(home.state("x"), Path::new("/h/.local/state/portlatch/x"));
        let own = located(&[("PORTLATCH_HOME", "/p"), ("XDG_RUNTIME_DIR", "/r")]).unwrap();
        assert_eq!((own.state("x"), own.socket()), ("/p/x".into(), "/p/agent.sock".into()));
        assert!(matches!(located(&[]), Err(FilesError::NoHome)));
    }

    #[test]
    fn files_are_replaced_whole_and_for_the_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::inside(directory.path());
        assert_eq!(files.read("login.key").unwrap(), None);
        files.replace("login.key", b"one").unwrap();
        files.replace("login.key", b"two").unwrap();
        assert_eq!(files.read("login.key").unwrap().unwrap(), b"two");
        assert_eq!(fs::metadata(files.state("login.key")).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left beside it");
        files.remove("login.key").unwrap();
        files.remove("login.key").unwrap();
        assert_eq!(files.read("login.key").unwrap(), None);
    }

    #[test]
    fn an_open_directory_is_closed_to_others() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        private_directory(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_file_that_cannot_be_ours_is_not_read_into_memory() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::inside(directory.path());
        files.replace("login.json", &vec![b' '; 300 * 1024]).unwrap();
        assert!(matches!(files.read("login.json"), Err(FilesError::Damaged(_))));
    }
}

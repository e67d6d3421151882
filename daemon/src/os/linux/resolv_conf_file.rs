//! `/etc/resolv.conf` with our DNS server in front, on machines without systemd-resolved and only if the administrator
//! chose it (`dns = "resolv.conf"`): it makes us the resolver of the whole machine.
//!
//! The original (bytes, symlink target, mode) is on the disk in the state directory before the file changes, and comes
//! back at stop, at the next start after a kill, and by `portlatchd cleanup`. If another program has written the file
//! in the meantime, that is the original now.

use std::fs::{self, OpenOptions};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use portlatch_protocol::names::Hostname;
use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};
use serde::{Deserialize, Serialize};

use crate::os::state_dir::replace;
use crate::os::{StateDir, resolv_conf};

const SYSTEM: &str = "/etc/resolv.conf";
const SAVED: &str = "resolv.conf.saved";
/// Every program must be able to read it, whatever our umask.
const MODE: u32 = 0o644;

/// What stood there before us.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Saved {
    kind: Kind,
    mode: u32,
    #[serde(with = "hexadecimal")]
    bytes: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    File,
    Symlink {
        #[serde(with = "hexadecimal")]
        target: Vec<u8>,
    },
    Missing,
}

/// Bytes in JSON: the file need not be UTF-8.
mod hexadecimal {
    use serde::{Deserialize as _, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        hex::decode(String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// What came of a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Restored {
    /// The original is back.
    Original,
    /// There was nothing to do: we had not changed the file, or another program has written it since.
    Nothing,
}

/// The file, and where its original is kept.
#[derive(Debug, Clone)]
pub(super) struct ResolvConfFile {
    path: PathBuf,
    state: StateDir,
}

impl ResolvConfFile {
    /// The system's.
    pub(super) fn system(state: &StateDir) -> Self {
        Self { path: PathBuf::from(SYSTEM), state: state.clone() }
    }

    /// Puts our servers in front. Doing it again brings it up to date, also after another program wrote the file.
    pub(super) fn take(
        &self,
        ours: &[IpAddr],
        search: &[Hostname],
        is_our_address: impl Fn(IpAddr) -> bool,
    ) -> io::Result<()> {
        let original = self.original(&is_our_address)?;
        let wanted = resolv_conf::render(&original.bytes, ours, search, &is_our_address);
        if self.current()?.is_some_and(|current| current == wanted) {
            return Ok(());
        }
        let saved = serde_json::to_vec(&original)?;
        self.state.write(SAVED, &saved, 0o600).map_err(io::Error::other)?;
        put(&self.path, &wanted, MODE)
    }

    /// Whether the file is the one that we wrote.
    pub(super) fn is_taken(&self) -> bool {
        self.current().ok().flatten().is_some_and(|current| resolv_conf::is_ours(&current))
    }

    /// Puts the original back, if what is there now is ours.
    pub(super) fn restore(&self) -> io::Result<Restored> {
        let Some(saved) = self.saved()? else { return Ok(Restored::Nothing) };
        let restored = if self.is_taken() {
            put_back(&self.path, &saved)?;
            Restored::Original
        } else {
            Restored::Nothing
        };
        self.state.remove(SAVED).map_err(io::Error::other)?;
        Ok(restored)
    }

    /// The servers that the machine asks without us.
    pub(super) fn upstreams(&self, is_our_address: impl Fn(IpAddr) -> bool) -> Vec<SocketAddr> {
        let original = match self.original(&is_our_address) {
            Ok(original) => original.bytes,
            Err(error) => {
                tracing::warn!(%error, "the machine's own resolvers cannot be read");
                return Vec::new();
            }
        };
        resolv_conf::servers(&original, is_our_address, interface_number)
    }

    /// What is there without us.
    fn original(&self, is_our_address: impl Fn(IpAddr) -> bool) -> io::Result<Saved> {
        let current = self.current()?;
        match (current, self.saved()?) {
            (Some(current), Some(saved)) if resolv_conf::is_ours(&current) => Ok(saved),
            (Some(current), None) if resolv_conf::is_ours(&current) => {
                let bytes = resolv_conf::without_ours(&current, is_our_address);
                Ok(Saved { kind: Kind::File, mode: MODE, bytes })
            }
            (Some(bytes), _) => {
                let metadata = fs::symlink_metadata(&self.path)?;
                let kind = match metadata.is_symlink() {
                    true => Kind::Symlink { target: fs::read_link(&self.path)?.into_os_string().into_vec() },
                    false => Kind::File,
                };
                Ok(Saved { kind, mode: fs::metadata(&self.path)?.mode() & 0o7777, bytes })
            }
            (None, _) => {
                // A symlink that leads nowhere is a thing to put back, too.
                let kind = match fs::read_link(&self.path) {
                    Ok(target) => Kind::Symlink { target: target.into_os_string().into_vec() },
                    Err(_) => Kind::Missing,
                };
                Ok(Saved { kind, mode: MODE, bytes: Vec::new() })
            }
        }
    }

    /// The file's bytes, through a symlink; `None` if there is none.
    fn current(&self) -> io::Result<Option<Vec<u8>>> {
        match fs::read(&self.path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn saved(&self) -> io::Result<Option<Saved>> {
        let Some(bytes) = self.state.read(SAVED).map_err(io::Error::other)? else { return Ok(None) };
        Ok(Some(serde_json::from_slice(&bytes)?))
    }
}

/// Puts a file there: by renaming, or, where the name is a mount point or its directory is not ours to change, in place.
fn put(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    match replace(path, bytes, mode) {
        Err(error) if is_fixed_in_place(&error) => put_in_place(path, bytes, mode),
        result => result,
    }
}

fn put_back(path: &Path, saved: &Saved) -> io::Result<()> {
    match &saved.kind {
        Kind::File => put(path, &saved.bytes, saved.mode),
        Kind::Symlink { target } => {
            let beside = path.with_extension("portlatch-link");
            let _ = fs::remove_file(&beside);
            let made = symlink(std::ffi::OsStr::from_bytes(target), &beside);
            match made.and_then(|()| fs::rename(&beside, path)) {
                Err(error) if is_fixed_in_place(&error) => {
                    let _ = fs::remove_file(&beside);
                    put_in_place(path, &saved.bytes, saved.mode)
                }
                result => result,
            }
        }
        Kind::Missing => match fs::remove_file(path) {
            Err(error) if is_fixed_in_place(&error) => put_in_place(path, &saved.bytes, saved.mode),
            result => result,
        },
    }
}

fn is_fixed_in_place(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EXDEV | libc::EROFS | libc::EACCES | libc::EPERM))
}

/// Overwrites, then cuts: at every moment the first or the last line says whose file it is.
fn put_in_place(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.write_all_at(bytes, 0)?;
    file.set_len(bytes.len() as u64)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.sync_all()
}

fn interface_number(name: &str) -> Option<u32> {
    let socket = socket_with(AddressFamily::INET6, SocketType::DGRAM, SocketFlags::CLOEXEC, None).ok()?;
    netdevice::name_to_index(&socket, name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGINAL: &[u8] = b"nameserver 192.0.2.53\nsearch example.com\n\xff no newline at the end";
    const OURS: [IpAddr; 1] = [IpAddr::V4(std::net::Ipv4Addr::new(198, 18, 0, 2))];

    fn is_ours(address: IpAddr) -> bool {
        OURS.contains(&address)
    }

    fn place() -> (tempfile::TempDir, ResolvConfFile) {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path().join("state")).unwrap();
        let path = directory.path().join("resolv.conf");
        (directory, ResolvConfFile { path, state })
    }

    #[test]
    fn the_original_comes_back_byte_for_byte_with_its_mode() {
        let (_directory, file) = place();
        fs::write(&file.path, ORIGINAL).unwrap();
        fs::set_permissions(&file.path, fs::Permissions::from_mode(0o640)).unwrap();
        file.take(&OURS, &[], is_ours).unwrap();
        file.take(&OURS, &["corp.internal".parse().unwrap()], is_ours).unwrap();
        assert!(file.is_taken());
        assert_eq!(fs::metadata(&file.path).unwrap().mode() & 0o777, 0o644);
        // The next start after a kill knows nothing but the two files.
        let next = ResolvConfFile { path: file.path.clone(), state: file.state.clone() };
        assert_eq!(next.restore().unwrap(), Restored::Original);
        assert_eq!(fs::read(&file.path).unwrap(), ORIGINAL);
        assert_eq!(fs::metadata(&file.path).unwrap().mode() & 0o777, 0o640);
        assert_eq!(next.restore().unwrap(), Restored::Nothing, "twice equals once");
    }

    #[test]
    fn a_symlink_comes_back_as_the_symlink_that_it_was() {
        let (directory, file) = place();
        let target = directory.path().join("stub-resolv.conf");
        fs::write(&target, ORIGINAL).unwrap();
        symlink("stub-resolv.conf", &file.path).unwrap();
        file.take(&OURS, &[], is_ours).unwrap();
        assert_eq!(fs::read(&target).unwrap(), ORIGINAL, "what it points to is not ours to change");
        assert!(file.is_taken());
        file.restore().unwrap();
        assert_eq!(fs::read_link(&file.path).unwrap(), Path::new("stub-resolv.conf"));
    }

    #[test]
    fn a_missing_file_and_a_dangling_symlink_come_back_as_such() {
        let (_directory, file) = place();
        file.take(&OURS, &[], is_ours).unwrap();
        assert!(file.is_taken());
        file.restore().unwrap();
        assert!(!file.path.exists());
        symlink("nowhere", &file.path).unwrap();
        file.take(&OURS, &[], is_ours).unwrap();
        file.restore().unwrap();
        assert_eq!(fs::read_link(&file.path).unwrap(), Path::new("nowhere"));
    }

    #[test]
    fn what_another_program_wrote_since_is_left_alone_and_is_the_original_from_then_on() {
        let (_directory, file) = place();
        fs::write(&file.path, ORIGINAL).unwrap();
        file.take(&OURS, &[], is_ours).unwrap();
        fs::write(&file.path, b"nameserver 203.0.113.1\n").unwrap();
        assert_eq!(file.upstreams(is_ours), ["203.0.113.1:53".parse().unwrap()]);
        file.take(&OURS, &[], is_ours).unwrap();
        assert_eq!(file.upstreams(is_ours), ["203.0.113.1:53".parse().unwrap()]);
        file.restore().unwrap();
        assert_eq!(fs::read(&file.path).unwrap(), b"nameserver 203.0.113.1\n");

        file.take(&OURS, &[], is_ours).unwrap();
        fs::write(&file.path, b"nameserver 203.0.113.2\n").unwrap();
        assert_eq!(file.restore().unwrap(), Restored::Nothing);
        assert_eq!(fs::read(&file.path).unwrap(), b"nameserver 203.0.113.2\n");
    }

    #[test]
    fn a_kill_at_any_point_of_writing_in_place_is_undone_or_was_done() {
        let (_directory, file) = place();
        let mut long = ORIGINAL.to_vec();
        long.extend_from_slice(
            &b"\n# a long comment that makes the original longer than what we write\n".repeat(9),
        );
        for original in [ORIGINAL, &long] {
            fs::write(&file.path, original).unwrap();
            let saved = file.original(is_ours).unwrap();
            let wanted = resolv_conf::render(original, &OURS, &[], is_ours);
            file.state.write(SAVED, &serde_json::to_vec(&saved).unwrap(), 0o600).unwrap();
            // Killed between overwriting and cutting, in either direction.
            for (new, old) in [(&wanted[..], original), (original, &wanted[..])] {
                let mut torn = new.to_vec();
                torn.extend_from_slice(old.get(new.len()..).unwrap_or_default());
                fs::write(&file.path, &torn).unwrap();
                file.restore().unwrap();
                assert_eq!(fs::read(&file.path).unwrap(), original);
                file.state.write(SAVED, &serde_json::to_vec(&saved).unwrap(), 0o600).unwrap();
            }
        }
    }
}

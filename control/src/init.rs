//! `portlatch-proxy init`: makes a cluster out of an empty directory.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use portlatch_clock::TimeOfDay;
use portlatch_protocol::tls::CaPin;

use crate::config::{self, PublicAddress};
use crate::keys::{Keys, KeysError, file};

/// What a cluster begins with.
#[derive(Debug, Clone)]
pub struct InitOptions {
    /// Control's directory: not there yet, or empty.
    pub dir: PathBuf,
    /// Where everybody will find the cluster.
    pub public_host: PublicAddress,
}

/// A new cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Initialised {
    /// What clients pin.
    pub ca_pin: CaPin,
    /// Control's directory.
    pub dir: PathBuf,
}

/// Why no cluster was made. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// Something is there already.
    #[error("{} is not empty: a cluster is made once; remove the directory, or give another with --dir", dir.display())]
    NotEmpty {
        /// The directory.
        dir: PathBuf,
    },
    /// A file or directory could not be made.
    #[error("{}: {source}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The keys could not be made.
    #[error(transparent)]
    Keys(#[from] KeysError),
}

/// Makes the directory, the keys and a configuration with every setting explained.
///
/// # Errors
/// [`InitError`]; what had been made by then is removed again.
pub fn init(options: &InitOptions, now: TimeOfDay) -> Result<Initialised, InitError> {
    let dir = options.dir.as_path();
    let begun = claim(dir)?;
    let made = fill(options, now);
    if made.is_err() {
        begun.undo(dir);
    }
    made
}

/// How the directory was found.
#[derive(Debug, Clone, Copy)]
enum Begun {
    MadeIt,
    FoundItEmpty,
}

impl Begun {
    /// Removes what was made; if that fails too, the first failure is what matters.
    fn undo(self, dir: &Path) {
        let removed = match self {
            Self::MadeIt => std::fs::remove_dir_all(dir),
            Self::FoundItEmpty => empty(dir),
        };
        if let Err(error) = removed {
            tracing::warn!(dir = %dir.display(), %error, "what a failed init made could not be removed");
        }
    }
}

fn empty(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => std::fs::remove_dir_all(entry.path())?,
            false => std::fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

/// An empty directory may be there: a package or a service manager makes it beforehand.
fn claim(dir: &Path) -> Result<Begun, InitError> {
    let failed = |source| InitError::Write { path: dir.to_owned(), source };
    if let Some(parent) = dir.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    match file::create_directory(dir) {
        Ok(()) => return Ok(Begun::MadeIt),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(source) => return Err(failed(source)),
    }
    if std::fs::read_dir(dir).map_err(failed)?.next().is_some() {
        return Err(InitError::NotEmpty { dir: dir.to_owned() });
    }
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).map_err(failed)?;
    Ok(Begun::FoundItEmpty)
}

fn fill(options: &InitOptions, now: TimeOfDay) -> Result<Initialised, InitError> {
    let keys = Keys::create(&options.dir, &options.public_host.host, now)?;
    let path = options.dir.join(config::FILE_NAME);
    file::write_new(&path, template(&options.public_host).as_bytes())
        .map_err(|source| InitError::Write { path, source })?;
    Ok(Initialised { ca_pin: keys.ca_pin(), dir: options.dir.clone() })
}

fn template(public_host: &PublicAddress) -> String {
    let port = public_host.port;
    format!(
        r#"# The configuration of portlatch-proxy. Users, roles and resources are not here: `portlatch-proxy apply -f FILE`.
# What stands behind a # is the default.

# Where everybody finds this cluster, as HOST or HOST:PORT. Security keys are bound to the host for ever: to change
# it later makes every enrolled key useless.
public_host = "{public_host}"

# Where this process listens, on UDP (tunnels) and TCP (pages and API).
# listen = "0.0.0.0:{port}"

# This proxy's name, and its labels: it dials the resources whose `proxies` labels match them.
# name = "main"
# labels = {{ site = "berlin" }}

# When an audit record counts as written: "os" (survives the end of the process; synced to the disk every 50 ms) or
# "disk" (survives the end of the machine, and costs every new session a sync).
# durability = "os"

# A certificate for the web pages that browsers trust; both files are read again when they change. Without it the
# pages have the cluster's own, and browsers use no security key there. Agents trust the cluster's CA in any case.
# [https_keypair]
# cert = "/etc/ssl/portlatch/fullchain.pem"
# key = "/etc/ssl/portlatch/privkey.pem"
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: TimeOfDay = TimeOfDay(1_800_000_000_000);

    fn options(dir: &Path) -> InitOptions {
        InitOptions { dir: dir.to_owned(), public_host: "proxy.example.com:8443".parse().unwrap() }
    }

    #[test]
    fn a_new_cluster_can_be_opened_and_its_configuration_read() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("a/proxy");
        let made = init(&options(&dir), NOW).unwrap();
        assert_eq!(Keys::open(&dir).unwrap().ca_pin(), made.ca_pin);
        let config = config::load(&dir).unwrap();
        assert_eq!(config.public.to_string(), "proxy.example.com:8443");
        assert_eq!(config.listen.port(), 8443);
        assert_eq!(std::fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn what_the_configuration_says_is_the_default_is_the_default() {
        let public = "proxy.example.com:8443".parse().unwrap();
        let written = template(&public);
        // Without the comment signs of the settings that have a default (labels and certificates have none).
        let settings: String = written
            .lines()
            .filter(|line| {
                !line.starts_with("# labels") && !line.starts_with("# [") && !line.contains(".pem")
            })
            .map(|line| line.strip_prefix("# ").filter(|rest| rest.contains(" = \"")).unwrap_or(line))
            .map(|line| format!("{line}\n"))
            .collect();
        assert_eq!(settings.matches(" = \"").count(), 4, "{settings}");
        let read = |text: &str| config::parse("proxy.toml", text, Path::new("/")).unwrap();
        assert_eq!(read(&settings), read(&written));
    }

    #[test]
    fn a_directory_with_anything_in_it_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("keep"), "me").unwrap();
        let error = init(&options(dir.path()), NOW).unwrap_err();
        assert!(error.to_string().contains("is not empty"), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_empty_directory_becomes_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        init(&options(dir.path()), NOW).unwrap();
        assert_eq!(std::fs::metadata(dir.path()).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(matches!(init(&options(dir.path()), NOW), Err(InitError::NotEmpty { .. })));
    }

    #[test]
    fn a_failed_beginning_leaves_nothing() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("proxy");
        // A time that no certificate can say.
        let error = init(&options(&dir), TimeOfDay(i64::MAX)).unwrap_err();
        assert!(matches!(error, InitError::Keys(_)), "{error}");
        assert!(!dir.exists());
    }
}

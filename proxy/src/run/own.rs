//! What belongs to this process or machine alone: the lock on its directory, its key, the secret of its resets.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, SigningKey as _};
use rustix::fs::{FlockOperation, flock};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

const LOCK_FILE: &str = "run.lock";
const RESET_FILE: &str = "reset.secret";

/// Held while the process serves; the kernel lets it go with the process, however that ends.
#[derive(Debug)]
pub(super) struct RunLock {
    _file: File,
}

impl RunLock {
    pub(super) fn take(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join(LOCK_FILE);
        let open =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let mut file = open.with_context(|| path.display().to_string())?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut pid = String::new();
            // Without a pid the message still says what matters.
            let _ = file.take(20).read_to_string(&mut pid);
            bail!("already running on {}: pid {}", dir.display(), pid.trim());
        }
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Self { _file: file })
    }
}

/// The proxy's key: made at each start, since control is in the same process and certifies it anew.
pub(super) struct ProxyKey(KeyPair);

impl ProxyKey {
    pub(super) fn generate() -> Result<Self, rcgen::Error> {
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map(Self)
    }

    /// A PKCS #10 request for it. Control decides what stands in the certificate.
    pub(super) fn request(&self) -> Result<Vec<u8>, rcgen::Error> {
        Ok(CertificateParams::default().serialize_request(&self.0)?.der().to_vec())
    }

    pub(super) fn private(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.0.serialize_der()).into()
    }

    /// An ECDSA signature, in DER.
    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(message).expect("a key that was made here signs")
    }
}

/// The secret of stateless resets: the same at every start, made at the first.
pub(super) fn reset_secret(dir: &Path) -> anyhow::Result<[u8; 32]> {
    let path = dir.join(RESET_FILE);
    match std::fs::read(&path) {
        Ok(bytes) => {
            let secret = bytes.try_into().ok();
            return secret.with_context(|| format!("{} is damaged: remove it", path.display()));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    }
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    file.and_then(|mut file| file.write_all(&secret)).with_context(|| path.display().to_string())?;
    Ok(secret)
}

//! The cluster's secrets at rest, in `keys/` of control's directory: the CA, the key that grants are signed with, and
//! the key file under which those two and the store's own secrets are encrypted.
//!
//! The key file stands beside what it protects, so it guards copies that leave it out (a backup of the database, a
//! disk image of the store alone), not the machine itself. Rotation is not here yet: there is one CA and one grant key.

use std::io;
use std::path::{Path, PathBuf};

use portlatch_clock::TimeOfDay;
use portlatch_protocol::names::{Hostname, Id};
use portlatch_protocol::tls::CaPin;
use rcgen::{Issuer, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

pub(crate) use self::authority::PublicCa;
pub(crate) use self::vault::KEYED_HASH_BYTES;
use self::vault::Vault;

mod authority;
pub(crate) mod file;
mod vault;

/// An uncompressed P-256 point (SEC 1 section 2.3.3).
pub const POINT_BYTES: usize = 65;

const DIRECTORY: &str = "keys";
const VAULT_FILE: &str = "at-rest.key";
const CA_FILE: &str = "ca.der";
const CA_KEY_FILE: &str = "ca.key.sealed";
const GRANT_KEY_FILE: &str = "grant.key.sealed";

/// Why keys could not be made, read or used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There are no keys here.
    #[error("{} has no keys: run `portlatch-proxy init` first", dir.display())]
    NotInitialised {
        /// Control's directory.
        dir: PathBuf,
    },
    /// Keys are there already, and a second CA would make the first one's certificates worthless.
    #[error("{} has keys already", dir.display())]
    AlreadyThere {
        /// Control's directory.
        dir: PathBuf,
    },
    /// A secret that others may read is none.
    #[error("{} can be read by other users of this machine: run `chmod 600` on it", path.display())]
    Exposed {
        /// Which.
        path: PathBuf,
    },
    /// A file does not hold what it should.
    #[error("{} is damaged, or belongs to another key file: restore it from a backup", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
    },
    /// What was sealed cannot be opened.
    #[error("a secret in the store is damaged, or was encrypted under another key file")]
    Sealed,
    /// A key or certificate could not be made.
    #[error("a key could not be made")]
    Generate(#[from] rcgen::Error),
    /// The cryptography library refused.
    #[error("the system's cryptography refused to work")]
    Crypto,
}

/// The cluster's secrets, opened.
pub struct Keys {
    ca: Issuer<'static, KeyPair>,
    ca_der: CertificateDer<'static>,
    grant_key: Zeroizing<Vec<u8>>,
    grant_kid: Id,
    grant_point: [u8; POINT_BYTES],
    vault: Vault,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys")
            .field("ca", &self.ca_pin())
            .field("grant_kid", &self.grant_kid)
            .finish_non_exhaustive()
    }
}

impl Keys {
    /// Makes all secrets of a new cluster under `dir`.
    ///
    /// # Errors
    /// [`KeysError::AlreadyThere`] if there are any, or what the system said.
    pub fn create(dir: &Path, cluster: &Hostname, now: TimeOfDay) -> Result<Self, KeysError> {
        let keys_dir = dir.join(DIRECTORY);
        match file::create_directory(&keys_dir) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(KeysError::AlreadyThere { dir: dir.to_owned() });
            }
            Err(source) => return Err(KeysError::File { path: keys_dir, source }),
        }
        let (vault, vault_key) = Vault::generate()?;
        let (ca_key, grant_key) = (generate()?, generate()?);
        let ca_der = authority::self_signed(cluster, &ca_key, now)?;
        let write = |name: &str, content: &[u8]| {
            let path = keys_dir.join(name);
            file::write_new(&path, content).map_err(|source| KeysError::File { path, source })
        };
        write(VAULT_FILE, vault_key.as_slice())?;
        write(CA_FILE, &ca_der)?;
        write(CA_KEY_FILE, &vault.seal(CA_KEY_FILE, ca_key.serialized_der())?)?;
        write(GRANT_KEY_FILE, &vault.seal(GRANT_KEY_FILE, grant_key.serialized_der())?)?;
        Self::assemble(ca_der, ca_key, &grant_key, vault)
    }

    /// Reads the cluster's secrets.
    ///
    /// # Errors
    /// [`KeysError::NotInitialised`] if there are none; the file and what is wrong with it otherwise.
    pub fn open(dir: &Path) -> Result<Self, KeysError> {
        let keys_dir = dir.join(DIRECTORY);
        if !keys_dir.exists() {
            return Err(KeysError::NotInitialised { dir: dir.to_owned() });
        }
        let read = |name: &str| {
            let path = keys_dir.join(name);
            file::read_secret(&path)
        };
        let damaged = |name: &str| KeysError::Damaged { path: keys_dir.join(name) };
        let vault = Vault::from_key(&read(VAULT_FILE)?).map_err(|_| damaged(VAULT_FILE))?;
        let key_pair = |name: &str| {
            let der = vault.open(name, &read(name)?).map_err(|_| damaged(name))?;
            KeyPair::from_pkcs8_der_and_sign_algo(&der.as_slice().into(), &PKCS_ECDSA_P256_SHA256)
                .map_err(|_| damaged(name))
        };
        let (ca_key, grant_key) = (key_pair(CA_KEY_FILE)?, key_pair(GRANT_KEY_FILE)?);
        let ca_der = CertificateDer::from(read(CA_FILE)?.to_vec());
        if !authority::certifies(&ca_der, &ca_key) {
            return Err(damaged(CA_FILE));
        }
        Self::assemble(ca_der, ca_key, &grant_key, vault).map_err(|_| damaged(CA_FILE))
    }

    fn assemble(
        ca_der: CertificateDer<'static>,
        ca_key: KeyPair,
        grant_key: &KeyPair,
        vault: Vault,
    ) -> Result<Self, KeysError> {
        let grant_point = grant_key.der_bytes().try_into().map_err(|_| KeysError::Crypto)?;
        Ok(Self {
            ca: Issuer::from_ca_cert_der(&ca_der, ca_key)?,
            ca_der,
            grant_key: Zeroizing::new(grant_key.serialize_der()),
            grant_kid: kid(&grant_point),
            grant_point,
            vault,
        })
    }

    /// The CA of the cluster in `dir`, without its key: for verifying what it signed. None if there is none.
    pub(crate) fn public_ca(dir: &Path) -> Option<PublicCa> {
        let der = file::read_secret(&dir.join(DIRECTORY).join(CA_FILE)).ok()?;
        PublicCa::read(&der)
    }

    /// What users and their machines pin of the cluster in `dir`. None if there is none.
    pub(crate) fn public_pin(dir: &Path) -> Option<CaPin> {
        file::read_secret(&dir.join(DIRECTORY).join(CA_FILE)).ok().map(|der| CaPin::of(&der))
    }

    /// The cluster that the CA was made for; for ever, since certificates and security keys are bound to it.
    pub fn cluster(&self) -> Option<Hostname> {
        authority::cluster_of(&self.ca_der)
    }

    /// The CA, ready to sign certificates.
    pub const fn ca(&self) -> &Issuer<'static, KeyPair> {
        &self.ca
    }

    /// The CA's certificate.
    pub const fn ca_der(&self) -> &CertificateDer<'static> {
        &self.ca_der
    }

    /// What clients pin.
    pub fn ca_pin(&self) -> CaPin {
        CaPin::of(&self.ca_der)
    }

    /// The key that signs grants: PKCS #8, as `jsonwebtoken::EncodingKey::from_ec_der` takes it.
    pub fn grant_key(&self) -> &[u8] {
        &self.grant_key
    }

    /// The grant key's name in JWT headers.
    pub const fn grant_kid(&self) -> &Id {
        &self.grant_kid
    }

    /// The grant key's public point.
    pub const fn grant_point(&self) -> &[u8; POINT_BYTES] {
        &self.grant_point
    }

    /// Encrypts a secret for the store. `purpose` is bound to it: what was sealed for one does not open for another.
    ///
    /// # Errors
    /// [`KeysError::Crypto`], which does not happen on a working machine.
    pub fn seal(&self, purpose: &str, plain: &[u8]) -> Result<Vec<u8>, KeysError> {
        self.vault.seal(purpose, plain)
    }

    /// Decrypts what [`Keys::seal`] made for the same purpose.
    ///
    /// # Errors
    /// [`KeysError::Sealed`] if it was altered, or sealed for something else or under another key file.
    pub fn open_sealed(&self, purpose: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeysError> {
        self.vault.open(purpose, sealed)
    }

    /// A hash of a secret for the store, which nobody can compute without the key file. For secrets that nobody can guess
    /// with it either: it is fast.
    pub(crate) fn keyed_hash(&self, purpose: &str, secret: &[u8]) -> [u8; KEYED_HASH_BYTES] {
        self.vault.keyed_hash(purpose, secret)
    }
}

fn generate() -> Result<KeyPair, KeysError> {
    Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)
}

/// A key's name follows from the key, so that every control process calls it the same.
fn kid(point: &[u8; POINT_BYTES]) -> Id {
    let digest = Sha256::digest(point);
    let mut first = [0; 16];
    first.copy_from_slice(&digest[..16]);
    Id::from_random(first)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const NOW: TimeOfDay = TimeOfDay(1_800_000_000_000);

    fn cluster() -> Hostname {
        "proxy.example.com".parse().unwrap()
    }

    fn created() -> (tempfile::TempDir, Keys) {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::create(dir.path(), &cluster(), NOW).unwrap();
        (dir, keys)
    }

    #[test]
    fn what_is_created_opens_as_the_same_keys() {
        let (dir, made) = created();
        let opened = Keys::open(dir.path()).unwrap();
        assert_eq!(opened.ca_der(), made.ca_der());
        assert_eq!(opened.grant_kid(), made.grant_kid());
        assert_eq!(opened.grant_point(), made.grant_point());
        assert_eq!(opened.grant_key(), made.grant_key());
    }

    #[test]
    fn what_the_reopened_ca_signs_descends_from_the_certificate_that_clients_pin() {
        use portlatch_protocol::tls::Authority;
        let (dir, made) = created();
        let opened = Keys::open(dir.path()).unwrap();
        let mut params = rcgen::CertificateParams::default();
        let uri = "portlatch://proxy.example.com/proxy/main";
        params.subject_alt_names = vec![rcgen::SanType::URI(uri.try_into().unwrap())];
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
        let leaf = params.signed_by(&generate().unwrap(), opened.ca()).unwrap();
        let now =
            rustls::pki_types::UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_800_000_000));
        let authority = Authority::new(cluster(), std::slice::from_ref(made.ca_der())).unwrap();
        let identity = authority.identify(leaf.der(), &[], webpki::KeyUsage::server_auth(), now).unwrap();
        assert_eq!(identity.to_string(), uri);
    }

    #[test]
    fn every_file_is_its_owners_alone() {
        let (dir, _) = created();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&dir.path().join(DIRECTORY)), 0o700);
        for name in [VAULT_FILE, CA_FILE, CA_KEY_FILE, GRANT_KEY_FILE] {
            assert_eq!(mode(&dir.path().join(DIRECTORY).join(name)), 0o600, "{name}");
        }
    }

    #[test]
    fn no_private_key_lies_in_the_open() {
        let (dir, keys) = created();
        for name in [CA_KEY_FILE, GRANT_KEY_FILE] {
            let bytes = std::fs::read(dir.path().join(DIRECTORY).join(name)).unwrap();
            for secret in [keys.grant_key(), keys.ca.key().serialized_der()] {
                // The scalar of a P-256 PKCS #8 document lies in its bytes 36 to 68.
                assert!(!bytes.windows(32).any(|window| window == &secret[36..68]), "{name}");
            }
        }
        assert!(!format!("{keys:?}").contains("KeyPair"));
    }

    #[test]
    fn a_second_cluster_is_not_made_over_the_first() {
        let (dir, _) = created();
        assert!(matches!(Keys::create(dir.path(), &cluster(), NOW), Err(KeysError::AlreadyThere { .. })));
    }

    #[test]
    fn a_directory_without_keys_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let error = Keys::open(dir.path()).unwrap_err();
        assert!(error.to_string().contains("portlatch-proxy init"), "{error}");
    }

    #[test]
    fn a_key_file_that_others_can_read_is_refused() {
        let (dir, _) = created();
        let path = dir.path().join(DIRECTORY).join(VAULT_FILE);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Keys::open(dir.path()), Err(KeysError::Exposed { .. })));
    }

    #[test]
    fn damaged_or_exchanged_files_are_named() {
        for (name, damage) in [(CA_KEY_FILE, 20), (GRANT_KEY_FILE, 40), (VAULT_FILE, 3), (CA_FILE, 300)] {
            let (dir, _) = created();
            let path = dir.path().join(DIRECTORY).join(name);
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[damage] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            let opened = Keys::open(dir.path());
            assert!(matches!(opened, Err(KeysError::Damaged { .. })), "{name}: {opened:?}");
        }
        let (dir, _) = created();
        let path = |name: &str| dir.path().join(DIRECTORY).join(name);
        std::fs::rename(path(CA_KEY_FILE), path(GRANT_KEY_FILE)).unwrap();
        std::fs::copy(path(GRANT_KEY_FILE), path(CA_KEY_FILE)).unwrap();
        assert!(matches!(Keys::open(dir.path()), Err(KeysError::Damaged { .. })));
    }

    #[test]
    fn a_secret_opens_only_for_its_purpose_and_unaltered() {
        let (_dir, keys) = created();
        let sealed = keys.seal("totp/jerry", b"secret").unwrap();
        assert_eq!(keys.open_sealed("totp/jerry", &sealed).unwrap().as_slice(), b"secret");
        assert!(matches!(keys.open_sealed("totp/elaine", &sealed), Err(KeysError::Sealed)));
        let mut altered = sealed.clone();
        altered[15] ^= 1;
        assert!(matches!(keys.open_sealed("totp/jerry", &altered), Err(KeysError::Sealed)));
        for length in [0, 11, 12, 27] {
            assert!(matches!(keys.open_sealed("totp/jerry", &sealed[..length]), Err(KeysError::Sealed)));
        }
        assert_ne!(keys.seal("totp/jerry", b"secret").unwrap(), sealed, "the nonce must differ");
    }

    #[test]
    fn a_keyed_hash_is_the_same_after_a_restart_and_of_one_cluster_purpose_and_text_alone() {
        let (dir, keys) = created();
        let hash = keys.keyed_hash("recovery/jerry", b"code");
        assert_eq!(Keys::open(dir.path()).unwrap().keyed_hash("recovery/jerry", b"code"), hash);
        assert_ne!(keys.keyed_hash("recovery/elaine", b"code"), hash);
        assert_ne!(keys.keyed_hash("recovery/jerryc", b"ode"), hash);
        assert_ne!(created().1.keyed_hash("recovery/jerry", b"code"), hash);
    }
}

//! The login on this machine: who, where, until when, with the key and certificate that prove it.
//!
//! `login.json` says who and until when and is written last, so that a login is there whole or not at all; `login.key`
//! and `login.crt` prove it. `cluster.json` and `ca.crt` outlive a logout: they say which cluster's CA was trusted.

use portlatch_clock::{Clock, TimeOfDay};
use portlatch_protocol::api::LoginGranted;
use portlatch_protocol::names::{DeviceName, Hostname, Id, UserName};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::address::ClusterAddress;
use crate::files::{Files, FilesError};
use crate::mfa_mode::MfaMode;

const LOGIN: &str = "login.json";
const KEY: &str = "login.key";
const CERTIFICATE: &str = "login.crt";
const CLUSTER: &str = "cluster.json";
const CA: &str = "ca.crt";

/// Who is logged in, as the file keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LoginFile {
    /// The cluster.
    pub(crate) cluster: Hostname,
    /// Its port.
    pub(crate) port: u16,
    /// The user.
    pub(crate) user: UserName,
    /// The login.
    pub(crate) login: Id,
    /// The device.
    pub(crate) device: DeviceName,
    /// When it ends, seconds since 1970 by this machine's clock.
    pub(crate) expires: i64,
    /// How the user wants to prove presence.
    #[serde(default)]
    pub(crate) mfa_mode: MfaMode,
}

/// The cluster that was trusted last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ClusterFile {
    cluster: Hostname,
    port: u16,
    user: UserName,
    /// What was refused before is none of the next user's business: seconds since 1970.
    #[serde(default)]
    refusals_since: i64,
}

/// A login with everything that proves it.
#[derive(Debug)]
pub(crate) struct Login {
    /// Who and until when.
    pub(crate) file: LoginFile,
    /// The cluster's CA.
    pub(crate) ca: CertificateDer<'static>,
    /// The login certificate.
    pub(crate) certificate: CertificateDer<'static>,
    /// The login key.
    pub(crate) key: PrivateKeyDer<'static>,
}

impl LoginFile {
    /// Where its cluster is.
    pub(crate) fn address(&self) -> ClusterAddress {
        ClusterAddress { host: self.cluster.clone(), port: self.port }
    }

    /// How long it still lasts; `None` once it has ended.
    pub(crate) fn time_left(&self, now: TimeOfDay) -> Option<std::time::Duration> {
        let left = self.expires.saturating_sub(now.seconds());
        u64::try_from(left).ok().filter(|left| *left > 0).map(std::time::Duration::from_secs)
    }
}

/// Who is logged in, ended or not; `None` where nobody is.
///
/// # Errors
/// A [`FilesError`] if the file cannot be read or is damaged.
pub(crate) fn read_file(files: &Files) -> Result<Option<LoginFile>, FilesError> {
    let Some(content) = files.read(LOGIN)? else { return Ok(None) };
    let file = serde_json::from_slice(&content).map_err(|_| FilesError::Damaged(files.state(LOGIN)))?;
    Ok(Some(file))
}

/// The login with its key and certificate; `None` where nobody is logged in.
///
/// # Errors
/// A [`FilesError`] if a file cannot be read, is missing or damaged.
pub(crate) fn read(files: &Files) -> Result<Option<Login>, FilesError> {
    let Some(file) = read_file(files)? else { return Ok(None) };
    let damaged = |name: &str| FilesError::Damaged(files.state(name));
    let pem = |name: &'static str| files.read(name)?.ok_or_else(|| damaged(name));
    let certificate = |name: &'static str| {
        CertificateDer::from_pem_slice(&pem(name)?).map_err(|_| damaged(name)).map(CertificateDer::into_owned)
    };
    let key_pem = Zeroizing::new(pem(KEY)?);
    let key = PrivatePkcs8KeyDer::from_pem_slice(&key_pem).map_err(|_| damaged(KEY))?;
    Ok(Some(Login { file, ca: certificate(CA)?, certificate: certificate(CERTIFICATE)?, key: key.into() }))
}

/// Keeps a new login in place of the one before.
///
/// # Errors
/// A [`FilesError`] if a file cannot be written.
pub(crate) fn save(
    files: &Files,
    address: &ClusterAddress,
    granted: &GrantedCertificates,
    key_pem: &Zeroizing<String>,
    mfa_mode: MfaMode,
    clock: &Clock,
) -> Result<LoginFile, FilesError> {
    let LoginGranted { user, login, device, expires_in, .. } = granted.granted.clone();
    let lasts = std::time::Duration::from_secs(expires_in);
    let file = LoginFile {
        cluster: address.host.clone(),
        port: address.port,
        user: user.clone(),
        login,
        device,
        expires: clock.time_of_day().after(lasts).seconds(),
        mfa_mode,
    };
    let before = last_cluster(files);
    let is_same = |before: &&ClusterFile| before.cluster == address.host && before.user == user;
    let refusals_since = match (before.as_ref(), before.as_ref().filter(is_same)) {
        (None, _) => 0,
        (Some(_), Some(same)) => same.refusals_since,
        (Some(_), None) => clock.time_of_day().seconds(),
    };
    let cluster = ClusterFile { cluster: address.host.clone(), port: address.port, user, refusals_since };
    files.remove(LOGIN)?;
    files.replace(CA, pem("CERTIFICATE", &granted.ca).as_bytes())?;
    files.replace(CLUSTER, &json(&cluster))?;
    files.replace(KEY, key_pem.as_bytes())?;
    files.replace(CERTIFICATE, pem("CERTIFICATE", &granted.certificate).as_bytes())?;
    files.replace(LOGIN, &json(&file))?;
    Ok(file)
}

/// What control handed out, with its certificates decoded.
#[derive(Debug)]
pub(crate) struct GrantedCertificates {
    /// As it came.
    pub(crate) granted: LoginGranted,
    /// The login certificate.
    pub(crate) certificate: CertificateDer<'static>,
    /// The CA.
    pub(crate) ca: CertificateDer<'static>,
}

/// Whether there is anything of a login to remove.
pub(crate) fn is_any(files: &Files) -> bool {
    [KEY, CERTIFICATE, LOGIN].into_iter().any(|name| files.state(name).exists())
}

/// Removes the login; what says which CA was trusted stays.
///
/// # Errors
/// A [`FilesError`] if a file cannot be removed.
pub(crate) fn remove(files: &Files, clock: &Clock) -> Result<(), FilesError> {
    // The key goes first: whatever fails afterwards, it is not left behind.
    [KEY, CERTIFICATE, LOGIN].into_iter().try_for_each(|name| files.remove(name))?;
    match last_cluster(files) {
        Some(cluster) => {
            let refusals_since = clock.time_of_day().seconds();
            files.replace(CLUSTER, &json(&ClusterFile { refusals_since, ..cluster }))
        }
        None => Ok(()),
    }
}

/// From when on refusals are the present user's, in seconds since 1970.
pub(crate) fn refusals_since(files: &Files) -> i64 {
    last_cluster(files).map_or(0, |cluster| cluster.refusals_since)
}

/// The CA that was trusted for this cluster before, if any.
pub(crate) fn known_ca(files: &Files, cluster: &Hostname) -> Option<CertificateDer<'static>> {
    let known = last_cluster(files).filter(|known| known.cluster == *cluster)?;
    tracing::debug!(cluster = %known.cluster, "the CA is known from before");
    let pem = files.read(CA).ok()??;
    CertificateDer::from_pem_slice(&pem).ok()
}

/// The cluster of the last login and its user, for who does not name them.
pub(crate) fn last_used(files: &Files) -> Option<(ClusterAddress, UserName)> {
    last_cluster(files).map(|file| (ClusterAddress { host: file.cluster, port: file.port }, file.user))
}

fn last_cluster(files: &Files) -> Option<ClusterFile> {
    serde_json::from_slice(&files.read(CLUSTER).ok()??).ok()
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec_pretty(value).expect("a document of ours is JSON")
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("base64 is ASCII")).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn granted(key: &rcgen::KeyPair) -> GrantedCertificates {
        let certificate = rcgen::CertificateParams::default().self_signed(key).unwrap();
        let granted = LoginGranted {
            cluster: "proxy.example.com".parse().unwrap(),
            user: "jerry".parse().unwrap(),
            login: "0af3".parse().unwrap(),
            device: "laptop".parse().unwrap(),
            certificate: String::new(),
            ca: String::new(),
            expires_in: 3600,
        };
        GrantedCertificates { granted, certificate: certificate.der().clone(), ca: certificate.der().clone() }
    }

    fn save_one(files: &Files) -> (LoginFile, GrantedCertificates) {
        let key = rcgen::KeyPair::generate().unwrap();
        let granted = granted(&key);
        let address = "proxy.example.com:8443".parse().unwrap();
        let pem = Zeroizing::new(key.serialize_pem());
        (save(files, &address, &granted, &pem, MfaMode::Otp, &Clock::movable().0).unwrap(), granted)
    }

    #[test]
    fn a_login_reads_back_as_it_was_saved() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::inside(directory.path());
        assert!(read(&files).unwrap().is_none());
        let (file, granted) = save_one(&files);
        let login = read(&files).unwrap().unwrap();
        assert_eq!((login.file, login.certificate), (file, granted.certificate));
        assert_eq!(login.ca, granted.ca);
    }

    #[test]
    fn logout_removes_the_key_and_keeps_the_trust() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::inside(directory.path());
        save_one(&files);
        remove(&files, &Clock::movable().0).unwrap();
        assert!(read(&files).unwrap().is_none());
        assert!(!files.state(KEY).exists() && !files.state(CERTIFICATE).exists());
        assert!(known_ca(&files, &"proxy.example.com".parse().unwrap()).is_some());
        assert!(known_ca(&files, &"other.example.com".parse().unwrap()).is_none());
    }

    #[test]
    fn a_login_ends_on_the_second() {
        let directory = tempfile::tempdir().unwrap();
        let (file, _) = save_one(&Files::inside(directory.path()));
        let end = TimeOfDay(file.expires * 1000);
        assert_eq!(file.time_left(TimeOfDay(end.0 - 1000)), Some(Duration::from_secs(1)));
        assert_eq!(file.time_left(end), None);
    }

    #[test]
    fn a_damaged_file_is_said_to_be_one() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::inside(directory.path());
        save_one(&files);
        files.replace(KEY, b"not a key").unwrap();
        assert!(matches!(read(&files), Err(FilesError::Damaged(_))));
    }
}

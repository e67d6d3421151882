//! The certificate that browsers see: the administrator's files, read again when they change.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, ensure};
use portlatch_control::config::HttpsKeypair;
use portlatch_proxy::certificate::ServerCertificate;
use portlatch_proxy::stop::Stop;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// How soon a renewed certificate is shown.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Files of a certificate, as they were read last.
pub(super) struct PagesFiles {
    files: HttpsKeypair,
    read: Option<Changed>,
}

/// When the two files were last changed.
type Changed = (SystemTime, SystemTime);

impl PagesFiles {
    /// Reads the files for the first time.
    pub(super) fn open(files: HttpsKeypair) -> anyhow::Result<(Self, Arc<ServerCertificate>)> {
        let read = changed(&files);
        let (chain, key) = load(&files)?;
        let certificate = ServerCertificate::new(chain, key).with_context(|| names(&files))?;
        Ok((Self { files, read }, certificate))
    }

    /// Shows what the files become. Where they are half written or wrong, the old certificate stays.
    pub(super) async fn follow(mut self, certificate: Arc<ServerCertificate>, stop: Stop) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = stop.ended.cancelled() => return,
            }
            let now = changed(&self.files);
            if now.is_none() || now == self.read {
                continue;
            }
            self.read = now;
            let replaced = load(&self.files).and_then(|(chain, key)| Ok(certificate.replace(chain, key)?));
            match replaced {
                Ok(()) => tracing::info!("the pages show the new https_keypair"),
                Err(error) => tracing::warn!("https_keypair changed and is not shown: {error:#}"),
            }
        }
    }
}

fn changed(files: &HttpsKeypair) -> Option<Changed> {
    let time = |path: &Path| std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    Some((time(&files.cert)?, time(&files.key)?))
}

fn load(files: &HttpsKeypair) -> anyhow::Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let chain = CertificateDer::pem_file_iter(&files.cert).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.with_context(|| files.cert.display().to_string())?;
    ensure!(!chain.is_empty(), "{}: there is no certificate in it", files.cert.display());
    let key = PrivateKeyDer::from_pem_file(&files.key).with_context(|| files.key.display().to_string())?;
    Ok((chain, key))
}

fn names(files: &HttpsKeypair) -> String {
    format!("{} and {}", files.cert.display(), files.key.display())
}

//! The log: to standard error, where the service manager keeps it.

use tracing_subscriber::EnvFilter;

/// What is logged unless `PORTLATCH_LOG` says otherwise: what a user or an administrator would notice.
const DEFAULT: &str = "info";
const VARIABLE: &str = "PORTLATCH_LOG";

/// Starts logging.
pub(crate) fn start() {
    let filter = EnvFilter::try_from_env(VARIABLE).unwrap_or_else(|_| EnvFilter::new(DEFAULT));
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
}

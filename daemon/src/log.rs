//! The log: to standard error, where the service manager keeps it. In colour only for a person at a terminal.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// What is logged unless `PORTLATCH_LOG` says otherwise: what a user or an administrator would notice.
const DEFAULT: &str = "info";
const VARIABLE: &str = "PORTLATCH_LOG";

/// Starts logging.
pub(crate) fn start() {
    let filter = EnvFilter::try_from_env(VARIABLE).unwrap_or_else(|_| EnvFilter::new(DEFAULT));
    let is_colourful = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let _ = log.with_ansi(is_colourful).try_init();
}

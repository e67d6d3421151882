//! The binary `portlatch`: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    portlatch::run()
}

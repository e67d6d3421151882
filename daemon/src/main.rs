//! `portlatchd`: parses the command line, runs it, maps the outcome to an exit code.

use std::process::ExitCode;

/// What thousands of flows took goes back to the system some seconds after they ended; the C library's allocator keeps
/// it: after 10,000 flows a proxy of 45 MB had 111 MB for ever, with this one 55 MB.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    portlatchd::cli::main()
}

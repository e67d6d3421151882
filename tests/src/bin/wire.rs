//! The wire between two hosts of the lab, as a program: `wire --name IF --far NETNS --orders SOCKET`, run on one of them
//! as root. Ready when the socket is there.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use portlatch_tests::wire::between::Ends;
use tokio::net::UnixListener;

/// Puts a bad network between this host and another.
#[derive(Debug, Parser)]
struct Arguments {
    /// What the interface is called on both
    #[arg(long)]
    name: String,
    /// The other host's network namespace
    #[arg(long)]
    far: PathBuf,
    /// Where it takes orders
    #[arg(long)]
    orders: PathBuf,
}

#[expect(clippy::print_stderr, reason = "what a program says when it cannot go on")]
fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wire: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let ends = Ends::open(&arguments.name, &arguments.far)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let orders = UnixListener::bind(&arguments.orders).context("where orders are taken")?;
        ends.run(&orders).await.context("the wire broke")
    })
}

//! `scripts/bench`'s program: both ends of a load, and the comparison of paths.

use std::io::Write as _;
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use portlatch_tests::bench::ceremonies::{ceremonies, commits};
use portlatch_tests::bench::compare::{Choice, Comparison, catalogue};
use portlatch_tests::bench::dns;
use portlatch_tests::bench::hold::hold;
use portlatch_tests::bench::load::{self, Direction};
use portlatch_tests::bench::path::{Path, quic_endpoint};
use portlatch_tests::bench::server::{serve_quic, serve_tcp};
use portlatch_tests::bench::taps;
use portlatch_tests::bench::wire::Span;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// Long enough for a path's first connection and for windows to grow.
const WARM_UP: Duration = Duration::from_millis(500);

/// Puts load on a path and measures it.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The server's end, over TCP
    Server {
        /// Where it listens
        #[arg(long)]
        listen: SocketAddr,
        /// At how many ports, from that one on
        #[arg(long, default_value_t = 1)]
        ports: u16,
    },
    /// A DNS server that answers every question with its own address
    DnsServer {
        /// Where it listens
        #[arg(long)]
        listen: SocketAddrV4,
    },
    /// The server's end, over QUIC
    QuicServer {
        /// Where it listens
        #[arg(long)]
        listen: SocketAddr,
        /// Where it writes its certificate, DER
        #[arg(long)]
        certificate: PathBuf,
    },
    /// The client's end; prints its figures as JSON
    Load {
        /// HOST:PORT of the server
        #[arg(long)]
        target: String,
        /// Use QUIC; the server's certificate
        #[arg(long)]
        certificate: Option<PathBuf>,
        /// How long to measure
        #[arg(long, default_value_t = 3)]
        seconds: u64,
        /// A directory on a disk, for what writes there
        #[arg(long, default_value = "/var/tmp")]
        scratch: PathBuf,
        #[command(subcommand)]
        load: Load,
    },
    /// All loads over all paths of a lab, in turn
    Compare(Box<Comparison>),
    /// Whether there is all that is wanted; measures nothing
    Check(Choice),
    /// The names of all rows
    Rows,
}

#[derive(Debug, Subcommand)]
enum Load {
    /// One connection and one byte: whether the path is there
    Probe,
    /// A message there and back on one connection
    Rr {
        /// How long it is
        #[arg(long, default_value_t = 1)]
        bytes: usize,
    },
    /// Connect, one byte there and back, close
    Crr {
        /// Connections at once
        #[arg(long, default_value_t = 1)]
        parallel: usize,
    },
    /// As many bytes as pass
    Bulk {
        /// Which way
        #[arg(long)]
        direction: Direction,
        /// Connections at once
        #[arg(long, default_value_t = 1)]
        flows: usize,
    },
    /// As many bytes as pass, both ways at once
    Both {
        /// Connections each way
        #[arg(long, default_value_t = 1)]
        flows: usize,
    },
    /// Questions for the server's address, many at once
    Dns {
        /// Who is asked
        #[arg(long)]
        server: SocketAddr,
        /// For what
        #[arg(long, default_value = "bench.corp.internal")]
        name: String,
    },
    /// Connections to one port after another, each of which needs a tap
    Taps {
        /// How many
        #[arg(long, default_value_t = 20)]
        taps: u16,
    },
    /// Challenges, answers and grants of a control of its own; no server is needed
    Ceremonies {
        /// Users at once
        #[arg(long, default_value_t = 1)]
        parallel: usize,
    },
    /// Commits of SQLite alone; no server is needed
    Commits {
        /// Writers at once
        #[arg(long, default_value_t = 1)]
        parallel: usize,
    },
    /// Connections that wait for taps together; taps when a line comes on standard input
    Waiting {
        /// To how many ports
        #[arg(long)]
        ports: u16,
        /// How many in all
        #[arg(long)]
        connections: usize,
    },
    /// Opens as many connections as standard input says, line by line, and keeps them until it ends
    Hold,
}

fn main() -> ExitCode {
    let Err(error) = run() else { return ExitCode::SUCCESS };
    // Nobody may be there to read it.
    let _ = writeln!(std::io::stderr().lock(), "bench: {error:#}");
    ExitCode::FAILURE
}

fn run() -> Result<()> {
    let command = Arguments::parse().command;
    // A service has all processors.
    let is_service = matches!(command, Command::Load { load: Load::Ceremonies { .. }, .. });
    let mut runtime = match is_service {
        true => tokio::runtime::Builder::new_multi_thread(),
        false => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = runtime.enable_all().build()?;
    match command {
        Command::Compare(comparison) => comparison.run(),
        Command::Check(choice) => choice.check(),
        Command::Rows => catalogue()
            .iter()
            .try_for_each(|row| print(&format!("{:40} {}: {}\n", row.name, row.section.title(), row.title))),
        Command::Server { listen, ports } => runtime.block_on(async {
            let mut servers = JoinSet::new();
            for port in listen.port()..listen.port().saturating_add(ports) {
                let listener = TcpListener::bind((listen.ip(), port)).await;
                servers.spawn(serve_tcp(listener.with_context(|| format!("listening at port {port}"))?));
            }
            servers.join_next().await.context("no port to listen at")??
        }),
        Command::DnsServer { listen } => {
            let socket = UdpSocket::bind(listen).with_context(|| format!("listening at {listen}"))?;
            dns::answer(&socket, listen.ip().octets())
        }
        Command::QuicServer { listen, certificate } => runtime.block_on(async {
            let (endpoint, der) = quic_endpoint(listen).with_context(|| format!("listening at {listen}"))?;
            // Written aside first: whoever waits for the file finds all of it.
            let aside = certificate.with_extension("new");
            std::fs::write(&aside, der)?;
            std::fs::rename(&aside, &certificate)?;
            serve_quic(endpoint).await;
            Ok(())
        }),
        Command::Load { target, certificate, seconds, scratch, load } => runtime.block_on(async {
            let path = match certificate {
                None => Path::tcp(&target).await?,
                Some(file) => {
                    let der = std::fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
                    Path::quic(target.parse().context("QUIC needs ADDRESS:PORT")?, der.into()).await?
                }
            };
            put(&path, &load, Duration::from_secs(seconds), &scratch).await
        }),
    }
}

async fn put(path: &Path, load: &Load, time: Duration, scratch: &std::path::Path) -> Result<()> {
    let span = Span { warm_up: WARM_UP, time };
    let figures = match *load {
        Load::Probe => return load::probe(path).await,
        Load::Rr { bytes } => load::request_response(path, bytes, span).await?,
        Load::Crr { parallel } => load::new_connections(path, parallel, span).await?,
        Load::Bulk { direction, flows } => load::bulk(path, direction, flows, span).await?,
        Load::Both { flows } => load::both_ways(path, flows, span).await?,
        Load::Dns { server, ref name } => dns::ask(server, name, path.address()?.ip(), span)?,
        Load::Taps { taps } => taps::one_by_one(path.address()?, taps).await?,
        Load::Ceremonies { parallel } => ceremonies(parallel, span, scratch).await?,
        Load::Commits { parallel } => commits(parallel, span, scratch).await?,
        Load::Waiting { ports, connections } => {
            let waiting = async || {
                print("all wait\n")?;
                let mut line = String::new();
                BufReader::new(tokio::io::stdin()).read_line(&mut line).await?;
                Ok(())
            };
            taps::all_at_once(path.address()?, ports, connections, waiting).await?
        }
        Load::Hold => {
            let tell = |held| print(&format!("{held} connections are open\n"));
            return hold(path, BufReader::new(tokio::io::stdin()), tell).await;
        }
    };
    print(&format!("{figures}\n"))
}

fn print(text: &str) -> Result<()> {
    let mut output = std::io::stdout().lock();
    output.write_all(text.as_bytes())?;
    Ok(output.flush()?)
}

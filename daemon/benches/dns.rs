//! What the DNS server takes for an answer; `scripts/bench --criterion` runs it.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use portlatch_clock::TimeOfDay;
use portlatch_protocol::names::HostPattern;
use portlatch_protocol::resource::Zone;
use portlatchd::addresses::{Addresses, Ranges};
use portlatchd::dns::Via;
use portlatchd::dns::names::{CatalogueNames, MAX_NAMES_PER_LOGIN, NameTable, TrustedZone};
use portlatchd::dns::server::{Action, Outside, Server};

const NOW: TimeOfDay = TimeOfDay(1_800_000_000_000);
const TYPE_A: u8 = 1;
const TYPE_HTTPS: u8 = 65;
/// From one name to the next: odd, so that all are asked for.
const STRIDE: usize = 1_009;

/// As many names as one login may have.
fn names() -> NameTable {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let ranges = Ranges::new(([198, 18, 0, 0].into(), 16), None).expect("a usable range");
    let addresses = Addresses::open(directory.path().join("addresses"), ranges, NOW).expect("a new map");
    let cluster = "proxy.example.com".parse().expect("a host");
    let zone = TrustedZone { cluster, suffix: "corp.internal".parse().expect("a host") };
    let mut table = NameTable::new(addresses, vec![zone.clone()], NOW);
    let patterns: Vec<HostPattern> =
        (0..MAX_NAMES_PER_LOGIN).map(|number| name(number).parse().expect("a pattern")).collect();
    let zones = [Zone { suffix: zone.suffix, exclusive: false }];
    let names = CatalogueNames { cluster: &zone.cluster, patterns: &patterns, zones: &zones, outside: &[] };
    let taken = table.set_catalogue(&"0af3".parse().expect("an id"), names, NOW);
    assert_eq!(taken.mapped, MAX_NAMES_PER_LOGIN);
    table
}

fn name(number: usize) -> String {
    format!("service-{number}.team.corp.internal")
}

fn query(name: &str, kind: u8) -> Vec<u8> {
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(label.len() as u8);
        query.extend_from_slice(label.as_bytes());
    }
    query.extend([0, 0, kind, 0, 1]);
    query
}

fn answers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("DNS answer");
    let mut names = names();
    let mut server = Server::new(Outside::Refuse);
    for (what, kind) in [("A", TYPE_A), ("HTTPS, of which there is none", TYPE_HTTPS)] {
        let queries: Vec<_> = (0..MAX_NAMES_PER_LOGIN).map(|number| query(&name(number), kind)).collect();
        let mut next = 0;
        group.bench_function(what, |b| {
            b.iter(|| {
                next = (next + STRIDE) % queries.len();
                let action = server.handle_query(black_box(&queries[next]), Via::Udp, &mut names, NOW);
                assert!(matches!(action, Action::Answer(_)));
                action
            });
        });
    }
    group.finish();
}

criterion_group!(benches, answers);
criterion_main!(benches);

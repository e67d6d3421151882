//! What root may list, and what becomes of a faulty list.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

const PIN: &str = "sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

fn host(text: &str) -> Hostname {
    text.parse().unwrap()
}

fn cluster(name: &str, zones: &[&str]) -> TrustedCluster {
    let zones = zones.iter().map(|zone| host(zone)).collect();
    TrustedCluster { host: host(name), port: 443, pin: PIN.parse().unwrap(), zones }
}

fn state() -> (tempfile::TempDir, StateDir) {
    let directory = tempfile::tempdir().unwrap();
    let state = StateDir::open(directory.path()).unwrap();
    (directory, state)
}

#[test]
fn what_was_written_reads_back() {
    let mut trust = Trust::default();
    trust.add(cluster("proxy.example.com", &["corp.internal", "prod.internal"])).unwrap();
    trust.add(cluster("other.example.com", &["other.internal"])).unwrap();
    assert_eq!(Trust::parse(Path::new("t"), &trust.render()).unwrap(), trust);
    assert_eq!(trust.cluster(&host("PROXY.example.com")).unwrap().zones.len(), 2);
    assert_eq!(trust.cluster(&host("evil.example.com")), None);
}

#[test]
fn a_cluster_is_replaced_and_not_listed_twice() {
    let mut trust = Trust::default();
    trust.add(cluster("proxy.example.com", &["corp.internal"])).unwrap();
    trust.add(cluster("proxy.example.com", &["new.internal"])).unwrap();
    assert_eq!(trust.clusters(), [cluster("proxy.example.com", &["new.internal"])]);
}

#[test]
fn a_zone_belongs_to_one_cluster_wholly() {
    let mut trust = Trust::default();
    trust.add(cluster("a.example", &["corp.internal"])).unwrap();
    for taken in ["corp.internal", "eu.corp.internal", "internal"] {
        let error = trust.add(cluster("b.example", &[taken])).unwrap_err();
        assert!(matches!(error, TrustError::ZoneTaken { .. }), "{taken}: {error}");
    }
    trust.add(cluster("b.example", &["notcorp.internal"])).unwrap();
    assert!(matches!(trust.add(cluster("c.example", &[])), Err(TrustError::NoZone)));
}

#[test]
fn every_fault_of_the_file_is_told_with_its_place() {
    let text = format!(
        "[[cluster]]\nhost = \"a b\"\nca_pin = \"sha256:00\"\nzones = \"corp.internal\"\nport = 70000\nzone = []\n\
         [[cluster]]\nhost = \"a.example\"\nca_pin = \"{PIN}\"\nzones = [\"x.internal\"]\n\
         [[cluster]]\nhost = \"b.example\"\nca_pin = \"{PIN}\"\nzones = [\"x.internal\"]\n[[cluster]]\n"
    );
    let faults = Trust::parse(Path::new("trust.toml"), &text).unwrap_err();
    let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
    let places: Vec<&str> = faults.iter().map(|fault| fault.split(": ").next().unwrap()).collect();
    let expected = ["2:8", "3:10", "4:9", "5:8", "6:1", "11:1", "15:1", "15:1", "15:1"];
    assert_eq!(places, expected.map(|place| format!("trust.toml:{place}")), "{faults:#?}");
}

#[test]
fn addresses_of_clusters_are_read_strictly() {
    assert_eq!(parse_url("https://Proxy.example.com").unwrap(), (host("proxy.example.com"), 443));
    assert_eq!(parse_url("proxy.example.com:8443").unwrap(), (host("proxy.example.com"), 8443));
    assert_eq!(parse_url("https://proxy.example.com:8443/").unwrap(), (host("proxy.example.com"), 8443));
    for bad in
        ["http://a.example", "https://a.example/x", "https://u@a.example", "a:0", "a:99999", "", "https://"]
    {
        assert!(parse_url(bad).is_err(), "{bad:?} was accepted");
    }
}

#[test]
fn wide_zones_are_warned_about() {
    assert!(wide(&host("internal")).is_some() && wide(&host("co.uk")).is_some());
    assert!(wide(&host("corp.internal")).is_none() && wide(&host("example.co.uk")).is_none());
}

#[test]
fn no_file_trusts_nobody_and_a_file_that_others_may_write_is_refused() {
    let (_directory, state) = state();
    assert_eq!(TrustFile::read(&state).unwrap(), Trust::default());
    let mut trust = Trust::default();
    trust.add(cluster("a.example", &["corp.internal"])).unwrap();
    state.write(FILE, trust.render().as_bytes(), MODE).unwrap();
    assert_eq!(TrustFile::read(&state).unwrap(), trust);
    std::fs::set_permissions(state.file(FILE), std::fs::Permissions::from_mode(0o664)).unwrap();
    assert!(TrustFile::read(&state).is_err());
    // What counts is the file that is read, and not the one that has its name by then.
    let path = state.file(FILE);
    let anybodys = File::open(&path).unwrap();
    std::fs::rename(&path, path.with_extension("old")).unwrap();
    std::fs::write(&path, "").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(owned_text(anybodys).unwrap(), None);
    assert_eq!(owned_text(File::open(&path).unwrap()).unwrap().as_deref(), Some(""));
}

#[test]
fn root_lists_a_cluster_and_is_warned_of_a_wide_zone() {
    let (_directory, state) = state();
    let listed = trust(&state, "https://a.example:8443", PIN.parse().unwrap(), vec![host("internal")]);
    if !rustix::process::geteuid().is_root() {
        assert!(matches!(listed, Err(TrustError::NotRoot)));
        return;
    }
    assert_eq!(listed.unwrap().len(), 1);
    let read = TrustFile::read(&state).unwrap();
    assert_eq!(read.cluster(&host("a.example")).unwrap().port, 8443);
    let taken = trust(&state, "https://b.example", PIN.parse().unwrap(), vec![host("corp.internal")]);
    assert!(matches!(taken, Err(TrustError::ZoneTaken { .. })));
    assert_eq!(TrustFile::read(&state).unwrap(), read, "a refusal changes nothing");
}

//! `portlatch rdp`: the tap beforehand, then the client that is installed.

use std::os::unix::fs::PermissionsExt as _;

use crate::support::Machine;

/// A directory with a client that writes down what it was started with.
fn with_client(machine: &Machine, name: &str) -> std::path::PathBuf {
    let directory = machine.directory.path().join("bin");
    std::fs::create_dir(&directory).unwrap();
    let client = directory.join(name);
    std::fs::write(&client, "#!/bin/sh\nprintf '%s\\n' \"$@\" >\"$0.arguments\"\necho opened\nexit 42\n")
        .unwrap();
    std::fs::set_permissions(&client, std::fs::Permissions::from_mode(0o755)).unwrap();
    directory
}

#[tokio::test]
async fn a_desktop_is_tapped_for_and_opened() {
    let (machine, _person, mut agent) = Machine::attached("enter").await;
    machine.control.has_desktop("win-1");
    agent.catalogue().await;
    let bin = with_client(&machine, "xfreerdp");
    let arguments = ["rdp", "win-1", "--user", "CORP\\alice", "--", "/f"];
    let mut rdp = machine.start_with_path(&arguments, &bin);
    agent.tunnel_for_command().await;
    rdp.sees("Tap your security key: win-1 (win-1.corp.internal:3389) for portlatch rdp").await;
    assert!(!bin.join("xfreerdp.arguments").exists(), "nothing is opened before the tap");
    rdp.sees("Press Enter").await;
    rdp.types("").await;
    agent.offered_grant().await;
    rdp.sees("Opening win-1.corp.internal:3389").await;
    rdp.sees("opened").await;
    assert_eq!(rdp.ends().await.status.code(), Some(42), "the client's end is the command's");
    let given = std::fs::read_to_string(bin.join("xfreerdp.arguments")).unwrap();
    let given: Vec<&str> = given.lines().collect();
    assert_eq!((given[0], given[7], given[8]), ("/v:win-1.corp.internal:3389", "/u:CORP\\alice", "/f"));
}

#[tokio::test]
async fn a_denied_desktop_is_not_opened() {
    let (machine, mut person, mut agent) = Machine::attached("never").await;
    machine.control.has_desktop("win-1");
    agent.catalogue().await;
    let bin = with_client(&machine, "xfreerdp3");
    let mut rdp = machine.start_with_path(&["rdp", "win-1"], &bin);
    agent.tunnel_for_command().await;
    rdp.sees("Tap your security key").await;
    person.sees("Tap your security key").await;
    person.types("d").await;
    assert_eq!(rdp.ends().await.status.code(), Some(3));
    assert!(!bin.join("xfreerdp3.arguments").exists());
}

#[tokio::test]
async fn without_a_client_nobody_taps() {
    let (machine, _person, mut agent) = Machine::attached("auto").await;
    machine.control.has_desktop("win-1");
    agent.catalogue().await;
    let nowhere = machine.directory.path().join("bin");
    let output = machine.start_with_path(&["rdp", "win-1"], &nowhere).ends().await;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no RDP client is installed"));
    assert_eq!(machine.control.challenges(), 0);
}

//! What a spool keeps through crashes, full disks and changes by others.

use std::process::Command;

use proptest::prelude::*;

use super::*;
use crate::chain::LineHash;
use crate::read::Reader;
use crate::verify::{Signature, VerifyError, verify, verify_signed};

/// Tells a test that it runs in a process of its own, and where it writes.
const CHILD_DIRECTORY: &str = "AUDIT_TEST_DIRECTORY";
const NOW: TimeOfDay = TimeOfDay(1_795_000_000_000);

#[test]
fn records_are_chained_and_verify() {
    let directory = tempfile::tempdir().unwrap();
    write_sessions(directory.path(), 20);
    let report = verify(directory.path()).unwrap();
    assert_eq!((report.sources.len(), report.sources[0].records), (1, 41));
}

#[test]
fn writing_goes_on_where_it_ended() {
    let directory = tempfile::tempdir().unwrap();
    write_sessions(directory.path(), 3);
    write_sessions(directory.path(), 3);
    assert_eq!(verify(directory.path()).unwrap().sources[0].records, 14);
}

#[test]
fn a_record_on_the_disk_is_in_the_head_when_append_returns() {
    let directory = tempfile::tempdir().unwrap();
    let config = SpoolConfig { durability: Durability::Disk, ..config(directory.path(), "p1") };
    let spool = Spool::open(config, NOW).unwrap();
    let seq = spool.append(&Event::new(EventKind::Login), NOW).unwrap();
    // The head follows the sync by one write.
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    let head = || chain::read_head(&directory.path().join("p1/head")).unwrap().map_or(0, |head| head.seq);
    while head() < seq {
        assert!(std::time::Instant::now() < deadline, "the head was not written");
        std::thread::yield_now();
    }
}

#[test]
fn many_writers_at_once_make_one_chain() {
    for durability in [Durability::Os, Durability::Disk] {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::open(SpoolConfig { durability, ..config(directory.path(), "p1") }, NOW).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    (0..50).for_each(|_| assert!(spool.append(&Event::new(EventKind::Grant), NOW).is_ok()))
                });
            }
        });
        drop(spool);
        assert_eq!(verify(directory.path()).unwrap().sources[0].records, 401);
    }
}

#[test]
fn a_second_writer_of_the_same_source_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let _first = Spool::open(config(directory.path(), "p1"), NOW).unwrap();
    assert!(matches!(Spool::open(config(directory.path(), "p1"), NOW), Err(SpoolError::InUse(_))));
    assert!(Spool::open(config(directory.path(), "p2"), NOW).is_ok());
    assert!(matches!(Spool::open(config(directory.path(), "../p3"), NOW), Err(SpoolError::BadSource(_))));
}

#[test]
fn a_torn_tail_is_cut_noted_and_nothing_else_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let content = written_by_a_killed_process(directory.path());
    let lines = content.iter().filter(|byte| **byte == b'\n').count();
    let path = segment_path(directory.path());
    for torn in 1..200 {
        std::fs::write(&path, &content[..content.len() - torn]).unwrap();
        let whole = content[..content.len() - torn].iter().filter(|byte| **byte == b'\n').count();
        let spool = Spool::open(config(directory.path(), "control"), NOW).unwrap();
        let is_torn = content[content.len() - torn - 1] != b'\n';
        assert_eq!(spool.recovery().cut_bytes > 0, is_torn, "{torn} bytes torn off");
        drop(spool);
        let kept = std::fs::read(&path).unwrap();
        assert!(whole >= lines - 2 && kept.starts_with(&content[..nth_line_end(&content, whole)]));
        assert_eq!(kept.windows(11).any(|part| part == b"\"audit.cut\""), is_torn);
        verify(directory.path()).unwrap();
        std::fs::write(directory.path().join("control/head"), b"").unwrap();
    }
}

#[test]
fn sessions_without_an_end_are_lost_once() {
    let directory = tempfile::tempdir().unwrap();
    let spool = Spool::open(config(directory.path(), "control"), NOW).unwrap();
    for (kind, session) in
        [(EventKind::SessionStart, "a1"), (EventKind::SessionStart, "a2"), (EventKind::SessionEnd, "a1")]
    {
        spool.append(&session_event(kind, session), NOW).unwrap();
    }
    drop(spool);
    let spool = Spool::open(config(directory.path(), "control"), NOW).unwrap();
    assert_eq!(spool.recovery().lost, [session_event(EventKind::SessionStart, "a2")]);
    drop(spool);
    assert_eq!(words(directory.path(), "session.lost"), 1);
    let spool = Spool::open(config(directory.path(), "control"), NOW).unwrap();
    assert!(spool.recovery().lost.is_empty());
}

#[test]
fn a_damaged_record_does_not_stop_writing_and_is_found() {
    let directory = tempfile::tempdir().unwrap();
    write_sessions(directory.path(), 5);
    let path = segment_path(directory.path());
    let mut content = std::fs::read(&path).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    std::fs::write(&path, &content).unwrap();
    let spool = Spool::open(config(directory.path(), "control"), NOW).unwrap();
    assert!(spool.recovery().damage.is_some());
    spool.append(&Event::new(EventKind::Login), NOW).unwrap();
    drop(spool);
    assert_eq!(std::fs::read(&path).unwrap(), content, "the evidence was touched");
    assert!(matches!(verify(directory.path()), Err(VerifyError::Broken { .. })));
}

#[test]
fn a_full_spool_refuses_what_begins_and_records_what_ends() {
    let directory = tempfile::tempdir().unwrap();
    let config = SpoolConfig { max_bytes: 3000, ..config(directory.path(), "control") };
    let spool = Spool::open(config, NOW).unwrap();
    let refused =
        (0..100).find_map(|_| spool.append(&session_event(EventKind::SessionStart, "a1"), NOW).err());
    assert!(matches!(refused, Some(SpoolError::Full)));
    spool.append(&session_event(EventKind::SessionEnd, "a1"), NOW).unwrap();
    drop(spool);
    verify(directory.path()).unwrap();
}

#[test]
fn a_failed_write_is_final() {
    if let Some(directory) = std::env::var_os(CHILD_DIRECTORY) {
        return write_until_refused(Path::new(&directory));
    }
    // A file-size limit of the process makes a write short and then impossible, as a full disk does.
    let directory = tempfile::tempdir().unwrap();
    let output = rerun("a_failed_write_is_final", directory.path(), "ulimit -f 8; trap '' XFSZ;");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
    let spool = Spool::open(config(directory.path(), "control"), NOW).unwrap();
    drop(spool);
    verify(directory.path()).unwrap();
}

fn write_until_refused(directory: &Path) {
    let spool = Spool::open(config(directory, "control"), NOW).unwrap();
    let failed = (0..1000).find_map(|_| spool.append(&Event::new(EventKind::Grant), NOW).err());
    assert!(matches!(failed, Some(SpoolError::Io(_))), "{failed:?}");
    let small = Event::new(EventKind::SessionEnd);
    assert!(matches!(spool.append(&small, NOW), Err(SpoolError::Failed)));
}

#[test]
fn every_record_written_before_a_kill_is_there() {
    if let Some(directory) = std::env::var_os(CHILD_DIRECTORY) {
        return write_until_killed(Path::new(&directory));
    }
    let directory = tempfile::tempdir().unwrap();
    let content = written_by_a_killed_process(directory.path());
    let records = content.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    assert!(records.map(serde_json::from_slice::<serde_json::Value>).all(|record| record.is_ok()));
}

fn write_until_killed(directory: &Path) {
    let spool = Spool::open(config(directory, "control"), NOW).unwrap();
    for _ in 0..20 {
        spool.append(&Event::new(EventKind::Grant), NOW).unwrap();
    }
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
}

#[test]
fn a_head_is_signed_once_for_each_state_of_the_chain() {
    let directory = tempfile::tempdir().unwrap();
    let spool = Spool::open(config(directory.path(), "control"), NOW).unwrap();
    let last = spool.shared.lock().last;
    let signer = |message: &[u8]| LineHash::of(message).0.to_vec();
    spool.sign_head(&signer, NOW).unwrap();
    spool.sign_head(&signer, NOW).unwrap();
    drop(spool);
    assert_eq!(words(directory.path(), "chain.head"), 1);
    let (cluster, time) = ("c.example".parse().unwrap(), chain::timestamp(NOW));
    let message = chain::head_message(&cluster, "control", last.seq, &last.hash.0, &time);
    let signature = LineHash::of(&message).to_hex();
    assert_eq!(words(directory.path(), &format!("\"signature\":\"{signature}\"")), 1);
}

#[test]
fn a_chain_that_was_written_anew_has_no_signature_of_its_own() {
    let [honest, forged] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let signer = |message: &[u8]| LineHash::of(message).0.to_vec();
    let check = |_: &str, message: &[u8], signature: &[u8]| match LineHash::of(message).0 == signature {
        true => Signature::Good,
        false => Signature::Bad,
    };
    for directory in [&honest, &forged] {
        let spool = Spool::open(config(directory.path(), "control"), NOW).unwrap();
        spool.append(&Event::new(EventKind::Grant), NOW).unwrap();
        spool.append(&Event::new(EventKind::Login), NOW).unwrap();
        if directory.path() == honest.path() {
            spool.sign_head(&signer, NOW).unwrap();
            spool.append(&Event::new(EventKind::Logout), NOW).unwrap();
            continue;
        }
        let last = spool.shared.lock().last;
        let head = Event {
            detail: Some(format!("{} {}", last.seq, last.hash.to_hex())),
            signature: Some("00".repeat(32)),
            ..Event::new(EventKind::ChainHead)
        };
        spool.append(&head, NOW).unwrap();
    }
    let report = verify_signed(honest.path(), &check).unwrap();
    assert_eq!(report.sources[0].signed.as_ref().map(|head| head.covers), Some(3));
    assert_eq!(report.sources[0].records, 5);
    assert!(verify(forged.path()).is_ok(), "the chain alone is whole");
    let error = verify_signed(forged.path(), &check).unwrap_err();
    assert!(matches!(error, VerifyError::BadSignature { line: 4, .. }), "{error}");
}

#[test]
fn a_signed_head_that_was_written_anew_with_another_time_does_not_hold() {
    let honest = tempfile::tempdir().unwrap();
    let signer = |message: &[u8]| LineHash::of(message).0.to_vec();
    let check = |_: &str, message: &[u8], signature: &[u8]| match LineHash::of(message).0 == signature {
        true => Signature::Good,
        false => Signature::Bad,
    };
    let spool = Spool::open(config(honest.path(), "control"), NOW).unwrap();
    spool.append(&Event::new(EventKind::Grant), NOW).unwrap();
    let last = spool.shared.lock().last;
    let (signature, time) = (std::cell::Cell::new(None), TimeOfDay(NOW.0 + 60_000));
    let kept = |message: &[u8]| {
        let signed = signer(message);
        signature.set(Some(hex::encode(&signed)));
        signed
    };
    spool.sign_head(&kept, time).unwrap();
    let signed = verify_signed(honest.path(), &check).unwrap().sources.remove(0).signed.unwrap();
    assert_eq!((signed.covers, signed.time), (2, chain::timestamp(time)));
    // The same records once more, with the signature and a time of the forger's choice.
    let head = Event {
        detail: Some(format!("{} {}", last.seq, last.hash.to_hex())),
        signature: signature.take(),
        ..Event::new(EventKind::ChainHead)
    };
    for (claimed, holds) in [(time, true), (TimeOfDay(time.0 + 3_600_000), false)] {
        let again = tempfile::tempdir().unwrap();
        let spool = Spool::open(config(again.path(), "control"), NOW).unwrap();
        spool.append(&Event::new(EventKind::Grant), NOW).unwrap();
        spool.append(&head, claimed).unwrap();
        assert!(verify(again.path()).is_ok(), "the chain alone is whole");
        let verified = verify_signed(again.path(), &check);
        match holds {
            true => assert!(verified.unwrap().sources[0].signed.is_some()),
            false => assert!(matches!(verified, Err(VerifyError::BadSignature { line: 3, .. }))),
        }
    }
}

#[test]
fn a_signed_head_names_a_record_that_is_there() {
    for detail in ["9 00", "nonsense", "1 0000000000000000000000000000000000000000000000000000000000000000"] {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::open(config(directory.path(), "control"), NOW).unwrap();
        let (detail, signature) = (Some(detail.to_owned()), Some("00".to_owned()));
        spool.append(&Event { detail, signature, ..Event::new(EventKind::ChainHead) }, NOW).unwrap();
        drop(spool);
        let verified = verify_signed(directory.path(), &|_, _, _| Signature::Good);
        assert!(matches!(verified, Err(VerifyError::BadSignature { .. })), "{verified:?}");
    }
}

#[test]
fn sources_are_merged_by_time_and_followed() {
    let directory = tempfile::tempdir().unwrap();
    let one = Spool::open(config(directory.path(), "one"), TimeOfDay(1000)).unwrap();
    let two = Spool::open(config(directory.path(), "two"), TimeOfDay(2000)).unwrap();
    one.append(&Event::new(EventKind::Login), TimeOfDay(5000)).unwrap();
    two.append(&Event::new(EventKind::Logout), TimeOfDay(4000)).unwrap();
    let mut reader = Reader::open(directory.path()).unwrap();
    let mut rest =
        || std::iter::from_fn(|| reader.next_record().unwrap()).map(|r| r.event).collect::<Vec<_>>();
    assert_eq!(rest(), ["audit.open", "audit.open", "logout", "login"]);
    assert!(rest().is_empty());
    two.append(&Event::new(EventKind::Lock), TimeOfDay(6000)).unwrap();
    let _three = Spool::open(config(directory.path(), "three"), TimeOfDay(7000)).unwrap();
    assert_eq!(rest(), ["lock", "audit.open"]);
}

/// One change of a byte sequence.
#[derive(Debug, Clone)]
enum Edit {
    FlipBit(usize, u8),
    RemoveByte(usize),
    RemoveLine(usize),
    RepeatLine(usize),
    SwapLines(usize, usize),
    CutAfter(usize),
}

fn edits() -> impl Strategy<Value = Edit> {
    prop_oneof![
        (any::<usize>(), 0..8_u8).prop_map(|(at, bit)| Edit::FlipBit(at, bit)),
        any::<usize>().prop_map(Edit::RemoveByte),
        any::<usize>().prop_map(Edit::RemoveLine),
        any::<usize>().prop_map(Edit::RepeatLine),
        (any::<usize>(), any::<usize>()).prop_map(|(a, b)| Edit::SwapLines(a, b)),
        any::<usize>().prop_map(Edit::CutAfter),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn verify_finds_every_single_edit(edit in edits()) {
        let directory = tempfile::tempdir().unwrap();
        let original = WRITTEN.with(|written| written.clone());
        let edited = apply(&original.0, edit);
        prop_assume!(edited != original.0);
        let folder = directory.path().join("control");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("head"), &original.1).unwrap();
        std::fs::write(segment_path(directory.path()), &original.0).unwrap();
        prop_assert!(verify(directory.path()).is_ok());
        std::fs::write(segment_path(directory.path()), &edited).unwrap();
        prop_assert!(verify(directory.path()).is_err());
    }
}

thread_local! {
    /// Ten records and their head, made once.
    static WRITTEN: (Vec<u8>, Vec<u8>) = {
        let directory = tempfile::tempdir().unwrap();
        write_sessions(directory.path(), 5);
        let head = std::fs::read(directory.path().join("control/head")).unwrap();
        (std::fs::read(segment_path(directory.path())).unwrap(), head)
    };
}

fn apply(content: &[u8], edit: Edit) -> Vec<u8> {
    let mut bytes = content.to_vec();
    let mut lines: Vec<Vec<u8>> =
        content.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    let count = lines.len();
    match edit {
        Edit::FlipBit(at, bit) => {
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            return bytes;
        }
        Edit::RemoveByte(at) => {
            bytes.remove(at % content.len());
            return bytes;
        }
        Edit::CutAfter(at) => {
            bytes.truncate(at % content.len());
            return bytes;
        }
        Edit::RemoveLine(at) => drop(lines.remove(at % count)),
        Edit::RepeatLine(at) => lines.insert(at % count, lines[at % count].clone()),
        Edit::SwapLines(a, b) => lines.swap(a % count, b % count),
    }
    lines.concat()
}

fn config(directory: &Path, source: &str) -> SpoolConfig {
    SpoolConfig {
        directory: directory.to_owned(),
        source: source.into(),
        cluster: "c.example".parse().unwrap(),
        durability: Durability::Os,
        max_bytes: SpoolConfig::DEFAULT_MAX_BYTES,
    }
}

fn session_event(kind: EventKind, session: &str) -> Event {
    Event {
        session: Some(session.parse().unwrap()),
        user: Some("jerry".parse().unwrap()),
        ..Event::new(kind)
    }
}

fn write_sessions(directory: &Path, count: u32) {
    let spool = Spool::open(config(directory, "control"), NOW).unwrap();
    for number in 0..count {
        let session = format!("{number:08x}");
        spool.append(&session_event(EventKind::SessionStart, &session), NOW).unwrap();
        spool.append(&session_event(EventKind::SessionEnd, &session), NOW).unwrap();
    }
}

/// Runs one ignored test of this binary as a process of its own.
/// Runs this very test again in a process of its own, which finds the directory in its environment.
fn rerun(test: &str, directory: &Path, prelude: &str) -> std::process::Output {
    let binary = std::env::current_exe().unwrap();
    let script = format!("{prelude} exec \"$0\" --exact \"$1\"");
    Command::new("sh")
        .args(["-c", &script])
        .arg(binary)
        .arg(format!("spool::tests::{test}"))
        .env(CHILD_DIRECTORY, directory)
        .output()
        .unwrap()
}

/// The segment of a process that was killed right after its last record.
fn written_by_a_killed_process(directory: &Path) -> Vec<u8> {
    let output = rerun("every_record_written_before_a_kill_is_there", directory, "");
    assert!(!output.status.success());
    let content = std::fs::read(segment_path(directory)).unwrap();
    assert_eq!(content.iter().filter(|byte| **byte == b'\n').count(), 21, "a record was lost by kill -9");
    // As if the kill had come before the first sync: what is torn is not known to be on the disk.
    std::fs::write(directory.join("control/head"), b"").unwrap();
    content
}

fn nth_line_end(content: &[u8], lines: usize) -> usize {
    content.split_inclusive(|byte| *byte == b'\n').take(lines).map(<[u8]>::len).sum()
}

fn segment_path(directory: &Path) -> PathBuf {
    directory.join("control/00000000000000000001.jsonl")
}

fn words(directory: &Path, word: &str) -> usize {
    std::fs::read_to_string(segment_path(directory)).unwrap().matches(word).count()
}

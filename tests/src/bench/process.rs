//! What processes use, as the kernel counts it: memory and processor time, of all members of a session.
//!
//! A part of a path (the daemon, the proxy, another engine) is the session of the process that `setsid` started for it,
//! so that a part of several processes is counted whole.

use std::fs;
use std::io;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

/// The unit of /proc's times, which is the same on every Linux that this runs on (USER_HZ).
const TICK: Duration = Duration::from_millis(10);

/// What a session holds, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Resident set: pages that are mapped.
    pub rss: u64,
    /// The same, with each shared page divided among those that share it.
    pub pss: u64,
}

/// The memory of a session.
///
/// # Errors
/// If no process is in it.
pub fn memory(session: u32) -> Result<Memory> {
    let mut sum = Memory::default();
    for process in members(session)? {
        // A process that has just ended holds nothing.
        let held = memory_of(process).unwrap_or_default();
        sum.rss += held.rss;
        sum.pss += held.pss;
    }
    Ok(sum)
}

fn memory_of(process: u32) -> io::Result<Memory> {
    let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
    Ok(Memory { rss: kilobytes(&rollup, "Rss:") * 1024, pss: kilobytes(&rollup, "Pss:") * 1024 })
}

fn kilobytes(rollup: &str, field: &str) -> u64 {
    let line = rollup.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(0)
}

/// The processor time of a session until now, in user mode and in the kernel.
///
/// # Errors
/// If no process is in it.
pub fn processor_time(session: u32) -> Result<Duration> {
    let of = |process: &u32| stat(*process).map_or(Duration::ZERO, |stat| stat.processor_time);
    Ok(members(session)?.iter().map(of).sum())
}

/// The processor time of everything on the machine until now.
///
/// # Errors
/// If the kernel does not say.
pub fn machine_time() -> Result<Duration> {
    let stat = fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
    busy(&stat).context("/proc/stat has no line of all processors")
}

/// Of `cpu user nice system idle iowait irq softirq steal ...` what is neither idle nor another machine's.
fn busy(stat: &str) -> Option<Duration> {
    let mut ticks = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
    let mut next = || ticks.next()?.parse::<u32>().ok();
    let (user, nice, system, _idle, _iowait, irq, softirq) =
        (next()?, next()?, next()?, next()?, next()?, next()?, next()?);
    Some([user, nice, system, irq, softirq].into_iter().map(|ticks| TICK * ticks).sum())
}

/// The processes of a session.
fn members(session: u32) -> Result<Vec<u32>> {
    let entries = fs::read_dir("/proc").context("reading /proc")?;
    let processes = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let members: Vec<_> =
        processes.filter(|&process| stat(process).is_ok_and(|stat| stat.session == session)).collect();
    ensure!(!members.is_empty(), "process {session} has ended");
    Ok(members)
}

struct Stat {
    session: u32,
    processor_time: Duration,
}

fn stat(process: u32) -> io::Result<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{process}/stat"))?).ok_or(io::ErrorKind::InvalidData.into())
}

/// proc_pid_stat(5). The name may hold anything, so fields are counted from its closing parenthesis.
fn parse_stat(stat: &str) -> Option<Stat> {
    let fields: Vec<_> = stat[stat.rfind(')')? + 1..].split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u32>().ok();
    Some(Stat { session: field(6)?, processor_time: TICK * field(14)? + TICK * field(15)? })
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use rustix::process::getsid;

    use super::*;

    fn session() -> u32 {
        getsid(None).unwrap().as_raw_nonzero().get().unsigned_abs()
    }

    #[test]
    fn memory_that_is_touched_is_counted() {
        let own = std::process::id();
        let before = memory_of(own).unwrap();
        let touched = vec![1_u8; 64 << 20];
        let after = memory_of(own).unwrap();
        assert!(after.rss > before.rss + touched.len() as u64 / 2);
        assert!(after.pss <= after.rss);
        assert!(memory(session()).unwrap().rss > 0);
    }

    #[test]
    fn time_that_is_spent_is_counted() {
        let of_own = || stat(std::process::id()).unwrap().processor_time;
        let (before, of_all) = (of_own(), machine_time().unwrap());
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(200) {
            std::hint::spin_loop();
        }
        assert!(of_own() > before);
        assert!(machine_time().unwrap() > of_all);
        assert!(processor_time(session()).unwrap() > before);
    }

    #[test]
    fn a_session_without_processes_is_an_error() {
        assert!(memory(u32::MAX).is_err());
        assert!(processor_time(u32::MAX).is_err());
    }

    #[test]
    fn fields_are_found_behind_whatever_name() {
        let stat = parse_stat("7 (a) b (c) S 1 7 42 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 1").unwrap();
        assert_eq!((stat.session, stat.processor_time), (42, Duration::from_secs(2)));
        assert_eq!(busy("cpu  100 50 25 9000 9000 15 10 9000 0 0\n"), Some(Duration::from_secs(2)));
        assert!(parse_stat("").is_none() && busy("").is_none());
    }
}

//! What processes use, as the kernel counts it: memory and processor time of a part of a path.
//!
//! A part (the daemon, the proxy, one end of another engine) is those processes of a session that are on one host of the
//! lab, so that a part of several processes is counted whole, and an engine that starts its far end by itself is counted
//! at both.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// The unit of /proc's times, which is the same on every Linux that this runs on (USER_HZ).
const TICK: Duration = Duration::from_millis(10);

/// How long a part may take to end when it is asked to, and again when it is made to.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(50);

/// Processes of one session on one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The pid file of the session's leader.
    pub leader: PathBuf,
    /// The pid file of a process on the host.
    pub host: PathBuf,
}

/// What a part holds, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Resident set: pages that are mapped.
    pub rss: u64,
    /// The same, with each shared page divided among those that share it.
    pub pss: u64,
}

impl Part {
    /// Its memory.
    ///
    /// # Errors
    /// If it has no process.
    pub fn memory(&self) -> Result<Memory> {
        let mut sum = Memory::default();
        for process in self.processes()? {
            // A process that has just ended holds nothing.
            let held = memory_of(process).unwrap_or_default();
            sum.rss += held.rss;
            sum.pss += held.pss;
        }
        Ok(sum)
    }

    /// Its processor time until now, in user mode and in the kernel.
    ///
    /// # Errors
    /// If it has no process.
    pub fn processor_time(&self) -> Result<Duration> {
        let of = |process: &u32| stat(*process).map_or(Duration::ZERO, |stat| stat.processor_time);
        Ok(self.processes()?.iter().map(of).sum())
    }

    /// Asks its session to end, on whatever host, and makes it end if it does not.
    ///
    /// # Errors
    /// If it stays.
    pub fn end(&self) -> Result<()> {
        let session = process_in(&self.leader)?;
        for signal in [Signal::TERM, Signal::KILL] {
            let deadline = Instant::now() + PATIENCE;
            for member in members(session)? {
                let pid = i32::try_from(member).ok().and_then(Pid::from_raw);
                // One that has ended meanwhile is what we want.
                let _ = pid.map(|pid| kill_process(pid, signal));
            }
            while !members(session)?.is_empty() {
                if Instant::now() > deadline {
                    break;
                }
                sleep(LOOK);
            }
        }
        ensure!(members(session)?.is_empty(), "process {session} does not end");
        Ok(())
    }

    fn processes(&self) -> Result<Vec<u32>> {
        let host = network(process_in(&self.host)?)?;
        let mut processes = members(process_in(&self.leader)?)?;
        processes.retain(|&process| network(process).is_ok_and(|network| network == host));
        if processes.is_empty() {
            bail!("nothing of {} runs", self.leader.display());
        }
        Ok(processes)
    }
}

/// The network namespace of a process: which host it is on.
fn network(process: u32) -> io::Result<PathBuf> {
    fs::read_link(format!("/proc/{process}/ns/net"))
}

fn process_in(pid_file: &Path) -> Result<u32> {
    let text = fs::read_to_string(pid_file).with_context(|| format!("reading {}", pid_file.display()))?;
    text.trim().parse().with_context(|| format!("{} holds no process id", pid_file.display()))
}

fn memory_of(process: u32) -> io::Result<Memory> {
    let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
    Ok(Memory { rss: kilobytes(&rollup, "Rss:") * 1024, pss: kilobytes(&rollup, "Pss:") * 1024 })
}

fn kilobytes(rollup: &str, field: &str) -> u64 {
    let line = rollup.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(0)
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

/// The processes of a session that have not ended.
fn members(session: u32) -> Result<Vec<u32>> {
    let entries = fs::read_dir("/proc").context("reading /proc")?;
    let processes = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    Ok(processes
        .filter(|&process| stat(process).is_ok_and(|stat| stat.session == session && stat.state != 'Z'))
        .collect())
}

struct Stat {
    state: char,
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
    let state = fields.first()?.chars().next()?;
    Some(Stat { state, session: field(6)?, processor_time: TICK * field(14)? + TICK * field(15)? })
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    /// A program in a session of its own.
    struct Program {
        child: Child,
        part: Part,
        _directory: tempfile::TempDir,
    }

    impl Program {
        fn start(words: &[&str]) -> Self {
            let child = Command::new("setsid").args(words).spawn().unwrap();
            let directory = tempfile::tempdir().unwrap();
            let leader = directory.path().join("leader");
            fs::write(&leader, child.id().to_string()).unwrap();
            let host = directory.path().join("host");
            fs::write(&host, std::process::id().to_string()).unwrap();
            let program = Self { child, part: Part { leader, host }, _directory: directory };
            while program.part.memory().is_err() {
                sleep(LOOK);
            }
            program
        }
    }

    impl Drop for Program {
        fn drop(&mut self) {
            let _ = self.part.end();
            let _ = self.child.wait();
        }
    }

    #[test]
    fn memory_that_is_touched_is_counted() {
        let own = std::process::id();
        let before = memory_of(own).unwrap();
        let touched = vec![1_u8; 64 << 20];
        let after = memory_of(own).unwrap();
        assert!(after.rss > before.rss + touched.len() as u64 / 2);
        assert!(after.pss <= after.rss);
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
    }

    #[test]
    fn a_part_is_all_processes_of_its_session() {
        let program = Program::start(&["sh", "-c", "sleep 600 & sleep 600"]);
        while program.part.processes().unwrap().len() < 3 {
            sleep(LOOK);
        }
        let held = program.part.memory().unwrap();
        assert!(held.rss > memory_of(program.child.id()).unwrap().rss);
        assert!(program.part.processor_time().is_ok());
    }

    #[test]
    fn a_part_that_ended_is_an_error() {
        let mut program = Program::start(&["sleep", "600"]);
        let pid = i32::try_from(program.child.id()).ok().and_then(Pid::from_raw).unwrap();
        program.part.end().unwrap();
        program.child.wait().unwrap();
        assert!(rustix::process::test_kill_process(pid).is_err());
        assert!(program.part.memory().is_err() && program.part.processor_time().is_err());
    }

    #[test]
    fn fields_are_found_behind_whatever_name() {
        let stat = parse_stat("7 (a) b (c) S 1 7 42 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 1").unwrap();
        assert_eq!((stat.state, stat.session, stat.processor_time), ('S', 42, Duration::from_secs(2)));
        assert_eq!(busy("cpu  100 50 25 9000 9000 15 10 9000 0 0\n"), Some(Duration::from_secs(2)));
        assert!(parse_stat("").is_none() && busy("").is_none());
    }
}

//! Which program owns a socket: the inode that the daemon names, looked up in /proc among the processes of this user,
//! which alone it may read. A hint for the prompt and the audit, never an authorisation.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::safe_text::safe;

/// A user with very many processes is not worth more of a waiting program's time.
const LONGEST_SEARCH: Duration = Duration::from_millis(500);

/// The kernel cuts what a process is called off here (proc_pid_comm(5)).
const LONGEST_CALLED: usize = 15;

/// A program that asked for a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Program {
    /// Its name, safe to show.
    pub(crate) name: String,
    /// Its process.
    pub(crate) pid: u32,
}

/// The program with a socket of this inode; `None` if it has gone or is not this user's.
pub(crate) async fn owner_of_socket(inode: u64) -> Option<Program> {
    if inode == 0 {
        return None;
    }
    tokio::task::spawn_blocking(move || search(inode)).await.ok().flatten()
}

fn search(inode: u64) -> Option<Program> {
    let (started, target) = (Instant::now(), PathBuf::from(format!("socket:[{inode}]")));
    let mut pids: Vec<u32> = own_processes().collect();
    // The newest first: whoever connects has most likely just been started.
    pids.sort_unstable_by(|a, b| b.cmp(a));
    let mut in_time = pids.into_iter().take_while(|_| started.elapsed() < LONGEST_SEARCH);
    let owner = |pid: u32| {
        let program = has_open(pid, &target).then(|| program(pid))??;
        // It may have ended meanwhile, and its pid be another program's: then that one's name was read.
        has_open(pid, &target).then_some(program)
    };
    in_time.find_map(owner)
}

fn own_processes() -> impl Iterator<Item = u32> {
    let uid = rustix::process::geteuid().as_raw();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(move |entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        (entry.metadata().ok()?.uid() == uid).then_some(pid)
    })
}

fn has_open(pid: u32, target: &Path) -> bool {
    let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    files.flatten().any(|file| fs::read_link(file.path()).is_ok_and(|link| link == target))
}

fn program(pid: u32) -> Option<Program> {
    let file = fs::read_link(format!("/proc/{pid}/exe")).ok();
    let file = file.as_deref().and_then(Path::file_name).and_then(|name| name.to_str());
    let called = fs::read_to_string(format!("/proc/{pid}/comm")).ok();
    let name = safe(&name(file, called.as_deref().map(str::trim_end))?);
    (!name.is_empty()).then_some(Program { name, pid })
}

/// The name by which the program was called, as far as its file bears it out (`python3` for `python3.11`): a process
/// calls itself whatever it likes.
fn name(file: Option<&str>, called: Option<&str>) -> Option<String> {
    // An upgraded program's file is gone, and the kernel says so behind the name.
    let file = file.map(|name| name.trim_end_matches(" (deleted)"));
    let (Some(file), Some(called)) = (file, called) else { return file.or(called).map(str::to_owned) };
    let is_whole = !called.is_empty() && called.len() < LONGEST_CALLED;
    match is_whole && file.starts_with(called) {
        true => Some(called.to_owned()),
        false => Some(file.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd as _;

    #[tokio::test]
    async fn a_socket_s_owner_is_found_by_its_inode() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let link = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
        let inode =
            link.to_str().unwrap().trim_start_matches("socket:[").trim_end_matches(']').parse().unwrap();
        let owner = owner_of_socket(inode).await.unwrap();
        let own_name = std::env::current_exe().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(owner, Program { name: safe(&own_name), pid: std::process::id() });
    }

    #[test]
    fn a_program_is_called_what_its_file_bears_out() {
        assert_eq!(name(Some("python3.11"), Some("python3")).as_deref(), Some("python3"));
        assert_eq!(name(Some("miner"), Some("psql")).as_deref(), Some("miner"));
        assert_eq!(
            name(Some("a-very-long-program"), Some("a-very-long-pro")).as_deref(),
            Some("a-very-long-program")
        );
        assert_eq!(name(Some("psql (deleted)"), Some("psql")).as_deref(), Some("psql"));
        assert_eq!(name(None, Some("psql")).as_deref(), Some("psql"));
        assert_eq!(name(None, None), None);
    }

    #[tokio::test]
    async fn a_socket_that_nobody_has_belongs_to_nobody() {
        assert_eq!(owner_of_socket(0).await, None);
        assert_eq!(owner_of_socket(u64::MAX).await, None);
    }
}

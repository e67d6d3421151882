//! Which program owns a socket: the inode that the daemon names, looked up in /proc among the processes of this user,
//! which alone it may read. A hint for the prompt and the audit, never an authorisation: the program is what its file
//! is called.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::safe_text::safe;

/// A user with very many processes is not worth more of a waiting program's time.
const LONGEST_SEARCH: Duration = Duration::from_millis(500);

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
    let in_time = pids.into_iter().take_while(|_| started.elapsed() < LONGEST_SEARCH);
    in_time.filter(|pid| has_open(*pid, &target)).find_map(program)
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
    let by_file = fs::read_link(format!("/proc/{pid}/exe")).ok();
    let by_file = by_file.as_deref().and_then(Path::file_name).and_then(|name| name.to_str());
    // An upgraded program's file is gone, and the kernel says so behind the name.
    let by_file = by_file.map(|name| name.trim_end_matches(" (deleted)").to_owned());
    let name = by_file.or_else(|| fs::read_to_string(format!("/proc/{pid}/comm")).ok())?;
    let name = safe(name.trim());
    (!name.is_empty()).then_some(Program { name, pid })
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

    #[tokio::test]
    async fn a_socket_that_nobody_has_belongs_to_nobody() {
        assert_eq!(owner_of_socket(0).await, None);
        assert_eq!(owner_of_socket(u64::MAX).await, None);
    }
}

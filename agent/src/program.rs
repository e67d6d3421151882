//! Finding a program as a shell would: by its path, or by its name in `PATH`.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// The program of this name; `None` where there is none that can be run.
pub(crate) fn find(name: &OsStr) -> Option<PathBuf> {
    find_in(name, &std::env::var_os("PATH")?)
}

fn find_in(name: &OsStr, directories: &OsStr) -> Option<PathBuf> {
    let path = Path::new(name);
    if name.is_empty() {
        return None;
    }
    if path.components().count() > 1 || path.is_absolute() {
        return is_program(path).then(|| path.to_owned());
    }
    std::env::split_paths(directories).map(|directory| directory.join(path)).find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_by_name_and_by_path_and_only_where_it_can_be_run() {
        let directory = tempfile::tempdir().unwrap();
        let (program, text) = (directory.path().join("psql"), directory.path().join("notes"));
        for (path, mode) in [(&program, 0o755), (&text, 0o644)] {
            std::fs::write(path, "").unwrap();
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let path = std::env::join_paths([Path::new("/nowhere"), directory.path()]).unwrap();
        assert_eq!(find_in(OsStr::new("psql"), &path), Some(program.clone()));
        assert_eq!(find_in(program.as_os_str(), OsStr::new("")), Some(program.clone()));
        assert_eq!(find_in(OsStr::new("notes"), &path), None);
        assert_eq!(find_in(OsStr::new("mysql"), &path), None);
        assert_eq!(find_in(OsStr::new(""), &path), None);
        assert_eq!(find_in(directory.path().as_os_str(), &path), None);
    }
}

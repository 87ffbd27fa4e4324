//! What `/proc` says about processes. Only names and links, never their memory.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// All process ids of this pid namespace, ascending.
#[must_use]
pub fn all() -> Vec<u32> {
    let Ok(dir) = fs::read_dir("/proc") else { return Vec::new() };
    let mut pids: Vec<u32> = dir.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    pids
}

/// Whether the process exists now.
#[must_use]
pub fn exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Path of the executable as the kernel names it, without the mark of a deleted file.
///
/// # Errors
/// The process is gone, is a kernel thread, or may not be looked at.
pub fn exe_path(pid: u32) -> io::Result<PathBuf> {
    let link = fs::read_link(format!("/proc/{pid}/exe"))?;
    Ok(match link.to_str().and_then(|s| s.strip_suffix(" (deleted)")) {
        Some(stripped) => stripped.into(),
        None => link,
    })
}

/// Opens the executable itself: the file that the process runs, also when it was replaced, removed or lives in another
/// root.
///
/// # Errors
/// As of [`exe_path`].
pub fn open_exe(pid: u32) -> io::Result<File> {
    File::open(format!("/proc/{pid}/exe"))
}

/// Files that the process maps executable, as (path in the process's own root, path through `/proc/PID/root`).
#[must_use]
pub fn mapped_files(pid: u32) -> Vec<PathBuf> {
    let mut text = String::new();
    let file = File::open(format!("/proc/{pid}/maps"));
    // 8 MiB of maps are some 80,000 mappings; beyond that a process is not looked through.
    if file.and_then(|f| f.take(8 << 20).read_to_string(&mut text)).is_err() {
        return Vec::new();
    }
    let mut paths: Vec<PathBuf> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.splitn(6, ' ').filter(|w| !w.is_empty());
            let executable = words.nth(1)?.as_bytes().get(2) == Some(&b'x');
            let path = line.find('/').map(|at| &line[at..])?;
            executable.then(|| PathBuf::from(path))
        })
        .collect();
    paths.sort();
    paths.dedup();
    paths
}

/// The process and all its descendants that exist now.
#[must_use]
pub fn with_children(roots: &[u32]) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = all().into_iter().filter_map(|pid| Some((pid, parent(pid)?))).collect();
    let mut found = roots.to_vec();
    let mut at = 0;
    while at < found.len() {
        let parent = found[at];
        for (pid, of) in &parents {
            if *of == parent && !found.contains(pid) {
                found.push(*pid);
            }
        }
        at += 1;
    }
    found
}

fn parent(pid: u32) -> Option<u32> {
    // The command name is in parentheses and may hold anything, so the fields start behind the last one.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_itself_and_its_parent() {
        let me = std::process::id();
        assert!(all().contains(&me));
        assert_eq!(exe_path(me).unwrap(), std::env::current_exe().unwrap());
        let mine = parent(me).unwrap();
        assert!(with_children(&[mine]).contains(&me));
    }

    #[test]
    fn lists_the_libraries_that_this_process_maps() {
        assert!(mapped_files(std::process::id()).iter().any(|p| p.to_string_lossy().contains("libc.so")));
    }
}

//! What `/proc` says about processes. Only names and links, never their memory.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::time::{ClockId, clock_gettime};

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

/// What a process and its threads are called and run as, by thread: the kernel asks its filters of threads.
#[must_use]
pub fn threads(pid: u32) -> Vec<(Vec<u8>, u32)> {
    let Ok(dir) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let of = |task: fs::DirEntry| {
        let mut name = fs::read(task.path().join("comm")).ok()?;
        if name.last() == Some(&b'\n') {
            name.pop();
        }
        let status = fs::read(task.path().join("status")).ok()?;
        let status = String::from_utf8_lossy(&status);
        let uid = status.lines().find_map(|l| l.strip_prefix("Uid:"))?.split_whitespace().next()?.parse().ok()?;
        Some((name, uid))
    };
    dir.flatten().filter_map(of).collect()
}

/// Opens the executable itself: the file that the process runs, also when it was replaced, removed or lives in another
/// root.
///
/// # Errors
/// As of [`exe_path`].
pub fn open_exe(pid: u32) -> io::Result<File> {
    File::open(format!("/proc/{pid}/exe"))
}

/// Whether the process has mounts of its own, as one in a container has.
#[must_use]
pub fn has_own_mounts(pid: u32) -> bool {
    let mounts = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    mounts(&pid.to_string()).is_some_and(|theirs| Some(theirs) != mounts("self"))
}

/// Now, by the clock that the kernel's records carry.
#[must_use]
pub fn monotonic_ns() -> u64 {
    now_ns(ClockId::Monotonic)
}

fn now_ns(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

/// When the process began, in nanoseconds of the monotonic clock, a little early: the kernel tells it in hundredths of a
/// second.
#[must_use]
pub fn started_ns(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let ticks: u64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    let since_boot = ticks.checked_mul(1_000_000_000 / per_second)?;
    // The two clocks differ by the time that the machine slept.
    let asleep = now_ns(ClockId::Boottime).saturating_sub(monotonic_ns());
    Some(since_boot.saturating_sub(asleep))
}

/// A file that a process maps executable.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mapped {
    /// As the process sees it.
    pub path: PathBuf,
    /// Where it can be opened from here: through the process's own root, which may be a container's. A file that is gone or
    /// was replaced can still be had as the mapping itself.
    pub through: PathBuf,
    /// The mapping itself, which root can open with all its capabilities.
    pub mapping: PathBuf,
    /// It is no longer at its path.
    pub deleted: bool,
    /// Device and inode, as the mapping has them: what tells files from one another, if not across file systems that are laid over
    /// one another.
    pub id: (u64, u64),
}

/// Files that the process maps executable.
#[must_use]
pub fn mapped_files(pid: u32) -> Vec<Mapped> {
    let mut text = String::new();
    let file = File::open(format!("/proc/{pid}/maps"));
    // 8 MiB of maps are some 80,000 mappings; beyond that a process is not looked through.
    if file.and_then(|f| f.take(8 << 20).read_to_string(&mut text)).is_err() {
        return Vec::new();
    }
    let mut files: Vec<Mapped> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.splitn(6, ' ').filter(|w| !w.is_empty());
            let range = words.next()?;
            let executable = words.next()?.as_bytes().get(2) == Some(&b'x');
            let device = words.nth(1).and_then(|device| device.split_once(':'));
            let half = |hex: &str| u64::from_str_radix(hex, 16).ok();
            let device = device.and_then(|(major, minor)| Some(half(major)? << 32 | half(minor)?));
            let inode = words.next().and_then(|inode| inode.parse().ok());
            let path = line.find('/').map(|at| &line[at..])?;
            let id = device.zip(inode).unwrap_or_default();
            executable.then(|| Mapped { id, ..mapped(pid, range, path) })
        })
        .collect();
    files.sort();
    files.dedup_by(|a, b| a.path == b.path && a.deleted == b.deleted);
    files
}

fn mapped(pid: u32, range: &str, path: &str) -> Mapped {
    let mapping = PathBuf::from(format!("/proc/{pid}/map_files/{range}"));
    let through = PathBuf::from(format!("/proc/{pid}/root{path}"));
    match path.strip_suffix(" (deleted)") {
        // A file may be called so.
        Some(gone) if !through.exists() => {
            Mapped { path: gone.into(), through: mapping.clone(), mapping, deleted: true, id: (0, 0) }
        }
        _ => Mapped { path: path.into(), through, mapping, deleted: false, id: (0, 0) },
    }
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
    fn knows_when_a_process_began_and_that_this_one_shares_its_mounts() {
        let me = std::process::id();
        let now = monotonic_ns();
        let began = started_ns(me).unwrap();
        assert!(began <= now && now - began < 3600 * 1_000_000_000, "{began} {now}");
        assert!(!has_own_mounts(me) && started_ns(u32::MAX).is_none());
    }

    #[test]
    fn lists_the_libraries_that_this_process_maps() {
        let libc = |m: &&Mapped| m.path.to_string_lossy().contains("libc.so");
        let files = mapped_files(std::process::id());
        let libc = files.iter().find(libc).unwrap();
        assert!(!libc.deleted && libc.through.exists(), "{libc:?}");
        let meta = fs::metadata(&libc.through).unwrap();
        assert_eq!(libc.id.1, std::os::unix::fs::MetadataExt::ino(&meta));
    }

    #[test]
    fn a_file_that_is_gone_is_had_through_its_mapping() {
        let gone = mapped(7, "7f00-7f10", "/no/such/library.so (deleted)");
        assert_eq!((gone.path, gone.deleted), ("/no/such/library.so".into(), true));
        assert_eq!(gone.through, PathBuf::from("/proc/7/map_files/7f00-7f10"));
        // One that is there may be called so.
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().join("library.so (deleted)");
        fs::write(&name, "").unwrap();
        let there = mapped(std::process::id(), "7f00-7f10", name.to_str().unwrap());
        assert_eq!((there.path, there.deleted), (name, false));
    }
}

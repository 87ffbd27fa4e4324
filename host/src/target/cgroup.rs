//! Control groups and containers, from what `/proc` and the cgroup file system say. Only names and numbers.
//!
//! A container is known by its 64 hexadecimal digits in the path of a control group, as docker, containerd, CRI-O, podman
//! and the kubelet write it. What runs in version 1 groups alone has a container's id for its events, but no group that
//! the kernel side could filter by.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::process;

/// Directories looked at in search of a group by its number.
const MAX_GROUPS: usize = 65_536;
/// Digits of a container's id.
const ID_LEN: usize = 64;
/// Fewest digits of an id that are taken for one.
const SHORTEST_PREFIX: usize = 4;
/// `statfs` of a cgroup v2 directory.
const CGROUP2_MAGIC: i64 = 0x6367_7270;

/// Why a group cannot be had.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// There is no version 2 hierarchy.
    #[error("no cgroup v2 file system is mounted here")]
    NoHierarchy,
    /// The path leads nowhere.
    #[error("no control group {0}")]
    NoGroup(String),
    /// A directory elsewhere, or a version 1 group.
    #[error("{0} is not a directory of a cgroup v2 file system")]
    NotAGroup(String),
    /// Too short, or no hexadecimal number.
    #[error("{0:?} is no container id: expected {SHORTEST_PREFIX} to {ID_LEN} hexadecimal digits")]
    NoId(String),
    /// No process runs in such a container.
    #[error("no process runs in a container whose id begins with {0}")]
    NoContainer(String),
    /// More than one container begins so.
    #[error("more than one container's id begins with {0}: {1}")]
    Ambiguous(String, String),
    /// The container has no group of its own in the version 2 hierarchy.
    #[error("container {0} is in version 1 control groups only, by which the kernel side cannot filter")]
    Version1(String),
}

/// Where the version 2 hierarchy is mounted.
#[must_use]
pub fn mount() -> Option<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").ok()?;
    text.lines().find_map(mount_point)
}

/// The mount point in a line of `mountinfo`, if it is of a cgroup v2 file system.
fn mount_point(line: &str) -> Option<PathBuf> {
    let (fields, rest) = line.split_once(" - ")?;
    let path = fields.split(' ').nth(4).filter(|_| rest.starts_with("cgroup2 "))?;
    // Blanks and their kin are written as octal numbers; a mount point of cgroups that has them is nobody's.
    (!path.contains('\\')).then(|| path.into())
}

/// The directory that an option means: a path (absolute, or from the root of the hierarchy), or a number.
///
/// # Errors
/// What is wrong with it.
pub fn directory(wanted: &str) -> Result<PathBuf, GroupError> {
    let root = mount();
    if let Ok(number) = wanted.parse::<u64>() {
        let root = root.ok_or(GroupError::NoHierarchy)?;
        return by_number(&root, number).ok_or_else(|| GroupError::NoGroup(wanted.into()));
    }
    let as_given = PathBuf::from(wanted);
    let below = root.map(|root| root.join(wanted.trim_start_matches('/')));
    let there = [Some(as_given).filter(|p| p.is_absolute()), below].into_iter().flatten().find(|p| p.is_dir());
    let path = there.ok_or_else(|| GroupError::NoGroup(wanted.into()))?;
    is_group(&path).then_some(path).ok_or_else(|| GroupError::NotAGroup(wanted.into()))
}

fn is_group(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|fs| fs.f_type == CGROUP2_MAGIC)
}

/// A group's number is the inode of its directory.
fn by_number(root: &Path, number: u64) -> Option<PathBuf> {
    let mut left = vec![root.to_owned()];
    let mut looked = 0;
    while let Some(dir) = left.pop() {
        looked += 1;
        if fs::metadata(&dir).is_ok_and(|m| m.ino() == number) {
            return Some(dir);
        }
        if looked > MAX_GROUPS {
            return None;
        }
        let below = fs::read_dir(&dir).into_iter().flatten().flatten();
        left.extend(below.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
    }
    None
}

/// The groups of a process, as `/proc/PID/cgroup` lists them.
fn groups(pid: u32) -> io::Result<String> {
    let mut text = String::new();
    File::open(format!("/proc/{pid}/cgroup"))?.take(64 << 10).read_to_string(&mut text)?;
    Ok(text)
}

/// The container in a group's path, and where its component ends. The innermost one, if they are nested.
fn container_in(path: &str) -> Option<(&str, usize)> {
    let mut end = 0;
    let mut found = None;
    for part in path.split('/') {
        end += part.len() + 1;
        // `docker-ID.scope`, `cri-containerd-ID.scope`, `crio-ID.scope`, `libpod-ID.scope`, `ID`; what watches over a
        // container (`crio-conmon-ID.scope`, `libpod-conmon-ID.scope`) is not in it.
        let bare = part.strip_suffix(".scope").unwrap_or(part);
        let id = bare.rsplit('-').next().unwrap_or(bare);
        let hex = id.len() == ID_LEN && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if hex && !bare.contains("conmon") {
            found = Some((id, end - 1));
        }
    }
    found
}

/// Container and version 2 group of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// Id of the container, if the process is in one.
    pub container: Option<String>,
    /// Number of its version 2 group.
    pub group: Option<u64>,
}

/// Where a process is.
#[must_use]
pub fn place(pid: u32, mount: Option<&Path>) -> Place {
    let Ok(text) = groups(pid) else { return Place::default() };
    let container = text.lines().filter_map(path_of).find_map(container_in).map(|(id, _)| id.to_owned());
    let group = mount
        .zip(unified(&text))
        .and_then(|(mount, path)| fs::metadata(mount.join(path.trim_start_matches('/'))).ok().map(|m| m.ino()));
    Place { container, group }
}

/// The directory of the version 2 group of a process.
#[must_use]
pub fn directory_of(pid: u32, mount: &Path) -> Option<PathBuf> {
    let text = groups(pid).ok()?;
    Some(mount.join(unified(&text)?.trim_start_matches('/')))
}

/// The container of a group by its number, for a process that is gone. `None` if the group is no container's, or gone too.
#[must_use]
pub fn container_of_group(mount: &Path, number: u64) -> Option<String> {
    let dir = by_number(mount, number)?;
    container_in(dir.strip_prefix(mount).ok()?.to_str()?).map(|(id, _)| id.to_owned())
}

fn path_of(line: &str) -> Option<&str> {
    line.splitn(3, ':').nth(2)
}

/// The path in the version 2 hierarchy.
fn unified(groups: &str) -> Option<&str> {
    groups.lines().find_map(|line| line.strip_prefix("0::"))
}

/// The directory of the group of the container whose id begins so.
///
/// # Errors
/// There is none, more than one, or none that can be filtered by.
pub fn of_container(prefix: &str) -> Result<PathBuf, GroupError> {
    let prefix = prefix.to_ascii_lowercase();
    let fits = (SHORTEST_PREFIX..=ID_LEN).contains(&prefix.len()) && prefix.bytes().all(|b| b.is_ascii_hexdigit());
    if !fits {
        return Err(GroupError::NoId(prefix));
    }
    let mut found: BTreeMap<String, Option<String>> = BTreeMap::new();
    for text in process::all().into_iter().filter_map(|pid| groups(pid).ok()) {
        note_container(&text, &prefix, &mut found);
    }
    let mut found = found.into_iter();
    match (found.next(), found.next()) {
        (None, _) => Err(GroupError::NoContainer(prefix)),
        (Some((one, _)), Some((other, _))) => Err(GroupError::Ambiguous(prefix, format!("{one}, {other}"))),
        (Some((id, None)), None) => Err(GroupError::Version1(id)),
        (Some((_, Some(path))), None) => {
            let path = mount().ok_or(GroupError::NoHierarchy)?.join(path.trim_start_matches('/'));
            is_group(&path).then_some(path).ok_or(GroupError::NoHierarchy)
        }
    }
}

/// Notes the containers in a process's groups whose ids begin so, with their version 2 path if they have one.
fn note_container(groups: &str, prefix: &str, found: &mut BTreeMap<String, Option<String>>) {
    for path in groups.lines().filter_map(path_of) {
        if let Some((id, _)) = container_in(path).filter(|(id, _)| id.starts_with(prefix)) {
            found.entry(id.to_owned()).or_default();
        }
    }
    if let Some(path) = unified(groups)
        && let Some((id, end)) = container_in(path).filter(|(id, _)| id.starts_with(prefix))
    {
        found.insert(id.to_owned(), path.get(..end).map(str::to_owned));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn every_engines_way_of_writing_a_container_is_known() {
        for path in [
            format!("/system.slice/docker-{ID}.scope"),
            format!("/docker/{ID}"),
            format!("/docker/{ID}/init.scope"),
            format!("/kubepods.slice/kubepods-burstable.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope"),
            format!("/kubepods/burstable/pod1b2/{ID}"),
            format!("/kubepods.slice/crio-{ID}.scope"),
            format!("/machine.slice/libpod-{ID}.scope/container"),
            format!("/ecs/task/{ID}"),
        ] {
            assert_eq!(container_in(&path).map(|(id, _)| id), Some(ID), "{path}");
        }
        for path in [
            "/".to_owned(),
            "/system.slice/mysql.service".to_owned(),
            format!("/machine.slice/libpod-conmon-{ID}.scope"),
            format!("/system.slice/crio-conmon-{ID}.scope"),
            format!("/docker/{}", &ID[1..]),
            format!("/docker/{}", ID.replace('a', "g")),
        ] {
            assert_eq!(container_in(&path), None, "{path}");
        }
        let other = ID.replace('0', "f");
        let nested = format!("/docker/{ID}/docker/{other}/x");
        let (id, end) = container_in(&nested).unwrap();
        assert_eq!((id, &nested[..end]), (&*other, &*format!("/docker/{ID}/docker/{other}")));
    }

    #[test]
    fn a_container_is_found_by_the_beginning_of_its_id() {
        let mut found = BTreeMap::new();
        note_container(&format!("5:memory:/docker/{ID}\n0::/\n"), "0123", &mut found);
        assert_eq!(found, [(ID.to_owned(), None)].into());
        note_container(&format!("0::/system.slice/docker-{ID}.scope/init\n"), "0123", &mut found);
        assert_eq!(found, [(ID.to_owned(), Some(format!("/system.slice/docker-{ID}.scope")))].into());
        // A process of it that is seen in version 1 only takes nothing back.
        note_container(&format!("5:memory:/docker/{ID}\n0::/\n"), "0123", &mut found);
        assert!(found[ID].is_some());
        note_container(&format!("0::/docker/{ID}\n"), "f", &mut found);
        assert_eq!(found.len(), 1);
    }

    #[test]
    fn what_is_no_id_or_no_group_is_said() {
        assert_eq!(of_container("abc"), Err(GroupError::NoId("abc".into())));
        assert_eq!(of_container("web-1"), Err(GroupError::NoId("web-1".into())));
        assert_eq!(of_container(ID), Err(GroupError::NoContainer(ID.into())));
        assert_eq!(directory("/no/such/group"), Err(GroupError::NoGroup("/no/such/group".into())));
        assert_eq!(directory("/tmp"), Err(GroupError::NotAGroup("/tmp".into())));
    }

    #[test]
    fn the_mount_is_read_from_mountinfo() {
        let line = "31 24 0:27 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(mount_point(line), Some("/sys/fs/cgroup".into()));
        assert_eq!(mount_point("31 24 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu"), None);
        assert_eq!(mount_point(""), None);
    }

    #[test]
    fn this_process_is_somewhere() {
        let place = place(std::process::id(), mount().as_deref());
        assert_eq!(place.group.is_some(), mount().is_some(), "{place:?}");
        assert_eq!(super::place(u32::MAX, None), Place::default());
    }
}

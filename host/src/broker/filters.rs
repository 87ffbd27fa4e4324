//! Whom all modules of a run look at: the maps that their filters ask, and the host's own programs that keep them and tell
//! of programs that are started.
//!
//! One set for the whole run. It is in place before the first probe: one that fires must already know whom it is for.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};

use tokio::io::Interest;
use tokio::net::UnixStream;

use crate::bpf::host_maps::{CGROUPS, COMMS};
use crate::bpf::{self, Counters, FilterMaps, Kernel, Link, LoadPlan, Loaded, ObjectSpec, Ring};
use crate::cli::RunOptions;
use crate::failure::{Exit, Failure};
use crate::target::{cgroup, process};

/// The host's own object: which processes are watched, as they fork, start programs and end.
const CORE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/core.bpf.o"));

/// Bits of `ecap_filter_flags` (`include/ecapture/filter.h`).
const FILTER_PIDS: u32 = 1;
const FILTER_UIDS: u32 = 2;
const FILTER_COMMS: u32 = 8;
const FILTER_CGROUPS: u32 = 16;
/// Values in `ecap_pids` (`include/ecapture/maps.h`).
const LISTED: u32 = 1;
const CHILD: u32 = 2;
/// Bytes of a thread's name, the last one a zero.
const COMM_LEN: usize = 16;
/// Bytes of a file's name that the kernel side compares, the last one a zero.
const NAME_LEN: usize = 32;
/// Notices taken at once.
const NOTICES: usize = 1024;

/// Something that happened to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notice {
    /// When, by the monotonic clock.
    pub time_ns: u64,
    /// The process.
    pub pid: u32,
    /// It runs another program; else it has ended.
    pub exec: bool,
    /// It is one of those of which [`Filters::tell_of`] asked.
    pub asked: bool,
}

impl Notice {
    /// From a record of `ecap_notices` (`src/core.bpf.c`).
    fn parse(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let time_ns = u64::from_ne_bytes(bytes.get(..8)?.try_into().ok()?);
        let (pid, kind) = (word(8)?, word(12)?);
        matches!(kind & 3, 1 | 2).then_some(Self { time_ns, pid, exec: kind & 1 != 0, asked: kind & 4 != 0 })
    }
}

/// The host's own programs in the kernel. The links go first, since they hold the programs.
struct Core {
    _links: Vec<Link>,
    loaded: Loaded,
    ring: Ring,
    ready: UnixStream,
    unheard: Counters,
    had_unheard: u64,
}

/// A control group that is watched, by its path: the group of a service is another one after each restart.
struct Group {
    path: PathBuf,
    number: u64,
}

/// The filters of a run. Dropping them takes the host's own programs out of the kernel.
pub struct Filters {
    maps: FilterMaps,
    flags: u32,
    groups: Vec<Group>,
    core: Option<Core>,
}

impl Filters {
    /// Makes and fills the maps. From here on forks are followed if processes were asked for, and starts of `names` told.
    /// `every`: of any program, since libraries are looked for.
    ///
    /// # Errors
    /// What was asked for and cannot be had; what the kernel refuses.
    pub fn load(kernel: &Kernel, options: &RunOptions, names: &BTreeSet<String>, every: bool) -> Result<Self, Failure> {
        let maps = FilterMaps::create().map_err(|e| Failure::new("E-KERNEL", e.to_string()).exit(Exit::Privilege))?;
        let failed = |e: bpf::MapError| Failure::new("E-LOAD", format!("filter: {e}"));
        let mut filters = Self { maps, flags: 0, groups: Vec::new(), core: None };
        for uid in &options.uids {
            filters.flags |= FILTER_UIDS;
            filters.maps.uids.update(&uid.to_ne_bytes(), &LISTED.to_ne_bytes()).map_err(failed)?;
        }
        if options.comms.len() > COMMS {
            return Err(usage(format!("--comm: {} names; at most {COMMS} can be given", options.comms.len())));
        }
        for comm in &options.comms {
            filters.flags |= FILTER_COMMS;
            filters.maps.comms.update(&padded::<COMM_LEN>(comm), &LISTED.to_ne_bytes()).map_err(failed)?;
        }
        filters.groups = groups(options)?;
        for (slot, group) in (0..).zip(&filters.groups) {
            filters.flags |= FILTER_CGROUPS;
            filters.put_group(slot, &group.path)?;
        }
        if !options.pids.is_empty() {
            filters.flags |= FILTER_PIDS;
        }
        match load_core(kernel, &filters.maps, options.children, names, every) {
            Ok(core) => filters.core = Some(core),
            Err(failure) if !options.pids.is_empty() => return Err(failure),
            Err(failure) => {
                tracing::warn!("programs that are started are found a few seconds late: {failure}");
            }
        }
        filters.list_processes(options)?;
        Ok(filters)
    }

    /// What `ecap_filter_flags` is set to.
    #[must_use]
    pub fn flags(&self) -> u32 {
        self.flags
    }

    /// What `ecap_filter_cgroups` is set to.
    #[must_use]
    pub fn groups(&self) -> u32 {
        self.groups.len() as u32
    }

    /// By name, as `LoadPlan::host_maps` takes them.
    #[must_use]
    pub fn maps(&self) -> HashMap<String, &bpf::Map> {
        self.maps.by_name()
    }

    /// Whether an object's filters know all that is asked of them: one from before a filter existed would let everybody
    /// through.
    ///
    /// # Errors
    /// `E-USAGE` with the option.
    pub fn fit(&self, module: &str, spec: &ObjectSpec) -> Result<(), Failure> {
        if spec.global_size("ecap_filter_flags").is_none() {
            return Ok(());
        }
        for (flag, map, option) in
            [(FILTER_COMMS, "ecap_comms", "--comm"), (FILTER_CGROUPS, "ecap_cgroups", "--cgroup and --container")]
        {
            if self.flags & flag != 0 && !spec.maps.contains_key(map) {
                return Err(usage(format!("module {module} was built before {option} existed and cannot heed it"))
                    .remedy("build it again with the current SDK, or leave the option out"));
            }
        }
        Ok(())
    }

    /// Whether processes were asked for: then only what they use is of interest.
    #[must_use]
    pub fn by_process(&self) -> bool {
        self.flags & FILTER_PIDS != 0
    }

    /// Whether this process is among those that were asked for, if any were.
    #[must_use]
    pub fn watches(&self, pid: u32) -> bool {
        !self.by_process() || matches!(self.maps.pids.lookup(&pid.to_ne_bytes()), Ok(Some(_)))
    }

    /// Numbers of the control groups that are watched.
    #[must_use]
    pub fn group_numbers(&self) -> Vec<u64> {
        self.groups.iter().map(|group| group.number).collect()
    }

    /// Whether this process is one that the filters let through, as the kernel side decides it of the current one. `names`
    /// are those of its threads, `group` the directory of its control group.
    #[must_use]
    pub fn lets_through(&self, pid: u32, uid: u32, names: &[Vec<u8>], group: Option<&Path>) -> bool {
        let has = |map: &bpf::Map, key: &[u8]| matches!(map.lookup(key), Ok(Some(_)));
        let off = |flag: u32| self.flags & flag == 0;
        let named = |name: &Vec<u8>| has(&self.maps.comms, &padded::<COMM_LEN>(&String::from_utf8_lossy(name)));
        self.watches(pid)
            && (off(FILTER_UIDS) || has(&self.maps.uids, &uid.to_ne_bytes()))
            && (off(FILTER_COMMS) || names.iter().any(named))
            && (off(FILTER_CGROUPS) || self.groups.iter().any(|g| group.is_some_and(|at| at.starts_with(&g.path))))
    }

    /// The programs that follow forks run already, and the list is filled after: a child that is born meanwhile is in one or
    /// the other.
    fn list_processes(&self, options: &RunOptions) -> Result<(), Failure> {
        let failed = |e: bpf::MapError| Failure::new("E-LOAD", format!("process filter: {e}"));
        let pids = if options.children { process::with_children(&options.pids) } else { options.pids.clone() };
        for pid in pids {
            let value = if options.pids.contains(&pid) { LISTED } else { CHILD };
            self.maps.pids.update(&pid.to_ne_bytes(), &value.to_ne_bytes()).map_err(failed)?;
        }
        Ok(())
    }

    fn put_group(&self, slot: u32, path: &Path) -> Result<(), Failure> {
        let failed =
            |e: &dyn std::fmt::Display| Failure::new("E-TARGET", format!("control group {}: {e}", path.display()));
        let dir = File::open(path).map_err(|e| failed(&e))?;
        self.maps.cgroups.update(&slot.to_ne_bytes(), &dir.as_raw_fd().to_ne_bytes()).map_err(|e| {
            failed(&format!("{e}: {}", std::error::Error::source(&e).map_or_else(String::new, ToString::to_string)))
        })
    }

    /// Control groups that were made anew under their old path, as those of services and containers are, are taken up again.
    pub fn refresh(&mut self) {
        for slot in 0..self.groups.len() {
            let Some(group) = self.groups.get(slot) else { continue };
            let Ok(number) = std::fs::metadata(&group.path).map(|m| m.ino()) else { continue };
            if number == group.number {
                continue;
            }
            match self.put_group(slot as u32, &group.path) {
                Ok(()) => tracing::info!("control group {} was made anew", group.path.display()),
                Err(failure) => tracing::warn!("{failure}"),
            }
            if let Some(group) = self.groups.get_mut(slot) {
                group.number = number;
            }
        }
    }

    /// From now on it is told when this process runs another program or ends, once.
    pub fn tell_of(&self, pid: u32) {
        if let Some(asked) = self.core.as_ref().and_then(|core| core.loaded.maps.get("ecap_asked")) {
            // Not told of: the answer that was given is asked for again after some seconds anyway.
            let _ = asked.update(&pid.to_ne_bytes(), &LISTED.to_ne_bytes());
        }
    }

    /// What has happened; waits until something has.
    pub async fn notices(&mut self) -> Vec<Notice> {
        let Some(core) = &mut self.core else { return std::future::pending().await };
        loop {
            let mut notices = Vec::new();
            while notices.len() < NOTICES
                && let Some(record) = core.ring.next()
            {
                notices.extend(Notice::parse(record.data));
            }
            core.ring.commit_all();
            if !notices.is_empty() {
                return notices;
            }
            if core.ready.readable().await.is_err() {
                return std::future::pending().await;
            }
            // Nothing is read from the descriptor itself: this forgets that it was ready.
            let _ = core.ready.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
        }
    }

    /// Notices that found no room since the last time.
    pub fn unheard(&mut self) -> u64 {
        let Some(core) = &mut self.core else { return 0 };
        let all = core.unheard.get(0);
        all.saturating_sub(std::mem::replace(&mut core.had_unheard, all))
    }
}

fn usage(text: String) -> Failure {
    Failure::new("E-USAGE", text).exit(Exit::Usage)
}

/// A name as the kernel keeps it: cut, and filled with zeros.
fn padded<const N: usize>(name: &str) -> [u8; N] {
    let mut out = [0; N];
    for (slot, byte) in out.iter_mut().take(N - 1).zip(name.bytes()) {
        *slot = byte;
    }
    out
}

/// Directories of the control groups that the options mean.
///
/// # Errors
/// As of a capture that is asked for them.
pub fn group_paths(options: &RunOptions) -> Result<Vec<PathBuf>, Failure> {
    Ok(groups(options)?.into_iter().map(|group| group.path).collect())
}

/// The control groups that the options mean.
fn groups(options: &RunOptions) -> Result<Vec<Group>, Failure> {
    let failed = |e: cgroup::GroupError| match e {
        cgroup::GroupError::NoId(_) => usage(e.to_string()),
        _ => Failure::new("E-TARGET", e.to_string()).remedy("--pid and --uid work without control groups"),
    };
    let given = options.cgroups.iter().map(|wanted| cgroup::directory(wanted));
    let of_containers = options.containers.iter().map(|id| cgroup::of_container(id));
    let mut groups: Vec<Group> = Vec::new();
    for path in given.chain(of_containers) {
        let path = path.map_err(failed)?;
        let number = std::fs::metadata(&path).map_or(0, |m| m.ino());
        if groups.iter().all(|g| g.number != number) {
            groups.push(Group { path, number });
        }
    }
    if groups.len() > CGROUPS {
        return Err(usage(format!("{} control groups; at most {CGROUPS} can be given", groups.len())));
    }
    Ok(groups)
}

fn load_core(
    kernel: &Kernel,
    maps: &FilterMaps,
    children: bool,
    names: &BTreeSet<String>,
    every: bool,
) -> Result<Core, Failure> {
    let failed = |e: &dyn std::fmt::Display| Failure::new("E-LOAD", format!("the host's own eBPF object: {e}"));
    let spec = ObjectSpec::parse(CORE).map_err(|e| failed(&e))?;
    let mut globals = HashMap::new();
    set_if_there(&spec, &mut globals, "ecap_follow_children", &u32::from(children).to_ne_bytes());
    set_if_there(&spec, &mut globals, "ecap_every_exec", &u32::from(every).to_ne_bytes());
    let tracepoints =
        [("ecap_fork", "sched_process_fork"), ("ecap_exec", "sched_process_exec"), ("ecap_exit", "sched_process_exit")];
    let plan = LoadPlan {
        globals,
        host_maps: maps.by_name(),
        tracepoints: tracepoints.map(|(p, t)| (p.to_owned(), t.to_owned())).into(),
        ..LoadPlan::default()
    };
    let loaded = bpf::load(&spec, kernel, &plan).map_err(|e| failed(&e))?;
    let map = |name: &str| loaded.maps.get(name).ok_or_else(|| failed(&format!("it has no map {name}")));
    for name in names {
        map("ecap_names")?.update(&padded::<NAME_LEN>(name), &LISTED.to_ne_bytes()).map_err(|e| failed(&e))?;
    }
    let notices = map("ecap_notices")?;
    let ring = Ring::open(notices, notices.entries() as usize).map_err(|e| failed(&e))?;
    let ready = notices.share().and_then(readiness).map_err(|e| failed(&e))?;
    let unheard = map("ecap_unheard")?.counters().map_err(|e| failed(&e))?;
    let mut links = Vec::new();
    for program in loaded.programs.values() {
        links.push(program.attach_tp_btf().map_err(|e| Failure::new("E-ATTACH", e.to_string()))?);
    }
    Ok(Core { _links: links, loaded, ring, ready, unheard, had_unheard: 0 })
}

/// A ring's descriptor in the event loop. As in `channel.rs`: what tokio does with the type is the same for any descriptor
/// that can be polled, and its type for any descriptor takes unsafe code.
pub(super) fn readiness(fd: OwnedFd) -> io::Result<UnixStream> {
    let stream = StdStream::from(fd);
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

/// A constant that no program of the object reads is not in the object.
pub fn set_if_there(spec: &ObjectSpec, globals: &mut HashMap<String, Vec<u8>>, name: &str, value: &[u8]) {
    if spec.global_size(name).is_some() {
        globals.insert(name.into(), value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_are_what_the_kernel_side_writes_or_nothing() {
        let bytes = [&7u64.to_ne_bytes()[..], &42u32.to_ne_bytes(), &5u32.to_ne_bytes()].concat();
        assert_eq!(Notice::parse(&bytes), Some(Notice { time_ns: 7, pid: 42, exec: true, asked: true }));
        assert_eq!(Notice::parse(&bytes[..15]), None);
        let odd = [&bytes[..12], &3u32.to_ne_bytes()].concat();
        assert_eq!(Notice::parse(&odd), None);
    }

    #[test]
    fn names_are_cut_as_the_kernel_cuts_them() {
        assert_eq!(&padded::<COMM_LEN>("mariadbd"), b"mariadbd\0\0\0\0\0\0\0\0");
        assert_eq!(&padded::<COMM_LEN>("a-very-long-name-indeed"), b"a-very-long-nam\0");
    }
}

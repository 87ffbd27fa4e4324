//! All that is looked at, in one value. What cannot be read is as if it were not there.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, getrlimit};

use super::kernel_config::KernelConfig;
use crate::bpf::Method;
use crate::bpf::kernel::{self, Feature, KernelError};
use crate::module::{Catalog, Trust};
use crate::sandbox::{self, privileges};

/// Where facts are read from.
#[derive(Debug, Clone)]
pub struct Roots {
    /// `/proc`
    pub proc: PathBuf,
    /// `/sys`
    pub sys: PathBuf,
    /// `/boot`
    pub boot: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self { proc: "/proc".into(), sys: "/sys".into(), boot: "/boot".into() }
    }
}

/// The answer of the kernel to a feature's question.
#[derive(Debug)]
pub struct Answer {
    /// What it is called.
    pub name: &'static str,
    /// The first release that has it.
    pub since: &'static str,
    /// What came of it.
    pub result: Result<(), KernelError>,
}

/// The modules that are there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Modules {
    /// Where they were looked for.
    pub dir: PathBuf,
    /// The directory is there.
    pub there: bool,
    /// Who else than root could put one there.
    pub problem: Option<String>,
    /// Names of those that may run.
    pub usable: Vec<String>,
    /// Those of them that somebody else could have written.
    pub tainted: usize,
    /// Files that are refused.
    pub refused: usize,
}

/// What was seen of a machine.
#[derive(Debug)]
pub struct Machine {
    /// `uname -r`.
    pub release: String,
    /// Where the kernel's types are, or why they cannot be had.
    pub btf: Result<PathBuf, KernelError>,
    /// The kernel's configuration, if it is published.
    pub config: Option<KernelConfig>,
    /// `/sys/kernel/security/lockdown`.
    pub lockdown: Option<String>,
    /// Capabilities of this process.
    pub capabilities: Vec<privileges::Held>,
    /// This process is in the first user namespace; `None`: not known.
    pub first_user_namespace: Option<bool>,
    /// Ring buffer, attach cookie, task storage, uprobe_multi, in this order.
    pub features: Vec<Answer>,
    /// How probes would be attached.
    pub method: Result<Method, KernelError>,
    /// `kernel.unprivileged_bpf_disabled`.
    pub unprivileged_bpf_disabled: Option<String>,
    /// Version of Landlock: the kernel's, and the one wanted; or the error's words.
    pub landlock: Result<(i32, i32), String>,
    /// The kernel can filter system calls.
    pub seccomp: bool,
    /// One is filtering those of this process.
    pub filtered: bool,
    /// Soft limit of locked memory, bytes; `None`: no limit.
    pub memlock: Option<u64>,
    /// `kernel.perf_event_paranoid`.
    pub perf_event_paranoid: Option<String>,
    /// `kernel.kptr_restrict`.
    pub kptr_restrict: Option<String>,
    /// Where tracefs is mounted.
    pub tracefs: Option<PathBuf>,
    /// Where the second version of control groups is mounted.
    pub cgroup2: Option<PathBuf>,
    /// The first version has controllers as well.
    pub cgroup1: bool,
    /// `MemAvailable`, bytes.
    pub available: Option<u64>,
    /// The modules.
    pub modules: Modules,
}

impl Machine {
    /// Looks at everything.
    #[must_use]
    pub fn look(roots: &Roots, catalog: &Catalog, btf: Option<&Path>) -> Self {
        let (release, mounts) = (kernel::release(), text(&roots.proc.join("self/mounts")).unwrap_or_default());
        let sysctl = |name: &str| text(&roots.proc.join("sys/kernel").join(name));
        let status = text(&roots.proc.join("self/status")).unwrap_or_default();
        Self {
            btf: kernel::has_btf(btf),
            config: KernelConfig::read(&roots.proc, &roots.boot, &release),
            lockdown: text(&roots.sys.join("kernel/security/lockdown")),
            capabilities: privileges::look(),
            first_user_namespace: text(&roots.proc.join("self/uid_map")).map(|map| is_whole(&map)),
            features: [kernel::RING_BUFFER, kernel::ATTACH_COOKIE, kernel::TASK_STORAGE, kernel::UPROBE_MULTI]
                .iter()
                .map(answer)
                .collect(),
            method: kernel::uprobes().map(|(method, _)| method),
            unprivileged_bpf_disabled: sysctl("unprivileged_bpf_disabled"),
            landlock: sandbox::landlock_versions().map_err(|e| e.to_string()),
            seccomp: sysctl("seccomp/actions_avail").is_some_and(|actions| actions.split(' ').any(|a| a == "errno")),
            filtered: field(&status, "Seccomp:").is_some_and(|mode| mode == "2"),
            memlock: getrlimit(Resource::Memlock).current,
            perf_event_paranoid: sysctl("perf_event_paranoid"),
            kptr_restrict: sysctl("kptr_restrict"),
            tracefs: mounted(&mounts, "tracefs"),
            cgroup2: mounted(&mounts, "cgroup2"),
            cgroup1: mounted(&mounts, "cgroup").is_some(),
            available: available(&text(&roots.proc.join("meminfo")).unwrap_or_default()),
            modules: modules(catalog),
            release,
        }
    }
}

fn answer(feature: &Feature) -> Answer {
    Answer { name: feature.name, since: feature.since, result: feature.ask() }
}

fn modules(catalog: &Catalog) -> Modules {
    let directory = catalog.directory();
    Modules {
        dir: catalog.dir().to_owned(),
        there: directory.is_some(),
        problem: directory.and_then(|d| d.problem()).map(str::to_owned),
        usable: catalog.runnable().map(|(_, manifest)| manifest.module.name.clone()).collect(),
        tainted: catalog.runnable().filter(|(entry, _)| entry.trust == Trust::Tainted).count(),
        refused: catalog.entries.iter().filter(|entry| entry.refusal.is_some()).count(),
    }
}

/// A small file of /proc or /sys, without the space around its text.
fn text(path: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(1 << 20).read_to_string(&mut text).ok()?;
    Some(text.trim().to_owned())
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// A map of user ids that maps all of them to themselves.
fn is_whole(map: &str) -> bool {
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Where a file system of this kind is mounted; one that is really there.
fn mounted(mounts: &str, kind: &str) -> Option<PathBuf> {
    let found = mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (place, its) = (words.nth(1)?, words.next()?);
        (its == kind).then(|| PathBuf::from(place))
    })?;
    fs::metadata(&found).is_ok().then_some(found)
}

fn available(meminfo: &str) -> Option<u64> {
    let number = field(meminfo, "MemAvailable:")?.split(' ').next()?;
    number.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_writes_is_understood() {
        let mounts = "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw 0 0\ntmpfs /proc tmpfs rw 0 0";
        assert_eq!(mounted(mounts, "proc"), Some("/proc".into()));
        assert_eq!(mounted(mounts, "tracefs"), None);
        assert!(is_whole("         0          0 4294967295\n") && !is_whole("0 1000 1\n"));
        assert_eq!(available("MemTotal: 9 kB\nMemAvailable:   2048 kB\n"), Some(2 << 20));
        assert_eq!(available("MemAvailable: x kB"), None);
        assert_eq!(field("Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1", "Seccomp:"), Some("2"));
    }
}

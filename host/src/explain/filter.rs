//! Which of the filters of a run would leave a process out: what the kernel side asks of a thread, asked of `/proc`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::cli::RunOptions;
use crate::module::escape;
use crate::target::{cgroup, process};

/// Bytes of a thread's name that the kernel keeps.
const COMM_LEN: usize = 15;
/// Names of threads that are shown.
const MAX_SHOWN: usize = 5;

/// An option that leaves a process out.
#[derive(Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// The option, without dashes.
    pub option: &'static str,
    /// What the process is instead.
    pub why: String,
    /// What to do about it.
    pub step: String,
}

/// The filters of a run.
pub struct Filters<'o> {
    options: &'o RunOptions,
    pids: Vec<u32>,
    groups: Vec<PathBuf>,
}

impl<'o> Filters<'o> {
    /// As they are now.
    pub fn new(options: &'o RunOptions, groups: Vec<PathBuf>) -> Self {
        let pids = if options.children && !options.pids.is_empty() {
            process::with_children(&options.pids)
        } else {
            options.pids.clone()
        };
        let groups = groups.into_iter().map(|path| path.canonicalize().unwrap_or(path)).collect();
        Self { options, pids, groups }
    }

    /// Every option that leaves it out.
    pub fn left_out(&self, pid: u32, mount: Option<&Path>) -> Vec<LeftOut> {
        let mut all = Vec::new();
        if !self.options.pids.is_empty() && !self.pids.contains(&pid) {
            let or = if self.options.children { " or their children" } else { ", and --no-children is set" };
            let why = format!("it is none of the processes {}{or}", list(&self.options.pids));
            all.push(LeftOut { option: "pid", why, step: format!("--pid {pid}, or leave --pid out") });
        }
        let threads = process::threads(pid);
        let uids: BTreeSet<u32> = threads.iter().map(|(_, uid)| *uid).collect();
        if !self.options.uids.is_empty() && !uids.iter().any(|uid| self.options.uids.contains(uid)) {
            let who = list(&uids);
            let why = format!("it runs as user {who}");
            all.push(LeftOut { option: "uid", why, step: format!("--uid {who}, or leave --uid out") });
        }
        let comms: BTreeSet<&[u8]> = threads.iter().map(|(name, _)| name.as_slice()).collect();
        let wanted = |name: &&[u8]| self.options.comms.iter().any(|c| head(c.as_bytes()) == head(name));
        if !self.options.comms.is_empty() && !comms.iter().any(wanted) {
            let shown: Vec<String> =
                comms.iter().take(MAX_SHOWN).map(|n| escape::line(&String::from_utf8_lossy(n))).collect();
            let more = if comms.len() > MAX_SHOWN { ", ..." } else { "" };
            let why = format!("its threads are called {}{more}", shown.join(", "));
            all.push(LeftOut {
                option: "comm",
                why,
                step: "name one of these with --comm, or leave --comm out".into(),
            });
        }
        if !self.groups.is_empty() {
            let own = mount.and_then(|mount| cgroup::directory_of(pid, mount));
            let own = own.map(|path| path.canonicalize().unwrap_or(path));
            if !own.as_ref().is_some_and(|own| self.groups.iter().any(|group| own.starts_with(group))) {
                let option = if self.options.cgroups.is_empty() { "container" } else { "cgroup" };
                let group = own.map_or("no group of version 2".into(), |own| escape::os(own.as_os_str()));
                let why = format!("its control group is {group}");
                all.push(LeftOut { option, why, step: format!("--cgroup {group}, or leave --{option} out") });
            }
        }
        all
    }
}

fn head(name: &[u8]) -> &[u8] {
    name.get(..COMM_LEN).unwrap_or(name)
}

fn list<'a>(numbers: impl IntoIterator<Item = &'a u32>) -> String {
    numbers.into_iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

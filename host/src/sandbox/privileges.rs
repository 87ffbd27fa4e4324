//! What the broker keeps of its capabilities, and which ones it lacks.
//!
//! Decision: besides what capturing needs, SETUID, SETGID, SETPCAP, KILL and SYS_NICE stay for the whole run. Workers are
//! restarted after a crash, and a new child can give up its ids and its bounding set only if exec as root still gives
//! it these; without KILL the broker could not end a child that runs as another user, without SYS_NICE give it its turns.
//! The alternative, a second process that forks children, would hold the same capabilities and add a channel to attack.

use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, set_capabilities, set_no_new_privs,
};

use super::child::{SandboxError, step};
use super::identity::{self, Identity, drop_bounding_except};

/// What to keep beyond what every run needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// Packets (`tc`, TCX): CAP_NET_ADMIN.
    pub net_admin: bool,
    /// Output files that are opened later (rotation) in a directory that belongs to another user: CAP_DAC_OVERRIDE.
    /// Close to root, so only where the run really rotates.
    pub dac_override: bool,
    /// Uprobes through perf events on files that come later: CAP_SYS_ADMIN, on kernels that have no other way. The most that
    /// there is, so only where the run follows what comes.
    pub perf_uprobes: bool,
}

const CAPTURE: [(&str, CapabilitySet, CapabilitySet); 4] = [
    // (name, capability, what the kernel takes instead)
    ("CAP_BPF", CapabilitySet::BPF, CapabilitySet::SYS_ADMIN),
    ("CAP_PERFMON", CapabilitySet::PERFMON, CapabilitySet::SYS_ADMIN),
    ("CAP_SYS_PTRACE", CapabilitySet::SYS_PTRACE, CapabilitySet::empty()),
    ("CAP_DAC_READ_SEARCH", CapabilitySet::DAC_READ_SEARCH, CapabilitySet::DAC_OVERRIDE),
];

/// The capabilities that capturing needs and this process has not, by name. Empty: ready to run.
///
/// CAP_SYS_ADMIN stands in for BPF and PERFMON, DAC_OVERRIDE for DAC_READ_SEARCH, as in the kernel. SETUID, SETGID,
/// SETPCAP and KILL are not among them: without them the run works and each child's report says what it kept.
pub fn missing() -> Vec<&'static str> {
    capabilities(None).map_or_else(|_| CAPTURE.map(|c| c.0).to_vec(), |c| missing_in(c.effective))
}

fn missing_in(effective: CapabilitySet) -> Vec<&'static str> {
    let lacks = |c: &&(_, CapabilitySet, CapabilitySet)| !effective.contains(c.1) && !effective.intersects(c.2);
    CAPTURE.iter().filter(lacks).map(|c| c.0).collect()
}

/// Whether programs can be put at network interfaces.
#[must_use]
pub fn has_net_admin() -> bool {
    capabilities(None).is_ok_and(|c| c.effective.contains(CapabilitySet::NET_ADMIN))
}

/// A capability, and whether this process has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// `CAP_BPF`.
    pub name: &'static str,
    /// It has it, or what the kernel takes instead.
    pub held: bool,
    /// What is not possible without it; `None`: capturing.
    pub without: Option<&'static str>,
}

const USEFUL: [(&str, CapabilitySet, &str); 7] = [
    (
        "CAP_SETUID",
        CapabilitySet::SETUID,
        "children keep this user: what they could do is held by the other walls only",
    ),
    ("CAP_SETGID", CapabilitySet::SETGID, "children keep this user's groups"),
    ("CAP_SETPCAP", CapabilitySet::SETPCAP, "children keep the capability bounding set"),
    ("CAP_KILL", CapabilitySet::KILL, "a child that hangs can only be ended by root"),
    (
        "CAP_SYS_NICE",
        CapabilitySet::SYS_NICE,
        "on a busy machine children may be left waiting until a ring is full: more is lost",
    ),
    ("CAP_NET_ADMIN", CapabilitySet::NET_ADMIN, "packets of network interfaces can not be captured (-m pcapng)"),
    ("CAP_SYS_ADMIN", CapabilitySet::SYS_ADMIN, "probes can be attached by uprobe_multi only (Linux 6.6)"),
];

/// Every capability that is of use, those first that capturing needs.
#[must_use]
pub fn look() -> Vec<Held> {
    look_in(capabilities(None).map_or(CapabilitySet::empty(), |c| c.effective))
}

fn look_in(effective: CapabilitySet) -> Vec<Held> {
    let missing = missing_in(effective);
    let needed = CAPTURE.iter().map(|c| Held { name: c.0, held: !missing.contains(&c.0), without: None });
    let useful = USEFUL.iter().map(|c| Held { name: c.0, held: effective.contains(c.1), without: Some(c.2) });
    needed.chain(useful).collect()
}

/// The set that [`keep_only`] keeps at most.
fn wanted(keep: Keep) -> CapabilitySet {
    let children = CapabilitySet::SETUID
        | CapabilitySet::SETGID
        | CapabilitySet::SETPCAP
        | CapabilitySet::KILL
        | CapabilitySet::SYS_NICE;
    let mut set = CAPTURE.iter().fold(children, |set, c| set | c.1);
    set.set(CapabilitySet::NET_ADMIN, keep.net_admin);
    set.set(CapabilitySet::DAC_OVERRIDE, keep.dac_override);
    set.set(CapabilitySet::SYS_ADMIN, keep.perf_uprobes);
    set
}

/// Gives up every capability but BPF, PERFMON, SYS_PTRACE, DAC_READ_SEARCH, those of `keep`, and those that restarting
/// children takes (see the module's head), in the bounding set as well.
///
/// A stand-in is not swapped: where only SYS_ADMIN is held in place of BPF or PERFMON, it stays.
/// Capabilities belong to threads: call it before any thread is started; with more than one it is refused.
pub fn keep_only(keep: Keep) -> Result<(), SandboxError> {
    let threads = std::fs::read_dir("/proc/self/task").map(Iterator::count);
    if !matches!(threads, Ok(1)) {
        return Err(SandboxError::NotInForce("capabilities can only be given up while there is one thread"));
    }
    let held = step("capget", capabilities(None))?.permitted;
    let mut kept = wanted(keep);
    for (_, capability, instead) in CAPTURE {
        if !held.contains(capability) {
            kept |= instead;
        }
    }
    kept &= held;
    if held.contains(CapabilitySet::SETPCAP) {
        drop_bounding_except(kept)?;
    }
    let _ = clear_ambient_capability_set(); // see identity::give_up
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    step("capset", set_capabilities(None, sets))?;
    let left = step("capget", capabilities(None))?;
    if left != sets { Err(SandboxError::NotInForce("the broker's capabilities")) } else { Ok(()) }
}

/// Gives up everything, for work that needs no privilege: as root, this process becomes the user that children become. Who
/// that is. Call it before any thread is started, as [`keep_only`].
pub fn give_up_all() -> Result<Identity, SandboxError> {
    let identity = Identity::choose();
    identity::give_up(identity, &mut Vec::new())?;
    no_new_privileges()?;
    Ok(identity)
}

/// No core dumps, and nobody but root reads /proc/PID/environ, mem or fd: matters where a child keeps the broker's own
/// user and there is no Landlock. Undone by a change of ids.
pub fn undumpable() -> Result<(), SandboxError> {
    step("prctl(PR_SET_DUMPABLE)", set_dumpable_behavior(DumpableBehavior::NotDumpable))
}

pub(super) fn no_new_privileges() -> Result<(), SandboxError> {
    step("prctl(PR_SET_NO_NEW_PRIVS)", set_no_new_privs(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_missing_capability_is_named() {
        assert_eq!(missing_in(CapabilitySet::all()), [""; 0]);
        assert_eq!(missing_in(wanted(Keep::default())), [""; 0]);
        assert_eq!(
            missing_in(CapabilitySet::empty()),
            ["CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"]
        );
        assert_eq!(missing_in(CapabilitySet::SYS_ADMIN | CapabilitySet::DAC_OVERRIDE), ["CAP_SYS_PTRACE"]);
    }

    #[test]
    fn what_is_needed_comes_first_and_what_is_useful_has_its_cost() {
        let held = look_in(CapabilitySet::SYS_ADMIN | CapabilitySet::KILL);
        let names: Vec<(&str, bool)> = held.iter().filter(|h| h.held).map(|h| (h.name, h.without.is_none())).collect();
        let expected = [("CAP_BPF", true), ("CAP_PERFMON", true), ("CAP_KILL", false), ("CAP_SYS_ADMIN", false)];
        assert_eq!(names, expected);
        assert_eq!(held.iter().take_while(|h| h.without.is_none()).count(), CAPTURE.len());
    }

    #[test]
    fn nothing_near_root_is_kept_unasked() {
        let base = wanted(Keep::default());
        let strong = CapabilitySet::SYS_ADMIN | CapabilitySet::DAC_OVERRIDE | CapabilitySet::SYS_MODULE;
        assert!(!base.intersects(strong | CapabilitySet::NET_ADMIN));
        assert!(wanted(Keep { net_admin: true, ..Keep::default() }).contains(CapabilitySet::NET_ADMIN));
        assert!(base.contains(CapabilitySet::SETPCAP | CapabilitySet::KILL));
    }

    #[test]
    fn refused_among_threads() {
        // The test harness has at least two threads.
        assert!(matches!(keep_only(Keep::default()), Err(SandboxError::NotInForce(_))));
    }
}

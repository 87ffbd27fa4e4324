//! From what was seen to what it means. Looks at nothing.

use super::machine::{Answer, Machine, Modules};
use crate::bpf::Method;
use crate::bpf::kernel::KernelError;
use crate::module::escape;
use crate::module::facts::major_minor;
use crate::sandbox::privileges::Held;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// As it should be.
    Ok,
    /// Capturing works, with a loss that is said.
    Degraded,
    /// Capturing does not work.
    Missing,
}

impl Status {
    /// The word in the output.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Missing => "missing",
        }
    }
}

/// One line of the examination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What was looked at. Stable.
    pub name: String,
    /// How it came out.
    pub status: Status,
    /// What was found.
    pub found: String,
    /// What it costs, if it is not ok.
    pub cost: Option<String>,
    /// How to get it, if it is not ok.
    pub remedy: Option<String>,
}

fn ok(name: &str, found: impl Into<String>) -> Check {
    Check { name: name.into(), status: Status::Ok, found: found.into(), cost: None, remedy: None }
}

impl Check {
    fn degraded(mut self, cost: impl Into<String>, remedy: impl Into<String>) -> Self {
        self.status = Status::Degraded;
        (self.cost, self.remedy) = (Some(cost.into()), Some(remedy.into()));
        self
    }

    fn missing(self, remedy: impl Into<String>) -> Self {
        let mut check = self.degraded("nothing can be captured", remedy);
        check.status = Status::Missing;
        check
    }
}

/// Options without which the kernel does not do what capturing needs.
const NEEDED: [&str; 8] =
    ["BPF", "BPF_SYSCALL", "BPF_EVENTS", "PERF_EVENTS", "UPROBES", "UPROBE_EVENTS", "SECCOMP_FILTER", "MEMFD_CREATE"];
/// Options with what is lost without them.
const USEFUL: [(&str, &str); 4] = [
    ("DEBUG_INFO_BTF", "the kernel's types have to be given with --btf"),
    ("BPF_JIT", "eBPF is interpreted: several times slower"),
    ("SECURITY_LANDLOCK", "the walls around workers lack Landlock"),
    ("CGROUPS", "no filter by control group, and no container of an event"),
];

/// Every check, in the order in which they are shown.
#[must_use]
pub fn judge(machine: &Machine) -> Vec<Check> {
    let mut checks = vec![kernel(machine), btf(machine), config(machine), lockdown(machine)];
    checks.extend(capabilities(machine));
    checks.extend(user_namespace(machine));
    checks.extend(features(machine));
    checks.push(uprobes(machine));
    checks.extend([
        unprivileged_bpf(machine),
        seccomp(machine),
        landlock(machine),
        memlock(machine),
        paranoid(machine),
        ok("kptr_restrict", format!("{}; addresses of the kernel are not used", value(&machine.kptr_restrict))),
        tracefs(machine),
        cgroup(machine),
        memory(machine),
        modules(&machine.modules),
    ]);
    checks
}

fn value(read: &Option<String>) -> &str {
    read.as_deref().unwrap_or("not known")
}

fn kernel(machine: &Machine) -> Check {
    let check = ok("kernel", format!("{} {}", machine.release, std::env::consts::ARCH));
    match major_minor(&machine.release) {
        Some(version) if version < (5, 15) => check.degraded(
            "older than 5.15: only if its distribution has carried the features back, which the lines below tell",
            "use Linux 5.15 or newer",
        ),
        _ => check,
    }
}

fn btf(machine: &Machine) -> Check {
    match &machine.btf {
        Ok(path) => ok("btf", escape::os(path.as_os_str())),
        Err(KernelError::Btf { path, why }) => ok("btf", format!("{}: {why}", escape::os(path.as_os_str()))).missing(
            "give a file with this kernel's types with --btf, or use a kernel built with CONFIG_DEBUG_INFO_BTF=y",
        ),
        Err(other) => ok("btf", other.to_string()).missing("give a file with this kernel's types with --btf"),
    }
}

fn config(machine: &Machine) -> Check {
    let Some(config) = &machine.config else {
        return ok("kernel config", "not published; the kernel is asked for each feature below");
    };
    let path = escape::os(config.path.as_os_str());
    let lacks = |names: &[&'static str]| -> Vec<String> {
        names.iter().filter(|name| !config.has(name)).map(|name| format!("CONFIG_{name}")).collect()
    };
    let needed = lacks(&NEEDED);
    if !needed.is_empty() {
        return ok("kernel config", format!("{path}: without {}", needed.join(", ")))
            .missing("use a kernel that is built with them");
    }
    let useful = lacks(&USEFUL.map(|(name, _)| name));
    if useful.is_empty() {
        return ok("kernel config", path);
    }
    let costs: Vec<&str> = USEFUL.iter().filter(|(name, _)| !config.has(name)).map(|(_, cost)| *cost).collect();
    ok("kernel config", format!("{path}: without {}", useful.join(", ")))
        .degraded(costs.join("; "), "use a kernel that is built with them")
}

fn lockdown(machine: &Machine) -> Check {
    let Some(text) = &machine.lockdown else {
        return ok("lockdown", "not in this kernel, or securityfs is not mounted");
    };
    let level = text.split('[').nth(1).and_then(|rest| rest.split(']').next()).unwrap_or(text);
    match level {
        "confidentiality" => ok("lockdown", "confidentiality").degraded(
            "eBPF must not read memory of the kernel: a module whose programs do is refused when it is loaded (E-LOAD); \
             tracefs is closed",
            "boot with lockdown=integrity, or with Secure Boot off",
        ),
        "integrity" => ok("lockdown", "integrity; capturing needs nothing that it forbids"),
        other => ok("lockdown", escape::short(other, 40)),
    }
}

fn capabilities(machine: &Machine) -> Vec<Check> {
    let check = |held: &Held| match (held.held, held.without) {
        (true, _) => ok(held.name, "held"),
        (false, None) => ok(held.name, "not held").missing("run it as root, for example with sudo"),
        (false, Some(_)) if held.name == "CAP_SYS_ADMIN" && matches!(machine.method, Ok(Method::Multi)) => {
            ok(held.name, "not held; not needed with uprobe_multi")
        }
        (false, Some(cost)) => ok(held.name, "not held").degraded(cost, "run it as root, for example with sudo"),
    };
    machine.capabilities.iter().map(check).collect()
}

fn user_namespace(machine: &Machine) -> Option<Check> {
    if machine.first_user_namespace? {
        return None;
    }
    let check = ok("user namespace", "not the machine's own: what is held in it does not count for eBPF");
    let refused = machine.features.iter().any(|f| matches!(f.result, Err(KernelError::Refused { .. })));
    let remedy = "run it outside of this container, or in one without a user namespace of its own";
    Some(if refused { check.missing(remedy) } else { check.degraded("files of others may be out of reach", remedy) })
}

/// Capabilities that bpf(2) asks for are there, so that a refusal has another cause.
fn may_ask(machine: &Machine) -> bool {
    let bpf = ["CAP_BPF", "CAP_PERFMON"];
    machine.capabilities.iter().filter(|held| bpf.contains(&held.name)).all(|held| held.held)
}

fn features(machine: &Machine) -> Vec<Check> {
    machine.features.iter().map(|answer| feature(machine, answer)).collect()
}

fn feature(machine: &Machine, answer: &Answer) -> Check {
    let Answer { name, since, result } = answer;
    let (needed, cost) = match *name {
        "task storage" => (false, "modules that remember calls in flight cannot be loaded (E-LOAD)"),
        "uprobe_multi" => (false, "each probe is attached on its own: slower to attach, 0.1 s a probe to detach"),
        _ => (true, "nothing can be captured"),
    };
    match result {
        Ok(()) => ok(name, "there"),
        Err(KernelError::Refused { .. }) if !may_ask(machine) => ok(name, "not known: the kernel refuses to say")
            .degraded("not known before CAP_BPF and CAP_PERFMON are there", "run it as root, for example with sudo"),
        Err(KernelError::Refused { call, hints, source }) => {
            let found = format!("{call}: {source}");
            match needed {
                true => ok(name, found).missing(hints.join("; ")),
                false => ok(name, found).degraded(cost, hints.join("; ")),
            }
        }
        Err(error) => {
            let (found, remedy) = (said(error), format!("use Linux {since} or newer"));
            if needed { ok(name, found).missing(remedy) } else { ok(name, found).degraded(cost, remedy) }
        }
    }
}

fn said(error: &KernelError) -> String {
    match error {
        KernelError::Unsupported { source, .. } => format!("not there ({source})"),
        other => other.to_string(),
    }
}

fn uprobes(machine: &Machine) -> Check {
    match &machine.method {
        Ok(Method::Multi) => ok("uprobes", "attached by uprobe_multi"),
        Ok(Method::Perf) => ok("uprobes", "attached by perf events"),
        // Without the right to ask, "not there" is not an answer.
        Err(error) if may_ask(machine) => {
            ok("uprobes", said(error)).missing("use a kernel built with CONFIG_UPROBE_EVENTS=y")
        }
        Err(_) => ok("uprobes", "not known: the kernel refuses to say")
            .degraded("not known before CAP_BPF and CAP_PERFMON are there", "run it as root, for example with sudo"),
    }
}

fn unprivileged_bpf(machine: &Machine) -> Check {
    let name = "unprivileged_bpf_disabled";
    match machine.unprivileged_bpf_disabled.as_deref() {
        None => ok(name, "not known"),
        Some("0") => ok(name, "0; CAP_BPF is needed all the same"),
        Some(level) => ok(name, format!("{}; CAP_BPF is what counts", escape::short(level, 16))),
    }
}

fn seccomp(machine: &Machine) -> Check {
    let check = match (machine.seccomp, machine.filtered) {
        (false, _) => {
            return ok("seccomp", "no filters in this kernel: no child could be walled in (E-SANDBOX)")
                .missing("use a kernel built with CONFIG_SECCOMP_FILTER=y");
        }
        (true, false) => return ok("seccomp", "there, and this process is not filtered"),
        (true, true) => ok("seccomp", "there; this process is filtered itself, as in a container"),
    };
    if machine.features.iter().all(|f| !matches!(f.result, Err(KernelError::Refused { .. }))) || !may_ask(machine) {
        return check;
    }
    check.missing("let the filter pass bpf(2) and perf_event_open(2): docker run --security-opt seccomp=unconfined")
}

fn landlock(machine: &Machine) -> Check {
    let remedy = "use Linux 6.12 or newer with landlock among its security modules (lsm=landlock,...)";
    match &machine.landlock {
        Ok((has, wants)) if has >= wants => ok("landlock", format!("version {has}")),
        Ok((has, wants)) => ok("landlock", format!("version {has}; {wants} covers all"))
            .degraded("signals and abstract sockets of workers are kept in by the list of system calls only", remedy),
        Err(why) => ok("landlock", format!("not there ({why})"))
            .degraded("files are kept from workers by their user and the list of system calls only", remedy),
    }
}

fn memlock(machine: &Machine) -> Check {
    let limit = machine.memlock.map_or("unlimited".into(), |bytes| format!("{} KiB", bytes >> 10));
    if machine.memlock.is_some() && major_minor(&machine.release).is_some_and(|version| version < (5, 11)) {
        return ok("memlock", limit)
            .degraded("kernels before 5.11 count maps against it: a ring may not fit", "ulimit -l unlimited");
    }
    ok("memlock", format!("{limit}; maps do not count against it since Linux 5.11"))
}

fn paranoid(machine: &Machine) -> Check {
    let level = value(&machine.perf_event_paranoid);
    let perfmon = machine.capabilities.iter().any(|held| held.name == "CAP_PERFMON" && held.held);
    match perfmon {
        true => ok("perf_event_paranoid", format!("{level}; does not count with CAP_PERFMON")),
        false => ok("perf_event_paranoid", level).degraded(
            "probes that are attached by perf events are refused",
            "get CAP_PERFMON, with which it does not count",
        ),
    }
}

fn tracefs(machine: &Machine) -> Check {
    match &machine.tracefs {
        Some(path) => ok("tracefs", escape::os(path.as_os_str())),
        None => ok("tracefs", "not mounted").degraded(
            "modules that attach to tracepoints cannot; probes in programs and libraries do not need it",
            "mount -t tracefs tracefs /sys/kernel/tracing",
        ),
    }
}

fn cgroup(machine: &Machine) -> Check {
    let cost = "processes in groups of version 1 only cannot be told apart by their group";
    match (&machine.cgroup2, machine.cgroup1) {
        (Some(path), false) => ok("cgroup v2", escape::os(path.as_os_str())),
        (Some(path), true) => ok("cgroup v2", format!("{}, beside version 1", escape::os(path.as_os_str())))
            .degraded(cost, "boot with systemd.unified_cgroup_hierarchy=1"),
        (None, _) => ok("cgroup v2", "not mounted").degraded(
            "no filter by control group, and no container of an event",
            "mount -t cgroup2 cgroup2 /sys/fs/cgroup",
        ),
    }
}

fn memory(machine: &Machine) -> Check {
    /// Rings, links and children of a run with one module, with room to spare.
    const COMFORTABLE: u64 = 128 << 20;
    match machine.available {
        None => ok("memory", "not known"),
        Some(bytes) if bytes < COMFORTABLE => ok("memory", format!("{} MiB available", bytes >> 20)).degraded(
            "a run takes 50 to 100 MiB; the kernel may end it for lack of memory",
            "free some, or --ring-size 1MiB",
        ),
        Some(bytes) => ok("memory", format!("{} MiB available", bytes >> 20)),
    }
}

fn modules(modules: &Modules) -> Check {
    let dir = escape::os(modules.dir.as_os_str());
    let check = |found: String| ok("modules", found);
    if !modules.there {
        return check(format!("{dir} does not exist"))
            .degraded("there is nothing to capture with", "install a module there: copying its file is all");
    }
    let refused = if modules.refused > 0 { format!(", {} refused", modules.refused) } else { String::new() };
    let list = if modules.usable.is_empty() { "none usable".into() } else { modules.usable.join(", ") };
    let found = check(format!("{dir}: {list}{refused}"));
    match &modules.problem {
        Some(problem) => found.degraded(
            format!("{problem}: somebody else than root decides what runs, so its modules are refused or tainted"),
            "chown root:root and chmod go-w what is named",
        ),
        None if modules.usable.is_empty() => {
            found.degraded("there is nothing to capture with", "`ecapture --list-modules` tells why")
        }
        None if modules.refused > 0 => {
            found.degraded("what is refused cannot be used", "`ecapture --list-modules` tells why")
        }
        None if modules.tainted > 0 => found.degraded("tainted modules are used", "chown root:root their files"),
        None => found,
    }
}

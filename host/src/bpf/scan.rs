//! Is an object within the permissions of its module? Answered from the object alone, before the kernel sees it (`E-BPF`).
//!
//! The verifier keeps a program from breaking the kernel, not from spying or meddling: what a program may *do* is decided
//! here. Some things need no permission (reading memory and registers of what the host attaches to, calls in flight, the
//! ring), some need a line in the manifest that `ecapture module info` shows, and some are never allowed.

use super::{
    helpers,
    host_maps::HOST_MAPS,
    map::kind,
    object::{MapOrigin, MapSpec, ObjectSpec, ProgramKind, helper_name},
};

/// Helpers that every module may call.
///
/// Left out on purpose, so a line in the manifest is needed: `probe_read` and `probe_read_str` (cannot tell user memory from
/// kernel memory: use the `_user` and `_kernel` forms), `trace_printk` (one global pipe), `perf_event_output` (events past the
/// accounting of losses), `tail_call` (hides what runs), `copy_from_user_task` (memory of other processes), `per_cpu_ptr` and
/// `this_cpu_ptr` (kernel variables), and all that change packets or sockets.
#[rustfmt::skip]
const DEFAULT_HELPERS: [&str; 42] = [
    // maps
    "map_lookup_elem", "map_update_elem", "map_delete_elem", "map_lookup_percpu_elem", "for_each_map_elem",
    "task_storage_get", "task_storage_delete",
    // memory
    "probe_read_user", "probe_read_user_str", "probe_read_kernel", "probe_read_kernel_str", "copy_from_user",
    // who and when
    "ktime_get_ns", "ktime_get_boot_ns", "ktime_get_coarse_ns", "ktime_get_tai_ns", "jiffies64", "get_current_pid_tgid",
    "get_ns_current_pid_tgid", "get_current_uid_gid", "get_current_comm", "get_current_cgroup_id",
    "get_current_ancestor_cgroup_id", "current_task_under_cgroup", "get_current_task", "get_current_task_btf", "task_pt_regs", "get_smp_processor_id",
    "get_attach_cookie", "get_func_ip", "get_func_arg", "get_func_ret", "get_func_arg_cnt", "get_prandom_u32",
    // the ring
    "ringbuf_output", "ringbuf_reserve", "ringbuf_submit", "ringbuf_discard", "ringbuf_query",
    // computing
    "loop", "strncmp", "snprintf",
];

/// Helpers that no permission allows: they change the process that is watched, or reach behind the host.
const NEVER: [&str; 7] = [
    "probe_write_user",
    "override_return",
    "send_signal",
    "send_signal_thread",
    "sys_bpf",
    "sys_close",
    "btf_find_by_name_kind",
];

/// Program types that need no permission.
const DEFAULT_PROGRAMS: [&str; 2] = ["uprobe", "uretprobe"];

const MAP_KINDS: [u32; 10] = [
    kind::HASH,
    kind::ARRAY,
    kind::CGROUP_ARRAY,
    kind::PERCPU_HASH,
    kind::PERCPU_ARRAY,
    kind::LRU_HASH,
    kind::LRU_PERCPU_HASH,
    kind::LPM_TRIE,
    kind::RINGBUF,
    kind::TASK_STORAGE,
];

/// `NO_PREALLOC`, `NO_COMMON_LRU`, `ZERO_SEED`, `RDONLY_PROG`, `WRONLY_PROG`, `MMAPABLE`.
const MAP_FLAGS: u32 = 1 | 1 << 1 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 10;

/// A map per CPU is counted for so many CPUs, whatever machine judges: the answer must not depend on who asks.
const NOMINAL_CPUS: u64 = 16;
/// Task storage grows with the threads that are inside a call; so many are counted.
const NOMINAL_THREADS: u64 = 4096;

/// What the manifest of a module asks for, beyond the defaults.
#[derive(Debug, Clone, Copy)]
pub struct Permissions<'a> {
    /// Program types (`tp_btf`, `tracepoint`, `classifier`, `cgroup_skb`); `uprobe` and `uretprobe` need no mention.
    pub programs: &'a [String],
    /// Helpers, with or without `bpf_`.
    pub helpers: &'a [String],
    /// Bytes of all maps of the object, those that the host makes not counted.
    pub map_memory: u64,
}

/// One thing in an object that its module may not do. `Display` names both sides and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A program type that the manifest does not name.
    #[error("program {program} is of type {kind}; add \"{kind}\" to [permissions] programs")]
    ProgramKind {
        /// The program.
        program: String,
        /// Its type.
        kind: &'static str,
    },
    /// A program type that the host cannot load at all.
    #[error("program {program} is of type {kind}, which this host does not load")]
    UnknownProgramKind {
        /// The program.
        program: String,
        /// Its type.
        kind: &'static str,
    },
    /// A helper that the manifest does not name.
    #[error("program {program} calls {helper}; add it to [permissions] helpers")]
    Helper {
        /// The program.
        program: String,
        /// The helper.
        helper: String,
    },
    /// A helper that is never allowed.
    #[error("program {program} calls {helper}, which no module may")]
    ForbiddenHelper {
        /// The program.
        program: String,
        /// The helper.
        helper: String,
    },
    /// A kernel function, variable or configuration value, by name.
    #[error("the object uses {name} of the kernel; modules may call helpers only")]
    KernelName {
        /// The symbol.
        name: String,
    },
    /// A call into the kernel that is no helper.
    #[error("program {program} calls a kernel function that is no helper; no module may")]
    KernelFunction {
        /// The program.
        program: String,
    },
    /// A map of a type or with flags that the host does not create.
    #[error("map {map} has {what}, which the host does not create")]
    Map {
        /// The map.
        map: String,
        /// What is unusual.
        what: String,
    },
    /// More map memory than the manifest asks for.
    #[error("the maps take {needed} bytes, [permissions] map_memory allows {allowed}; the largest is {largest}")]
    MapMemory {
        /// Bytes needed.
        needed: u64,
        /// Bytes allowed.
        allowed: u64,
        /// The map that takes most.
        largest: String,
    },
}

/// Judges an object. All that is wrong is listed, in a stable order.
pub fn judge(spec: &ObjectSpec, permissions: &Permissions<'_>) -> Result<(), Vec<Violation>> {
    let mut out = Vec::new();
    for name in &spec.externs {
        out.push(Violation::KernelName { name: name.clone() });
    }
    let granted = |list: &[String], name: &str| list.iter().any(|g| g.strip_prefix("bpf_").unwrap_or(g) == name);
    for (program, p) in &spec.programs {
        let (program, kind) = (program.clone(), p.kind.name());
        // Where sockets are made a program can refuse them: no module may.
        if matches!(p.kind, ProgramKind::Other(_) | ProgramKind::CgroupSockCreate) {
            out.push(Violation::UnknownProgramKind { program: program.clone(), kind });
        } else if !DEFAULT_PROGRAMS.contains(&kind) && !permissions.programs.iter().any(|g| g == kind) {
            out.push(Violation::ProgramKind { program: program.clone(), kind });
        }
        if p.kernel_functions {
            out.push(Violation::KernelFunction { program: program.clone() });
        }
        for number in &p.helpers {
            let helper = helper_name(*number);
            match helpers::name(*number) {
                Some(name) if NEVER.contains(&name) => {
                    out.push(Violation::ForbiddenHelper { program: program.clone(), helper })
                }
                Some(name) if DEFAULT_HELPERS.contains(&name) || granted(permissions.helpers, name) => {}
                Some(_) => out.push(Violation::Helper { program: program.clone(), helper }),
                // Newer than this host: nobody here can say what it does.
                None => out.push(Violation::ForbiddenHelper { program: program.clone(), helper }),
            }
        }
    }
    let (mut needed, mut largest) = (0u64, (0, ""));
    for (name, map) in &spec.maps {
        if let Some(what) = unusual(map) {
            out.push(Violation::Map { map: name.clone(), what });
        }
        if !HOST_MAPS.contains(&name.as_str()) {
            let size = memory(map);
            needed = needed.saturating_add(size);
            largest = largest.max((size, name));
        }
    }
    if needed > permissions.map_memory {
        out.push(Violation::MapMemory { needed, allowed: permissions.map_memory, largest: largest.1.to_owned() });
    }
    if out.is_empty() { Ok(()) } else { Err(out) }
}

fn unusual(map: &MapSpec) -> Option<String> {
    if !MAP_KINDS.contains(&map.kind) {
        return Some(format!("type {}", map.kind));
    }
    if map.special {
        return Some("a pin or maps inside".into());
    }
    let odd = map.flags & !MAP_FLAGS;
    (odd != 0 && map.origin == MapOrigin::Declared).then(|| format!("flags {odd:#x}"))
}

/// What a map takes at most, about: keys and values as the kernel rounds them, and its own bookkeeping.
fn memory(map: &MapSpec) -> u64 {
    let (key, value, entries) =
        (u64::from(map.key).next_multiple_of(8), u64::from(map.value).next_multiple_of(8), u64::from(map.entries));
    let is = |kinds: &[u32]| kinds.contains(&map.kind);
    if is(&[kind::RINGBUF]) {
        return entries;
    }
    if is(&[kind::TASK_STORAGE]) {
        return NOMINAL_THREADS * value;
    }
    let per_cpu = is(&[kind::PERCPU_HASH, kind::PERCPU_ARRAY, kind::LRU_PERCPU_HASH]);
    let value = value.saturating_mul(if per_cpu { NOMINAL_CPUS } else { 1 });
    let entry = if is(&[kind::ARRAY, kind::PERCPU_ARRAY]) { value } else { value.saturating_add(key + 64) };
    entries.saturating_mul(entry)
}

//! What the running kernel can do for us, asked once at the start, and why it refuses when it does.
//!
//! Each question is asked by trying the thing in its smallest form; version numbers are for messages only, since
//! distributions carry features back. Must not live here: anything about modules.

use super::{
    map::kind as map_kind,
    object::{chain, guarded},
    sys::{self, NewMap, NewProgram},
};
use aya::Btf;
use aya_obj::{
    btf::BtfKind,
    generated::{bpf_attach_type::BPF_TRACE_UPROBE_MULTI, bpf_insn, bpf_prog_type::BPF_PROG_TYPE_KPROBE},
};
use std::{
    ffi::CStr,
    fs, io,
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::OnceLock,
};

const VMLINUX: &str = "/sys/kernel/btf/vmlinux";
const UPROBE_PMU: &str = "/sys/bus/event_source/devices/uprobe/type";

/// How uprobes are attached. Fixed when a program is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// One link for all points of a file (kernel 6.6). Detaching takes about 40 ms a link.
    Multi,
    /// One perf event and one link for each point. Detaching takes about 100 ms a point, and attaching needs `CAP_SYS_ADMIN`
    /// on kernels since 2025: a host that drops capabilities keeps that one until it has attached.
    Perf,
}

/// Why the kernel will not do.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// `EPERM` or `EACCES`: a capability, or a policy. The hints name what was found.
    #[error("the kernel refuses {call}: {}", hints.join("; "))]
    Refused {
        /// What was called.
        call: &'static str,
        /// Likely causes that are true on this machine, each with what to do.
        hints: Vec<String>,
        /// The kernel's words.
        source: io::Error,
    },
    /// A feature that cannot be done without.
    #[error("kernel {release} has no {feature}; Linux {since} or newer is needed")]
    Unsupported {
        /// `uname -r`.
        release: String,
        /// What is missing.
        feature: &'static str,
        /// The first release that has it.
        since: &'static str,
        /// The kernel's words.
        source: io::Error,
    },
    /// The kernel's types cannot be had.
    #[error("the kernel's types (BTF) cannot be read from {}: {why}; give a file with --btf, or use a kernel built with CONFIG_DEBUG_INFO_BTF", path.display())]
    Btf {
        /// Where they were looked for.
        path: PathBuf,
        /// What went wrong.
        why: String,
    },
}

impl KernelError {
    /// It is the right to do so that is missing, not the feature.
    pub fn is_privilege(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }
}

/// One thing that a kernel can do, or cannot.
#[derive(Debug)]
pub struct Feature {
    /// What it is called.
    pub name: &'static str,
    /// The first release that has it.
    pub since: &'static str,
    call: &'static str,
    attempt: fn() -> io::Result<()>,
}

impl Feature {
    /// Asks the running kernel by trying it.
    ///
    /// # Errors
    /// It is refused (a capability, a policy), or it is not there.
    pub fn ask(&self) -> Result<(), KernelError> {
        let Self { name, since, call, .. } = *self;
        (self.attempt)().map_err(|source| match is_refusal(&source) {
            true => KernelError::Refused { call, hints: hints(), source },
            false => KernelError::Unsupported { release: release(), feature: name, since, source },
        })
    }
}

/// Records to user space. Nothing works without it.
pub const RING_BUFFER: Feature = Feature {
    name: "BPF ring buffer",
    since: "5.8",
    call: "BPF_MAP_CREATE",
    attempt: || {
        let ring = NewMap { kind: map_kind::RINGBUF, entries: 64 << 10, name: "probe", ..NewMap::default() };
        sys::map_create(&ring).map(drop)
    },
};

/// A number for each probe. Nothing works without it.
pub const ATTACH_COOKIE: Feature = Feature {
    name: "attach cookie",
    since: "5.15",
    call: "BPF_PROG_LOAD",
    attempt: || {
        // r0 = bpf_get_attach_cookie(ctx); return. Says both: we may load, and 5.15 is reached.
        const GET_ATTACH_COOKIE: i32 = 174;
        let cookie = [instruction(0x85, GET_ATTACH_COOKIE), instruction(0xb7, 0), instruction(0x95, 0)];
        load_probe(&cookie, 0).map(drop)
    },
};

/// What modules keep of a call from its entry to its return.
pub const TASK_STORAGE: Feature = Feature {
    name: "task storage",
    since: "5.11",
    call: "BPF_MAP_CREATE",
    attempt: || {
        const NO_PREALLOC: u32 = 1;
        let types = sys::btf_load(&ONE_INT)?;
        let (kind, types) = (map_kind::TASK_STORAGE, Some((types.as_fd(), 1, 1)));
        let map = NewMap { kind, key: 4, value: 4, flags: NO_PREALLOC, name: "probe", types, ..NewMap::default() };
        sys::map_create(&map).map(drop)
    },
};

/// One link for all probes of a file.
pub const UPROBE_MULTI: Feature =
    Feature { name: "uprobe_multi", since: "6.6", call: "BPF_LINK_CREATE", attempt: try_uprobe_multi };

/// BTF with one type, `int`.
const ONE_INT: [u8; 45] = *b"\x9f\xeb\x01\0\x18\0\0\0\0\0\0\0\x10\0\0\0\x10\0\0\0\x05\0\0\0\
    \x01\0\0\0\0\0\0\x01\x04\0\0\0\x20\0\0\x01\0int\0";

/// How uprobes are attached here, and the number of the kernel's source of uprobe events.
///
/// # Errors
/// There are no uprobes at all.
pub fn uprobes() -> Result<(Method, Option<u32>), KernelError> {
    let pmu = fs::read_to_string(UPROBE_PMU).ok().and_then(|text| text.trim().parse().ok());
    if try_uprobe_multi().is_ok() {
        return Ok((Method::Multi, pmu));
    }
    match pmu {
        Some(_) => Ok((Method::Perf, pmu)),
        None => Err(KernelError::Unsupported {
            release: release(),
            feature: "uprobes (CONFIG_UPROBE_EVENTS)",
            since: "4.17",
            source: io::Error::new(io::ErrorKind::NotFound, UPROBE_PMU),
        }),
    }
}

/// `uname -r`.
#[must_use]
pub fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Whether the kernel's types can be had; from `path`, else from the kernel itself. Says where they are.
///
/// # Errors
/// [`KernelError::Btf`].
pub fn has_btf(path: Option<&Path>) -> Result<PathBuf, KernelError> {
    let path = path.unwrap_or(Path::new(VMLINUX)).to_owned();
    match read_btf(&path) {
        Ok(_) => Ok(path),
        Err(why) => Err(KernelError::Btf { path, why }),
    }
}

fn read_btf(path: &Path) -> Result<Btf, String> {
    let parse = || Btf::parse_file(path, object_endianness());
    guarded(parse).and_then(|result| result.map_err(|e| chain(&e)))
}

/// The running kernel.
#[derive(Debug)]
pub struct Kernel {
    /// `uname -r`.
    pub release: String,
    /// How uprobes are attached here.
    pub method: Method,
    pub(super) uprobe_pmu: Option<u32>,
    btf_path: PathBuf,
    /// Read when first needed: it takes some 20 ms, and nothing before the first load needs it.
    btf: OnceLock<Result<Btf, String>>,
}

impl Kernel {
    /// Asks the kernel. `btf_path` replaces `/sys/kernel/btf/vmlinux`.
    pub fn probe(btf_path: Option<&Path>) -> Result<Self, KernelError> {
        RING_BUFFER.ask()?;
        ATTACH_COOKIE.ask()?;
        let (method, uprobe_pmu) = uprobes()?;
        let btf_path = btf_path.unwrap_or(Path::new(VMLINUX)).to_owned();
        Ok(Self { release: release(), method, uprobe_pmu, btf_path, btf: OnceLock::new() })
    }

    /// The kernel's types. Read at the first call, kept for ever.
    pub fn btf(&self) -> Result<&Btf, KernelError> {
        let result = self.btf.get_or_init(|| read_btf(&self.btf_path)).as_ref();
        result.map_err(|why| KernelError::Btf { path: self.btf_path.clone(), why: why.clone() })
    }

    /// Whether this kernel has a tracepoint of that name with types.
    ///
    /// # Errors
    /// The kernel's types cannot be read.
    pub fn has_tracepoint(&self, tracepoint: &str) -> Result<bool, KernelError> {
        Ok(self.tracepoint_id(tracepoint)?.is_some())
    }

    /// The type id of a tracepoint, or `None` if this kernel has none of that name.
    pub(super) fn tracepoint_id(&self, tracepoint: &str) -> Result<Option<u32>, KernelError> {
        Ok(self.btf()?.id_by_type_name_kind(&format!("btf_trace_{tracepoint}"), BtfKind::Typedef).ok())
    }
}

/// We run on little-endian machines only; objects for others are refused when parsed.
fn object_endianness() -> aya::Endianness {
    aya::Endianness::Little
}

pub(super) fn is_refusal(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

fn instruction(code: u8, imm: i32) -> bpf_insn {
    bpf_insn { code, _bitfield_align_1: [], _bitfield_1: Default::default(), off: 0, imm }
}

fn load_probe(code: &[bpf_insn], attach_type: u32) -> io::Result<std::os::fd::OwnedFd> {
    const LICENSE: &CStr = c"GPL";
    let program = NewProgram {
        kind: BPF_PROG_TYPE_KPROBE as u32,
        attach_type,
        code,
        license: LICENSE,
        name: "probe",
        ..NewProgram::default()
    };
    sys::prog_load(&program, 0, &mut [])
}

/// Links a two-instruction program to a directory: a kernel that knows the link says that this is no file (`EBADF`).
fn try_uprobe_multi() -> io::Result<()> {
    let code = [instruction(0xb7, 0), instruction(0x95, 0)];
    let program = load_probe(&code, BPF_TRACE_UPROBE_MULTI as u32)?;
    match sys::link_uprobe_multi(program.as_fd(), c"/", &[0], &[0], false) {
        Err(e) if e.raw_os_error() != Some(libc::EBADF) => Err(e),
        _ => Ok(()),
    }
}

/// Why the kernel said no, as far as this machine tells.
fn hints() -> Vec<String> {
    let mut out = Vec::new();
    let missing = missing_capabilities();
    if !missing.is_empty() {
        out.push(format!("missing {} (run as root, or grant them)", missing.join(", ")));
        if let Some(level) = read_word("/proc/sys/kernel/unprivileged_bpf_disabled").filter(|level| level != "0") {
            out.push(format!("without them kernel.unprivileged_bpf_disabled={level} forbids it"));
        }
    }
    let lockdown = read_word("/sys/kernel/security/lockdown").unwrap_or_default();
    if lockdown.contains("[confidentiality]") {
        out.push("kernel lockdown is at [confidentiality], which forbids reading memory by BPF".into());
    }
    if out.is_empty() {
        out.push("the capabilities are there; a seccomp filter (container), a security module or RLIMIT_MEMLOCK may forbid it".into());
    }
    out
}

fn read_word(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn missing_capabilities() -> Vec<&'static str> {
    const SYS_ADMIN: u64 = 1 << 21;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let has = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(u64::MAX);
    let wanted = [(39, "CAP_BPF"), (38, "CAP_PERFMON")];
    let missing = wanted.into_iter().filter(|(bit, _)| has & (1 << bit | SYS_ADMIN) == 0);
    missing.map(|(_, name)| name).collect()
}
